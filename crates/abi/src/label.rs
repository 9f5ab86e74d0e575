//! Labels: who could have written a piece of data, and who may read it.
//!
//! The key decision: labels form a lattice and only ever join. What a process has seen is the join of
//! the labels of its context, so a label can rise and never falls by itself (FIDES, arXiv
//! 2505.23643; CaMeL, arXiv 2503.18813). Labels are given where data comes in, from what is known
//! about its source, never from what it says.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Kinds of sources, as a set of bits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sources(u32);

impl Sources {
    /// Yushan itself.
    pub const SYSTEM: Sources = Sources(1);
    /// Whoever runs the server.
    pub const OPERATOR: Sources = Sources(1 << 1);
    /// Whoever made the assistant.
    pub const AUTHOR: Sources = Sources(1 << 2);
    /// The user of this process.
    pub const USER: Sources = Sources(1 << 3);
    /// Data that the user keeps here.
    pub const OWN_DATA: Sources = Sources(1 << 4);
    /// Another user.
    pub const OTHER_USER: Sources = Sources(1 << 5);
    /// A page or a search result.
    pub const WEB: Sources = Sources(1 << 6);
    /// A file from outside.
    pub const FILE: Sources = Sources(1 << 7);
    /// Text read from a picture or a sound.
    pub const IMAGE: Sources = Sources(1 << 8);
    /// An MCP server.
    pub const MCP: Sources = Sources(1 << 9);
    /// What a model wrote.
    pub const MODEL: Sources = Sources(1 << 10);
    /// What a program printed.
    pub const CODE: Sources = Sources(1 << 11);
    /// Training data.
    pub const TRAINING: Sources = Sources(1 << 12);

    /// All of them, with their names.
    pub const ALL: [(Sources, &'static str); 13] = [
        (Sources::SYSTEM, "system"),
        (Sources::OPERATOR, "operator"),
        (Sources::AUTHOR, "author"),
        (Sources::USER, "user"),
        (Sources::OWN_DATA, "own data"),
        (Sources::OTHER_USER, "other user"),
        (Sources::WEB, "web"),
        (Sources::FILE, "file"),
        (Sources::IMAGE, "image"),
        (Sources::MCP, "mcp"),
        (Sources::MODEL, "model"),
        (Sources::CODE, "code"),
        (Sources::TRAINING, "training"),
    ];

    /// Those of either.
    #[must_use]
    pub const fn union(self, other: Sources) -> Sources {
        Sources(self.0 | other.0)
    }

    /// Whether all of `other` are in.
    pub const fn contains(self, other: Sources) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in the order of [`Sources::ALL`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Sources::ALL.into_iter().filter(move |(one, _)| self.contains(*one)).map(|(_, name)| name)
    }
}

/// Who could have written something, from the most trusted to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Integrity {
    /// Yushan, its operator, or the maker of the assistant.
    System,
    /// The user.
    User,
    /// A model, or a program that a model wrote.
    Tool,
    /// Anybody.
    Untrusted,
}

/// Names one who may read: a user, a tenant.
pub type Principal = String;

/// Who may read something. Joined by intersection: `Public` is everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readers {
    /// Everybody.
    #[default]
    Public,
    /// These alone.
    Only(BTreeSet<Principal>),
}

impl Readers {
    /// One reader.
    pub fn one(principal: impl Into<Principal>) -> Readers {
        Readers::Only(BTreeSet::from([principal.into()]))
    }

    /// Those who may read both.
    #[must_use]
    pub fn meet(&self, other: &Readers) -> Readers {
        match (self, other) {
            (Readers::Public, readers) | (readers, Readers::Public) => readers.clone(),
            (Readers::Only(a), Readers::Only(b)) => Readers::Only(a & b),
        }
    }

    /// Whether `principal` may read.
    pub fn includes(&self, principal: &str) -> bool {
        match self {
            Readers::Public => true,
            Readers::Only(readers) => readers.contains(principal),
        }
    }

