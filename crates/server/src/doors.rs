//! Who may come in: hosts, origins and keys, on every route.
//!
//! The key decision: the guards stand before the router and a route can only ask for less. The host must be on
//! a list (a page that rebinds its name to loopback is not on it), a request that a foreign page makes is
//! refused, and a key is judged by whoever keeps the accounts, behind [`Keys`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::Server;
use crate::fault::Fault;

/// What a route does, for scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looks at models and counters.
    Look,
    /// Asks for completions, keeps responses and files.
    Use,
    /// Brings models and deletes them.
    Manage,
}

/// Somebody who was let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// For whom: prefixes, responses and files are theirs alone.
    pub tenant: String,
}

/// Why somebody was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A key is needed and none came.
    Missing,
    /// Nobody has this key, or it was revoked.
    Unknown,
    /// The key's scopes do not reach so far.
    Scope,
    /// The key's allowance is used up.
    Quota {
        /// When there is more.
        after_ms: u64,
    },
}

/// Judges keys. Implemented by whoever keeps the accounts; may read a disk.
pub trait Keys: Send + Sync {
    /// Lets a request in, or says why not.
    fn admit(
        &self,
        key: Option<&str>,
        peer: Option<IpAddr>,
        access: Access,
    ) -> Result<Caller, Denial>;
}

/// Names under which the server may be called, and pages that may call it.
#[derive(Clone, Debug)]
pub struct Doors {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Default for Doors {
    /// Loopback alone.
    fn default() -> Self {
        let hosts = ["localhost", "127.0.0.1", "[::1]"].map(String::from).to_vec();
        Doors { hosts, origins: Vec::new() }
    }
}

impl Doors {
    /// A further host name, without a port.
    #[must_use]
    pub fn host(mut self, name: impl Into<String>) -> Doors {
        self.hosts.push(name.into().to_ascii_lowercase());
        self
    }

    /// A further page that may call: `https://chat.example.org`.
    #[must_use]
    pub fn origin(mut self, origin: impl Into<String>) -> Doors {
        self.origins.push(origin.into().to_ascii_lowercase());
        self
    }

    fn knows_host(&self, authority: &str) -> bool {
        let authority = authority.to_ascii_lowercase();
        self.hosts.iter().any(|host| *host == without_port(&authority))
    }

    /// Whether a page may call: one of ours, or one on the list.
    fn knows_origin(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        let own = origin.split_once("://").is_some_and(|(scheme, authority)| {
            matches!(scheme, "http" | "https") && authority == host.to_ascii_lowercase()
        });
        own || self.origins.contains(&origin)
    }
}

/// `example.org:80` is `example.org`; `[::1]:80` is `[::1]`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The guard of host and origin.
pub(crate) async fn visitors(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let foreign = match foreign(&server.doors, &request) {
        Ok(foreign) => foreign,
        Err(fault) => return fault.into_response(),
    };
    let Some(origin) = foreign else { return next.run(request).await };
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The origin of a foreign page that may call, if it is one.
fn foreign(doors: &Doors, request: &Request) -> Result<Option<HeaderValue>, Fault> {
    let headers = request.headers();
    let host = match text(headers, header::HOST)? {
        Some(host) if headers.get_all(header::HOST).iter().count() == 1 => host,
        _ => return Err(Fault::invalid("Host", "expected one Host header")),
    };
    if !doors.knows_host(host) {
        let known = doors.hosts.join(", ");
        return Err(Fault::Forbidden(format!(
            "this server is not called {host:?}: it answers to {known}"
        )));
    }
    match text(headers, header::ORIGIN)? {
        Some(origin) if !doors.knows_origin(origin, host) => {
            Err(Fault::Forbidden(format!("pages of {origin:?} may not call this server")))
        }
        Some(origin) if doors.origins.contains(&origin.to_ascii_lowercase()) => {
            Ok(headers.get(header::ORIGIN).cloned())
        }
        Some(_) => Ok(None),
        None => {
            // Browsers leave out the origin of a page that only embeds or follows a link.
            let page = request.method() == Method::GET && request.uri().path() == "/";
            let site = headers.get("sec-fetch-site");
            let cross = site.is_some_and(|site| site == "cross-site" || site == "same-site");
            if cross && !page {
                return Err(Fault::Forbidden("another site may not call this server".to_string()));
            }
            Ok(None)
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, Fault> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let text = value.to_str();
    text.map(Some).map_err(|_| Fault::invalid(name.as_str(), "expected printable ASCII"))
}

/// The guard of keys: puts the [`Caller`] where handlers find it.
pub(crate) async fn keys(
    server: Arc<Server>,
    access: Access,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let key = key(request.headers()).map(String::from);
    let judged = crate::events::blocking(move || {
        let admitted = server.keys.admit(key.as_deref(), peer, access);
        admitted.map_err(|denial| denied(denial, access))
    });
    match judged.await {
        Ok(Ok(caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(Err(fault)) | Err(fault) => fault.into_response(),
    }
}

/// The key of a request, as OpenAI's clients send it, and as Anthropic's do.
fn key(headers: &HeaderMap) -> Option<&str> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = authorization.and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| headers.get("x-api-key")?.to_str().ok());
    key.filter(|key| !key.is_empty())
}

fn denied(denial: Denial, access: Access) -> Fault {
    match denial {
        Denial::Missing => Fault::NoKey(
            "a key is needed: send it as `Authorization: Bearer KEY`; `yushan keys new` makes one"
                .to_string(),
        ),
        Denial::Unknown => Fault::NoKey("this key is not known here, or was revoked".to_string()),
        Denial::Scope => {
            let access = format!("{access:?}").to_lowercase();
            Fault::Forbidden(format!("this key may not {access}: make one with that scope"))
        }
        Denial::Quota { after_ms } => Fault::Busy { after_ms },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_origins_are_judged() {
        let doors = Doors::default().host("Box.lan").origin("https://chat.example.org");
        for (host, known) in [
            ("localhost", true),
            ("LOCALHOST:3952", true),
            ("127.0.0.1:1", true),
            ("[::1]:3952", true),
            ("[::1]", true),
            ("box.lan", true),
            ("evil.org", false),
            ("localhost.evil.org", false),
            ("127.0.0.1.evil.org:80", false),
            ("localhost:80:80", false),
            ("", false),
        ] {
            assert_eq!(doors.knows_host(host), known, "{host}");
        }
        for (origin, known) in [
            ("http://localhost:3952", true),
            ("https://chat.example.org", true),
            ("http://localhost:8080", false),
            ("http://evil.org", false),
            ("null", false),
            ("ftp://localhost:3952", false),
        ] {
            assert_eq!(doors.knows_origin(origin, "localhost:3952"), known, "{origin}");
        }
    }
}
