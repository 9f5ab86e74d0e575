//! Cards: what a user is shown before a call is made that the gate asks for.
//!
//! The key decision: a card is made of the typed arguments, of where each came from and of what the tool declared of
//! itself. Nothing on it was written by a model but the values themselves, and these are printed so that nothing in
//! them is obeyed or hidden. It is bound to this call and these values by its hash, answered once, and stale
//! after a while; there is no way to answer several at once.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use yushan_abi::{Effect, ParamRole, Readers, ToolSpec, printable};

use crate::gate::{Capability, Rule};
use crate::life::Life;
use crate::process::Pid;
use crate::provenance::{From, named};
use crate::syscall;

/// How long a card can be answered, in milliseconds.
pub const CARD_MS: u64 = 10 * 60 * 1000;

/// Characters of a value that are shown.
const SHOWN: usize = 400;

/// What would happen, for the user to allow or to forbid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Names it: of the call, its values, where they came from, and when it was made out. Hexadecimal.
    pub hash: String,
    /// Which process asks.
    pub pid: Pid,
    /// Which of its calls.
    pub key: String,
    /// The tool.
    pub tool: String,
    /// What it does.
    pub effect: Effect,
    /// Who would receive what is sent; empty: nobody, or everybody if the tool sends to all.
    pub receivers: Vec<String>,
    /// Why it is asked for.
    pub rule: Option<Rule>,
    /// What it is called with.
    pub values: Vec<Shown>,
    /// Until when it can be answered, in milliseconds since 1970.
    pub until_ms: u64,
}

/// A value on a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Where it stands in the arguments.
    pub path: String,
    /// What it decides.
    pub role: ParamRole,
    /// As it may be printed, cut.
    pub value: String,
    /// Characters that were cut off.
    pub cut: usize,
    /// Where it came from.
    pub from: From,
    /// Who wrote what it was made of.
    pub sources: Vec<String>,
    /// Whether there is an address in it that the user did not write.
    pub strange: bool,
}

impl Card {
    /// The card of the first call that waits in a life, made out at `now_ms` (milliseconds since 1970). A call whose
    /// arguments are none has none to show.
    pub fn of(life: &Life, spec: &ToolSpec, now_ms: u64) -> Card {
        let call = life.open.front();
        let arguments = call.and_then(|call| serde_json::from_str(&call.arguments).ok());
        let arguments: Value = arguments.unwrap_or_default();
        let leaves = life.leaves(spec, &arguments);
        let capability = life.capability(&spec.name).unwrap_or_default();
        let judged = call.and_then(|call| syscall::judge(life, spec, call, now_ms).ok());
        let rule = judged.and_then(|judged| match judged.decision {
            crate::gate::Decision::Ask(rule) | crate::gate::Decision::Deny(rule) => Some(rule),
            crate::gate::Decision::Allow => None,
        });
        let receivers = receivers(spec, &capability, named(&leaves).into_iter().collect());
        let values: Vec<Shown> = leaves
            .iter()
            .map(|leaf| {
                let text = printable(&leaf.text);
                let value: String = text.chars().take(SHOWN).collect();
                Shown {
                    path: printable(&leaf.path),
                    role: leaf.role,
                    cut: text.chars().count() - value.chars().count(),
                    value,
                    from: leaf.from.clone(),
                    sources: leaf.label.sources.names().map(String::from).collect(),
                    strange: leaf.strange,
                }
            })
            .collect();
        let key = life.key();
        let until_ms = now_ms.saturating_add(CARD_MS);
        let mut hash = Sha256::new();
        let bound = (life.pid, &key, &spec.name, spec.effect, call, &leaves, &receivers, until_ms);
        hash.update(serde_json::to_vec(&bound).unwrap_or_default());
        let hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let (pid, tool, effect) = (life.pid, spec.name.clone(), spec.effect);
        Card { hash, pid, key, tool, effect, receivers, rule, values, until_ms }
    }

    /// For people, in lines.
    pub fn text(&self) -> String {
        let mut out = format!("may it call {}? it {}\n", printable(&self.tool), does(self.effect));
        if !self.receivers.is_empty() {
            out += &format!("  received by {}\n", self.receivers.join(", "));
        }
        for shown in &self.values {
            let more = match shown.cut {
                0 => String::new(),
                cut => format!(" … and {cut} characters more"),
            };
            let value = shown.value.replace('\n', "\n    ");
            out += &format!("  {} = {value}{more} ({})\n", shown.path, shown.origin());
            if shown.strange {
                out += "    there is an address in it that you did not write\n";
            }
        }
        out
    }
}

impl Shown {
    /// Where the value came from, in words.
    pub fn origin(&self) -> String {
        match &self.from {
            From::User => "as you wrote".into(),
            From::Allowed => "as you allowed before".into(),
            From::List(kind) => format!("from the list of {}s", printable(kind)),
            From::Type => "one of few values of its type".into(),
            From::Pieces(_) => "put together of what you wrote and of lists".into(),
            From::Handle(id) => format!("value {id}, from {}", self.sources.join(", ")),
            From::Context => format!("made from what came from {}", self.sources.join(", ")),
        }
    }
}

/// What an effect is, in words.
fn does(effect: Effect) -> &'static str {
    match effect {
        Effect::Read => "only looks",
        Effect::Write => "changes what is yours",
        Effect::Egress => "sends something out",
        Effect::Spend => "costs money",
        Effect::Exec => "runs a program",
        Effect::Irreversible => "cannot be undone, or changes rights",
    }
}

fn receivers(spec: &ToolSpec, capability: &Capability, named: Vec<String>) -> Vec<String> {
    let all = match (spec.effect, capability.named, &capability.receivers) {
        (Effect::Egress | Effect::Spend, true, _) => named,
        (Effect::Egress | Effect::Spend, false, Readers::Public) => vec!["anybody".into()],
        (Effect::Egress | Effect::Spend, false, Readers::Only(all)) => {
            all.iter().cloned().collect()
        }
        _ => Vec::new(),
    };
    all.iter().map(|one| printable(one)).collect()
}
