//! One request to the web, followed through its redirects, within limits of size and time.
//!
//! The key decision: each hop is a request of its own that the guard judges anew, and all of it happens on a thread of
//! its own: whoever waits looks at `Cancel` while it waits and leaves at once, and the deadline ends the thread.

use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body};
use url::Url;
use yushan_abi::Cancel;

use super::connection::{agent, guards_word};
use super::guard::{Guard, NoAddress, Refused};

/// How often whoever waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body, after decompression too.
    pub bytes: usize,
    /// For all of it, from the first look-up to the last byte.
    pub time: Duration,
    /// Hops after the first.
    pub redirects: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 8 << 20, time: Duration::from_secs(30), redirects: 8 }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Already read by [`Guard::parse`], or made by us.
    pub url: Url,
    /// In addition to our own.
    pub headers: Vec<(&'static str, String)>,
    /// JSON to send by POST; nothing: GET. A POST follows no redirect.
    pub json: Option<String>,
    /// Whether redirects to other hosts are not followed.
    pub stays: bool,
}

impl Ask {
    /// A page.
    pub fn page(url: Url) -> Ask {
        let accept =
            "text/html,application/xhtml+xml,text/plain;q=0.9,application/json;q=0.9,*/*;q=0.5";
        Ask { url, headers: vec![("accept", accept.into())], json: None, stays: false }
    }
}

/// What came.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it came from in the end.
    pub url: Url,
    /// All that were asked, the first first; the last is `url`.
    pub hops: Vec<Url>,
    /// `Content-Type`, in lower case and without parameters; empty: none was given.
    pub media_type: String,
    /// The `charset` of `Content-Type`.
    pub charset: Option<String>,
    /// All of it.
    pub body: Vec<u8>,
    /// Whether it is from a host of the allow-list: it may be of this house alone.
    pub private: bool,
}

/// Why nothing came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The address, or one that it led to, is not visited.
    #[error("{0}")]
    Refused(Refused),
    /// A redirect led to where nobody may go.
    #[error("the page redirects to an address that is not visited: {0}")]
    RefusedHop(Refused),
    /// No name, no answer in time, or not wanted any more, before anything was connected.
    #[error("{0}")]
    NoAddress(NoAddress),
    /// Nobody listens there, or the connection broke.
    #[error("the server cannot be reached or broke off: {0}; try again later, or another page")]
    Broken(String),
    /// Too slow.
    #[error("the page did not come within {0} seconds; try again later, or another page")]
    Timeout(u64),
    /// The certificate or the handshake.
    #[error("no secure connection: {0}. Do not trust this address; look for the page elsewhere")]
    Tls(String),
    /// An answer that is no page.
    #[error("{}", status_text(*.0, *.1))]
    Status(u16, Option<u64>),
    /// Over the limit.
    #[error("the page is larger than {0} bytes; look for a shorter page or a part of it")]
    TooLarge(usize),
    /// Round and round.
    #[error(
        "the page redirects more than {0} times, likely in a circle; look for the page elsewhere"
    )]
    Redirects(usize),
    /// A redirect to another host, from a request that stays on its own.
    #[error("it redirects to another host")]
    Elsewhere,
    /// A redirect that leads nowhere.
    #[error(
        "the server answered with a redirect but no address that can be read; look for the page elsewhere"
    )]
    NoLocation,
    /// Compressed in a way that nobody asked for, or badly.
    #[error("the page cannot be unpacked ({0}); look for the page elsewhere")]
    Packed(String),
    /// Not HTTP.
    #[error("the server does not speak HTTP as it should: {0}")]
    Protocol(String),
    /// Nobody wants it any more.
    #[error("stopped: nobody waits for it any more")]
    Cancelled,
}

