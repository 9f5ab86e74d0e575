//! Replay: a process is asked again what its journal says it was asked, and must say the same.
//!
//! The key decision: tools are not called again; their answers come from the journal. What is compared is
//! what only the model can change: the text and the calls of every turn. The same file, prompt and seed
//! give the same tokens, so the first difference is a fault of the system, or another file. Whoever wants to
//! know pays, and is no longer waited for when he does not want to know any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yushan_abi::{Call, Class, Event as Shown, Finish, Flow, Refusal, Sink};

use super::{Command, Kernel, stopped};
use crate::billing::Payer;
use crate::journal::Logged;
use crate::life::{Entry, Life};
use crate::process::Pid;

/// How often it is looked whether a replay that waits for its payer's limits is still wanted.
const LOOK: Duration = Duration::from_millis(50);

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
    /// Asks a process of the journal again, turn by turn, as batch work beside what runs, until that is not
    /// `wanted` any more; `payer` is charged. Blocks.
    pub fn replay(
        &self,
        pid: Pid,
        payer: &Payer,
        wanted: &Arc<AtomicBool>,
    ) -> Result<Replay, Refusal> {
        let log = self.log(pid, 0)?;
        let mut log = log.into_iter().map(|Logged { entry, .. }| entry);
        let Some(Entry::Began(program)) = log.next() else {
            let detail = format!(
                "the journal has no process {pid}; expected one with a program: yushan ps --all lists \
                 processes"
            );
            return Err(Refusal::Invalid { field: "pid".into(), detail });
        };
        let mut life = Life::new(pid, *program);
        let mut replay = Replay::default();
        for entry in log {
            if let Entry::Said { text, calls, counts, finish } = &entry
                && counts.generated > 0
                && !matches!(finish, Finish::Cancelled | Finish::Budget(_))
            {
                let (said, called, tokens) = self.ask_again(&life, payer, wanted)?;
                replay.turns += 1;
                replay.tokens += tokens;
                replay.difference =
                    difference(replay.turns, &whole(text, calls), &whole(&said, &called));
                if replay.difference.is_some() {
                    return Ok(replay);
                }
            }
            life.apply(entry);
        }
        Ok(replay)
    }

    fn ask_again(
        &self,
        life: &Life,
        payer: &Payer,
        wanted: &Arc<AtomicBool>,
    ) -> Result<(String, Vec<Call>, u64), Refusal> {
        loop {
            match self.beginner.may_begin(payer) {
                Err(Refusal::Busy { .. }) if wanted.load(Ordering::Acquire) => {
                    std::thread::sleep(LOOK);
                }
                judged => break judged?,
            }
        }
        let mut request = life.request();
        (request.class, request.durable) = (Class::Batch, None);
        let (sender, events) = mpsc::channel();
        let sink = Box::new(While(sender, wanted.clone()));
        let (job, spawn) = self.beginner.prepared(&request, sink, None, Some(payer.clone()))?;
        self.commands.send(Command::Start(job, spawn, None)).map_err(|_| stopped())?;
        let mut text = String::new();
        for event in events {
            match event {
                Shown::Text { text: more, .. } => text += &more,
                Shown::Done { finish: Finish::Cancelled, .. } => {
                    return Err(Refusal::Internal("the replay was stopped".into()));
                }
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

/// A reader that is gone when the answer is not wanted any more.
struct While(Sender<Shown>, Arc<AtomicBool>);

impl Sink for While {
    fn push(&mut self, event: Shown) -> Flow {
        let flow = self.0.push(event);
        if self.1.load(Ordering::Acquire) { flow } else { Flow::Gone }
    }

    fn is_ready(&mut self) -> Flow {
        if self.1.load(Ordering::Acquire) { Flow::More } else { Flow::Gone }
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
