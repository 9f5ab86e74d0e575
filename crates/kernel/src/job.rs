//! A process as the engine's thread holds it: its tokens, its writer and its reader.
//!
//! The key decision: what a process shows goes through [`Job::show`], which remembers a reader that has no
//! room, and what it writes through [`Job::turn`]; both keep a panic to the process it happened in.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use yushan_abi::{
    Call, Cancel, Counts, End, Event as Shown, ExecutorError, Finish, Flow, Form, Logprob, Piece,
    Refusal, Request, SequenceId, Sink, TokenId, ToolResult, Writer, Written,
};

use crate::billing::Payer;
use crate::context::{Window, window};
use crate::life::Life;
use crate::runtime::{Lease, Place};
use crate::summary::Asks;

/// A process as the engine's thread holds it.
pub(crate) struct Job {
    pub(crate) model: String,
    /// Whose prefixes it shares.
    pub(crate) tenant: String,
    /// Keeps the model in memory, from its first turn on.
    pub(crate) lease: Option<Lease>,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// The prompt and what was written.
    pub(crate) history: Vec<TokenId>,
    /// Tokens of the history whose keys and values are there.
    pub(crate) fed: usize,
    pub(crate) sequence: Option<SequenceId>,
    /// Of the turn under way.
    pub(crate) writer: Option<Box<dyn Writer>>,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) counts: Counts,
    pub(crate) most: usize,
    pub(crate) echo: bool,
    /// Whether the prompt's tokens need probabilities.
    pub(crate) scored: bool,
    /// Whether the prompt becomes an embedding, and nothing is written.
    pub(crate) pooled: bool,
    /// Calls that have begun.
    pub(crate) calls: usize,
    /// Tokens of the prompt that were echoed.
    pub(crate) echoed: usize,
    pub(crate) blocked: bool,
    /// Whether its reader was told that it began.
    pub(crate) started: bool,
    /// Text of this turn.
    pub(crate) said: String,
    /// Tokens of this turn that were handed to the journal.
    pub(crate) noted: usize,
    /// Whether it goes on when the journal says that a note is durable.
    pub(crate) awaits: bool,
    /// Its journal's view, if it has a program.
    pub(crate) life: Option<Box<Life>>,
    /// Of those that were asked for from outside; given back with the job.
    pub(crate) place: Option<Place>,
    /// Who is charged here; `None`: whoever asked charges what it is shown.
    pub(crate) payer: Option<Payer>,
    /// What turns have used that the journal may not have yet.
    pub(crate) owed: Counts,
    /// Tells a driver that works for it that it is over.
    pub(crate) cancel: Cancel,
    /// Keys of the calls that drivers work on.
    pub(crate) running: BTreeSet<String>,
    /// What came of calls before it was their turn.
    pub(crate) done: BTreeMap<String, ToolResult>,
}

/// A turn that can begin: a conversation as tokens, and what writes the answer.
pub(crate) struct Fresh {
    pub(crate) lease: Lease,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) dropped: usize,
    pub(crate) writer: Box<dyn Writer>,
    /// Tokens of the answer that were written before the system stopped, and what they showed.
    pub(crate) written: (Vec<TokenId>, Vec<Piece>),
}

impl Fresh {
    /// Brings a request into tokens, and what was written of its answer into a writer;
    /// `asks` writes a summary where one is needed.
    pub(crate) fn new(
        lease: Lease,
        request: &Request,
        written: &[TokenId],
        asks: &Asks<'_>,
    ) -> Result<Fresh, Refusal> {
        let language = lease.language.as_ref();
        let Window { tokens, dropped } = window(language, request, lease.info.context, asks)?;
        let mut writer = language.begin(request, &tokens)?;
        let mut pieces = Vec::new();
        for &token in written {
            pieces.extend(writer.replay(token)?.pieces);
        }
        let written = (written.to_vec(), pieces);
        Ok(Fresh { lease, tokens, dropped, writer, written })
    }
}

