//! One file from a hub onto the disk: resumable, checked, all or nothing.
//!
//! The key decision: bytes go into `FILE.partial`, and `FILE.version` beside it says of which
//! version they are (ETag and size). A later attempt goes on only if the hub still offers that
//! version. The finished file is synced, its SHA-256 compared with what the hub promised, and then
//! renamed; whatever fails before that leaves an older file as it was.
//!
//! Redirects are followed here, since the promise stands on the first answer and not on the
//! storage's that it leads to, and since the token is for the hub alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::name::Name;
use super::siblings;
use crate::exit::BadFile;
use crate::progress;

/// Attempts in a row that bring nothing new.
const ATTEMPTS: usize = 5;
const REDIRECTS: usize = 10;
/// Longest list of a repository's files in bytes.
const LIST: u64 = 16 << 20;
/// Longest file whose size the hub does not say.
const UNSIZED: u64 = 64 << 20;
const CONNECT: Duration = Duration::from_secs(30);
/// The longest silence.
const READ: Duration = Duration::from_secs(60);

/// A connection to a hub.
pub(super) struct Fetcher<'a> {
    agent: Agent,
    base: &'a str,
    token: Option<&'a str>,
    pause: Duration,
}

/// What the hub promises of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Version {
    etag: String,
    size: Option<u64>,
}

/// An answer with a body.
struct Answer {
    version: Version,
    response: Response<Body>,
}

/// Why an attempt ended: whether another may help.
enum Broken {
    /// The connection; what came so far is kept.
    Connection(anyhow::Error),
    /// Anything else.
    Fatal(anyhow::Error),
}

