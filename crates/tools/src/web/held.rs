//! What was read and found in a space, by number: so that a model chooses from a list and never has to write an
//! address that it saw somewhere.
//!
//! The key decision: the text of a page is kept as it was read, under its hash. Reading on needs no network and shows
//! the same spans, a citation can be looked at later, and a restart forgets nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use yushan_abi::{Disk, Document, Label};

use super::page::Page;
use crate::space::kept::{self, PAGES as KIND};

/// Pages of a space that can be opened by number: the last ones.
const PAGES: usize = 50;
/// Results of a space that can be opened by number: the last ones.
const RESULTS: usize = 500;

/// A page that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldPage {
    /// From 1.
    pub number: u32,
    /// Where it came from in the end.
    pub url: String,
    /// Of its text.
    pub label: Label,
    /// Whether it is from a host of the allow-list.
    pub private: bool,
    /// Of its [`Page`] as JSON.
    pub sha256: String,
}

/// A result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldResult {
    /// From 1; goes on from one search to the next.
    pub number: u32,
    /// Where it leads.
    pub url: String,
    /// Of what was found.
    pub label: Label,
    /// Its [`Page`] as JSON, if it is kept here: it is read without the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A space.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Space {
    pages: Vec<HeldPage>,
    results: Vec<HeldResult>,
}

/// Pages and results of all spaces.
pub struct Held {
    disk: Arc<dyn Disk>,
    spaces: Mutex<HashMap<String, Space>>,
}

impl Held {
    /// On a disk.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Held> {
        Arc::new(Held { disk, spaces: Mutex::default() })
    }

    fn spaces(&self) -> MutexGuard<'_, HashMap<String, Space>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a page and gives it its number.
    ///
    /// # Errors
    /// The disk's words.
    pub fn add_page(
        &self,
        space: &str,
        owner: &str,
        mut held: HeldPage,
        page: &Page,
    ) -> Result<HeldPage, String> {
        held.sha256 = self.keep(page)?;
        self.change(space, owner, |space| {
            held.number = space.pages.last().map_or(1, |last| last.number.saturating_add(1));
            space.pages.push(held.clone());
            let over = space.pages.len().saturating_sub(PAGES);
            space.pages.drain(..over);
            held
        })
    }

    /// Keeps the text of a page and gives its name.
    ///
    /// # Errors
    /// The disk's words.
    pub fn keep(&self, page: &Page) -> Result<String, String> {
        let bytes = serde_json::to_vec(page).map_err(|error| error.to_string())?;
        self.disk.put_bytes(&bytes).map_err(|error| error.to_string())
    }

    /// The text of a page.
    ///
    /// # Errors
    /// The disk's words, or that it is not there.
    pub fn text(&self, sha256: &str) -> Result<Page, String> {
        let bytes = self.disk.get_bytes(sha256).map_err(|error| error.to_string())?;
        let bytes = bytes.ok_or("its text is not on the disk any more")?;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }

    /// Keeps results and gives them their numbers.
    ///
    /// # Errors
    /// The disk's words.
    pub fn add_results(
        &self,
        space: &str,
        owner: &str,
        mut results: Vec<HeldResult>,
    ) -> Result<Vec<HeldResult>, String> {
        self.change(space, owner, |space| {
            let mut number = space.results.last().map_or(0, |last| last.number);
            for result in &mut results {
                number = number.saturating_add(1);
                result.number = number;
            }
            space.results.extend(results.iter().cloned());
            let over = space.results.len().saturating_sub(RESULTS);
            space.results.drain(..over);
            results
        })
    }

    /// A page by its number, or the last.
    ///
    /// # Errors
    /// Which numbers there are.
    pub fn page(&self, space: &str, number: Option<u32>) -> Result<HeldPage, String> {
        let space = self.load(space)?;
        let pages = &space.pages;
        let found = match number {
            Some(number) => pages.iter().find(|page| page.number == number),
            None => pages.last(),
        };
        found.cloned().ok_or_else(|| match (pages.first(), pages.last()) {
            (Some(first), Some(last)) => {
                format!(
                    "there is no such page; pages {} to {} can be opened",
                    first.number, last.number
                )
            }
            _ => "no page has been read here yet; fetch one first".into(),
        })
    }

    /// A result by its number.
    ///
    /// # Errors
    /// Which numbers there are.
    pub fn result(&self, space: &str, number: u32) -> Result<HeldResult, String> {
        let space = self.load(space)?;
        let results = &space.results;
        results.iter().find(|result| result.number == number).cloned().ok_or_else(|| {
            match (results.first(), results.last()) {
                (Some(first), Some(last)) => {
                    format!(
                        "there is no such result; {} to {} can be opened",
                        first.number, last.number
                    )
                }
                _ => "nothing has been searched here yet; search first".into(),
            }
        })
    }

    /// The space `to` begins with what is kept for `from`.
    ///
    /// # Errors
    /// There is something in `to` already, or the disk's words.
    pub fn fork(&self, from: &str, to: &str) -> Result<(), String> {
        let mut spaces = self.spaces();
        kept::fork(&*self.disk, from, to).map_err(|error| error.to_string())?;
        spaces.remove(to);
        Ok(())
    }

    /// Nobody works in it now: leaves it to the disk, or deletes it there if nobody can name it again.
    pub fn release(&self, space: &str) {
        self.spaces().remove(space);
        kept::released(&self.disk, space);
    }

    fn load(&self, name: &str) -> Result<Space, String> {
        let mut spaces = self.spaces();
        if let Some(space) = spaces.get(name) {
            return Ok(space.clone());
        }
        let space = self.read(name)?;
        spaces.insert(name.to_string(), space.clone());
        Ok(space)
    }

    fn read(&self, name: &str) -> Result<Space, String> {
        let found = self.disk.get(KIND, name).map_err(|error| error.to_string())?;
        found.map_or(Ok(Space::default()), |document| {
            serde_json::from_str(&document.body).map_err(|error| error.to_string())
        })
    }

    /// Changes a space on the disk, and in memory if that worked.
    fn change<T>(
        &self,
        name: &str,
        owner: &str,
        change: impl FnOnce(&mut Space) -> T,
    ) -> Result<T, String> {
        let mut spaces = self.spaces();
        let mut space = match spaces.get(name) {
            Some(space) => space.clone(),
            None => self.read(name)?,
        };
        let value = change(&mut space);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let document = Document {
            kind: KIND.into(),
            key: name.into(),
            owner: owner.into(),
            created_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            body: serde_json::to_string(&space).map_err(|error| error.to_string())?,
        };
        self.disk.put(&document).map_err(|error| error.to_string())?;
        spaces.insert(name.to_string(), space);
        Ok(value)
    }
}
