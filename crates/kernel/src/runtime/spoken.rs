//! What processes have said and what their tools have answered, for conversations that clients send again.
//!
//! The key decision: a client that continues a conversation sends back texts without labels. Those that came from here have
//! the labels they had; any other text in an assistant's name could have been written by anybody.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};
use yushan_abi::{Label, Message, Prompt, Role, Sources};

use super::Kernel;
use crate::life::Program;

/// Texts that are remembered; beyond them the oldest are forgotten, and then count as anybody's.
const MOST: usize = 32_768;

type Hash = [u8; 32];

/// Labels of texts, by tenant and hash.
#[derive(Default)]
pub(super) struct Spoken {
    labels: HashMap<Hash, Label>,
    order: VecDeque<Hash>,
}

impl Spoken {
    pub(super) fn note(&mut self, tenant: &str, text: &str, label: Label) {
        let hash = hash(tenant, text);
        match self.labels.get_mut(&hash) {
            // The same words from another hand are not better than they were.
            Some(known) => *known = Label { capacity: known.capacity, ..known.join(&label) },
            None => {
                self.labels.insert(hash, label);
                self.order.push_back(hash);
            }
        }
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.labels.remove(&oldest);
            }
        }
    }

    fn label(&self, tenant: &str, text: &str) -> Label {
        self.labels
            .get(&hash(tenant, text))
            .cloned()
            .unwrap_or_else(|| Label::of(Sources::MODEL.union(Sources::WEB)).for_reader(tenant))
    }
}

/// Templates and terminals add and take away space around a text.
fn hash(tenant: &str, text: &str) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update((tenant.len() as u64).to_le_bytes());
    hasher.update(tenant);
    hasher.update(text.trim());
    hasher.finalize().into()
}

impl Kernel {
    /// A conversation that a client sent, with the labels of what assistants and tools have said in it here. To be
    /// called for programs that are made from it: what they may do depends on what was read before.
    #[must_use]
    pub fn remembered(&self, mut program: Program) -> Program {
        let Prompt::Chat(messages) = &mut program.request.prompt else { return program };
        let spoken = self.spoken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let tenant = program.request.tenant.clone();
        let is_said = |message: &&mut Message| matches!(message.role, Role::Assistant | Role::Tool);
        for message in messages.iter_mut().filter(is_said) {
            for part in &mut message.parts {
                part.label = spoken.label(&tenant, &part.text);
                program.data = program.data.join(&part.label);
            }
        }
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_here_keeps_its_label_and_nothing_else_has_one() {
        let mut spoken = Spoken::default();
        spoken.note("ann", "seven", Label::of(Sources::MODEL));
        assert_eq!(spoken.label("ann", " seven\n"), Label::of(Sources::MODEL));
        let anybodys = Label::of(Sources::MODEL.union(Sources::WEB));
        assert_eq!(spoken.label("bob", "seven"), anybodys.clone().for_reader("bob"));
        assert_eq!(spoken.label("ann", "eight"), anybodys.for_reader("ann"));
        // Said again after a page was read: it is no better for having been said before.
        spoken.note("ann", "seven", Label::of(Sources::WEB).for_reader("ann"));
        spoken.note("ann", "seven", Label::of(Sources::MODEL));
        assert!(!spoken.label("ann", "seven").is_trusted());
        for number in 0..MOST {
            spoken.note("ann", &number.to_string(), Label::of(Sources::MODEL));
        }
        assert_eq!((spoken.labels.len(), spoken.order.len()), (MOST, MOST));
        assert!(!spoken.label("ann", "seven").is_trusted(), "forgotten");
    }
}
