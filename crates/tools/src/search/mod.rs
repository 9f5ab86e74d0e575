//! Search: several providers behind one trait, asked in order until one answers, and an index of our own.
//!
//! The key decision: a provider that failed is left alone for a while and the next one is asked at once, so a search
//! engine that is down costs one search a moment and nothing more; the index of our own needs no network and is
//! the last to be asked. Whoever reads results sees which provider they are from and who was passed over.

pub mod crawl;
pub mod file;
pub mod keyed;
pub mod library;
pub mod robots;
mod tool;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use yushan_abi::{Cancel, Label};

pub use tool::Search;

/// For the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// At most.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A search.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// In plain words.
    pub text: &'a str,
    /// Results wanted, at most.
    pub limit: usize,
    /// Whose own texts may be found too.
    pub owner: &'a str,
    /// Set when nobody waits any more.
    pub cancel: &'a Cancel,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What it calls itself.
    pub title: String,
    /// Where it is; for a file or a note its name.
    pub url: String,
    /// A few sentences.
    pub excerpt: String,
    /// Of title and excerpt.
    pub label: Label,
    /// Its text as a [`crate::web::page::Page`] in JSON, if it is kept here.
    pub sha256: Option<String>,
}

/// Why a provider gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It is at fault, or refuses us: others are asked, and it is not for a while; for so long, if it said so.
    Down(String, Option<Duration>),
    /// Nobody waits any more.
    Cancelled,
}

/// Finds pages.
pub trait Provider: Send + Sync {
    /// For people.
    fn name(&self) -> &str;

    /// Whether a query leaves this machine.
    fn is_remote(&self) -> bool;

    /// The best results, best first; none is an answer too.
    ///
    /// # Errors
    /// Why there is no answer.
    fn search(&self, query: &Query<'_>) -> Result<Vec<Found>, Missed>;
}

/// How a provider has been of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The provider's name.
    pub name: String,
    /// Failures since its last answer.
    pub failures: u32,
    /// What the last failure was.
    pub last: Option<String>,
    /// How long it is left alone from now on; nothing: it is asked.
    pub paused: Option<Duration>,
}

/// A provider and how it has been.
struct Watched {
    provider: Box<dyn Provider>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    last: Option<String>,
    until: Option<Instant>,
}

/// Providers in the order in which they are asked.
#[derive(Default)]
pub struct Providers {
    all: Vec<Watched>,
}

/// An answer, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Whose it is.
    pub provider: String,
    /// Best first.
    pub found: Vec<Found>,
    /// Who was passed over, and why.
    pub passed_over: Vec<String>,
}

impl Providers {
    /// Adds one behind the others.
    #[must_use]
    pub fn with(mut self, provider: impl Provider + 'static) -> Providers {
        self.all.push(Watched { provider: Box::new(provider), state: Mutex::default() });
        self
    }

    /// Whether a query may leave this machine.
    pub fn is_remote(&self) -> bool {
        self.all.iter().any(|watched| watched.provider.is_remote())
    }

    /// How they have been.
    pub fn health(&self) -> Vec<Health> {
        let now = Instant::now();
        let health = self.all.iter().map(|watched| {
            let state = watched.state();
            Health {
                name: watched.provider.name().to_string(),
                failures: state.failures,
                last: state.last.clone(),
                paused: state.until.and_then(|until| until.checked_duration_since(now)),
            }
        });
        health.collect()
    }

    /// Asks one after the other until one has results; an answer without results counts if no other has any.
    ///
    /// # Errors
    /// If none answered: what each said.
    pub fn search(&self, query: &Query<'_>) -> Result<Answer, String> {
        self.search_at(query, Instant::now())
    }

    fn search_at(&self, query: &Query<'_>, now: Instant) -> Result<Answer, String> {
        let mut passed_over = Vec::new();
        let mut empty = None;
        for watched in &self.all {
            let name = watched.provider.name();
            if let Some(why) = watched.pause(now) {
                passed_over.push(format!("{name}: {why}"));
                continue;
            }
            match watched.provider.search(query) {
                Ok(found) => {
                    *watched.state() = State::default();
                    if !found.is_empty() {
                        return Ok(Answer { provider: name.to_string(), found, passed_over });
                    }
                    empty.get_or_insert_with(|| name.to_string());
                }
                Err(Missed::Cancelled) => {
                    return Err("stopped: nobody waits for it any more".into());
                }
                Err(Missed::Down(why, pause)) => {
                    watched.failed(&why, pause, now);
                    passed_over.push(format!("{name}: {why}"));
                }
            }
        }
        match empty {
            Some(provider) => Ok(Answer { provider, found: Vec::new(), passed_over }),
            None if passed_over.is_empty() => {
                Err("no search provider is set up; whoever runs this system can name one".into())
            }
            None => Err(format!(
                "no search provider answered; try again later. {}",
                passed_over.join("; ")
            )),
        }
    }
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, now: Instant) -> Option<String> {
        let state = self.state();
        let left = state.until?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let last = state.last.as_deref().unwrap_or("failed");
        Some(format!("left alone for {} seconds more: {last}", left.as_secs() + 1))
    }

    fn failed(&self, why: &str, pause: Option<Duration>, now: Instant) {
        let mut state = self.state();
        let doubled = FIRST_PAUSE.saturating_mul(1 << state.failures.min(10));
        state.failures = state.failures.saturating_add(1);
        state.last = Some(why.to_string());
        state.until = now.checked_add(pause.unwrap_or(doubled).min(LONGEST_PAUSE));
    }
}

#[cfg(test)]
mod tests;
