//! An index of our own: pages that were crawled, files, knowledge. It needs no network.
//!
//! The key decision: what is found is found by passages of a few hundred words and shown as pages. Words are found by
//! the system's [`Index`] (BM25); where a model of embeddings is at hand its vectors are compared too, exactly, and the
//! two rankings are joined by reciprocal rank fusion (Cormack et al., SIGIR 2009), which needs no common scale.
//!
//! Items lie in the index under an owner of their own, so a search for conversations does not meet them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use yushan_abi::{Disk, DiskError, Document, Index, Item, Label};

use super::{Found, Missed, Provider, Query};
use crate::web::page::Page;
use crate::web::text::shortened;

/// The kind of the documents, one for each page.
const KIND: &str = "library-entry";
/// The kind of the documents that say, one for each owner, which state his pages are in.
const STATE: &str = "library-state";
/// Characters of a passage.
const PASSAGE: usize = 1500;
/// Characters of an excerpt.
const EXCERPT: usize = 600;
/// The constant of reciprocal rank fusion.
const FUSION: f64 = 60.0;
/// Passages that a ranking goes down to.
const RANKED: usize = 100;

/// Gives a vector for each text, all of one length. The library compares them by their cosine.
pub type Embed = dyn Fn(&[String]) -> Result<Vec<Vec<f32>>, String> + Send + Sync;

/// A page of the library.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// Its address, or the name of a file or a note.
    name: String,
    title: String,
    label: Label,
    /// Of its [`Page`] as JSON.
    sha256: String,
    passages: usize,
    /// Of the vectors of its passages, one after the other, `f32` in little-endian order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vectors: Option<String>,
    /// Which model made them: those of others mean something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

/// Passages as `(name, number, vector)`.
type Passages = Vec<(String, usize, Vec<f32>)>;

/// The vectors of an owner's passages, in memory.
#[derive(Clone)]
struct Vectors {
    /// The state of the owner's pages that they are of: another process may have changed them since.
    state: String,
    passages: Arc<Passages>,
}

/// The index.
pub struct Library {
    index: Arc<dyn Index>,
    disk: Arc<dyn Disk>,
    /// The model's name, and the model.
    embed: Option<(String, Box<Embed>)>,
    /// By owner, as far as they were asked for.
    vectors: Mutex<HashMap<String, Vectors>>,
}

impl Library {
    /// On an index and a disk; words alone.
    pub fn new(index: Arc<dyn Index>, disk: Arc<dyn Disk>) -> Library {
        Library { index, disk, embed: None, vectors: Mutex::default() }
    }

