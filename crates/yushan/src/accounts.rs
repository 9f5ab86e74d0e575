//! `keys`: API keys, and who comes in with them.
//!
//! The key decision: a key is shown once and kept as its SHA-256 alone. It is random, with 256 bits, so
//! that looking its hash up needs neither salt nor a comparison in constant time.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use yushan_abi::{Disk, Document};
use yushan_disk::Sqlite;
use yushan_server::{Access, Caller, Denial, Keys};

use crate::exit::BadUsage;
use crate::hub;

const KIND: &str = "key";
/// What keys begin with, so that people and scanners know one when they see it.
const PREFIX: &str = "ysk-";
/// Most keys that a list shows.
const LISTED: usize = 10_000;

/// Make, list and revoke API keys
#[derive(clap::Args)]
pub(crate) struct KeysCommand {
    #[command(subcommand)]
    action: KeysAction,
}

#[derive(clap::Subcommand)]
enum KeysAction {
    /// Make a key and show it, once
    New {
        /// Whose it is: their prefixes, responses and files are theirs alone
        user: String,
        /// What it may do
        #[arg(long, value_delimiter = ',', default_values = ["look", "use"])]
        scopes: Vec<Scope>,
    },
    /// List the keys
    List,
    /// Revoke a key by the name that the list shows
    Revoke {
        /// The name
        id: String,
    },
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// See models and counters.
    Look,
    /// Ask for completions, keep responses and files.
    Use,
    /// Bring and delete models, see and signal all processes.
    Manage,
}

#[derive(Serialize, Deserialize)]
struct Key {
    user: String,
    scopes: Vec<Scope>,
    revoked: bool,
}

impl KeysCommand {
    pub(crate) fn run(self) -> Result<()> {
        let disk = open_disk()?;
        let mut out = std::io::stdout();
        match self.action {
            KeysAction::New { user, scopes } => {
                if user.is_empty() || user.chars().any(char::is_control) {
                    return Err(BadUsage("a key needs a user's name".into()).into());
                }
                let secret = secret()?;
                put(&disk, &hash(&secret), &Key { user, scopes, revoked: false })?;
                writeln!(out, "{secret}")?;
                eprintln!("This key is not shown again.");
            }
            KeysAction::List => {
                for document in disk.list(KIND, None, "", LISTED)? {
                    let key: Key = serde_json::from_str(&document.body)?;
                    let scopes: Vec<String> = key
                        .scopes
                        .iter()
                        .map(|scope| format!("{scope:?}").to_lowercase())
                        .collect();
                    let revoked = if key.revoked { "  revoked" } else { "" };
                    let id = &document.key[..12];
                    writeln!(out, "{id}  {:<16} {}{revoked}", key.user, scopes.join(","))?;
                }
            }
            KeysAction::Revoke { id } => {
                let all = disk.list(KIND, None, "", LISTED)?;
                let found: Vec<_> =
                    all.iter().filter(|key| id.len() >= 6 && key.key.starts_with(&id)).collect();
                let [document] = found[..] else {
                    let why =
                        format!("no key, or more than one, is called {id:?}; see yushan keys list");
                    return Err(BadUsage(why).into());
                };
                let key: Key = serde_json::from_str(&document.body)?;
                put(&disk, &document.key, &Key { revoked: true, ..key })?;
            }
        }
        Ok(())
    }
}

/// The disk below the data home.
pub(crate) fn open_disk() -> Result<Sqlite> {
    let folder = hub::home()?.join("disk");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Sqlite::open(&folder).with_context(|| folder.display().to_string())
}

fn put(disk: &dyn Disk, hash: &str, key: &Key) -> Result<()> {
    let body = serde_json::to_string(key)?;
    Ok(disk.put(&Document {
        kind: KIND.into(),
        key: hash.into(),
        owner: key.user.clone(),
        created_ms: yushan_kernel::runtime::clock(),
        body,
    })?)
}

