//! Bits per byte on texts that were held out.
//!
//! The key decision, the convention of all figures here: every document is scored by itself. A row begins with
//! the start token (BOS) and then has the document's tokens; a document that is longer than the window
//! is read in several rows, each of them begins with the start token too, and a later one repeats `window
//! − 1 − stride` tokens that are only context. So every token of the text is predicted exactly once, the
//! first one from the start token alone; the start token itself and an end token are never
//! scored. Bits are divided by the UTF-8 bytes of what was scored.
//!
//! (`yushan score` has the windows of llama-perplexity instead, which score the second half of each; its
//! figures are lower, since every prediction has context.)

use super::likelihood::{Likelihood, ask};
use super::{BitsPerByte, Interval};
use crate::{Error, Result};

/// The seed of the bootstrap.
const SEED: u64 = 20;

/// A text that was held out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Its token ids; a start token before and an end token after may be there or not.
    pub tokens: Vec<u32>,
    /// UTF-8 bytes of the text.
    pub bytes: u64,
}

/// How texts are read.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    /// The token that every row begins with: BOS, or the separator of documents.
    pub start: u32,
    /// The token that ends a document, if documents carry one.
    pub end: Option<u32>,
    /// Tokens of a row, the start token among them; at most the model's context.
    pub window: usize,
    /// Tokens that a later row scores; 1 to `window − 1`. Less is slower, and gives more context.
    pub stride: usize,
    /// Rows that are handed over together.
    pub batch: usize,
    /// Ends about after so many tokens, for looks during a run.
    pub limit: Option<u64>,
    /// Bytes of each token id. With them a document can be cut at the limit; without, the limit holds
    /// from one document to the next.
    pub token_bytes: Option<&'a [u32]>,
}

impl Windows<'_> {
    /// Rows of `window` that overlap by half.
    pub fn new(start: u32, window: usize) -> Self {
        let stride = (window / 2).max(1);
        Windows { start, end: None, window, stride, batch: 8, limit: None, token_bytes: None }
    }

    fn check(&self) -> Result<()> {
        if self.window < 2 || self.stride == 0 || self.stride >= self.window {
            let detail = format!(
                "a window of {} with a stride of {}; expected a window of at least 2 and a stride below it",
                self.window, self.stride
            );
            return Err(Error::bad("evaluation", detail));
        }
        Ok(())
    }

    /// The text's own tokens.
    fn body<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        let tokens = tokens.strip_prefix(&[self.start]).unwrap_or(tokens);
        match (tokens.split_last(), self.end) {
            (Some((last, rest)), Some(end)) if *last == end => rest,
            _ => tokens,
        }
    }
}

/// The rows of `body`, each with the number of its tokens that are only context, the start token not
/// among them.
fn rows<'t>(
    body: &'t [u32],
    windows: &Windows<'_>,
) -> impl Iterator<Item = (Vec<u32>, usize)> + 't {
    let (start, room, stride) = (windows.start, windows.window - 1, windows.stride);
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == body.len() {
            return None;
        }
        let (from, end) = match done {
            0 => (0, room.min(body.len())),
            _ => {
                let end = (done + stride).min(body.len());
                (end.saturating_sub(room), end)
            }
        };
        let context = done - from;
        done = end;
        Some((std::iter::once(start).chain(body[from..end].iter().copied()).collect(), context))
    })
}

/// Scores documents. An empty one counts for nothing; a hold-out of nothing has no figure.
pub fn bits_per_byte(
    model: &mut dyn Likelihood,
    documents: &mut dyn Iterator<Item = Result<Document>>,
    windows: &Windows<'_>,
) -> Result<BitsPerByte> {
    windows.check()?;
    let mut sums = Sums::default();
    for document in documents {
        let document = document?;
        let mut body = windows.body(&document.tokens);
        let left = windows.limit.map_or(u64::MAX, |limit| limit.saturating_sub(sums.given));
        if left == 0 {
            break;
        }
        if windows.token_bytes.is_some() {
            body = &body[..body.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        }
        if body.is_empty() {
            continue;
        }
        sums.given += body.len() as u64;
        let bytes = match windows.token_bytes {
            None => document.bytes,
            Some(table) => {
                body.iter().map(|&id| table.get(id as usize).map_or(0, |&n| u64::from(n))).sum()
            }
        };
        sums.documents.push((0.0, bytes as f64));
        for (row, context) in rows(body, windows) {
            sums.waiting.push((row, context, sums.documents.len() - 1));
            if sums.waiting.len() >= windows.batch.max(1) {
                sums.score(model)?;
            }
        }
    }
    sums.score(model)?;
    Ok(sums.figures())
}

#[derive(Default)]
struct Sums {
    /// Tokens, context, document.
    waiting: Vec<(Vec<u32>, usize, usize)>,
    /// Nats and bytes of each document.
    documents: Vec<(f64, f64)>,
    given: u64,
    scored: u64,
}

impl Sums {
    fn score(&mut self, model: &mut dyn Likelihood) -> Result<()> {
        let mut places = Vec::with_capacity(self.waiting.len());
        let rows: Vec<_> = self
            .waiting
            .drain(..)
            .map(|(row, context, document)| {
                places.push((context, document));
                row
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        for (answer, (context, document)) in ask(model, &rows)?.iter().zip(places) {
            let scored = &answer[context..];
            self.scored += scored.len() as u64;
            self.documents[document].0 -= scored.iter().map(|&value| f64::from(value)).sum::<f64>();
        }
        Ok(())
    }

    fn figures(self) -> BitsPerByte {
        let nats: f64 = self.documents.iter().map(|document| document.0).sum();
        let bytes: f64 = self.documents.iter().map(|document| document.1).sum();
        let bits: Vec<_> =
            self.documents.iter().map(|(n, b)| (n / std::f64::consts::LN_2, *b)).collect();
        BitsPerByte {
            bpb: (bytes > 0.0).then(|| nats / std::f64::consts::LN_2 / bytes),
            loss: (self.scored > 0).then(|| nats / self.scored as f64),
            tokens: self.scored,
            bytes: bytes as u64,
            documents: self.documents.len() as u64,
            interval: Interval::of_ratio(&bits, SEED),
        }
    }
}
