//! The one thing that is asked of a model: how likely is each token of a row.
//!
//! The key decision: rows of token ids in, natural logarithms out, nothing about text; what a token stands
//! for is the caller's. A log-probability is never below [`NEVER`], since JSON, over which a server tells
//! them, has no infinity.

use yushan_abi::{Chunk, Executor, ExecutorError, Logits, SequenceId};
use yushan_model::logprobs::LogprobReader;

use crate::{Error, Result};

/// The logarithm of a probability of 0, as `/v1/completions` writes it.
pub const NEVER: f32 = -9999.0;
/// Floats of logits that one step may give: 16 MiB.
const LOGITS: usize = 4 << 20;

/// A model that tells probabilities: the trainer's decoder, the engine, a server.
pub trait Likelihood {
    /// For each row `t` of n ids, n − 1 values: at `i`, ln p(t\[i + 1\] | t\[0\], …, t\[i\]). The values of a
    /// row depend on that row alone.
    fn logprobs(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>>;
}

/// Asks, and holds the answer against the contract.
pub(crate) fn ask(model: &mut dyn Likelihood, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
    let answers = model.logprobs(rows)?;
    let fits = |(row, answer): (&Vec<u32>, &Vec<f32>)| row.len().saturating_sub(1) == answer.len();
    match answers.len() == rows.len() && rows.iter().zip(&answers).all(fits) {
        true => Ok(answers),
        false => {
            let detail = "expected one log-probability for each token of a row but its first";
            Err(Error::bad("the model's answer", detail))
        }
    }
}

/// The engine, or whatever else is an [`Executor`].
pub struct Engine<'a> {
    executor: &'a mut dyn Executor,
    reader: LogprobReader,
}

impl<'a> Engine<'a> {
    /// Over an executor; every sequence that is opened is closed again.
    pub fn new(executor: &'a mut dyn Executor) -> Engine<'a> {
        Engine { executor, reader: LogprobReader::default() }
    }

    /// Rows that begin alike (the choices of a question) are run once as far as they do: a logit depends
    /// only on what stands before it, so this changes no bit.
    fn rows(&mut self, rows: &[Vec<u32>], open: &mut Option<SequenceId>) -> Answers {
        let mut answers: Vec<Vec<f32>> = Vec::with_capacity(rows.len());
        let mut last: &[u32] = &[];
        for row in rows {
            if row.len() < 2 {
                answers.push(Vec::new());
                continue;
            }
            let alike = row.iter().zip(last).take_while(|(a, b)| a == b).count();
            // The token before the first that differs has to predict another one.
            let known = alike.saturating_sub(1);
            let sequence = self.at(open, row, known)?;
            let before = answers.iter().rev().find(|answer| !answer.is_empty());
            let mut answer = before.map_or(Vec::new(), |answer| answer[..known].to_vec());
            self.run(sequence, row, &mut answer)?;
            answers.push(answer);
            last = row;
        }
        Ok(answers)
    }

    /// A sequence that holds the first `known` tokens of `row`.
    fn at(
        &mut self,
        open: &mut Option<SequenceId>,
        row: &[u32],
        known: usize,
    ) -> std::result::Result<SequenceId, ExecutorError> {
        let (sequence, held) = match *open {
            Some(sequence) => (sequence, usize::MAX),
            None => {
                let admitted = self.executor.admit("", &row[..row.len() - 1])?;
                (*open.insert(admitted.sequence), admitted.cached)
            }
        };
        if held > known {
            // What came from the cache has no logits.
            self.executor.truncate(sequence, known)?;
        }
        Ok(sequence)
    }

    /// Runs what `answer` does not know yet.
    fn run(
        &mut self,
        sequence: SequenceId,
        row: &[u32],
        answer: &mut Vec<f32>,
    ) -> std::result::Result<(), ExecutorError> {
        let most = (LOGITS / self.executor.vocabulary().max(1)).clamp(1, 1024);
        let most = most.min(self.executor.max_rows().max(1));
        // The last token is only predicted.
        while answer.len() + 1 < row.len() {
            let at = answer.len();
            let end = (at + most).min(row.len() - 1);
            let chunk = Chunk { sequence, tokens: &row[at..end], logits: Logits::All };
            let output = self.executor.step(&[chunk])?;
            for index in at..end {
                let read = self.reader.read(output.row(index - at), row[index + 1], 0);
                answer.push(read.chosen.max(NEVER));
            }
        }
        Ok(())
    }
}

type Answers = std::result::Result<Vec<Vec<f32>>, ExecutorError>;

impl Likelihood for Engine<'_> {
    fn logprobs(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let mut open = None;
        let answers = self.rows(rows, &mut open);
        let released = open.map_or(Ok(()), |sequence| self.executor.release(sequence));
        let answers = answers.map_err(yushan_model::Error::from)?;
        released.map_err(yushan_model::Error::from)?;
        Ok(answers)
    }
}

/// The trainer's decoder, or whatever else gives losses of a batch: `losses` gets tokens and targets, `(batch,
/// T)` each, and appends a loss for every position to the vector that it is given, empty.
pub struct Losses<F> {
    /// Tokens of a row at most, the last one not counted.
    pub context: usize,
    /// Ids are below this.
    pub vocabulary: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// The computation.
    pub losses: F,
}

/// A target that does not count.
const IGNORE: u32 = u32::MAX;
/// Lengths of a batch are multiples of this, so that its buffers are seldom made anew.
const LENGTH: usize = 32;

impl<F: FnMut(&[u32], &[u32], usize, &mut Vec<f32>)> Likelihood for Losses<F> {
    fn logprobs(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let mut answers = vec![Vec::new(); rows.len()];
        let mut order: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].len() > 1).collect();
        // Rows of like length together: padding is work for nothing.
        order.sort_by_key(|&at| rows[at].len());
        let (mut tokens, mut targets, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for group in order.chunks(self.batch.max(1)) {
            let longest = group.iter().map(|&at| rows[at].len() - 1).max().unwrap_or(0);
            if longest > self.context {
                let detail =
                    format!("{} tokens; expected at most {}", longest + 1, self.context + 1);
                return Err(Error::bad("a row", detail));
            }
            let length = longest.next_multiple_of(LENGTH).min(self.context);
            tokens.clear();
            targets.clear();
            losses.clear();
            for &at in group {
                let row = &rows[at];
                if let Some(id) = row.iter().find(|&&id| id as usize >= self.vocabulary) {
                    let detail = format!("token {id} of a vocabulary of {}", self.vocabulary);
                    return Err(Error::bad("a row", detail));
                }
                let end = tokens.len() + length;
                tokens.extend_from_slice(&row[..row.len() - 1]);
                tokens.resize(end, 0);
                targets.extend_from_slice(&row[1..]);
                targets.resize(end, IGNORE);
            }
            (self.losses)(&tokens, &targets, group.len(), &mut losses);
            if losses.len() != tokens.len() {
                let detail = format!("{} losses for {} positions", losses.len(), tokens.len());
                return Err(Error::bad("the model's answer", detail));
            }
            for (&at, losses) in group.iter().zip(losses.chunks(length)) {
                let losses = &losses[..rows[at].len() - 1];
                // `max` would make a number of what is none.
                let logprob = |&loss: &f32| if -loss < NEVER { NEVER } else { -loss };
                answers[at] = losses.iter().map(logprob).collect();
            }
        }
        Ok(answers)
    }
}