    /// Whether everybody in `others` may read.
    pub fn include_all(&self, others: &Readers) -> bool {
        match (self, others) {
            (Readers::Public, _) => true,
            (Readers::Only(_), Readers::Public) => false,
            (Readers::Only(mine), Readers::Only(theirs)) => theirs.is_subset(mine),
        }
    }
}

/// What is known of a piece of data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Who wrote any of it.
    pub sources: Sources,
    /// Hosts, files and servers it came from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub origins: BTreeSet<String>,
    /// Who may read all of it.
    #[serde(default)]
    pub readers: Readers,
    /// Bits of untrusted data that were let through quarantine into it.
    #[serde(default)]
    pub capacity: u32,
}

impl Label {
    /// The label of public data from this kind of source.
    pub fn of(sources: Sources) -> Label {
        Label { sources, ..Label::default() }
    }

    /// As it is, but for one reader.
    #[must_use]
    pub fn for_reader(mut self, principal: impl Into<Principal>) -> Label {
        self.readers = Readers::one(principal);
        self
    }

    /// The label of what was made from both: sources and origins of either, readers of both.
    #[must_use]
    pub fn join(&self, other: &Label) -> Label {
        Label {
            sources: self.sources.union(other.sources),
            origins: &self.origins | &other.origins,
            readers: self.readers.meet(&other.readers),
            capacity: self.capacity.saturating_add(other.capacity),
        }
    }

    /// Whether this label is at least as high as `other`: joining `other` changes nothing but, at
    /// most, the capacity.
    pub fn covers(&self, other: &Label) -> bool {
        self.sources.contains(other.sources)
            && self.origins.is_superset(&other.origins)
            && other.readers.include_all(&self.readers)
    }

    /// The least trusted of the sources.
    pub fn integrity(&self) -> Integrity {
        const SYSTEM: Sources = Sources::SYSTEM.union(Sources::OPERATOR).union(Sources::AUTHOR);
        const USER: Sources = SYSTEM.union(Sources::USER).union(Sources::OWN_DATA);
        const TOOL: Sources = USER.union(Sources::MODEL).union(Sources::CODE);
        match self.sources {
            sources if SYSTEM.contains(sources) => Integrity::System,
            sources if USER.contains(sources) => Integrity::User,
            sources if TOOL.contains(sources) => Integrity::Tool,
            _ => Integrity::Untrusted,
        }
    }

    /// Whether nobody but the user and those above could have written it. What a model wrote from
    /// trusted data alone is trusted as much as that data.
    pub fn is_trusted(&self) -> bool {
        self.integrity() < Integrity::Untrusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_labels() -> Vec<Label> {
        let mut labels = vec![Label::default()];
        for (sources, _) in Sources::ALL {
            for readers in [Readers::Public, Readers::one("ann"), Readers::one("bob")] {
                let origins = BTreeSet::from([format!("{sources:?}")]);
                labels.push(Label { sources, origins, readers, capacity: 0 });
            }
        }
        labels
    }

    #[test]
    fn labels_are_a_lattice_and_only_rise() {
        let labels = some_labels();
        for a in &labels {
            assert_eq!(&a.join(a), a);
            for b in &labels {
                let both = a.join(b);
                assert_eq!(both, b.join(a));
                assert!(both.covers(a) && both.covers(b));
                assert!(both.integrity() >= a.integrity().max(b.integrity()));
                for c in &labels {
                    assert_eq!(both.join(c), a.join(&b.join(c)));
                }
            }
        }
    }

    #[test]
    fn integrity_is_that_of_the_worst_source() {
        for (sources, expected) in [
            (Sources::SYSTEM, Integrity::System),
            (Sources::USER, Integrity::User),
            (Sources::MODEL, Integrity::Tool),
            (Sources::WEB, Integrity::Untrusted),
            (Sources::USER.union(Sources::MCP), Integrity::Untrusted),
            (Sources::SYSTEM.union(Sources::USER), Integrity::User),
        ] {
            assert_eq!(Label::of(sources).integrity(), expected, "{sources:?}");
        }
        assert!(!Readers::one("ann").include_all(&Readers::one("bob")));
        assert!(Readers::one("ann").include_all(&Readers::one("ann").meet(&Readers::Public)));
    }
}
