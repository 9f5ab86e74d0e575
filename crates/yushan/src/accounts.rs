//! Accounts: who comes in with a key, and how much they may use.
//!
//! The key decision: a key is shown once and kept as its SHA-256 alone. It is random, with 256 bits, so
//! that looking its hash up needs neither salt nor a comparison in constant time: how long a look-up
//! takes tells something of the hash at most, and nothing of the key. Keys and limits are read from the disk at most
//! once a second each; between that, whether somebody may come in and begin is decided in memory. So a key that
//! is revoked lets nobody in after a second.

mod keys;
mod limits;
mod quota;
#[cfg(test)]
mod tests;
mod usage;
mod users;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use yushan_abi::{Counts, Disk, Document, Refusal};
use yushan_disk::Sqlite;
use yushan_kernel::{Billing, Payer};
use yushan_server::{Access, Caller, Denial, Keys, Turn};

use crate::hub;
use limits::Limits;
use quota::Spent;
use usage::Usage;

pub(crate) use keys::KeysCommand;
pub(crate) use usage::{Clock, Storing};
pub(crate) use users::Users;

const KEY: &str = "key";
/// What keys begin with, so that people and scanners know one when they see it.
const PREFIX: &str = "ysk-";
/// Keys that are read at once.
const LISTED: usize = 10_000;
/// How old may be what is known of a key.
const FRESH_MS: u64 = 1000;

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

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Key {
    user: String,
    scopes: Vec<Scope>,
    revoked: bool,
    #[serde(default)]
    limits: Limits,
}

/// The disk below the data home.
pub(crate) fn open_disk() -> Result<Sqlite> {
    let folder = hub::home()?.join("disk");
    let why = || folder.display().to_string();
    std::fs::create_dir_all(&folder).with_context(why)?;
    // It holds what everybody said: nobody else on this machine may look into it.
    let alone = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&folder, alone).with_context(why)?;
    Sqlite::open(&folder).with_context(|| folder.display().to_string())
}

fn put(disk: &dyn Disk, hash: &str, key: &Key) -> Result<()> {
    let body = serde_json::to_string(key)?;
    Ok(disk.put(&Document {
        kind: KEY.into(),
        key: hash.into(),
        owner: key.user.clone(),
        created_ms: yushan_kernel::runtime::clock(),
        body,
    })?)
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// What a key is called: the beginning of its hash.
fn named(hash: &str) -> &str {
    &hash[..hash.len().min(12)]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keys that are kept on the disk. From this machine nobody needs one, unless that is asked for.
pub(crate) struct Accounts {
    disk: Arc<dyn Disk>,
    clock: Clock,
    /// Whether callers on this machine need a key too.
    always: bool,
    /// By hash: when it was read, and the key. Those that exist alone, so that nobody can fill it.
    known: Mutex<HashMap<String, (u64, Key)>>,
    pub(crate) usage: Arc<Usage>,
}

impl Accounts {
    pub(crate) fn new(disk: Arc<dyn Disk>, always: bool, clock: Clock) -> Accounts {
        let usage = Arc::new(Usage::new(disk.clone(), clock.clone()));
        Accounts { disk, clock, always, known: Mutex::default(), usage }
    }

    /// Whether there is a key that lets anybody in.
    pub(crate) fn exist(&self) -> Result<bool> {
        Ok(keys::all(self.disk.as_ref())?.iter().any(|(_, key)| !key.revoked))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (u64, Key)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of this hash, as it was a second ago at most.
    fn key(&self, hash: String) -> Result<Option<Key>> {
        let now = (self.clock)();
        let fresh = |at: u64| now.saturating_sub(at) < FRESH_MS && at <= now;
        if let Some((_, key)) = self.known().get(&hash).filter(|(at, _)| fresh(*at)) {
            return Ok(Some(key.clone()));
        }
        let Some(document) = self.disk.get(KEY, &hash)? else {
            self.known().remove(&hash);
            return Ok(None);
        };
        let key: Key = serde_json::from_str(&document.body)
            .with_context(|| format!("the key {}", named(&hash)))?;
        let caller = Caller::new(&*key.user, named(&hash));
        let user = users::limits(self.disk.as_ref(), &key.user)?;
        self.usage.limit(&caller, Some(key.limits), user)?;
        self.known().insert(hash, (now, key.clone()));
        Ok(Some(key))
    }

    /// Reads what a payer may use now. The key stands in the journal by its name alone.
    fn know_payer(&self, payer: &Payer) -> Result<(), Refusal> {
        let failed = |error: &anyhow::Error| {
            Refusal::Internal(format!("the accounts cannot be read: {}", crate::exit::line(error)))
        };
        if payer.account.is_empty() {
            let user = users::limits(self.disk.as_ref(), &payer.tenant);
            let known = user
                .and_then(|user| self.usage.limit(&Caller::new(&*payer.tenant, ""), None, user));
            return known.map_err(|error| failed(&error));
        }
        // The name is the beginning of the hash: the hash is the first behind it.
        let found = self.disk.list(KEY, Some(&payer.tenant), &payer.account, 1);
        let hash = found.map(|found| found.into_iter().next().map(|document| document.key));
        let key = hash.map_err(anyhow::Error::from).and_then(|hash| {
            let hash = hash.filter(|hash| named(hash) == payer.account);
            hash.map_or(Ok(None), |hash| self.key(hash))
        });
        match key.map_err(|error| failed(&error))? {
            Some(Key { revoked: false, .. }) => Ok(()),
            _ => Err(Refusal::Quota(format!("the key {} was revoked", payer.account))),
        }
    }
}

impl Billing for Accounts {
    fn may_begin(&self, payer: &Payer) -> Result<(), Refusal> {
        self.know_payer(payer)?;
        let caller = Caller::new(&*payer.tenant, &*payer.account);
        self.usage.may_go_on(&caller).map_err(|denial| match denial {
            Denial::Rate { after_ms, .. } => Refusal::Busy { after_ms },
            Denial::Quota { granted, .. } => Refusal::Quota(granted),
            other => Refusal::Internal(format!("the accounts cannot be read: {other:?}")),
        })
    }

    fn bill(&self, payer: &Payer, used: Counts) {
        self.usage.charge(&Caller::new(&*payer.tenant, &*payer.account), Spent::of(used));
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
        let hash = hash(secret);
        let caller = |user: String| Caller::new(user, named(&hash));
        let failed = |error: anyhow::Error| Denial::Failed(crate::exit::line(&error));
        let wanted = match access {
            Access::Look => Scope::Look,
            Access::Use => Scope::Use,
            Access::Manage => Scope::Manage,
        };
        match self.key(hash.clone()).map_err(failed)? {
            None | Some(Key { revoked: true, .. }) => Err(Denial::Unknown),
            Some(Key { scopes, .. }) if !scopes.contains(&wanted) => Err(Denial::Scope),
            Some(Key { user, .. }) => Ok(caller(user)),
        }
    }

    fn begin(&self, caller: &Caller) -> Result<Turn, Denial> {
        let known = self.usage.know(&caller.tenant);
        known.map_err(|error| Denial::Failed(crate::exit::line(&error)))?;
        self.usage.begin(caller)
    }

    fn charge(&self, caller: &Caller, used: Counts) {
        self.usage.charge(caller, Spent::of(used));
    }
}
