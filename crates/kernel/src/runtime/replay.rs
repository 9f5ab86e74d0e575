//! Replay: a process is asked again what its journal says it was asked, and must say the same.
//!
//! The key decision: tools are not called again; their answers come from the journal. What is compared is
//! what only the model can change: the text and the calls of every turn. The same file, prompt and seed
//! give the same tokens, so the first difference is a fault of the system, or another file.

use std::sync::mpsc;

use serde::{Deserialize, Serialize};
use yushan_abi::{Call, Class, Complete, Event as Shown, Finish, Refusal};

use super::Kernel;
use crate::life::{Entry, Life};
use crate::process::Pid;

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Turns that were asked again.
    pub turns: u64,
    /// Tokens that were written again.
    pub tokens: u64,
    /// The first difference, if there is one.
    pub difference: Option<Difference>,
}

/// Where a process said something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In which turn, from 1.
    pub turn: u64,
    /// After how many characters that are equal.
    pub equal: usize,
    /// What the journal has from there.
    pub journal: String,
    /// What was said now.
    pub now: String,
}

impl Kernel {
    /// Asks a process of the journal again, turn by turn, as batch work beside what runs; `progress`
    /// gets the turns done.
    pub fn replay(&self, pid: Pid, mut progress: impl FnMut(u64)) -> Result<Replay, Refusal> {
        let log = self.log(pid)?;
        let mut log = log.into_iter().map(|(_, entry)| entry);
        let Some(Entry::Began(program)) = log.next() else {
            let detail = format!("the journal has no process {pid}; expected one with a program");
            return Err(Refusal::Invalid { field: "pid".into(), detail });
        };
        let mut life = Life::new(pid, *program);
        let mut replay = Replay::default();
        for entry in log {
            if let Entry::Said { text, calls, counts, finish } = &entry
                && counts.generated > 0
                && !matches!(finish, Finish::Cancelled | Finish::Budget(_))
            {
                let (said, called, tokens) = self.ask_again(&life)?;
                replay.turns += 1;
                replay.tokens += tokens;
                replay.difference =
                    difference(replay.turns, &whole(text, calls), &whole(&said, &called));
                progress(replay.turns);
                if replay.difference.is_some() {
                    return Ok(replay);
                }
            }
            life.apply(entry);
        }
        Ok(replay)
    }

    fn ask_again(&self, life: &Life) -> Result<(String, Vec<Call>, u64), Refusal> {
        let mut request = life.request();
        (request.class, request.durable) = (Class::Batch, None);
        let (sender, events) = mpsc::channel();
        self.complete(request, Box::new(sender))?;
        let mut text = String::new();
        for event in events {
            match event {
                Shown::Text { text: more, .. } => text += &more,
                Shown::Done { calls, counts, .. } => {
                    return Ok((text, calls, counts.generated as u64));
                }
                Shown::Failed(refusal) => return Err(refusal),
                _ => {}
            }
        }
        Err(Refusal::Stopping)
    }
}

/// A turn as one text.
fn whole(text: &str, calls: &[Call]) -> String {
    calls.iter().fold(text.to_string(), |all, call| {
        format!("{all}\ncall {} {} {}", call.id, call.name, call.arguments)
    })
}

fn difference(turn: u64, journal: &str, now: &str) -> Option<Difference> {
    let equal = journal.chars().zip(now.chars()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text.chars().skip(equal).take(80).collect::<String>();
    (journal != now).then(|| Difference { turn, equal, journal: rest(journal), now: rest(now) })
}
