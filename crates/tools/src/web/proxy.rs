//! A proxy on the loopback for the browser: everything it asks for passes the guard, as if we had fetched it.
//!
//! The key decision: the browser is told to look up no name and to go nowhere but here, and here names are looked up,
//! judged and pinned as for [`super::fetch`]. What is inside a TLS tunnel is the browser's; where it leads is ours.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use url::Url;
use yushan_abi::Cancel;

use super::guard::{Guard, NoAddress};
use super::text::shortened;

/// Bytes of a request's head.
const HEAD: usize = 32 * 1024;
/// Connections at a time.
const CONNECTIONS: usize = 64;
/// Bytes in both directions, in all.
const BYTES: u64 = 128 << 20;
/// How often a silent connection is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Refusals that are remembered.
const REFUSALS: usize = 8;

/// Runs until it is dropped.
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    guard: Guard,
    deadline: Instant,
    cancel: Cancel,
    over: AtomicBool,
    bytes: AtomicU64,
    connections: AtomicUsize,
    refusals: Mutex<Vec<String>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Proxy {
    /// Listens on a free port.
    pub(super) fn start(guard: Guard, deadline: Instant, cancel: &Cancel) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            guard,
            deadline,
            cancel: cancel.clone(),
            over: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            refusals: Mutex::default(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.is_over() {
                    return;
                }
                let Ok(client) = client else { continue };
                if serving.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
                    serving.connections.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let serving = serving.clone();
                thread::spawn(move || {
                    // A connection that breaks is the browser's to notice.
                    let _ = serving.serve(client);
                    serving.connections.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Ok(Proxy { port, shared })
    }

    /// What was refused because of where it leads, in order.
    pub(super) fn refusals(&self) -> Vec<String> {
        self.shared.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request's head, and what came behind it.
struct Head {
    method: String,
    target: String,
    headers: Vec<String>,
    behind: Vec<u8>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
            || self.cancel.is_cancelled()
            || Instant::now() > self.deadline
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(LOOK))?;
        client.set_write_timeout(Some(Duration::from_secs(10)))?;
        let Some(head) = self.head(&mut client)? else {
            return client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        };
        let server = match self.connect(&head) {
            Ok(server) => server,
            Err(why) => {
                if let NoAddress::Refused(refused) = why {
                    let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                    if refusals.len() < REFUSALS {
                        refusals.push(format!("{}: {refused}", shortened(&head.target, 200)));
                    }
                }
                return client.write_all(
                    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
            }
        };
        server.set_read_timeout(Some(LOOK))?;
        server.set_write_timeout(Some(Duration::from_secs(10)))?;
        if head.method == "CONNECT" {
            client.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")?;
            (&server).write_all(&head.behind)?;
            return self.both_ways(&client, &server, u64::MAX);
        }
        let rest = forward(&head, &server)?;
        self.both_ways(&client, &server, rest)
    }

    /// A head; none: it is none.
    fn head(&self, client: &mut TcpStream) -> io::Result<Option<Head>> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if bytes.len() > HEAD {
                return Ok(None);
            }
            match self.read(client, &mut piece)? {
                0 => return Ok(None),
                n => bytes.extend_from_slice(&piece[..n]),
            }
        };
        let Ok(text) = std::str::from_utf8(&bytes[..end]) else { return Ok(None) };
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let words: Vec<&str> = first.split(' ').collect();
        let [method, target, version] = words[..] else { return Ok(None) };
        let plain = method.bytes().all(|byte| byte.is_ascii_uppercase());
        if !plain || method.is_empty() || !version.starts_with("HTTP/1.") {
            return Ok(None);
        }
        Ok(Some(Head {
            method: method.into(),
            target: target.into(),
            headers: lines.map(String::from).collect(),
            behind: bytes[end + 4..].to_vec(),
        }))
    }

    fn connect(&self, head: &Head) -> Result<TcpStream, NoAddress> {
        let url = match head.method.as_str() {
            "CONNECT" => self.guard.parse(&format!("https://{}/", head.target)),
            _ => self.guard.parse(&head.target),
        };
        let url = url.map_err(NoAddress::Refused)?;
        let place = url.host_str().zip(url.port_or_known_default());
        let (host, port) = place.ok_or(NoAddress::Unknown("an address without a host".into()))?;
        for address in self.guard.addresses(host, port, self.deadline, &self.cancel)? {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let wait = left.clamp(LOOK, Duration::from_secs(5));
            if let Ok(server) = TcpStream::connect_timeout(&address, wait) {
                return Ok(server);
            }
        }
        Err(NoAddress::Timeout)
    }

    /// Copies until both sides are silent for good; from the client `rest` bytes at most.
    fn both_ways(&self, client: &TcpStream, server: &TcpStream, rest: u64) -> io::Result<()> {
        thread::scope(|scope| {
            scope.spawn(|| self.copy(client, server, rest));
            self.copy(server, client, u64::MAX);
            // The browser may keep its side open for ever.
            let _ = client.shutdown(Shutdown::Both);
        });
        Ok(())
    }

    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream, mut rest: u64) {
        let mut piece = vec![0; 64 * 1024];
        while rest > 0 {
            let Ok(n) = self.read(&mut from, &mut piece) else { break };
            let n = usize::try_from(rest).map_or(n, |rest| n.min(rest));
            if n == 0 || to.write_all(&piece[..n]).is_err() {
                break;
            }
            rest -= n as u64;
            if self.bytes.fetch_add(n as u64, Ordering::AcqRel) > BYTES {
                break;
            }
        }
        if rest > 0 {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Waits for bytes as long as there is a point in it.
    fn read(&self, from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
        loop {
            match from.read(piece) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.is_over() {
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// Sends a plain request on, one for a connection, and gives the bytes of its body that are still to come.
fn forward(head: &Head, mut server: &TcpStream) -> io::Result<u64> {
    let wrong = |why: &str| io::Error::new(ErrorKind::InvalidData, why.to_string());
    let url = Url::parse(&head.target).map_err(|error| wrong(&error.to_string()))?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut text = format!("{} {}{query} HTTP/1.1\r\n", head.method, url.path());
    let mut length = 0_u64;
    for header in &head.headers {
        let name = header.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "connection" | "keep-alive" | "upgrade" => continue,
            name if name.starts_with("proxy-") => continue,
            "transfer-encoding" => return Err(wrong("a body of unknown length")),
            "content-length" => {
                let value = header.split_once(':').map_or("", |(_, value)| value.trim());
                length = value.parse().map_err(|_| wrong("a length that is none"))?;
            }
            _ => {}
        }
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    server.write_all(text.as_bytes())?;
    let behind = usize::try_from(length).map_or(head.behind.len(), |n| n.min(head.behind.len()));
    server.write_all(&head.behind[..behind])?;
    Ok(length - behind as u64)
}
