//! The call gate: whether a call may happen, from what is known of its arguments and of its process alone.
//!
//! The rules of the security design as one table ([`TABLE`]): the first row that speaks against a call decides. The
//! decision sees what a tool declared of itself, how each argument was chosen and who may read it
//! ([`crate::provenance`]), and what the process may do; never what the model says of it.
//!
//! The key decision: rows are functions of a small, closed set of facts, so that all combinations can be
//! written out and read: [`decide`] is tested on every one of them, row by row.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use yushan_abi::{Effect, Label, ParamRole, Readers, ToolSpec};

use crate::provenance::{Choice, From, Leaf, named};

/// What a process may do with a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// How often; `None`: as often as it likes.
    pub uses: Option<u32>,
    /// Who receives what is sent, where the tool sends.
    pub receivers: Readers,
    /// Whether those receive it instead whom the destinations of a call name, each a principal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub named: bool,
    /// Hosts that may be reached though nobody named the address.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<String>,
    /// Parameters that may have these values alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, BTreeSet<String>>,
    /// Until when, in milliseconds since 1970; `None`: as long as the process lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may happen.
    Allow,
    /// The user is asked, and why.
    Ask(Rule),
    /// It may not happen, and why.
    Deny(Rule),
}

/// The rules that decide about calls, by their numbers in the security design. The others hold elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// No capability for this tool and these values, or it is used up, or over.
    R4Capability,
    /// It was not planned before something untrusted was read.
    R5Plan,
    /// What decides where, what or how much is not trusted.
    R6Control,
    /// Somebody who receives it may not read it.
    R7Readers,
    /// An untrusted text brings an address that the user does not know.
    R8Addresses,
    /// Private data could leave with an address that an untrusted source made.
    R9Egress,
    /// Nobody is there to be asked.
    R15Unattended,
    /// The process has let as much through as it may.
    R16Budget,
}

/// The facts that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// What the call does.
    pub effect: Effect,
    /// Whether the process holds a capability for it.
    pub capable: bool,
    /// Whether what it would let through is within bounds.
    pub within: bool,
    /// The worst choice among the arguments that decide where, what and how much.
    pub control: Choice,
    /// Whether everybody who receives may read all that is sent.
    pub readable: bool,
    /// Whether a free text that is sent brings an address of its own.
    pub strange: bool,
    /// Whether an address that nobody named or listed carries more than its host.
    pub carries: bool,
    /// Whether it stands in the plan, or needs none.
    pub planned: bool,
    /// Whether the process has seen untrusted data.
    pub tainted: bool,
    /// Whether the process has seen data that not everybody may read.
    pub private: bool,
    /// Whether a user is there.
    pub attended: bool,
}

impl Facts {
    fn changes(&self) -> bool {
        self.effect != Effect::Read
    }

    /// Whether something leaves by it. What cannot be taken back may be a message.
    fn sends(&self) -> bool {
        sends(self.effect)
    }

    /// Whether it cannot be taken back.
    fn is_final(&self) -> bool {
        matches!(self.effect, Effect::Spend | Effect::Irreversible)
    }
}

/// What happens when a row speaks against a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Deny,
    /// Ask, if somebody is there (R15).
    Ask,
}

/// A row of the table.
struct Row {
    rule: Rule,
    then: Then,
    /// Whether it speaks against a call.
    against: fn(&Facts) -> bool,
}

/// The table: what denies stands above what asks.
const TABLE: [Row; 8] = [
    Row { rule: Rule::R4Capability, then: Then::Deny, against: |f| !f.capable },
    Row { rule: Rule::R16Budget, then: Then::Deny, against: |f| f.changes() && !f.within },
    Row {
        rule: Rule::R9Egress,
        then: Then::Deny,
        against: |f| f.sends() && f.carries && f.tainted && f.private,
    },
    Row { rule: Rule::R7Readers, then: Then::Ask, against: |f| f.sends() && !f.readable },
    Row {
        rule: Rule::R6Control,
        then: Then::Ask,
        against: |f| f.changes() && f.control == Choice::Free,
    },
    // Which of a list may be an attacker's choice: not for what is spent or cannot be undone.
    Row {
        rule: Rule::R6Control,
        then: Then::Ask,
        against: |f| f.is_final() && f.control == Choice::Listed,
    },
    Row { rule: Rule::R8Addresses, then: Then::Ask, against: |f| f.sends() && f.strange },
    Row {
        rule: Rule::R5Plan,
        then: Then::Ask,
        against: |f| f.changes() && f.tainted && !f.planned,
    },
];

fn sends(effect: Effect) -> bool {
    matches!(effect, Effect::Egress | Effect::Spend | Effect::Irreversible)
}

