//! The call gate: whether a call may happen, from its labels alone.
//!
//! Rules R4, R6, R7, R9 and R15 of the security design as one table. The decision sees what a tool
//! declared of itself, the labels of the arguments and of the process, and what the process may do;
//! never the text of anything.
//!
//! The key decision: one function from a small, closed set of facts to a verdict, so that all
//! combinations can be written out and read ([`decide`] is tested on every one).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use yushan_abi::{Effect, Label, ParamRole, Readers, ToolSpec};

/// An argument of a call, as the gate sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// Where it came from.
    pub label: Label,
    /// Whether the same text stands in what the user wrote, or was chosen from a trusted list.
    pub chosen_by_user: bool,
}

/// What a process may do with a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// How often; `None`: as often as it likes.
    pub uses: Option<u32>,
    /// Who receives what is sent, where the tool sends.
    pub receivers: Readers,
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

/// The rules, by their numbers in the security design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// No capability for this tool, or it is used up.
    R4Capability,
    /// What decides where, what or how much is not trusted.
    R6Control,
    /// Somebody who receives it may not read it.
    R7Readers,
    /// Private data could leave with what an untrusted source asked for.
    R9Egress,
    /// Nobody is there to be asked.
    R15Unattended,
}

/// The facts that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the call does.
    pub effect: Effect,
    /// Whether the process holds a capability that is not used up.
    pub capable: bool,
    /// Whether all arguments that decide where, what and how much are trusted or chosen by the user.
    pub controlled: bool,
    /// Whether everybody who receives may read all that is sent.
    pub readable: bool,
    /// Whether the process has seen untrusted data.
    pub tainted: bool,
    /// Whether the process has seen data that not everybody may read.
    pub private: bool,
    /// Whether a user is there.
    pub attended: bool,
}

/// The table.
pub fn decide(facts: Facts) -> Decision {
    let sends = matches!(facts.effect, Effect::Egress | Effect::Spend);
    let changes = facts.effect != Effect::Read;
    let ask = |rule| {
        if facts.attended { Decision::Ask(rule) } else { Decision::Deny(Rule::R15Unattended) }
    };
    match facts {
        Facts { capable: false, .. } => Decision::Deny(Rule::R4Capability),
        Facts { readable: false, .. } if sends => ask(Rule::R7Readers),
        Facts { controlled: false, private: true, .. } if sends => ask(Rule::R9Egress),
        Facts { controlled: false, .. } if changes => ask(Rule::R6Control),
        Facts { tainted: true, .. } if facts.effect == Effect::Irreversible => ask(Rule::R6Control),
        _ => Decision::Allow,
    }
}

/// Gathers the facts of a call. An argument that is not labelled counts as the process's own words.
pub fn facts(
    spec: &ToolSpec,
    arguments: &BTreeMap<String, Argument>,
    process: &Label,
    capability: Option<&Capability>,
    attended: bool,
) -> Facts {
    let controls = |name: &str| !matches!(spec.role(name), ParamRole::Payload | ParamRole::Opaque);
    let trusted = |argument: &Argument| argument.chosen_by_user || argument.label.is_trusted();
    let parameters = spec.schema["properties"].as_object().into_iter().flatten();
    let unlabelled = parameters
        .map(|(name, _)| name)
        .any(|name| !arguments.contains_key(name) && controls(name) && !process.is_trusted());
    let sent = arguments.values().fold(process.clone(), |all, one| all.join(&one.label));
    let receivers = capability.map_or(Readers::Public, |capability| capability.receivers.clone());
    Facts {
        effect: spec.effect,
        capable: capability.is_some_and(|capability| capability.uses != Some(0)),
        controlled: !unlabelled
            && arguments.iter().all(|(name, argument)| !controls(name) || trusted(argument)),
        readable: sent.readers.include_all(&receivers),
        tainted: !process.is_trusted(),
        private: process.readers != Readers::Public,
        attended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_facts() -> impl Iterator<Item = Facts> {
        Effect::ALL.into_iter().flat_map(|effect| {
            (0..64).map(move |bits: u32| {
                let bit = |at: u32| bits >> at & 1 == 1;
                Facts {
                    effect,
                    capable: bit(0),
                    controlled: bit(1),
                    readable: bit(2),
                    tainted: bit(3),
                    private: bit(4),
                    attended: bit(5),
                }
            })
        })
    }

    /// Every row of the table, by what must hold of it.
    #[test]
    fn the_whole_table() {
        for facts in all_facts() {
            let decision = decide(facts);
            let allowed = decision == Decision::Allow;
            assert!(facts.capable || decision == Decision::Deny(Rule::R4Capability), "{facts:?}");
            if !facts.attended {
                assert!(!matches!(decision, Decision::Ask(_)), "nobody to ask: {facts:?}");
            }
            if facts.effect != Effect::Read && !facts.controlled {
                assert!(!allowed, "untrusted control: {facts:?}");
            }
            if matches!(facts.effect, Effect::Egress | Effect::Spend) && !facts.readable {
                assert!(!allowed, "a receiver who may not read: {facts:?}");
            }
            if facts.capable && facts.controlled && facts.readable && !facts.tainted {
                assert!(allowed, "nothing speaks against it: {facts:?}");
            }
            if facts.capable && facts.effect == Effect::Read {
                assert!(allowed, "looking is free: {facts:?}");
            }
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
                Facts { controlled: false, ..facts },
                Facts { readable: false, ..facts },
                Facts { tainted: true, ..facts },
                Facts { private: true, ..facts },
                Facts { attended: false, ..facts },
            ];
            for worse in worse {
                assert!(weight(decide(worse)) >= weight(decide(facts)), "{facts:?} {worse:?}");
            }
        }
    }

    #[test]
    fn facts_come_from_roles_and_labels() {
        use yushan_abi::Sources;
        let spec: ToolSpec = serde_json::from_value(serde_json::json!({
            "name": "mail", "effect": "egress",
            "schema": {"properties": {"to": {}, "body": {}}},
            "roles": {"to": "destination", "body": "payload"},
        }))
        .unwrap();
        let argument = |label: Label, chosen_by_user| Argument { label, chosen_by_user };
        let (user, web) = (Label::of(Sources::USER), Label::of(Sources::WEB));
        let private = Label::of(Sources::OWN_DATA).for_reader("ann");
        let capability = Capability { uses: Some(1), receivers: Readers::one("bob") };
        let check = |to: Argument, body: Label, process: &Label, expected: Decision| {
            let arguments = BTreeMap::from([
                ("to".to_string(), to),
                ("body".to_string(), argument(body, false)),
            ]);
            let facts = facts(&spec, &arguments, process, Some(&capability), true);
            assert_eq!(decide(facts), expected, "{facts:?}");
        };
        check(argument(user.clone(), false), user.clone(), &user, Decision::Allow);
        check(argument(web.clone(), false), user.clone(), &web, Decision::Ask(Rule::R6Control));
        check(argument(web.clone(), true), user.clone(), &web, Decision::Allow);
        check(argument(user.clone(), false), private, &user, Decision::Ask(Rule::R7Readers));
    }
}
