//! `keys`: API keys are made, listed, limited and revoked.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use serde_json::json;
use yushan_abi::{Disk, Document};

use super::limits::{LimitFlags, Limits};
use super::quota::Account;
use super::usage::User;
use super::{KEY, Key, LISTED, PREFIX, Scope, hash, hex, named, open_disk, put, users};
use crate::exit::BadUsage;

/// Make, list, limit and revoke API keys
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
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// List the keys, their limits and what they have used
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change what a key may use
    Limit {
        /// The name that the list shows
        id: String,
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// Revoke a key
    Revoke {
        /// The name that the list shows
        id: String,
    },
}

impl KeysCommand {
    pub(crate) fn run(self) -> Result<()> {
        let disk = open_disk()?;
        match self.action {
            KeysAction::New { user, scopes, limits } => {
                users::check_name(&user)?;
                let secret = secret()?;
                let limits = limits.over(Limits::default());
                let key = Key { user, scopes, revoked: false, limits };
                put(&disk, &hash(&secret), &key)?;
                if let Err(error) = writeln!(std::io::stdout(), "{secret}") {
                    // Nobody has it, and nobody will.
                    put(&disk, &hash(&secret), &Key { revoked: true, ..key })?;
                    return Err(error).context("the key could not be shown, and is revoked");
                }
                eprintln!("This key is not shown again.");
            }
            KeysAction::List { json } => list(&disk, json)?,
            KeysAction::Limit { id, limits } => {
                if limits.is_empty() {
                    let why = "say which limit, for example --tokens-per-minute 10000";
                    return Err(BadUsage(why.into()).into());
                }
                let (name, key) = find(&disk, &id)?;
                put(&disk, &name, &Key { limits: limits.over(key.limits), ..key })?;
            }
            KeysAction::Revoke { id } => {
                let (name, key) = find(&disk, &id)?;
                put(&disk, &name, &Key { revoked: true, ..key })?;
            }
        }
        Ok(())
    }
}

/// All keys, with the names that are their hashes.
pub(super) fn all(disk: &dyn Disk) -> Result<Vec<(String, Key)>> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let page = disk.list(KEY, None, &after, LISTED)?;
        for Document { key, body, .. } in &page {
            let read = serde_json::from_str(body).with_context(|| format!("the key {key}"))?;
            keys.push((key.clone(), read));
        }
        match page.last() {
            Some(last) if page.len() == LISTED => after.clone_from(&last.key),
            _ => return Ok(keys),
        }
    }
}

/// The key whose name begins so.
fn find(disk: &dyn Disk, id: &str) -> Result<(String, Key)> {
    let mut found = all(disk)?;
    found.retain(|(name, _)| id.len() >= 6 && name.starts_with(id));
    match <[_; 1]>::try_from(found) {
        Ok([found]) => Ok(found),
        Err(_) => {
            let why = format!("no key, or more than one, is called {id:?}; see yushan keys list");
            Err(BadUsage(why).into())
        }
    }
}

fn list(disk: &dyn Disk, json: bool) -> Result<()> {
    let now = yushan_kernel::runtime::clock();
    let mut users = std::collections::HashMap::<String, User>::new();
    let (mut out, mut listed) = (std::io::stdout(), Vec::new());
    for (name, key) in all(disk)? {
        let id = named(&name);
        let user = match users.entry(key.user.clone()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(User::read(disk, &key.user, now)?)
            }
        };
        let used = user.keys.get(id).copied();
        let used = used.unwrap_or_else(|| Account::new(super::quota::day(now)));
        if json {
            listed.push(json!({
                "id": id,
                "user": key.user,
                "scopes": key.scopes,
                "revoked": key.revoked,
                "limits": key.limits,
                "used": { "today": used.today, "month": used.month, "total": used.total },
            }));
            continue;
        }
        let scopes: Vec<String> =
            key.scopes.iter().map(|scope| format!("{scope:?}").to_lowercase()).collect();
        let limits = if key.revoked { "revoked".into() } else { key.limits.to_string() };
        let [today, total] = [used.today, used.total].map(|spent| spent.tokens(&key.limits));
        let (user, scopes) = (&key.user, scopes.join(","));
        writeln!(
            out,
            "{id}  {user:<16} {scopes:<15} {today:>9} today {total:>11} in all  {limits}"
        )?;
    }
    if json {
        writeln!(out, "{:#}", json!(listed))?;
    }
    Ok(())
}

/// 256 random bits of the operating system.
pub(super) fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}