    /// Compares meanings too, as the model of this name finds them. What was added without it has no vectors of it until it
    /// is added again.
    #[must_use]
    pub fn with_embed(
        mut self,
        model: &str,
        embed: impl Fn(&[String]) -> Result<Vec<Vec<f32>>, String> + Send + Sync + 'static,
    ) -> Library {
        self.embed = Some((model.into(), Box::new(embed)));
        self
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<String, Vectors>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a page, in place of one with its name, and gives the number of its passages. An owner that is empty is
    /// everybody: whoever searches finds it.
    ///
    /// # Errors
    /// The disk's words, or the model's.
    pub fn add(
        &self,
        owner: &str,
        name: &str,
        page: &Page,
        label: &Label,
    ) -> Result<usize, String> {
        let old = self.entry(owner, name)?;
        let passages = passages(page);
        let texts: Vec<String> =
            passages.iter().map(|text| format!("{}\n{text}", page.title)).collect();
        let vectors = self.embed.as_ref();
        let vectors = vectors.map(|(_, embed)| packed(&embed(&texts)?, texts.len())).transpose()?;
        let bytes = serde_json::to_vec(page).map_err(|error| error.to_string())?;
        let entry = Entry {
            name: name.into(),
            title: page.title.clone(),
            label: label.clone(),
            sha256: self.disk.put_bytes(&bytes).map_err(said)?,
            passages: texts.len(),
            vectors: vectors.map(|bytes| self.disk.put_bytes(&bytes)).transpose().map_err(said)?,
            model: self.embed.as_ref().map(|(model, _)| model.clone()),
        };
        for (number, text) in texts.into_iter().enumerate() {
            let (id, owner) = (id(name, number), shelf(owner));
            self.index.insert(&Item { id, owner, text, label: label.clone() }).map_err(said)?;
        }
        for number in entry.passages..old.map_or(0, |old| old.passages) {
            self.index.remove(&shelf(owner), &id(name, number)).map_err(said)?;
        }
        let body = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
        self.put(KIND, key(owner, name), owner, body)?;
        self.changed(owner, name)?;
        Ok(entry.passages)
    }

    fn put(&self, kind: &str, key: String, owner: &str, body: String) -> Result<(), String> {
        let created_ms = u64::try_from(now().as_millis()).unwrap_or(u64::MAX);
        let (kind, owner) = (kind.into(), owner.into());
        self.disk.put(&Document { kind, key, owner, created_ms, body }).map_err(said)
    }

    /// The owner's pages are in a state that they were never in.
    fn changed(&self, owner: &str, name: &str) -> Result<(), String> {
        let state = format!("{} {} {name}", now().as_nanos(), std::process::id());
        self.put(STATE, key(owner, ""), owner, state)
    }

    fn state(&self, owner: &str) -> Result<String, String> {
        let state = self.disk.get(STATE, &key(owner, "")).map_err(said)?;
        Ok(state.map(|document| document.body).unwrap_or_default())
    }

    /// Removes a page; whether it was there.
    ///
    /// # Errors
    /// The disk's words.
    pub fn remove(&self, owner: &str, name: &str) -> Result<bool, String> {
        let Some(entry) = self.entry(owner, name)? else { return Ok(false) };
        for number in 0..entry.passages {
            self.index.remove(&shelf(owner), &id(name, number)).map_err(said)?;
        }
        self.disk.delete(KIND, &key(owner, name)).map_err(said)?;
        self.changed(owner, name)?;
        Ok(true)
    }

    /// The names of an owner's pages, in order.
    ///
    /// # Errors
    /// The disk's words.
    pub fn names(&self, owner: &str) -> Result<Vec<String>, String> {
        Ok(self.entries(owner)?.into_iter().map(|entry| entry.name).collect())
    }

    fn entry(&self, owner: &str, name: &str) -> Result<Option<Entry>, String> {
        let found = self.disk.get(KIND, &key(owner, name)).map_err(said)?;
        found.map(|document| parse(&document)).transpose()
    }

    fn entries(&self, owner: &str) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        let mut after = String::new();
        loop {
            let documents = self.disk.list(KIND, Some(owner), &after, 500).map_err(said)?;
            let Some(last) = documents.last() else { return Ok(entries) };
            after.clone_from(&last.key);
            for document in &documents {
                entries.push(parse(document)?);
            }
        }
    }

    /// Best passages first, as `(name, number of the passage)`, of one owner.
    fn by_words(&self, owner: &str, text: &str) -> Result<Vec<(String, usize)>, String> {
        let hits = self.index.search(&shelf(owner), text, RANKED).map_err(said)?;
        Ok(hits.iter().filter_map(|hit| split(&hit.item.id)).collect())
    }

    fn by_meaning(&self, owner: &str, wanted: &[f32]) -> Result<Vec<(String, usize)>, String> {
        let passages = self.vectors_of(owner)?;
        let mut ranked: Vec<(f32, &str, usize)> = passages
            .iter()
            .filter(|(_, _, vector)| vector.len() == wanted.len())
            .map(|(name, number, vector)| (cosine(vector, wanted), name.as_str(), *number))
            .filter(|(near, ..)| *near > 0.0)
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(RANKED);
        Ok(ranked.into_iter().map(|(_, name, number)| (name.to_string(), number)).collect())
    }

    /// Those that the model of now has made.
    fn vectors_of(&self, owner: &str) -> Result<Arc<Passages>, String> {
        let state = self.state(owner)?;
        if let Some(vectors) = self.cached().get(owner).filter(|vectors| vectors.state == state) {
            return Ok(vectors.passages.clone());
        }
        let model = self.embed.as_ref().map(|(model, _)| model.as_str());
        let mut all = Vec::new();
        for entry in self.entries(owner)? {
            let Some(name) = &entry.vectors else { continue };
            if entry.model.as_deref() != model {
                continue;
            }
            let bytes = self.disk.get_bytes(name).map_err(said)?.unwrap_or_default();
            let length = bytes.len() / entry.passages.max(1);
            for (number, bytes) in bytes.chunks_exact(length.max(4)).enumerate() {
                let floats = bytes
                    .chunks_exact(4)
                    .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
                all.push((entry.name.clone(), number, floats.collect()));
            }
        }
        let vectors = Vectors { state, passages: Arc::new(all) };
        self.cached().insert(owner.to_string(), vectors.clone());
        Ok(vectors.passages)
    }

