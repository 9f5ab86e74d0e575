//! Guessing several tokens ahead, without changing what comes out.
//!
//! The key decision: a guess is never accepted, only found to be what would have been chosen. The
//! verifying step computes the logits of every guessed position, the sampler draws position by
//! position as it would have without guesses, and the first draw that differs from its guess ends
//! the run. As logits do not depend on how tokens were cut into steps, the answer is the same bit for
//! bit, sampled or greedy, masked or not; a bad guess costs time and nothing else.
//!
//! Two ways to guess: the text repeats itself (prompt look-up, Saxena 2023), or a small model of the same
//! vocabulary says how it would go on (Leviathan et al. 2023). The verification is in `generate.rs`.

use yushan_abi::{Chunk, Executor, ExecutorError, Logits, SequenceId, TokenId};

use crate::sampler::argmax;
use crate::{Error, Result};

/// Whether and how tokens are guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// One token a step.
    #[default]
    Off,
    /// What followed the last place where the newest tokens stood before.
    PromptLookup {
        /// Most of the newest tokens that are looked for together; down to one is tried.
        ngram: usize,
        /// Most tokens guessed in a step.
        most: usize,
    },
    /// What a small model of the same vocabulary finds likeliest.
    Draft {
        /// Most tokens guessed in a step.
        most: usize,
    },
}

/// Makes the guesses of one generation.
pub(crate) enum Drafter<'a> {
    Off,
    PromptLookup { ngram: usize, most: usize },
    Draft { model: DraftModel<'a>, most: usize },
}

impl<'a> Drafter<'a> {
    /// `vocabulary` is the large model's.
    pub(crate) fn new(
        speculation: Speculation,
        draft: Option<&'a mut dyn Executor>,
        vocabulary: usize,
    ) -> Result<Self> {
        let most = match speculation {
            Speculation::Off => return Ok(Drafter::Off),
            Speculation::PromptLookup { most, .. } | Speculation::Draft { most } => most,
        };
        if most == 0 || matches!(speculation, Speculation::PromptLookup { ngram: 0, .. }) {
            return Err(Error::request("speculation", "0 tokens; expected at least 1"));
        }
        match (speculation, draft) {
            (Speculation::PromptLookup { ngram, most }, _) => {
                Ok(Drafter::PromptLookup { ngram, most })
            }
            (_, None) => Err(Error::request(
                "speculation",
                "a draft model is asked for, but none is loaded; expected a second model file",
            )),
            (_, Some(executor)) => {
                if executor.vocabulary() != vocabulary {
                    let detail = format!(
                        "the draft model has {} tokens, the model {vocabulary}; expected a draft of the same vocabulary",
                        executor.vocabulary()
                    );
                    return Err(Error::request("speculation", detail));
                }
                Ok(Drafter::Draft {
                    model: DraftModel { executor, sequence: None, seen: Vec::new() },
                    most,
                })
            }
        }
    }

    /// Puts into `out` at most `room` tokens that may follow `history`.
    pub(crate) fn propose(
        &mut self,
        history: &[TokenId],
        room: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<()> {
        out.clear();
        match self {
            Drafter::Off => Ok(()),
            Drafter::PromptLookup { ngram, most } => {
                look_up(history, *ngram, room.min(*most), out);
                Ok(())
            }
            Drafter::Draft { model, most } => {
                match model.propose(history, room.min(*most), out) {
                    // No memory to guess with is no reason not to answer.
                    Err(Error::Executor(ExecutorError::OutOfPages { .. })) => out.clear(),
                    other => other?,
                }
                Ok(())
            }
        }
    }

    /// Closes the draft model's sequence.
    pub(crate) fn release(self) -> Result<()> {
        if let Drafter::Draft {
            model: DraftModel { executor, sequence: Some(sequence), .. }, ..
        } = self
        {
            executor.release(sequence)?;
        }
        Ok(())
    }
}

/// Of the longest end of `history`, up to `ngram` tokens, that stood there before: what followed its
/// latest such place.
fn look_up(history: &[TokenId], ngram: usize, room: usize, out: &mut Vec<TokenId>) {
    for n in (1..=ngram.min(history.len().saturating_sub(1))).rev() {
        let (before, tail) = history.split_at(history.len() - n);
        // The place may overlap the end, but must have a token after it.
        let place = (0..before.len()).rev().find(|&at| history[at..at + n] == *tail);
        if let Some(at) = place {
            out.extend(history[at + n..].iter().take(room));
            return;
        }
    }
}

/// A small model that follows the large one's text.
pub(crate) struct DraftModel<'a> {
    executor: &'a mut dyn Executor,
    sequence: Option<SequenceId>,
    /// The tokens of the sequence.
    seen: Vec<TokenId>,
}

impl DraftModel<'_> {
    fn propose(&mut self, history: &[TokenId], room: usize, out: &mut Vec<TokenId>) -> Result<()> {
        // The last guess is not fed back, so `room` guesses take `room - 1` places.
        let room = room.min((self.executor.context() + 1).saturating_sub(history.len()));
        if room == 0 || history.is_empty() {
            return Ok(());
        }
        let sequence = match self.sequence {
            Some(sequence) => {
                let same = self.seen.iter().zip(history).take_while(|(a, b)| a == b).count();
                // One token at least is run again: its logits are what is wanted.
                let same = same.min(history.len() - 1);
                if same < self.seen.len() {
                    self.executor.truncate(sequence, same)?;
                    self.seen.truncate(same);
                }
                sequence
            }
            None => {
                let admitted = self.executor.admit("", history)?;
                self.seen.extend_from_slice(&history[..admitted.cached]);
                *self.sequence.insert(admitted.sequence)
            }
        };
        let rows = self.executor.max_rows().max(1);
        while self.seen.len() + rows < history.len() {
            let tokens = &history[self.seen.len()..][..rows];
            self.executor.step(&[Chunk { sequence, tokens, logits: Logits::None }])?;
            self.seen.extend_from_slice(tokens);
        }
        let mut next = self.next(sequence, &history[self.seen.len()..])?;
        while let Some(token) = next {
            out.push(token);
            if out.len() == room {
                break;
            }
            next = self.next(sequence, &[token])?;
        }
        Ok(())
    }

    /// The likeliest token after `tokens` are appended.
    fn next(&mut self, sequence: SequenceId, tokens: &[TokenId]) -> Result<Option<TokenId>> {
        let output = self.executor.step(&[Chunk { sequence, tokens, logits: Logits::Last }])?;
        self.seen.extend_from_slice(tokens);
        Ok(argmax(output.row(0), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_up_prefers_long_and_late_places() {
        for (history, ngram, room, guess) in [
            (&[1, 2, 3, 9, 2, 3][..], 3, 2, &[9, 2][..]),
            (&[1, 2, 5, 3, 2, 6, 1, 2], 2, 8, &[5, 3, 2, 6, 1, 2]),
            (&[1, 2, 5, 3, 2, 6, 1, 2], 1, 1, &[6]),
            (&[7, 7, 7, 7], 3, 4, &[7]),
            (&[1, 2, 3], 3, 4, &[]),
            (&[1], 3, 4, &[]),
            (&[], 3, 4, &[]),
        ] {
            let mut out = Vec::new();
            look_up(history, ngram, room, &mut out);
            assert_eq!(out, guess, "{history:?}");
        }
    }
}
