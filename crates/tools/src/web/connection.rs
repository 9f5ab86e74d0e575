//! The only way from a request to a socket: names through the guard, and nothing but plain TCP and TLS behind it.
//!
//! The key decision: `ureq` is built from parts without those that know proxies, so no variable of the environment
//! can put one in between, and with a resolver that is the guard.

use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, RustlsConnector, TcpConnector};
use yushan_abi::Cancel;

use super::guard::{Guard, NoAddress};

/// Bytes of a response's headers; `ureq` counts them too and takes at most 128.
const HEADERS: usize = 32 * 1024;
/// For a connection to one address.
const CONNECT: Duration = Duration::from_secs(10);

/// For one request: an agent that reaches what the guard lets through.
pub(super) fn agent(guard: &Guard, deadline: Instant, cancel: &Cancel) -> Agent {
    let left = deadline.saturating_duration_since(Instant::now());
    let config = Config::builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_response_header_size(HEADERS)
        .max_idle_connections(0)
        .timeout_global(Some(left))
        .timeout_connect(Some(CONNECT.min(left)))
        .user_agent(concat!("Yushan/", env!("CARGO_PKG_VERSION")))
        .build();
    let resolver = Guarded { guard: guard.clone(), deadline, cancel: cancel.clone() };
    // Plain TCP to what the resolver gave, TLS on top: the whole chain.
    let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
    Agent::with_parts(config, connector, resolver)
}

/// `ureq`'s resolver: the guard.
#[derive(Debug)]
struct Guarded {
    guard: Guard,
    deadline: Instant,
    cancel: Cancel,
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let port = match uri.scheme_str() {
            Some("http") => uri.port_u16().unwrap_or(80),
            Some("https") => uri.port_u16().unwrap_or(443),
            _ => return Err(ureq::Error::BadUri(uri.to_string())),
        };
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let found = self.guard.addresses(host, port, self.deadline, &self.cancel);
        let found = found.map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut addresses = self.empty();
        found.into_iter().for_each(|address| addresses.push(address));
        Ok(addresses)
    }
}

/// What the guard said, if it was the guard.
pub(super) fn guards_word(error: &ureq::Error) -> Option<&NoAddress> {
    match error {
        ureq::Error::Other(inner) => inner.downcast_ref(),
        _ => None,
    }
}