    /// The best pages for a query in plain words.
    ///
    /// # Errors
    /// The disk's words; the model's, if nothing was found by words.
    pub fn find(&self, owner: &str, text: &str, limit: usize) -> Result<Vec<Found>, String> {
        // The rankings begin with passages; a page counts once, by its best.
        let mut pages: BTreeMap<(&str, String), (f64, usize)> = BTreeMap::new();
        let mut trouble = None;
        let wanted = self.embed.as_ref().and_then(|(_, embed)| match embed(&[text.to_string()]) {
            Ok(vectors) => vectors.into_iter().next(),
            Err(why) => {
                trouble = Some(format!("the embedding model failed: {why}"));
                None
            }
        });
        let owners = if owner.is_empty() { vec![""] } else { vec![owner, ""] };
        for owner in owners {
            let words = self.by_words(owner, text)?;
            let meaning =
                wanted.as_ref().map_or(Ok(Vec::new()), |wanted| self.by_meaning(owner, wanted))?;
            for ranking in [words, meaning] {
                let mut rank = 0.0;
                let mut seen = std::collections::BTreeSet::new();
                for (name, number) in ranking {
                    if seen.insert(name.clone()) {
                        rank += 1.0;
                        let page = pages.entry((owner, name)).or_insert((0.0, number));
                        page.0 += 1.0 / (FUSION + rank);
                    }
                }
            }
        }
        let mut ranked: Vec<_> = pages.into_iter().collect();
        ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let mut found = Vec::new();
        for ((owner, name), (_, number)) in ranked.into_iter().take(limit) {
            found.extend(
                self.entry(owner, &name)?.map(|entry| self.found(entry, number)).transpose()?,
            );
        }
        match trouble {
            Some(why) if found.is_empty() => Err(why),
            _ => Ok(found),
        }
    }

    fn found(&self, entry: Entry, number: usize) -> Result<Found, String> {
        let bytes = self.disk.get_bytes(&entry.sha256).map_err(said)?;
        let bytes = bytes.ok_or_else(|| format!("the text of {} is gone", entry.name))?;
        let page: Page = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let passages = passages(&page);
        let excerpt = passages.get(number).map(String::as_str).unwrap_or_default();
        Ok(Found {
            title: entry.title,
            url: entry.name,
            excerpt: shortened(excerpt, EXCERPT),
            label: entry.label,
            sha256: Some(entry.sha256),
        })
    }
}

impl Provider for Arc<Library> {
    fn name(&self) -> &str {
        "own index"
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn search(&self, query: &Query<'_>) -> Result<Vec<Found>, Missed> {
        self.find(query.owner, query.text, query.limit).map_err(|why| Missed::Down(why, None))
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The owner under which the items of an owner lie in the index.
fn shelf(owner: &str) -> String {
    format!("library/{owner}")
}

fn key(owner: &str, name: &str) -> String {
    format!("{owner}\n{name}")
}

fn id(name: &str, number: usize) -> String {
    format!("{name}#{number}")
}

fn split(id: &str) -> Option<(String, usize)> {
    let (name, number) = id.rsplit_once('#')?;
    Some((name.to_string(), number.parse().ok()?))
}

fn said(error: DiskError) -> String {
    error.to_string()
}

fn parse(document: &Document) -> Result<Entry, String> {
    serde_json::from_str(&document.body).map_err(|error| format!("{}: {error}", document.key))
}

/// The spans of a page, joined to passages.
fn passages(page: &Page) -> Vec<String> {
    let mut passages: Vec<String> = Vec::new();
    for span in &page.spans {
        match passages.last_mut() {
            Some(last) if last.len() + span.len() < PASSAGE => {
                last.push('\n');
                last.push_str(span);
            }
            _ => passages.push(span.clone()),
        }
    }
    passages
}

fn packed(vectors: &[Vec<f32>], wanted: usize) -> Result<Vec<u8>, String> {
    let length = vectors.first().map_or(0, Vec::len);
    if vectors.len() != wanted || vectors.iter().any(|vector| vector.len() != length) {
        return Err(format!(
            "the embedding model gave {} vectors for {wanted} texts, or of several lengths",
            vectors.len()
        ));
    }
    Ok(vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}
