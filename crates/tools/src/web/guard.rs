//! Where a tool may go: the one place that decides it, for fetching, for the browser and for search.
//!
//! The key decision: an address is looked up once, all answers are judged, and the connection goes to exactly what
//! was judged. Between judging and connecting no name is looked up again, so a name that changes its answer
//! (DNS rebinding) gains nothing.
//!
//! The allow-list names a host with its port, as it stands in the address, and opens that alone: for a test server, a
//! search engine in the house. It holds only for who started there: nothing from outside leads in, neither a
//! redirect nor a link.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use url::{Host, Url};
use yushan_abi::Cancel;

use super::address::special;

/// Ports of web servers. Others are other services, which a request could be made to talk to.
const PORTS: [u16; 4] = [80, 443, 8080, 8443];
/// Characters of an address.
const LONGEST_URL: usize = 8192;
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;
/// Endings of names that are never of the internet (RFC 6761, 6762, 8375, ICANN's list for private use).
const LOCAL_NAMES: [&str; 10] = [
    "localhost",
    "local",
    "internal",
    "intranet",
    "home.arpa",
    "lan",
    "home",
    "corp",
    "onion",
    "test",
];

/// Finds the addresses of a name.
pub type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Why an address is not visited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error(
        "this is no address of a web page ({0}); give a whole one, like https://example.org/page"
    )]
    NotAnAddress(String),
    /// What shall be allowed cannot be read.
    #[error("{0:?} is no host with a port ({1}); expected HOST:PORT, for example 127.0.0.1:8000")]
    NotAPlace(String, String),
    /// Longer than anything needs to be.
    #[error(
        "the address has {0} characters, at most {LONGEST_URL} are taken; leave out what the page does not need"
    )]
    TooLong(usize),
    /// Not the web.
    #[error("addresses of {0}: are not visited; only http: and https: are")]
    Scheme(String),
    /// A name and a password in it.
    #[error("the address holds a user name or a password in front of an @; leave them out")]
    UserInfo,
    /// Not a port of web servers.
    #[error(
        "port {0} is not visited; web pages are at 80, 443, 8080 and 8443. Whoever runs this system can allow it with --web-allow HOST:PORT"
    )]
    Port(u16),
    /// A name of the house.
    #[error(
        "{0} is a name of this machine or its network, which is not visited. Whoever runs this system can allow it with --web-allow HOST:PORT"
    )]
    LocalName(String),
    /// An address of the house.
    #[error(
        "{host} leads to {address} ({kind}), which is not an address of the public internet and is not visited. Whoever runs this system can allow it with --web-allow HOST:PORT"
    )]
    Address {
        /// As it was written.
        host: String,
        /// What it leads to.
        address: IpAddr,
        /// Which block that lies in.
        kind: &'static str,
    },
}

/// Why there are no addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// They may not be visited.
    #[error(transparent)]
    Refused(Refused),
    /// There are none.
    #[error("no address was found for {0}; check the spelling of the host, or search for the page")]
    Unknown(String),
    /// Nobody answered in time.
    #[error("the address of the host was not found in time; try again later")]
    Timeout,
    /// Nobody wants them any more.
    #[error("stopped: nobody waits for it any more")]
    Cancelled,
}

/// The rules, and how names are looked up.
#[derive(Clone)]
pub struct Guard {
    /// Hosts as they stand in an address, with their ports.
    allowed: Vec<(String, u16)>,
    lookup: Arc<Lookup>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { allowed: Vec::new(), lookup: Arc::new(system_lookup) }
    }
}

fn system_lookup(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    Ok((host, port).to_socket_addrs()?.map(|address| address.ip()).collect())
}

impl Guard {
    /// Lets a host with its port in, whatever its address is: `127.0.0.1:8000`, `[::1]:8000`, `search.lan:8888`.
    ///
    /// # Errors
    /// If it is not a host with a port.
    pub fn allow(mut self, place: &str) -> Result<Guard, Refused> {
        let wrong = |why: String| Refused::NotAPlace(place.into(), why);
        let url =
            Url::parse(&format!("http://{place}/")).map_err(|error| wrong(error.to_string()))?;
        let (_, port) = place.rsplit_once(':').ok_or_else(|| wrong("no port".into()))?;
        let port = port.parse().map_err(|_| wrong("no port".into()))?;
        let host = url.host_str().ok_or_else(|| wrong("no host".into()))?;
        if !url.username().is_empty() || url.password().is_some() || url.path() != "/" {
            return Err(wrong("not a host with a port".into()));
        }
        self.allowed.push((host.to_string(), port));
        Ok(self)
    }

