//! A process as the engine's thread holds it: its tokens, its writer and its reader.
//!
//! The key decision: what a process shows goes through [`Job::show`], which remembers a reader that has no
//! room, and what it writes through [`Job::turn`], which keeps a panic to the process it happened in.

use std::panic::{AssertUnwindSafe, catch_unwind};

use yushan_abi::{
    Call, Counts, End, Event as Shown, Finish, Flow, Logprob, Piece, Refusal, SequenceId, Sink,
    TokenId, Writer, Written,
};

/// A process as the engine's thread holds it.
pub(crate) struct Job {
    pub(crate) model: String,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// The prompt and what was written.
    pub(crate) history: Vec<TokenId>,
    /// Tokens of the history whose keys and values are there.
    pub(crate) fed: usize,
    pub(crate) sequence: Option<SequenceId>,
    pub(crate) writer: Box<dyn Writer>,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) counts: Counts,
    pub(crate) most: usize,
    pub(crate) echo: bool,
    /// Whether the prompt's tokens need probabilities.
    pub(crate) scored: bool,
    /// Calls that have begun.
    pub(crate) calls: usize,
    pub(crate) blocked: bool,
}

/// What became of a row of logits.
pub(crate) enum Turn {
    /// A token was written.
    On,
    /// The answer is over.
    Over(Finish, Vec<Call>),
    /// It failed.
    Failed(Refusal),
}

impl Job {
    /// Shows something. A reader that is gone ends the process later, by `blocked` polling.
    pub(crate) fn show(&mut self, event: Shown) -> Flow {
        let flow = self.sink.push(event);
        self.blocked |= flow != Flow::More;
        flow
    }

    /// Shows the prompt's tokens `from..to`, with their probabilities where there are logits.
    pub(crate) fn show_prompt(
        &mut self,
        from: usize,
        to: usize,
        logits: Option<&dyn Fn(usize) -> Vec<f32>>,
    ) {
        if !self.echo {
            return;
        }
        if from == 0 {
            let (text, first) = (self.writer.echo(self.history[0]), self.history[0]);
            let logprob = self.scored.then(|| first_logprob(first, &text));
            self.show(Shown::Echo { text, logprob });
        }
        // The logits at a position are about the token after it.
        for at in from..to.min(self.prompt - 1) {
            let token = self.history[at + 1];
            let text = self.writer.echo(token);
            let logprob = logits.and_then(|logits| self.writer.score(&logits(at - from), token));
            self.show(Shown::Echo { text, logprob });
        }
    }

    /// Chooses a token and shows it.
    pub(crate) fn turn(&mut self, logits: &[f32]) -> Turn {
        if self.most == 0 {
            return Turn::Over(Finish::Length, Vec::new());
        }
        let chosen = catch_unwind(AssertUnwindSafe(|| self.writer.next(logits)));
        let Written { token, pieces, logprob, end } = match chosen {
            Ok(Ok(written)) => written,
            Ok(Err(refusal)) => return Turn::Failed(refusal),
            Err(_) => return Turn::Failed(Refusal::Internal("this process panicked".into())),
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
            let held_back = self.writer.finish();
            self.show_pieces(held_back, None);
        }
        Turn::Over(finish, Vec::new())
    }

    fn show_pieces(&mut self, pieces: Vec<Piece>, mut logprob: Option<Logprob>) {
        if pieces.is_empty() && logprob.is_some() {
            self.show(Shown::Text { text: String::new(), logprob: logprob.take() });
        }
        for piece in pieces {
            let event = match piece {
                Piece::Text(text) => Shown::Text { text, logprob: logprob.take() },
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

fn first_logprob(id: TokenId, text: &str) -> Logprob {
    Logprob { id, bytes: text.as_bytes().to_vec(), logprob: None, top: Vec::new() }
}