/// What became of a row of logits.
pub(crate) enum Turn {
    /// A token was written.
    On,
    /// The answer is over.
    Over(Finish, Vec<Call>),
    /// The prompt is read, and its embedding shown.
    Embedded,
    /// It failed.
    Failed(Refusal),
}

impl Job {
    /// A process that has not begun: [`Job::turn_to`] begins its first turn.
    pub(crate) fn new(request: &Request, sink: Box<dyn Sink>, life: Option<Life>) -> Job {
        Job {
            model: request.model.clone(),
            tenant: request.tenant.clone(),
            lease: None,
            prompt: 0,
            history: Vec::new(),
            fed: 0,
            sequence: None,
            writer: None,
            sink,
            counts: Counts::default(),
            most: request.max_tokens.unwrap_or(usize::MAX),
            echo: request.echo,
            scored: request.echo && request.logprobs.is_some(),
            pooled: request.form == Form::Embedding,
            calls: 0,
            echoed: 0,
            blocked: false,
            started: false,
            said: String::new(),
            noted: 0,
            awaits: false,
            payer: life.as_ref().map(|life| Payer::of(&life.program.request)),
            life: life.map(Box::new),
            place: None,
            owed: Counts::default(),
            cancel: Cancel::default(),
            running: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    /// Begins another turn on what is there of the one before; gives how many tokens of what the engine
    /// holds are of use.
    pub(crate) fn turn_to(&mut self, fresh: Fresh) -> usize {
        let (written, pieces) = fresh.written;
        let mut history = fresh.tokens;
        self.prompt = history.len();
        history.extend(&written);
        let same = self.history[..self.fed].iter().zip(&history).take_while(|(a, b)| a == b);
        self.fed = same.count().min(history.len() - 1);
        self.history = history;
        self.writer = Some(fresh.writer);
        self.noted = written.len();
        self.said.clear();
        self.counts = Counts {
            limit: fresh.lease.info.context,
            prompt: self.prompt,
            cached: self.fed.min(self.prompt),
            dropped: fresh.dropped,
            generated: written.len(),
        };
        self.lease = Some(fresh.lease);
        if !pieces.is_empty() {
            self.begin();
            self.show_pieces(pieces, None);
        }
        self.fed
    }

    /// Tells the reader that it began, once.
    pub(crate) fn begin(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            let counts = self.counts;
            self.show(Shown::Started(counts));
        }
    }

    /// Shows something. A reader that is gone, or panics, ends the process later, by `blocked` polling.
    pub(crate) fn show(&mut self, event: Shown) -> Flow {
        let flow = self.ask_reader(|sink| sink.push(event));
        self.blocked |= flow != Flow::More;
        flow
    }

    /// Whether its reader has room, or is gone.
    pub(crate) fn is_ready(&mut self) -> Flow {
        self.ask_reader(|sink| sink.is_ready())
    }

    fn ask_reader(&mut self, ask: impl FnOnce(&mut dyn Sink) -> Flow) -> Flow {
        let asked = catch_unwind(AssertUnwindSafe(|| ask(self.sink.as_mut())));
        asked.unwrap_or_else(|_| {
            self.sink = Box::new(Broken);
            Flow::Gone
        })
    }

    /// Shows the prompt's tokens `from..to`, with their probabilities where there are logits, but none a
    /// second time: a process that lost its place reads its prompt again.
    pub(crate) fn show_prompt(
        &mut self,
        from: usize,
        to: usize,
        logits: Option<&dyn Fn(usize) -> Vec<f32>>,
    ) {
        let unheard = self.echo && to > self.echoed;
        let Some(mut writer) = self.writer.take_if(|_| unheard) else { return };
        let echo = || {
            if self.echoed == 0 {
                let (text, first) = (writer.echo(self.history[0]), self.history[0]);
                let logprob = self.scored.then(|| first_logprob(first, &text));
                self.show(Shown::Echo { text, logprob });
            }
            // The logits at a position are about the token after it.
            for at in from.max(self.echoed)..to.min(self.prompt - 1) {
                let token = self.history[at + 1];
                let text = writer.echo(token);
                let logprob = logits.and_then(|logits| writer.score(&logits(at - from), token));
                self.show(Shown::Echo { text, logprob });
            }
        };
        // Without a writer, its turn tells.
        if catch_unwind(AssertUnwindSafe(echo)).is_ok() {
            self.writer = Some(writer);
        }
        self.echoed = to;
    }

    /// Chooses a token and shows it.
    pub(crate) fn turn(&mut self, logits: &[f32]) -> Turn {
        let turn = catch_unwind(AssertUnwindSafe(|| self.choose(logits)));
        turn.unwrap_or_else(|_| Turn::Failed(panicked()))
    }

    fn choose(&mut self, logits: &[f32]) -> Turn {
        let Some(writer) = &mut self.writer else {
            return Turn::Failed(panicked());
        };
        if self.most == 0 {
            return Turn::Over(Finish::Length, Vec::new());
        }
        let Written { token, pieces, logprob, end } = match writer.next(logits) {
            Ok(written) => written,
            Err(refusal) => return Turn::Failed(refusal),
        };
        self.history.push(token);
        self.counts.generated += 1;
        self.show_pieces(pieces, logprob);
        let full = self.history.len() >= self.counts.limit;
        let finish = match end {
            Some(End::End) => Finish::End,
            Some(End::Stop(stop)) => Finish::Stop(stop),
            Some(End::Calls(calls)) => return Turn::Over(Finish::Calls, calls),
            None if self.counts.generated >= self.most => Finish::Length,
            None if full => Finish::ContextFull,
            None => return Turn::On,
        };
        if matches!(finish, Finish::Length | Finish::ContextFull) {
            let held_back = self.writer.as_mut().map(|writer| writer.finish()).unwrap_or_default();
            self.show_pieces(held_back, None);
        }
        Turn::Over(finish, Vec::new())
    }

    /// Shows the embedding, brought to length 1.
    pub(crate) fn embed(&mut self, pooled: Result<Vec<f32>, ExecutorError>) -> Turn {
        let mut vector = match pooled {
            Ok(vector) => vector,
            Err(error) => return Turn::Failed(Refusal::Internal(error.to_string())),
        };
        let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if !length.is_finite() || length == 0.0 {
            let why = format!("the model makes a vector of the length {length} of this text");
            return Turn::Failed(Refusal::Internal(why));
        }
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        self.show(Shown::Embedding(vector));
        Turn::Embedded
    }

    /// Whether its text is shown when its code was run.
    pub(crate) fn holds_back(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.program.check.is_some())
    }

