//! Who may come in: hosts, origins and keys, on every route.
//!
//! The key decision: the guards stand before the router and a route can only ask for less. The host must be on
//! a list (a page that rebinds its name to loopback is not on it), a request that a foreign page makes is
//! refused, and a key is judged by whoever keeps the accounts, behind [`Keys`].

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use yushan_abi::Counts;

use crate::Server;
use crate::fault::Fault;
use crate::visits::Visit;

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
#[derive(Clone, Default)]
pub struct Caller {
    /// For whom: prefixes, responses and files are theirs alone.
    pub tenant: String,
    /// Names the key, without being it; empty: came in without one.
    pub key: String,
    /// The request that is being answered.
    pub(crate) visit: Option<Arc<Visit>>,
}

impl Caller {
    /// The owner of a key.
    pub fn new(tenant: impl Into<String>, key: impl Into<String>) -> Caller {
        Caller { tenant: tenant.into(), key: key.into(), visit: None }
    }
}

/// Why somebody was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A key is needed and none came.
    Missing,
    /// Nobody has this key, or it was revoked.
    Unknown,
    /// The key's scopes do not reach so far.
    Scope,
    /// Too much a minute, or too many at once.
    Rate {
        /// What was granted: `10000 tokens a minute for the key 0123456789ab`.
        granted: String,
        /// When there is more.
        after_ms: u64,
    },
    /// What was granted for longer is used up.
    Quota {
        /// What was granted: `1000000 tokens a day for ann`.
        granted: String,
        /// When there is more, if ever.
        after_ms: Option<u64>,
    },
    /// The accounts cannot be read.
    Failed(String),
}

/// What is left of something that is granted by the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// What is granted a minute.
    pub limit: u64,
    /// What can be had now.
    pub left: u64,
    /// When all of it is there again.
    pub full_ms: u64,
}

/// A request that was begun.
pub struct Turn {
    /// Requests, where they are limited.
    pub requests: Option<Allowance>,
    /// Tokens, where they are limited.
    pub tokens: Option<Allowance>,
    /// Held while the request runs.
    pub held: Box<dyn Any + Send>,
}

/// Judges keys, and keeps what their owners use. Implemented by whoever keeps the accounts.
pub trait Keys: Send + Sync {
    /// Lets a request in, or says why not; may read a disk.
    fn admit(
        &self,
        key: Option<&str>,
        peer: Option<IpAddr>,
        access: Access,
    ) -> Result<Caller, Denial>;

    /// Begins a request that will use tokens, or says why not now; may read a disk.
    fn begin(&self, caller: &Caller) -> Result<Turn, Denial>;

    /// Charges what a request has used since it was charged last. Never blocks.
    fn charge(&self, caller: &Caller, used: Counts);
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

/// The guard of keys: puts the [`Caller`] where handlers find it, and begins what will use tokens.
pub(crate) async fn keys(
    server: Arc<Server>,
    access: Access,
    metered: bool,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let key = key(request.headers()).map(String::from);
    let judged = crate::events::blocking(move || {
        let admitted = server.keys.admit(key.as_deref(), peer, access);
        let caller = admitted.map_err(|denial| denied(denial, access))?;
        let turn = metered.then(|| server.keys.begin(&caller)).transpose();
        Ok((caller, turn.map_err(|denial| denied(denial, access))))
    });
    let (mut caller, turn) = match judged.await {
        Ok(Ok(judged)) => judged,
        Ok(Err(fault)) | Err(fault) => return fault.into_response(),
    };
    caller.visit = request.extensions().get::<Arc<Visit>>().cloned();
    if let Some(visit) = &caller.visit {
        visit.admitted(&caller.tenant);
    }
    let turn = match turn {
        Ok(turn) => turn,
        Err(fault) => return fault.into_response(),
    };
    let mut left = HeaderMap::new();
    if let Some(Turn { requests, tokens, held }) = turn {
        tell_left(&mut left, "requests", requests);
        tell_left(&mut left, "tokens", tokens);
        if let Some(visit) = &caller.visit {
            visit.hold(held);
        }
    }
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    response.headers_mut().extend(left);
    response
}

/// What is left, in the headers that OpenAI's clients read.
fn tell_left(headers: &mut HeaderMap, what: &str, allowance: Option<Allowance>) {
    let Some(Allowance { limit, left, full_ms }) = allowance else { return };
    let full = match (full_ms / 60_000, full_ms % 60_000) {
        (0, rest) => format!("{:.3}s", rest as f64 / 1e3),
        (minutes, rest) => format!("{minutes}m{:.3}s", rest as f64 / 1e3),
    };
    for (name, value) in
        [("limit", limit.to_string()), ("remaining", left.to_string()), ("reset", full)]
    {
        let name = HeaderName::try_from(format!("x-ratelimit-{name}-{what}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
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
        Denial::Rate { granted, after_ms } => Fault::Rate { granted, after_ms },
        Denial::Quota { granted, after_ms } => Fault::Quota { granted, after_ms },
        Denial::Failed(why) => Fault::Internal(format!("the accounts cannot be read: {why}")),
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