    /// Looks names up in another way than the system's.
    #[must_use]
    pub fn with_lookup(
        mut self,
        lookup: impl Fn(&str, u16) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Guard {
        self.lookup = Arc::new(lookup);
        self
    }

    /// The same without the allow-list: for what came from outside.
    #[must_use]
    pub fn outside(&self) -> Guard {
        Guard { allowed: Vec::new(), lookup: self.lookup.clone() }
    }

    /// The rules for what is reached from `url`: the allow-list holds as long as one stays on it.
    #[must_use]
    pub fn from(&self, url: &Url) -> Guard {
        if self.lists(url) { self.clone() } else { self.outside() }
    }

    /// Whether the allow-list names it.
    pub fn lists(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        url.host_str().zip(port).is_some_and(|(host, port)| self.lists_place(host, port))
    }

    fn lists_place(&self, host: &str, port: u16) -> bool {
        self.allowed.iter().any(|(name, at)| name == host && *at == port)
    }

    /// Reads an address and judges what can be judged without looking anything up.
    ///
    /// # Errors
    /// Why it is not visited.
    pub fn parse(&self, text: &str) -> Result<Url, Refused> {
        if text.len() > LONGEST_URL {
            return Err(Refused::TooLong(text.chars().count()));
        }
        let url = Url::parse(text.trim());
        let url = url.map_err(|error| Refused::NotAnAddress(error.to_string()))?;
        self.check(&url)?;
        Ok(url)
    }

    /// Judges what can be judged without looking anything up.
    ///
    /// # Errors
    /// Why it is not visited.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        if url.as_str().len() > LONGEST_URL {
            return Err(Refused::TooLong(url.as_str().len()));
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_string()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        let (host, port) = place(url)?;
        if self.lists(url) {
            return Ok(());
        }
        if !PORTS.contains(&port) {
            return Err(Refused::Port(port));
        }
        match host {
            Host::Domain(name) => check_name(&name),
            Host::Ipv4(address) => check_address(&address.to_string(), address.into()),
            Host::Ipv6(address) => check_address(&address.to_string(), address.into()),
        }
    }

    /// Where to connect for a host as it stands in an address: at least one place, all of them judged.
    ///
    /// # Errors
    /// If there are none, or one of them may not be visited.
    pub fn addresses(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Vec<SocketAddr>, NoAddress> {
        let listed = self.lists_place(host, port);
        if !listed && !PORTS.contains(&port) {
            return Err(NoAddress::Refused(Refused::Port(port)));
        }
        let parsed = Host::parse(host).map_err(|error| {
            NoAddress::Refused(Refused::NotAnAddress(format!("{host}: {error}")))
        })?;
        let found = match parsed {
            Host::Ipv4(address) => vec![address.into()],
            Host::Ipv6(address) => vec![address.into()],
            Host::Domain(name) => {
                if !listed {
                    check_name(&name).map_err(NoAddress::Refused)?;
                }
                self.look_up(&name, port, deadline, cancel)?
            }
        };
        // One bad answer spoils all: a name that leads inside is not half good.
        if !listed {
            for &address in &found {
                check_address(host, address).map_err(NoAddress::Refused)?;
            }
        }
        if found.is_empty() {
            return Err(NoAddress::Unknown(format!("{host} has no address")));
        }
        let found = found.into_iter().take(MOST_ADDRESSES);
        Ok(found.map(|address| SocketAddr::new(address, port)).collect())
    }

    /// The system's resolver cannot be interrupted, so it is left to a thread of its own.
    fn look_up(
        &self,
        name: &str,
        port: u16,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Vec<IpAddr>, NoAddress> {
        let (answer, answers) = mpsc::sync_channel(1);
        let (lookup, asked) = (self.lookup.clone(), name.to_string());
        std::thread::spawn(move || answer.send(lookup(&asked, port)).ok());
        loop {
            if cancel.is_cancelled() {
                return Err(NoAddress::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match answers.recv_timeout(left.min(Duration::from_millis(20))) {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => return Err(NoAddress::Unknown(format!("{name}: {error}"))),
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(RecvTimeoutError::Timeout) => return Err(NoAddress::Timeout),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(NoAddress::Unknown(format!("{name}: the lookup failed")));
                }
            }
        }
    }
}

/// Host and port of an address of the web.
fn place(url: &Url) -> Result<(Host<String>, u16), Refused> {
    let host = url.host().map(|host| host.to_owned());
    host.zip(url.port_or_known_default())
        .ok_or_else(|| Refused::NotAnAddress("it names no host".into()))
}

fn check_name(name: &str) -> Result<(), Refused> {
    let bare = name.trim_end_matches('.').to_ascii_lowercase();
    let local = LOCAL_NAMES.iter().any(|ending| {
        bare.strip_suffix(ending).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    });
    if local || !bare.contains('.') {
        return Err(Refused::LocalName(name.to_string()));
    }
    Ok(())
}

fn check_address(host: &str, address: IpAddr) -> Result<(), Refused> {
    special(address)
        .map_or(Ok(()), |kind| Err(Refused::Address { host: host.to_string(), address, kind }))
}