/// 256 random bits of the operating system.
fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keys that are kept on the disk. From this machine nobody needs one, unless that is asked for.
pub(crate) struct Accounts {
    disk: Arc<dyn Disk>,
    /// Whether callers on this machine need a key too.
    always: bool,
}

impl Accounts {
    pub(crate) fn new(disk: Arc<dyn Disk>, always: bool) -> Accounts {
        Accounts { disk, always }
    }

    /// Whether there is a key that lets anybody in.
    pub(crate) fn exist(&self) -> Result<bool> {
        let all = self.disk.list(KIND, None, "", LISTED)?;
        let usable = |document: &Document| {
            serde_json::from_str::<Key>(&document.body).is_ok_and(|key| !key.revoked)
        };
        Ok(all.iter().any(usable))
    }
}

impl Keys for Accounts {
    fn admit(
        &self,
        key: Option<&str>,
        peer: Option<IpAddr>,
        access: Access,
    ) -> Result<Caller, Denial> {
        let Some(secret) = key.filter(|key| key.starts_with(PREFIX)) else {
            // Clients that insist on sending something send anything.
            let near = peer.is_some_and(|peer| peer.is_loopback());
            return match (near && !self.always, key) {
                (true, _) => Ok(Caller::default()),
                (false, None) => Err(Denial::Missing),
                (false, Some(_)) => Err(Denial::Unknown),
            };
        };
        let document = self.disk.get(KIND, &hash(secret)).ok().flatten().ok_or(Denial::Unknown)?;
        let key: Key = serde_json::from_str(&document.body).map_err(|_| Denial::Unknown)?;
        let wanted = match access {
            Access::Look => Scope::Look,
            Access::Use => Scope::Use,
            Access::Manage => Scope::Manage,
        };
        match key {
            Key { revoked: true, .. } => Err(Denial::Unknown),
            Key { scopes, .. } if !scopes.contains(&wanted) => Err(Denial::Scope),
            Key { user, .. } => Ok(Caller { tenant: user }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_let_in_whom_they_should() {
        let disk: Arc<dyn Disk> = Arc::new(yushan_disk::Memory::new());
        let accounts = Accounts::new(disk.clone(), false);
        assert!(!accounts.exist().unwrap());
        let (secret, other) = (secret().unwrap(), secret().unwrap());
        let key = |revoked| Key { user: "ann".into(), scopes: vec![Scope::Use], revoked };
        put(disk.as_ref(), &hash(&secret), &key(false)).unwrap();
        assert!(accounts.exist().unwrap());
        let (near, far) = (Some("127.0.0.1".parse().unwrap()), Some("10.0.0.1".parse().unwrap()));
        let ann = Ok(Caller { tenant: "ann".into() });
        let cases = [
            (None, near, Access::Manage, Ok(Caller::default())),
            (Some("anything"), near, Access::Use, Ok(Caller::default())),
            (None, far, Access::Use, Err(Denial::Missing)),
            (None, None, Access::Use, Err(Denial::Missing)),
            (Some("anything"), far, Access::Use, Err(Denial::Unknown)),
            (Some(&other), near, Access::Use, Err(Denial::Unknown)),
            (Some(&secret), far, Access::Use, ann.clone()),
            (Some(&secret), near, Access::Use, ann),
            (Some(&secret), near, Access::Manage, Err(Denial::Scope)),
        ];
        for (key, peer, access, expected) in cases {
            assert_eq!(accounts.admit(key, peer, access), expected, "{key:?} {peer:?} {access:?}");
        }
        let always = Accounts::new(disk.clone(), true);
        assert_eq!(always.admit(None, near, Access::Use), Err(Denial::Missing));
        put(disk.as_ref(), &hash(&secret), &key(true)).unwrap();
        assert_eq!(accounts.admit(Some(&secret), near, Access::Use), Err(Denial::Unknown));
        assert!(!accounts.exist().unwrap());
    }
}
