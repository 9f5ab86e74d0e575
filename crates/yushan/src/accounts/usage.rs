//! What everybody has used: in memory, where it is asked for, and on the disk, where it stays.
//!
//! The key decision: a document for each user and day, with the day's sums, of the user and of each key. Charges
//! change memory at once; what changed is written every second by a thread of its own, and when the system ends.
//! So a system that is killed forgets a second of charges (and what was still being written), never
//! more; the next one reads the sums again when a user comes for the first time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use yushan_abi::{Disk, Document};
use yushan_server::{Allowance, Caller, Denial, Turn};

use super::limits::Limits;
use super::quota::{Account, Spent, date, day};

const KIND: &str = "usage";
/// Documents that are read at once.
const PAGE: usize = 1000;
/// Between writes.
const EVERY: Duration = Duration::from_secs(1);

/// Milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A day of a user, as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Day {
    /// Counted from 1970.
    day: u64,
    all: Spent,
    /// By the key's name.
    keys: BTreeMap<String, Spent>,
}

/// A user in memory.
pub(crate) struct User {
    pub(crate) account: Account,
    pub(crate) keys: HashMap<String, Account>,
    /// The present day, as it shall be stored.
    book: Day,
    /// Whether the book changed since it was stored.
    changed: bool,
}

impl User {
    /// Reads what a user has used.
    pub(crate) fn read(disk: &dyn Disk, name: &str, now_ms: u64) -> Result<User> {
        let today = day(now_ms);
        let mut user = User {
            account: Account::new(today),
            keys: HashMap::new(),
            book: Day { day: today, ..Day::default() },
            changed: false,
        };
        let mut after = String::new();
        loop {
            let page = disk.list(KIND, Some(name), &after, PAGE)?;
            for document in &page {
                let stored: Day = serde_json::from_str(&document.body)
                    .with_context(|| format!("the usage {}", document.key))?;
                user.account.remember(stored.day, stored.all);
                for (key, spent) in &stored.keys {
                    user.key(key).remember(stored.day, *spent);
                }
                if stored.day == today {
                    user.book = stored;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(&last.key),
                _ => return Ok(user),
            }
        }
    }

    fn key(&mut self, key: &str) -> &mut Account {
        self.keys.entry(key.to_string()).or_insert_with(|| Account::new(self.book.day))
    }

    fn charge(&mut self, key: &str, spent: Spent, now_ms: u64) {
        self.account.charge(spent, now_ms);
        self.book.all.add(spent);
        if !key.is_empty() {
            self.key(key).charge(spent, now_ms);
            self.book.keys.entry(key.to_string()).or_default().add(spent);
        }
        self.changed = true;
    }

    fn document(&self, name: &str) -> Result<Document> {
        Ok(Document {
            kind: KIND.into(),
            key: format!("{}/{name}", date(self.book.day)),
            owner: name.into(),
            created_ms: 0,
            body: serde_json::to_string(&self.book)?,
        })
    }
}

#[derive(Default)]
struct Books {
    users: HashMap<String, User>,
    /// Days that are over and not stored yet.
    over: Vec<Document>,
    stop: bool,
}

impl Books {
    /// A user, in the present day.
    fn user(&mut self, name: &str, now_ms: u64) -> Option<&mut User> {
        let user = self.users.get_mut(name)?;
        let today = day(now_ms);
        if today > user.book.day {
            if user.changed {
                self.over.extend(user.document(name));
            }
            (user.book, user.changed) = (Day { day: today, ..Day::default() }, false);
        }
        Some(user)
    }

