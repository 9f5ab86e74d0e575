//! A scripted [`Executor`]: logits come from a function of the sequence's tokens.
//!
//! It is the fake that schedulers, samplers and generation loops are tested with: no parameters, no
//! arithmetic, but the same contract, errors included. An embedding is the mean of the rows of logits.

use std::collections::BTreeMap;

use crate::executor::{
    Admitted, Chunk, Executor, ExecutorError, Logits, SequenceId, StepOutput, TokenId, Usage,
};

/// Answers with `script(tokens so far)`: the `(vocabulary)` logits after the last of them.
pub struct Scripted<F> {
    script: F,
    vocabulary: usize,
    context: usize,
    sequences: BTreeMap<SequenceId, Vec<TokenId>>,
    /// Of sequences that were pooled: sums of rows, and how many.
    pools: BTreeMap<SequenceId, (Vec<f32>, usize)>,
    next: u64,
    logits: Vec<f32>,
}

impl<F: FnMut(&[TokenId], &mut [f32]) + Send> Scripted<F> {
    /// A fake of the given sizes; `script` fills a row of logits that starts as zeros.
    pub fn new(vocabulary: usize, context: usize, script: F) -> Self {
        Self {
            script,
            vocabulary,
            context,
            sequences: BTreeMap::new(),
            pools: BTreeMap::new(),
            next: 0,
            logits: Vec::new(),
        }
    }

    fn open(&mut self, tokens: Vec<TokenId>) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.insert(id, tokens);
        id
    }

    fn tokens(&self, id: SequenceId) -> Result<&Vec<TokenId>, ExecutorError> {
        self.sequences.get(&id).ok_or(ExecutorError::UnknownSequence(id))
    }
}

impl<F: FnMut(&[TokenId], &mut [f32]) + Send> Executor for Scripted<F> {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn context(&self) -> usize {
        self.context
    }

    fn max_rows(&self) -> usize {
        self.context
    }

    fn admit(&mut self, prompt: &[TokenId]) -> Result<Admitted, ExecutorError> {
        if prompt.len() > self.context {
            return Err(ExecutorError::ContextFull { asked: prompt.len(), limit: self.context });
        }
        Ok(Admitted { sequence: self.open(Vec::new()), cached: 0 })
    }

    fn fork(&mut self, parent: SequenceId) -> Result<SequenceId, ExecutorError> {
        let tokens = self.tokens(parent)?.clone();
        Ok(self.open(tokens))
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<StepOutput<'_>, ExecutorError> {
        for (at, chunk) in batch.iter().enumerate() {
            let asked = self.tokens(chunk.sequence)?.len() + chunk.tokens.len();
            if asked > self.context {
                return Err(ExecutorError::ContextFull { asked, limit: self.context });
            }
            if chunk.tokens.is_empty() {
                return Err(ExecutorError::BadChunk(format!("chunk {at} has no tokens")));
            }
            if batch[..at].iter().any(|other| other.sequence == chunk.sequence) {
                return Err(ExecutorError::BadChunk(format!(
                    "{:?} stands twice in one step",
                    chunk.sequence
                )));
            }
            if let Some(token) = chunk.tokens.iter().find(|&&t| t as usize >= self.vocabulary) {
                return Err(ExecutorError::BadChunk(format!(
                    "token {token} is outside the vocabulary of {}",
                    self.vocabulary
                )));
            }
        }
        self.logits.clear();
        for chunk in batch {
            let Some(tokens) = self.sequences.get_mut(&chunk.sequence) else { continue };
            for (at, &token) in chunk.tokens.iter().enumerate() {
                tokens.push(token);
                let wanted = match chunk.logits {
                    Logits::None => false,
                    Logits::Last => at + 1 == chunk.tokens.len(),
                    Logits::All | Logits::Pooled => true,
                };
                if wanted {
                    let start = self.logits.len();
                    self.logits.resize(start + self.vocabulary, 0.0);
                    (self.script)(tokens, &mut self.logits[start..]);
                    if chunk.logits == Logits::Pooled {
                        let empty = || (vec![0.0; self.vocabulary], 0);
                        let (sums, rows) = self.pools.entry(chunk.sequence).or_insert_with(empty);
                        sums.iter_mut().zip(self.logits.drain(start..)).for_each(|(s, v)| *s += v);
                        *rows += 1;
                    }
                }
            }
        }
        Ok(StepOutput::new(&self.logits, self.vocabulary))
    }

    fn pooled(&self, sequence: SequenceId) -> Result<Vec<f32>, ExecutorError> {
        let length = self.tokens(sequence)?.len();
        match self.pools.get(&sequence) {
            Some((sums, rows)) if *rows == length => {
                Ok(sums.iter().map(|sum| sum / length as f32).collect())
            }
            pool => {
                let pooled = pool.map_or(0, |(_, rows)| *rows);
                Err(ExecutorError::NotPooled { sequence, pooled, length })
            }
        }
    }

    fn truncate(&mut self, sequence: SequenceId, length: usize) -> Result<(), ExecutorError> {
        if length < self.tokens(sequence)?.len() {
            self.pools.remove(&sequence);
        }
        if let Some(tokens) = self.sequences.get_mut(&sequence) {
            tokens.truncate(length);
        }
        Ok(())
    }

    fn length(&self, sequence: SequenceId) -> Result<usize, ExecutorError> {
        Ok(self.tokens(sequence)?.len())
    }

    fn release(&mut self, sequence: SequenceId) -> Result<(), ExecutorError> {
        self.tokens(sequence)?;
        self.sequences.remove(&sequence);
        self.pools.remove(&sequence);
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage { sequences: self.sequences.len(), ..Usage::default() }
    }
}