/// What the table says.
pub fn decide(facts: Facts) -> Decision {
    let row = TABLE.iter().find(|row| (row.against)(&facts));
    match row.map(|row| (row.then, row.rule)) {
        None => Decision::Allow,
        Some((Then::Deny, rule)) => Decision::Deny(rule),
        Some((Then::Ask, rule)) if facts.attended => Decision::Ask(rule),
        Some((Then::Ask, _)) => Decision::Deny(Rule::R15Unattended),
    }
}

/// What of a process the gate must know.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// The join of all that it has read.
    pub label: &'a Label,
    /// Whether it has read what not everybody may read.
    pub private: bool,
    /// What it may do with the tool.
    pub capability: Option<&'a Capability>,
    /// Whether the call fits its plan; `None`: it made none.
    pub planned: Option<bool>,
    /// Bits and bytes that it may still let through.
    pub left: (u32, u64),
    /// Whether somebody is there who can be asked.
    pub attended: bool,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// Gathers the facts of a call from the leaves of its arguments.
pub fn facts(spec: &ToolSpec, leaves: &[Leaf], process: &Standing<'_>) -> Facts {
    let none = Capability::default();
    let capability = process.capability.unwrap_or(&none);
    let receivers = match capability.named {
        true => Readers::Only(named(leaves)),
        false => capability.receivers.clone(),
    };
    let nobody = matches!(&receivers, Readers::Only(all) if all.is_empty());
    let sent = sent(leaves, capability);
    let (bits, bytes) = cost(spec.effect, leaves);
    let alone = leaves.iter().all(|leaf| is_named_address(leaf, capability));
    let planned = process.planned.unwrap_or(matches!(spec.effect, Effect::Write | Effect::Exec));
    Facts {
        effect: spec.effect,
        capable: process.capability.is_some_and(|able| is_able(able, leaves, process.now_ms)),
        within: bits <= process.left.0 && bytes <= process.left.1,
        control: leaves.iter().map(|leaf| control(leaf, capability)).max().unwrap_or(Choice::Named),
        readable: nobody || sent.readers.include_all(&receivers),
        strange: !nobody && leaves.iter().any(|leaf| leaf.strange),
        carries: leaves.iter().any(carries),
        // To look at an address that was named or listed is to read: R9 decides about it.
        planned: planned || spec.effect == Effect::Egress && alone && !leaves.is_empty(),
        tainted: !process.label.is_trusted(),
        private: process.private,
        attended: process.attended,
    }
}

/// What a call would let through: bits of choices, and bytes of what is sent.
pub fn cost(effect: Effect, leaves: &[Leaf]) -> (u32, u64) {
    let bits = leaves.iter().fold(0_u32, |bits, leaf| bits.saturating_add(leaf.bits));
    match effect {
        Effect::Read => (0, 0),
        effect if sends(effect) => (bits, leaves.iter().map(|leaf| leaf.text.len() as u64).sum()),
        _ => (bits, 0),
    }
}

/// What whoever receives a call gets to know: the payload, what the targets stand for, and whatever a model has
/// made of what it read. An address that was named or listed, or is a host's that may be reached, tells it nothing.
fn sent(leaves: &[Leaf], capability: &Capability) -> Label {
    let tells = |leaf: &&Leaf| match (leaf.role, &leaf.from) {
        _ if is_on_host_list(leaf, capability) && !carries(leaf) => false,
        (ParamRole::Payload, _) => true,
        (ParamRole::Opaque, _) => false,
        (ParamRole::Target, From::List(_)) => true,
        (_, from) => matches!(from, From::Context | From::Pieces(_) | From::Handle(_)),
    };
    leaves.iter().filter(tells).fold(Label::default(), |all, leaf| all.join(&leaf.label))
}

fn is_able(capability: &Capability, leaves: &[Leaf], now_ms: u64) -> bool {
    let allows = |leaf: &Leaf| {
        capability.only.get(leaf.parameter()).is_none_or(|values| values.contains(&leaf.text))
    };
    capability.uses != Some(0)
        && capability.until_ms.is_none_or(|until| now_ms < until)
        && leaves.iter().all(allows)
}

/// How an argument was chosen, as far as it decides anything.
fn control(leaf: &Leaf, capability: &Capability) -> Choice {
    match (leaf.role, leaf.choice) {
        (ParamRole::Payload | ParamRole::Opaque, _) => Choice::Named,
        // An amount that a service vouches for, or that can only be one of few.
        (ParamRole::Amount, Choice::Listed) => Choice::Named,
        (_, Choice::Free) if is_on_host_list(leaf, capability) => Choice::Listed,
        (_, choice) => choice,
    }
}