    fn changed(&self) -> bool {
        !self.over.is_empty() || self.users.values().any(|user| user.changed)
    }
}

/// What all have used.
pub(crate) struct Usage {
    disk: Arc<dyn Disk>,
    clock: Clock,
    books: Mutex<Books>,
    wake: Condvar,
    /// Held while documents are written, so that an older one never follows a newer one.
    writing: Mutex<()>,
}

impl Usage {
    pub(crate) fn new(disk: Arc<dyn Disk>, clock: Clock) -> Usage {
        let (books, wake, writing) = Default::default();
        Usage { disk, clock, books, wake, writing }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a user, unless that was done.
    pub(crate) fn know(&self, name: &str) -> Result<()> {
        if self.books().users.contains_key(name) {
            return Ok(());
        }
        // Read while the lock is free: others go on meanwhile, and nobody is charged before this.
        let read = User::read(self.disk.as_ref(), name, (self.clock)())?;
        self.books().users.entry(name.to_string()).or_insert(read);
        Ok(())
    }

    /// Sets what a user may use, and one of the user's keys.
    pub(crate) fn limit(&self, caller: &Caller, key: Option<Limits>, user: Limits) -> Result<()> {
        self.know(&caller.tenant)?;
        if let Some(known) = self.books().user(&caller.tenant, (self.clock)()) {
            known.account.limits = user;
            if let Some(key) = key {
                known.key(&caller.key).limits = key;
            }
        }
        Ok(())
    }

    /// Whether what has begun may use more tokens.
    pub(crate) fn may_go_on(&self, caller: &Caller) -> Result<(), Denial> {
        let now = (self.clock)();
        let mut books = self.books();
        let Some(user) = books.user(&caller.tenant, now) else {
            return Err(Denial::Failed("the user was not read".into()));
        };
        user.account.check_tokens(whose(&caller.tenant), now)?;
        match user.keys.get_mut(&caller.key) {
            Some(key) => key.check_tokens(&format!("the key {}", caller.key), now),
            None => Ok(()),
        }
    }

    /// Begins a request, if nothing speaks against it.
    pub(crate) fn begin(self: &Arc<Usage>, caller: &Caller) -> Result<Turn, Denial> {
        let now = (self.clock)();
        let mut books = self.books();
        let Some(user) = books.user(&caller.tenant, now) else {
            return Err(Denial::Failed("the user was not read".into()));
        };
        user.account.check(whose(&caller.tenant), now)?;
        let mut left = vec![];
        if let Some(key) = user.keys.get_mut(&caller.key) {
            key.check(&format!("the key {}", caller.key), now)?;
            key.begin();
            left.push(key.left());
        }
        user.account.begin();
        left.push(user.account.left());
        user.charge(&caller.key, Spent { requests: 1, ..Spent::default() }, now);
        drop(books);
        self.wake.notify_one();
        let [requests, tokens] = [0, 1].map(|what| {
            let least = left.iter().filter_map(|left| left[what]);
            least.min_by_key(|allowance: &Allowance| allowance.left)
        });
        let held = Running { usage: self.clone(), caller: caller.clone() };
        Ok(Turn { requests, tokens, held: Box::new(held) })
    }

    /// Charges what a request has used.
    pub(crate) fn charge(&self, caller: &Caller, spent: Spent) {
        let now = (self.clock)();
        // Whoever is charged has begun, and so was read; but for what goes on after a restart.
        if let Err(error) = self.know(&caller.tenant) {
            tracing::error!(%error, "a charge is lost: what the user has used cannot be read");
        }
        if let Some(user) = self.books().user(&caller.tenant, now) {
            user.charge(&caller.key, spent, now);
        }
        self.wake.notify_one();
    }

    /// Stores what has changed.
    pub(crate) fn store(&self) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut books = self.books();
        let mut documents = std::mem::take(&mut books.over);
        let over = documents.len();
        for (name, user) in &mut books.users {
            if std::mem::take(&mut user.changed) {
                documents.push(user.document(name)?);
            }
        }
        drop(books);
        let mut at = 0;
        let stored =
            documents.iter().try_for_each(|document| self.disk.put(document).map(|()| at += 1));
        if stored.is_err() {
            let mut books = self.books();
            for (place, document) in documents.into_iter().enumerate().skip(at) {
                if place < over {
                    books.over.push(document);
                } else if let Some(user) = books.users.get_mut(&document.owner) {
                    user.changed = true;
                }
            }
        }
        Ok(stored?)
    }

    /// Waits until something changed and a second has passed; whether to go on.
    fn wait(&self) -> bool {
        let go = |books: &mut Books| !books.stop && !books.changed();
        let books = self.wake.wait_while(self.books(), go);
        let books = books.unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(books, EVERY, |books| !books.stop);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

/// As messages name a user.
pub(crate) fn whose(user: &str) -> &str {
    if user.is_empty() { "callers without a key" } else { user }
}

/// A request that runs.
struct Running {
    usage: Arc<Usage>,
    caller: Caller,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(user) = self.usage.books().users.get_mut(&self.caller.tenant) {
            user.account.end();
            if let Some(key) = user.keys.get_mut(&self.caller.key) {
                key.end();
            }
        }
    }
}

/// The thread that stores; when it is dropped, everything is stored once more.
pub(crate) struct Storing {
    usage: Arc<Usage>,
    thread: Option<JoinHandle<()>>,
}

impl Storing {
    pub(crate) fn start(usage: Arc<Usage>) -> Result<Storing> {
        let of = usage.clone();
        let work = move || {
            let mut failed = false;
            while of.wait() {
                match of.store() {
                    Ok(()) => failed = false,
                    // Once, not every second.
                    Err(error) if !failed => {
                        failed = true;
                        tracing::error!(%error, "usage is not stored; trying again every second");
                    }
                    Err(_) => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("usage".into()).spawn(work)?;
        Ok(Storing { usage, thread: Some(thread) })
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.usage.books().stop = true;
        self.usage.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was shown when it happened
        }
        if let Err(error) = self.usage.store() {
            tracing::error!(%error, "the last charges are not stored");
        }
    }
}