impl From<anyhow::Error> for Broken {
    fn from(error: anyhow::Error) -> Self {
        Broken::Fatal(error)
    }
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(base: &'a str, token: Option<&'a str>, pause: Duration) -> Result<Self> {
        let base = base.trim_end_matches('/');
        if origin(base).is_none() {
            bail!("the hub's address is {base:?}; expected http://… or https://…");
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .user_agent(concat!("yushan/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Fetcher { agent, base, token, pause })
    }

    /// The files of a repository.
    pub(super) fn list(&self, name: &Name) -> Result<Vec<String>> {
        let url = format!("{}/api/models/{}", self.base, name.repository());
        let mut answer = self.get(&url, name, None).map_err(Broken::into_error)?;
        let text = answer.response.body_mut().with_config().limit(LIST).read_to_string();
        let text = text.with_context(|| format!("{name}: the hub's list of files"))?;
        let json = serde_json::from_str(&text).ok();
        json.as_ref().and_then(siblings).with_context(|| {
            format!("{name}: the hub at {} does not list files as Hugging Face does", self.base)
        })
    }

    /// Brings the file to `to`, if it is not there unchanged.
    pub(super) fn fetch(&self, name: &Name, to: &Path) -> Result<()> {
        let url =
            format!("{}/{}/resolve/main/{}", self.base, name.repository(), name.file_in_address());
        let folder = to.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut partial = Partial::open(to)?;
        let mut last = None;
        let mut fruitless = 0;
        while fruitless < ATTEMPTS {
            let before = partial.length;
            match self.attempt(name, &url, to, &mut partial) {
                Ok(()) => return Ok(()),
                Err(Broken::Fatal(error)) => {
                    partial.leave();
                    return Err(error);
                }
                Err(Broken::Connection(error)) => last = Some(error),
            }
            fruitless = if partial.length > before { 0 } else { fruitless + 1 };
            std::thread::sleep(self.pause);
        }
        let kept = partial.length;
        partial.leave();
        let error = last.unwrap_or_else(|| anyhow!("no attempt was made"));
        Err(error.context(format!(
            "{name}: given up after {ATTEMPTS} attempts that brought nothing; {kept} bytes are \
             kept, pull again to go on"
        )))
    }

    /// One connection's worth of the file.
    fn attempt(
        &self,
        name: &Name,
        url: &str,
        to: &Path,
        partial: &mut Partial,
    ) -> Result<(), Broken> {
        let from = partial.length;
        // All of it came, but the end was not reached.
        let whole = from > 0 && partial.version.size == Some(from);
        let mut answer = self.get(url, name, (from > 0 && !whole).then_some(from))?;
        if whole && answer.version == partial.version {
            return Ok(partial.finish(name, to)?);
        }
        if from == 0 && is_unchanged(to, &answer.version)? {
            partial.discard()?;
            return Ok(());
        }
        let goes_on = answer.response.status() == 206
            && answer.version == partial.version
            && range_start(&answer.response) == Some(from);
        if !goes_on && from > 0 {
            // Another version, or a server that cannot go on: from the beginning.
            partial.restart(&Version::default())?;
            answer = self.get(url, name, None)?;
        }
        if answer.response.status() != 200 && !goes_on {
            let status = answer.response.status();
            return Err(
                anyhow!("{name}: the hub answered {status} to a request for all of it").into()
            );
        }
        if !goes_on {
            partial.restart(&answer.version)?;
        }
        let promised = answer.version.size;
        self.copy(name, answer.response, promised, partial)?;
        if promised.is_some_and(|size| partial.length != size) {
            return Err(Broken::Connection(anyhow!("{name}: the connection ended early")));
        }
        Ok(partial.finish(name, to)?)
    }

    fn copy(
        &self,
        name: &Name,
        response: Response<Body>,
        promised: Option<u64>,
        partial: &mut Partial,
    ) -> Result<(), Broken> {
        let bar = progress::of_bytes(promised.unwrap_or(0));
        bar.set_message(name.file().unwrap_or_default().to_string());
        bar.set_position(partial.length);
        let limit = promised.unwrap_or(UNSIZED);
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    bar.abandon();
                    return Err(Broken::Connection(anyhow!("{name}: {error}")));
                }
            };
            if partial.length + count as u64 > limit {
                partial.discard()?;
                return Err(
                    anyhow!("{name}: the hub sends more than the {limit} bytes expected").into()
                );
            }
            partial.append(&buffer[..count])?;
            bar.set_position(partial.length);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// A GET that follows redirects. 416 (nothing left of a partial file) counts as an answer.
    fn get(&self, url: &str, name: &Name, from: Option<u64>) -> Result<Answer, Broken> {
        let mut url = url.to_string();
        let mut version = Version::default();
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&url).header("Accept-Encoding", "identity");
            if let Some(token) = self.token.filter(|_| self.may_see_token(&url)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request
                .call()
                .map_err(|error| Broken::Connection(anyhow!("{name}: {url}: {error}")))?;
            version.learn(&response);
            let status = response.status().as_u16();
            if matches!(status, 301 | 302 | 303 | 307 | 308) {
                let location = header(&response, "location").unwrap_or_default();
                url = redirected(&url, location)
                    .with_context(|| format!("{name}: {url} leads to {location:?}"))?;
                continue;
            }
            return match status {
                200 | 206 | 416 => Ok(Answer { version, response }),
                500..=599 | 429 => {
                    Err(Broken::Connection(anyhow!("{name}: the hub answered {status}")))
                }
                _ => Err(refused(name, status, self.token.is_some()).into()),
            };
        }
        Err(anyhow!("{name}: more than {REDIRECTS} redirects").into())
    }

    /// The token goes to the hub alone, and unencrypted only within this machine.
    fn may_see_token(&self, url: &str) -> bool {
        let (own, other) = (origin(self.base), origin(url));
        let local = |origin: &str| {
            let host = origin.trim_start_matches("http://");
            ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
                host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
        };
        own == other && own.is_some_and(|own| own.starts_with("https://") || local(own))
    }
}

impl Broken {
    fn into_error(self) -> anyhow::Error {
        let (Broken::Connection(error) | Broken::Fatal(error)) = self;
        error
    }
}

impl Version {
    /// The first answer that says something counts: the hub's own, not the storage's.
    fn learn(&mut self, response: &Response<Body>) {
        let etag = header(response, "x-linked-etag").or_else(|| {
            (!response.status().is_redirection()).then(|| header(response, "etag")).flatten()
        });
        if let (true, Some(etag)) = (self.etag.is_empty(), etag) {
            self.etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        }
        let size = || header(response, "x-linked-size")?.parse().ok();
        let total = || match response.status().as_u16() {
            200 => header(response, "content-length")?.parse().ok(),
            206 | 416 => header(response, "content-range")?.rsplit_once('/')?.1.parse().ok(),
            _ => None,
        };
        self.size = self.size.or_else(size).or_else(total);
    }

    /// The SHA-256 of the content, where the ETag is one (files in large file storage).
    fn sha256(&self) -> Option<&str> {
        let is_sha =
            self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sha.then_some(self.etag.as_str())
    }
}

/// A file on its way.
struct Partial {
    path: PathBuf,
    /// Locked: two downloads of one file would write into each other.
    file: File,
    length: u64,
    version: Version,
}

impl Partial {
    /// Opens what an earlier attempt left, or begins.
    fn open(to: &Path) -> Result<Self> {
        let path = beside(to, "partial");
        let said = || path.display().to_string();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(said)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("{} is being fetched by another yushan", to.display())
            }
            // Some file systems cannot lock; that is no reason not to fetch.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let version = read_version(&beside(to, "version")).unwrap_or_default();
        let mut partial = Partial { path, file, length: 0, version };
        let length = partial.file.metadata().with_context(|| partial.said())?.len();
        // Without an ETag nobody knows whether the rest would fit.
        if partial.version.etag.is_empty() || partial.version.size.is_some_and(|size| length > size)
        {
            partial.restart(&Version::default())?;
        } else {
            partial.length = length;
            partial.file.seek(SeekFrom::Start(length)).with_context(|| partial.said())?;
        }
        Ok(partial)
    }