    pub(crate) fn show_pieces(&mut self, pieces: Vec<Piece>, mut logprob: Option<Logprob>) {
        if pieces.is_empty() && logprob.is_some() {
            self.show(Shown::Text { text: String::new(), logprob: logprob.take() });
        }
        for piece in pieces {
            let event = match piece {
                Piece::Text(text) => {
                    if self.life.is_some() {
                        self.said.push_str(&text);
                    }
                    if self.holds_back() {
                        continue;
                    }
                    Shown::Text { text, logprob: logprob.take() }
                }
                Piece::CallBegins { id, name } => {
                    self.calls += 1;
                    let (id, name) = (Some(id), Some(name));
                    Shown::Call { index: self.calls - 1, id, name, arguments: String::new() }
                }
                Piece::Arguments(arguments) => {
                    let index = self.calls.saturating_sub(1);
                    Shown::Call { index, id: None, name: None, arguments }
                }
            };
            self.show(event);
        }
    }
}

/// The end of a process whose language, writer or row in the engine panicked.
pub(crate) fn panicked() -> Refusal {
    Refusal::Internal("this process panicked".into())
}

/// In place of a reader that panicked.
struct Broken;

impl Sink for Broken {
    fn push(&mut self, _: Shown) -> Flow {
        Flow::Gone
    }

    fn is_ready(&mut self) -> Flow {
        Flow::Gone
    }
}

fn first_logprob(id: TokenId, text: &str) -> Logprob {
    Logprob { id, bytes: text.as_bytes().to_vec(), logprob: None, top: Vec::new() }
}