fn status_text(code: u16, retry: Option<u64>) -> String {
    let what = match code {
        404 | 410 => "there is no such page; check the address, or search for it".into(),
        401 | 403 | 451 => "the server does not show it to us; look for the page elsewhere".into(),
        429 | 503 => match retry {
            Some(seconds) => format!("the server is busy; try again in {seconds} seconds"),
            None => "the server is busy; try again later".into(),
        },
        500.. => "the server failed; try again later, or another page".into(),
        _ => "that is no page; check the address".to_string(),
    };
    format!("the server answered with status {code}: {what}")
}

impl Failure {
    fn of(error: ureq::Error, limits: &Limits) -> Failure {
        if let Some(word) = guards_word(&error) {
            return match word.clone() {
                NoAddress::Refused(refused) => Failure::Refused(refused),
                NoAddress::Cancelled => Failure::Cancelled,
                NoAddress::Timeout => Failure::Timeout(limits.time.as_secs()),
                unknown @ NoAddress::Unknown(_) => Failure::NoAddress(unknown),
            };
        }
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                Failure::Broken("no connection came about in time".into())
            }
            ureq::Error::Timeout(_) => Failure::Timeout(limits.time.as_secs()),
            ureq::Error::Io(error) => Failure::of_io(&error, limits),
            ureq::Error::Rustls(error) => Failure::Tls(error.to_string()),
            ureq::Error::Tls(why) => Failure::Tls(why.into()),
            ureq::Error::ConnectionFailed => Failure::Broken("nobody answers".into()),
            other => Failure::Protocol(other.to_string()),
        }
    }

    /// `ureq`'s errors come out of its reader as errors of input and output.
    fn of_io(error: &io::Error, limits: &Limits) -> Failure {
        let inner = error.get_ref();
        if let Some(inner) = inner.and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
            return match inner {
                ureq::Error::Timeout(_) => Failure::Timeout(limits.time.as_secs()),
                ureq::Error::Rustls(error) => Failure::Tls(error.to_string()),
                other => Failure::Broken(other.to_string()),
            };
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Failure::Timeout(limits.time.as_secs()),
            // `rustls` wraps its errors so when it meets them while it reads.
            io::ErrorKind::InvalidData => Failure::Tls(error.to_string()),
            _ => Failure::Broken(error.to_string()),
        }
    }
}

/// Fetches.
#[derive(Clone, Debug, Default)]
pub struct Fetcher {
    /// Where one may go.
    pub guard: Guard,
    /// What one request may take.
    pub limits: Limits,
}