    fn said(&self) -> String {
        self.path.display().to_string()
    }

    /// Empties the file; what comes next is of this version.
    fn restart(&mut self, version: &Version) -> Result<()> {
        self.file.set_len(0).with_context(|| self.said())?;
        self.file.rewind().with_context(|| self.said())?;
        self.length = 0;
        self.version = version.clone();
        let size = version.size.map_or_else(String::new, |size| size.to_string());
        let path = self.path.with_extension("version");
        fs::write(&path, format!("{}\n{size}\n", version.etag))
            .with_context(|| path.display().to_string())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| self.said())?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Deletes what came.
    fn discard(&mut self) -> Result<()> {
        self.length = 0;
        for path in [self.path.clone(), self.path.with_extension("version")] {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Ends a failed download: an empty file is of no use to the next.
    fn leave(mut self) {
        if self.length == 0 {
            // It may be gone already, and there is an error to tell of that matters more.
            let _ = self.discard();
        }
    }

    /// Checks, syncs and renames.
    fn finish(&mut self, name: &Name, to: &Path) -> Result<()> {
        if let Some(expected) = self.version.sha256() {
            let expected = expected.to_lowercase();
            self.file.rewind().with_context(|| self.said())?;
            let found = sha256(&mut self.file).with_context(|| self.said())?;
            if found != expected {
                self.discard()?;
                bail!(
                    "{name}: the checksum is wrong: expected SHA-256 {expected}, found {found}; \
                     nothing was kept, pull again"
                );
            }
        }
        self.file.sync_all().with_context(|| self.said())?;
        fs::rename(&self.path, to).with_context(|| to.display().to_string())?;
        let version = self.path.with_extension("version");
        fs::remove_file(&version).with_context(|| version.display().to_string())?;
        // The name is durable once its folder is.
        if let Some(folder) = to.parent() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.with_context(|| folder.display().to_string())?;
        }
        Ok(())
    }
}

/// `FILE.KIND`.
fn beside(to: &Path, kind: &str) -> PathBuf {
    let mut name = to.as_os_str().to_os_string();
    name.push(".");
    name.push(kind);
    name.into()
}

fn read_version(path: &Path) -> Option<Version> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    Some(Version { etag: lines.next()?.to_string(), size: lines.next()?.parse().ok() })
}

/// Whether the file is here already, as far as the promise lets one tell.
fn is_unchanged(to: &Path, version: &Version) -> Result<bool> {
    let (Some(size), Some(expected)) = (version.size, version.sha256()) else { return Ok(false) };
    if !fs::metadata(to).is_ok_and(|about| about.is_file() && about.len() == size) {
        return Ok(false);
    }
    let said = || to.display().to_string();
    let found = sha256(&mut File::open(to).with_context(said)?).with_context(said)?;
    Ok(found == expected.to_lowercase())
}

fn sha256(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// Where a partial answer begins: `bytes START-END/TOTAL`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = header(response, "content-range")?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}

/// `https://host:port` of an address.
fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty())?;
    Some(&url[..url.len() - rest.len() + host.len()])
}

/// The address a redirect leads to; never from an encrypted one to one that is not.
fn redirected(url: &str, location: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{}{location}", origin(url)?));
    }
    origin(location)?;
    let weaker = url.starts_with("https://") && !location.starts_with("https://");
    (!weaker).then(|| location.to_string())
}

fn refused(name: &Name, status: u16, with_token: bool) -> anyhow::Error {
    match (status, with_token) {
        (401 | 403, false) => anyhow!(
            "{name}: the hub refuses ({status}): it is private, gated or not there; set HF_TOKEN to \
             a token that may read it, or check the name"
        ),
        (401 | 403, true) => anyhow!(
            "{name}: the hub refuses ({status}) this HF_TOKEN; accept the model's terms on its \
             page, or use a token that may read it"
        ),
        (404, _) => {
            BadFile(format!("{name}: the hub has no such file (404); check owner, repo and file"))
                .into()
        }
        _ => anyhow!("{name}: the hub answered {status}"),
    }
}
