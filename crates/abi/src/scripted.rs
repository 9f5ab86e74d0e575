//! A scripted [`Executor`]: logits come from a function of the sequence's tokens.
//!
//! It is the fake that schedulers, samplers and generation loops are tested with: no parameters, no
//! arithmetic, but the same contract, errors included: if the script panics, the step's tokens stand there
//! and were not run, and what would keep them panics. An embedding is the mean of the rows of logits.
//! With [`Scripted::room`] its memory is bounded, a
//! token to a page; there is no cache of prefixes.

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
    /// Of sequences in a step that has not ended: the tokens that were run before it.
    begun: BTreeMap<SequenceId, usize>,
    next: u64,
    /// Tokens that all sequences may hold together.
    room: usize,
    logits: Vec<f32>,
}

/// Before the tokens of a saved sequence.
const SAVED: &[u8; 8] = b"scripted";

impl<F: FnMut(&[TokenId], &mut [f32]) + Send> Scripted<F> {
    /// A fake of the given sizes; `script` fills a row of logits that starts as zeros.
    pub fn new(vocabulary: usize, context: usize, script: F) -> Self {
        Self {
            script,
            vocabulary,
            context,
            sequences: BTreeMap::new(),
            pools: BTreeMap::new(),
            begun: BTreeMap::new(),
            next: 0,
            room: usize::MAX,
            logits: Vec::new(),
        }
    }

    /// Bounds the tokens that all sequences may hold together.
    #[must_use]
    pub fn room(self, tokens: usize) -> Self {
        Self { room: tokens, ..self }
    }

    fn held(&self) -> usize {
        self.sequences.values().map(Vec::len).sum()
    }

    fn check_room(&self, asked: usize) -> Result<(), ExecutorError> {
        let available = self.room.saturating_sub(self.held());
        match asked <= available {
            true => Ok(()),
            false => Err(ExecutorError::OutOfPages { asked, available, total: self.room }),
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

    /// As [`Scripted::tokens`], for what needs their keys and values.
    fn ran(&self, id: SequenceId) -> Result<&Vec<TokenId>, ExecutorError> {
        assert!(
            !self.begun.contains_key(&id),
            "{id:?} has tokens that were never run: truncate it"
        );
        self.tokens(id)
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

    fn admit(&mut self, _tenant: &str, prompt: &[TokenId]) -> Result<Admitted, ExecutorError> {
        if prompt.len() > self.context {
            return Err(ExecutorError::ContextFull { asked: prompt.len(), limit: self.context });
        }
        Ok(Admitted { sequence: self.open(Vec::new()), cached: 0 })
    }

    fn fork(&mut self, parent: SequenceId) -> Result<SequenceId, ExecutorError> {
        let tokens = self.ran(parent)?.clone();
        Ok(self.open(tokens))
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<StepOutput<'_>, ExecutorError> {
        for (at, chunk) in batch.iter().enumerate() {
            let asked = self.ran(chunk.sequence)?.len() + chunk.tokens.len();
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
        self.check_room(batch.iter().map(|chunk| chunk.tokens.len()).sum())?;
        for chunk in batch {
            let Some(tokens) = self.sequences.get_mut(&chunk.sequence) else { continue };
            self.begun.insert(chunk.sequence, tokens.len());
            tokens.extend_from_slice(chunk.tokens);
        }
        self.logits.clear();
        let mut states = Vec::new();
        for chunk in batch {
            let Some(tokens) = self.sequences.get(&chunk.sequence) else { continue };
            let first = match chunk.logits {
                Logits::None => tokens.len(),
                Logits::Last => tokens.len() - 1,
                Logits::All | Logits::Pooled => tokens.len() - chunk.tokens.len(),
            };
            for at in first..tokens.len() {
                let start = self.logits.len();
                self.logits.resize(start + self.vocabulary, 0.0);
                (self.script)(&tokens[..=at], &mut self.logits[start..]);
                if chunk.logits == Logits::Pooled {
                    states.push((chunk.sequence, at, self.logits.split_off(start)));
                }
            }
        }
        for (sequence, at, row) in states {
            let empty = || (vec![0.0; self.vocabulary], 0);
            let (sums, rows) = self.pools.entry(sequence).or_insert_with(empty);
            if *rows == at {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                *rows += 1;
            }
        }
        for chunk in batch {
            self.begun.remove(&chunk.sequence);
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
        self.tokens(sequence)?;
        self.pools.retain(|id, (_, rows)| *id != sequence || *rows <= length);
        self.begun.retain(|id, run| *id != sequence || *run < length);
        if let Some(tokens) = self.sequences.get_mut(&sequence) {
            tokens.truncate(length);
        }
        Ok(())
    }

    fn length(&self, sequence: SequenceId) -> Result<usize, ExecutorError> {
        Ok(self.tokens(sequence)?.len())
    }

    fn release(&mut self, sequence: SequenceId) -> Result<(), ExecutorError> {
        self.ran(sequence)?;
        self.sequences.remove(&sequence);
        self.pools.remove(&sequence);
        Ok(())
    }

    fn save(&self, sequence: SequenceId) -> Result<Vec<u8>, ExecutorError> {
        let tokens = self.ran(sequence)?.iter().flat_map(|token| token.to_le_bytes());
        Ok(SAVED.iter().copied().chain(tokens).collect())
    }

    fn restore(&mut self, _tenant: &str, saved: &[u8]) -> Result<SequenceId, ExecutorError> {
        let bad = |what: &str| ExecutorError::BadSaved(what.into());
        let rest = saved.strip_prefix(SAVED).ok_or_else(|| bad("another beginning"))?;
        let (tokens, cut) = rest.as_chunks::<4>();
        let tokens: Vec<TokenId> =
            tokens.iter().map(|token| TokenId::from_le_bytes(*token)).collect();
        if !cut.is_empty() || tokens.iter().any(|&token| token as usize >= self.vocabulary) {
            return Err(bad("tokens that are none"));
        }
        if tokens.len() > self.context {
            return Err(ExecutorError::ContextFull { asked: tokens.len(), limit: self.context });
        }
        self.check_room(tokens.len())?;
        Ok(self.open(tokens))
    }

    fn usage(&self) -> Usage {
        Usage {
            sequences: self.sequences.len(),
            pages_live: self.held(),
            pages_total: self.room,
            page_tokens: 1,
            ..Usage::default()
        }
    }
}