impl Fetcher {
    /// Asks and waits for all of the answer; looks often whether it is still wanted.
    ///
    /// # Errors
    /// Why nothing came, in words that say what to do next.
    pub fn fetch(&self, ask: Ask, cancel: &Cancel) -> Result<Fetched, Failure> {
        self.guard.check(&ask.url).map_err(Failure::Refused)?;
        let current = Arc::new(Mutex::new(None));
        let (answer, answers) = mpsc::sync_channel(1);
        let walk = Walk {
            guard: self.guard.clone(),
            limits: self.limits,
            deadline: Instant::now() + self.limits.time,
            cancel: cancel.clone(),
            current: current.clone(),
        };
        thread::spawn(move || answer.send(walk.all(ask)).ok());
        loop {
            match answers.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Protocol("reading it failed".into()));
                }
                Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => {
                    let agent: Option<Agent> = lock(&current).take();
                    if let Some(agent) = agent {
                        agent.shutdown();
                    }
                    return Err(Failure::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From the first address to the last.
struct Walk {
    guard: Guard,
    limits: Limits,
    deadline: Instant,
    cancel: Cancel,
    /// What talks at the moment, for whoever has to interrupt it.
    current: Arc<Mutex<Option<Agent>>>,
}

impl Walk {
    fn all(mut self, mut ask: Ask) -> Result<Fetched, Failure> {
        let mut hops = Vec::new();
        loop {
            // Once outside the allow-list, nothing leads back to it.
            self.guard = self.guard.from(&ask.url);
            let response = self.one(&ask).map_err(|failure| match failure {
                Failure::Refused(refused) if !hops.is_empty() => Failure::RefusedHop(refused),
                failure => failure,
            })?;
            hops.push(ask.url.clone());
            let status = response.status().as_u16();
            let redirected = matches!(status, 301 | 302 | 303 | 307 | 308);
            if !redirected || ask.json.is_some() {
                if !(200..300).contains(&status) {
                    return Err(Failure::Status(status, retry_after(response.headers())));
                }
                return self.read(response, ask.url, hops);
            }
            if hops.len() > self.limits.redirects {
                return Err(Failure::Redirects(self.limits.redirects));
            }
            let to = next(&ask.url, response.headers())?;
            if ask.stays && to.host_str() != ask.url.host_str() {
                return Err(Failure::Elsewhere);
            }
            ask.url = to;
        }
    }

    /// One request, up to its headers.
    fn one(&self, ask: &Ask) -> Result<Response<Body>, Failure> {
        self.guard.check(&ask.url).map_err(Failure::Refused)?;
        let agent = agent(&self.guard, self.deadline, &self.cancel);
        *lock(&self.current) = Some(agent.clone());
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let method = if ask.json.is_some() { "POST" } else { "GET" };
        let mut request = Request::builder().method(method).uri(ask.url.as_str());
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        request = request.header("accept-encoding", "gzip");
        let wrong = |error: ureq::http::Error| Failure::Protocol(error.to_string());
        let sent = match &ask.json {
            Some(json) => {
                let request = request.header("content-type", "application/json");
                agent.run(request.body(json.clone()).map_err(wrong)?)
            }
            None => agent.run(request.body(()).map_err(wrong)?),
        };
        sent.map_err(|error| Failure::of(error, &self.limits))
    }

    fn read(&self, response: Response<Body>, url: Url, hops: Vec<Url>) -> Result<Fetched, Failure> {
        let (parts, body) = response.into_parts();
        let (media_type, charset) = content_type(&parts.headers);
        let packing = header(&parts.headers, "content-encoding").unwrap_or_default();
        let body = body.into_reader();
        let body = match packing.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => self.read_all(body, false)?,
            // A bomb is found by what comes out, so what goes in has the same limit.
            "gzip" | "x-gzip" => {
                self.read_all(MultiGzDecoder::new(body.take(self.limits.bytes as u64)), true)?
            }
            other => return Err(Failure::Packed(format!("content-encoding {other}"))),
        };
        let private = self.guard.lists(&url);
        Ok(Fetched { url, hops, media_type, charset, body, private })
    }

    fn read_all(&self, mut from: impl Read, packed: bool) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            match from.read(&mut piece) {
                Ok(0) => return Ok(body),
                Ok(_) if Instant::now() > self.deadline => {
                    return Err(Failure::Timeout(self.limits.time.as_secs()));
                }
                Ok(n) if body.len() + n > self.limits.bytes => {
                    return Err(Failure::TooLarge(self.limits.bytes));
                }
                Ok(n) => body.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The decoder's own errors have these kinds; the connection's go through it.
                Err(error) if packed && is_decoders(&error) => {
                    return Err(Failure::Packed(error.to_string()));
                }
                Err(error) => return Err(Failure::of_io(&error, &self.limits)),
            }
        }
    }
}

fn is_decoders(error: &io::Error) -> bool {
    let kinds =
        [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
    let foreign = error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>());
    kinds.contains(&error.kind()) && !foreign
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    header(headers, "retry-after")?.trim().parse().ok()
}

/// Where a redirect leads.
fn next(from: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
    let location = headers.get("location").ok_or(Failure::NoLocation)?;
    // Servers write UTF-8 where ASCII belongs.
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| Failure::NoLocation)?;
    from.join(location.trim()).map_err(|_| Failure::NoLocation)
}

fn content_type(headers: &HeaderMap) -> (String, Option<String>) {
    let text = header(headers, "content-type").unwrap_or_default();
    let mut pieces = text.split(';');
    let media_type = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
    let charset = pieces.find_map(|piece| {
        let (name, value) = piece.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches(['"', '\'']).to_string())
    });
    (media_type, charset)
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
