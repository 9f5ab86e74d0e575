//! `users`: who has keys, what they may use, and what they have used.
//!
//! A user is whoever has a key; limits of a user hold for all keys of the user together.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use yushan_abi::{Disk, Document};

use super::limits::{LimitFlags, Limits};
use super::usage::{User, whose};
use super::{keys, open_disk};
use crate::exit::BadUsage;

const KIND: &str = "user";

/// List the users of keys, and limit what they use
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Users {
    #[command(subcommand)]
    action: Option<UsersAction>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum UsersAction {
    /// Change what a user may use, with all keys together
    Limit {
        /// Who
        user: String,
        #[command(flatten)]
        limits: LimitFlags,
    },
}

/// A user, as stored.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    limits: Limits,
}

impl Users {
    pub(crate) fn run(self) -> Result<()> {
        let disk = open_disk()?;
        match self.action {
            None => list(&disk, self.json),
            Some(UsersAction::Limit { limits, .. }) if limits.is_empty() => {
                let why = "say which limit, for example --tokens-per-day 100000";
                Err(BadUsage(why.into()).into())
            }
            Some(UsersAction::Limit { user, limits }) => {
                check_name(&user)?;
                if !keys::all(&disk)?.iter().any(|(_, key)| key.user == user) {
                    let why = format!(
                        "no user is called {user:?}: yushan users lists them, and yushan keys new NAME \
                         makes a user's first key"
                    );
                    return Err(BadUsage(why).into());
                }
                let limits = limits.over(self::limits(&disk, &user)?);
                put(&disk, &user, limits)
            }
        }
    }
}

/// What can be a user's name.
pub(super) fn check_name(user: &str) -> Result<()> {
    if user.is_empty() || user.len() > 200 || user.chars().any(char::is_control) {
        let why = "a user needs a name, of up to 200 bytes and without control characters";
        return Err(BadUsage(why.into()).into());
    }
    Ok(())
}

pub(super) fn put(disk: &dyn Disk, user: &str, limits: Limits) -> Result<()> {
    Ok(disk.put(&Document {
        kind: KIND.into(),
        key: user.into(),
        owner: user.into(),
        created_ms: yushan_kernel::runtime::clock(),
        body: serde_json::to_string(&Stored { limits })?,
    })?)
}

/// What a user may use.
pub(super) fn limits(disk: &dyn Disk, user: &str) -> Result<Limits> {
    let Some(document) = disk.get(KIND, user)? else { return Ok(Limits::default()) };
    let stored: Stored =
        serde_json::from_str(&document.body).with_context(|| format!("the user {user:?}"))?;
    Ok(stored.limits)
}

fn list(disk: &dyn Disk, json: bool) -> Result<()> {
    let now = yushan_kernel::runtime::clock();
    // Whoever has a key, and those who come without one.
    let mut names = BTreeSet::from([String::new()]);
    let mut usable = BTreeMap::<String, usize>::new();
    for (_, key) in keys::all(disk)? {
        *usable.entry(key.user.clone()).or_default() += usize::from(!key.revoked);
        names.insert(key.user);
    }
    let (mut out, mut listed) = (std::io::stdout(), Vec::new());
    for name in names {
        let account = User::read(disk, &name, now)?.account;
        if name.is_empty() && account.total.requests == 0 {
            continue;
        }
        let limits = limits(disk, &name)?;
        let keys = usable.get(&name).copied().unwrap_or(0);
        if json {
            let used = json!({
                "today": account.today,
                "month": account.month,
                "total": account.total,
            });
            listed.push(json!({"user": name, "keys": keys, "limits": limits, "used": used}));
            continue;
        }
        let [today, total] = [account.today, account.total].map(|spent| spent.tokens(&limits));
        let (name, s) = (whose(&name), if keys == 1 { " " } else { "s" });
        writeln!(out, "{name:<24} {keys:>3} key{s} {today:>9} today {total:>11} in all  {limits}")?;
    }
    if json {
        writeln!(out, "{:#}", json!(listed))?;
    }
    Ok(())
}