fn is_on_host_list(leaf: &Leaf, capability: &Capability) -> bool {
    leaf.url.as_ref().is_some_and(|(host, _)| capability.hosts.contains(host))
}

/// An address that nobody named or listed, with more than a host in it.
fn carries(leaf: &Leaf) -> bool {
    let whole = matches!(leaf.from, From::User | From::List(_) | From::Allowed);
    !whole && leaf.url.as_ref().is_some_and(|(_, carries)| *carries)
}

/// Whether this leaf sends nothing but an address that R9 lets through: one in words, or the number of one in a list
/// that the tool itself has made.
fn is_named_address(leaf: &Leaf, capability: &Capability) -> bool {
    leaf.role == ParamRole::Opaque
        || leaf.role == ParamRole::Selector && matches!(leaf.from, From::List(_))
        || leaf.url.is_some() && !carries(leaf) && control(leaf, capability) != Choice::Free
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICES: [Choice; 3] = [Choice::Named, Choice::Listed, Choice::Free];

    fn all_facts() -> impl Iterator<Item = Facts> {
        let effects = Effect::ALL.into_iter();
        let choices = |effect| CHOICES.into_iter().map(move |choice| (effect, choice));
        effects.flat_map(choices).flat_map(|(effect, control)| {
            (0..512).map(move |bits: u32| {
                let bit = |at: u32| bits >> at & 1 == 1;
                Facts {
                    effect,
                    control,
                    capable: bit(0),
                    within: bit(1),
                    readable: bit(2),
                    strange: bit(3),
                    carries: bit(4),
                    planned: bit(5),
                    tainted: bit(6),
                    private: bit(7),
                    attended: bit(8),
                }
            })
        })
    }

    /// The same said a second time, in other words, for each row of the table.
    fn expected(f: Facts) -> Option<(Rule, bool)> {
        use Effect::*;
        if !f.capable {
            return Some((Rule::R4Capability, true));
        }
        if f.effect == Read {
            return None;
        }
        if !f.within {
            return Some((Rule::R16Budget, true));
        }
        if let Egress | Spend | Irreversible = f.effect {
            if f.carries && f.tainted && f.private {
                return Some((Rule::R9Egress, true));
            }
            if !f.readable {
                return Some((Rule::R7Readers, false));
            }
        }
        if let (_, Choice::Free) | (Spend | Irreversible, Choice::Listed) = (f.effect, f.control) {
            return Some((Rule::R6Control, false));
        }
        if matches!(f.effect, Egress | Spend | Irreversible) && f.strange {
            return Some((Rule::R8Addresses, false));
        }
        (f.tainted && !f.planned).then_some((Rule::R5Plan, false))
    }

    #[test]
    fn the_whole_table() {
        let mut seen = BTreeMap::new();
        for facts in all_facts() {
            let decision = match (expected(facts), facts.attended) {
                (None, _) => Decision::Allow,
                (Some((rule, true)), _) => Decision::Deny(rule),
                (Some((rule, false)), true) => Decision::Ask(rule),
                (Some((_, false)), false) => Decision::Deny(Rule::R15Unattended),
            };
            assert_eq!(decide(facts), decision, "{facts:?}");
            *seen.entry(format!("{decision:?}")).or_insert(0) += 1;
        }
        assert_eq!(seen.values().sum::<usize>(), 9216);
        assert_eq!(seen.len(), 9, "every verdict is reached: {seen:?}");
    }

    /// Each row is needed: there are facts that it alone speaks against.
    #[test]
    fn no_row_is_idle() {
        for row in &TABLE {
            let alone = |facts: &Facts| {
                let against = TABLE.iter().filter(|other| (other.against)(facts));
                (row.against)(facts) && against.count() == 1
            };
            assert!(all_facts().any(|facts| alone(&facts)), "{:?}", row.rule);
        }
    }

    /// Less trust never allows more.
    #[test]
    fn the_table_is_monotonic() {
        let weight = |decision: Decision| match decision {
            Decision::Allow => 0,
            Decision::Ask(_) => 1,
            Decision::Deny(_) => 2,
        };
        for facts in all_facts() {
            let worse = [
                Facts { capable: false, ..facts },
                Facts { within: false, ..facts },
                Facts { control: facts.control.max(Choice::Listed), ..facts },
                Facts { control: Choice::Free, ..facts },
                Facts { readable: false, ..facts },
                Facts { strange: true, ..facts },
                Facts { carries: true, ..facts },
                Facts { planned: false, ..facts },
                Facts { tainted: true, ..facts },
                Facts { private: true, ..facts },
                Facts { attended: false, ..facts },
            ];
            for worse in worse {
                assert!(weight(decide(worse)) >= weight(decide(facts)), "{facts:?} {worse:?}");
            }
        }
    }
}
