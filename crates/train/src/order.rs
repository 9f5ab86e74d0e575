//! From documents to packed rows of `context + 1` ids, in an order that can be taken up again anywhere.
//!
//! A document is cut into passages of `context` tokens, the last one shorter; BOS stands before each. A seeded
//! permutation of all passages is an epoch, so that a batch mixes documents, be they books or lines. A row begins
//! with the oldest of the next [`WAITING`] passages and is filled by best fit from the others; where none fits, the
//! shortest is cut and, unless [`Cut::Crop`] is asked for, its rest is a passage of its own: nothing is lost, nothing padded.
//! The inputs of a row are its first `context` ids, the targets its last; the BOS of the next passage is a target
//! like any other: the end of a text.
//!
//! The key decision: what is where is decided from lengths alone, by every rank for all rows, and only a rank's own
//! rows are read. So row `r` of a step is the same for any number of ranks, skipping costs no reading, and all that a
//! checkpoint has to keep is [`Cursor`]: the place in the permutation and the few passages that wait. The
//! permutation is a Feistel network, computed and not stored; memory is one number for [`STRIDE`] documents.
//!
//! It does not mix sources by weight and does not know what a token means.
//!
//! Sources: passages of a row's length, then best fit, Ding et al. 2024, "Fewer Truncations Improve Language
//! Modeling" (2404.10830); permutations by cycle walking, Black and Rogaway 2002, "Ciphers with Arbitrary Finite
//! Domains".

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Passages that wait for a row at a time.
pub const WAITING: usize = 256;

/// Documents between two entries of the table that finds a passage's document.
const STRIDE: usize = 64;

/// No counter of a cursor passes this (2^53 tokens are more than anybody has).
const LIMIT: u64 = 1 << 53;

/// Texts as token ids, each of known length.
pub trait Documents {
    /// How many there are.
    fn count(&self) -> usize;

    /// Tokens of one of them.
    fn length(&self, document: usize) -> usize;

    /// Appends the tokens of one of them.
    ///
    /// # Errors
    /// If it cannot be read.
    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()>;

    /// Appends a part of one of them. Worth writing where documents are much longer than a row.
    ///
    /// # Errors
    /// As [`Documents::tokens_of`].
    fn part_of(&self, document: usize, part: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        let mut whole = Vec::new();
        self.tokens_of(document, &mut whole)?;
        out.extend_from_slice(whole.get(part).unwrap_or_default());
        Ok(())
    }
}

impl<D: Documents + ?Sized> Documents for &D {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn length(&self, document: usize) -> usize {
        (**self).length(document)
    }

    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()> {
        (**self).tokens_of(document, out)
    }

    fn part_of(&self, document: usize, part: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        (**self).part_of(document, part, out)
    }
}

impl<D: Documents + ?Sized> Documents for Arc<D> {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn length(&self, document: usize) -> usize {
        (**self).length(document)
    }

    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()> {
        (**self).tokens_of(document, out)
    }

    fn part_of(&self, document: usize, part: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        (**self).part_of(document, part, out)
    }
}

/// What becomes of the rest of a passage that was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// It becomes a passage of its own, with BOS before it: its tokens lose the context before them.
    #[default]
    Carry,
    /// It is left out.
    Crop,
}

/// What decides the order; a cursor fits only what it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Inputs of a row; a row holds one id more.
    pub context: usize,
    /// Another seed, another order.
    pub seed: u64,
    /// The id put before every document, or `None` if each begins with its own.
    pub bos: Option<u32>,
    /// What becomes of the rest of a passage that was cut.
    pub cut: Cut,
}

/// What became of the passages so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Passages that are done, in all epochs.
    pub passages: u64,
    /// Times a passage was cut to fill a row.
    pub cuts: u64,
    /// Tokens of documents that were handed out, without BOS.
    pub used: u64,
    /// Tokens that were cut off: left out, or handed out without the context before them.
    pub cut_off: u64,
}

impl Counts {
    /// The share of tokens that was cut off, 0 to 1.
    pub fn cut_share(&self, cut: Cut) -> f64 {
        let left_out = if cut == Cut::Crop { self.cut_off } else { 0 };
        self.cut_off as f64 / (self.used + left_out).max(1) as f64
    }
}

/// Where an order stands: with the documents, all that is needed to go on. A few kilobytes of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// What the order was made with.
    pub options: Options,
    /// Passages of all documents: those of an epoch.
    pub passages: u64,
    /// Rows handed out.
    pub rows: u64,
    /// Epochs that are done; the rows of one all come before those of the next.
    pub epoch: u64,
    /// Passages drawn from the permutation of this epoch.
    pub drawn: u64,
    /// Passages that wait, oldest first: document, and the token it begins with (BOS not counted).
    pub waiting: Vec<(u64, u64)>,
    /// What became of the passages so far.
    pub counts: Counts,
}

/// The rows of one rank for one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of the first of them since the start of the run.
    pub first: u64,
    /// How many they are.
    pub rows: usize,
    /// `(rows, context + 1)` ids.
    pub ids: Vec<u32>,
}

impl Batch {
    /// Inputs and targets, `(rows, context)` each, of some of the rows: a micro-batch.
    pub fn pairs(&self, rows: Range<usize>, inputs: &mut Vec<u32>, targets: &mut Vec<u32>) {
        inputs.clear();
        targets.clear();
        let width = self.ids.len() / self.rows.max(1);
        for row in self.ids.chunks_exact(width.max(1)).take(rows.end).skip(rows.start) {
            inputs.extend_from_slice(&row[..width - 1]);
            targets.extend_from_slice(&row[1..]);
        }
    }
}

/// The rows `rank` of `ranks` reads of a global batch: contiguous, and no two ranks differ by more than one.
pub fn slice(global_batch: usize, rank: usize, ranks: usize) -> Range<usize> {
    let start = |rank: usize| (global_batch as u128 * rank as u128 / ranks.max(1) as u128) as usize;
    start(rank)..start(rank + 1)
}

/// BOS and a part of a document, in a row.
#[derive(Clone, Copy)]
struct Piece {
    document: usize,
    /// Its first token, BOS not counted.
    from: usize,
    /// Ids in the row, BOS included.
    take: usize,
}

/// Packed rows of documents, in order.
pub struct Order<D> {
    documents: D,
    /// Passages before every [`STRIDE`]th document.
    starts: Vec<u64>,
    cursor: Cursor,
    /// Ids that each waiting passage would take, BOS included.
    lengths: Vec<usize>,
}

impl<D: Documents> Order<D> {
    /// The order from its start. Asks every document for its length, once.
    ///
    /// # Errors
    /// [`Error::Bad`] for a context of 0 and for documents without a single token.
    pub fn new(documents: D, options: Options) -> Result<Order<D>> {
        if options.context == 0 || options.context >= u32::MAX as usize {
            let detail = format!("{}, expected 1 to 2^32 - 2 tokens", options.context);
            return Err(Error::bad("context", detail));
        }
        let cursor = Cursor {
            options,
            passages: 0,
            rows: 0,
            epoch: 0,
            drawn: 0,
            waiting: Vec::new(),
            counts: Counts::default(),
        };
        let mut order = Order { documents, starts: Vec::new(), cursor, lengths: Vec::new() };
        let count = order.documents.count();
        for document in 0..count {
            if document % STRIDE == 0 {
                order.starts.push(order.cursor.passages);
            }
            order.cursor.passages += order.passages_of(document);
        }
        if order.cursor.passages == 0 {
            let detail = format!("none of {count} documents holds a token; build the corpus again");
            return Err(Error::bad("training documents", detail));
        }
        Ok(order)
    }

    /// Goes on where `cursor` was taken.
    ///
    /// # Errors
    /// [`Error::Bad`] when the cursor was not taken with these options over documents like these.
    pub fn resume(documents: D, options: Options, cursor: Cursor) -> Result<Order<D>> {
        let mut order = Order::new(documents, options)?;
        let bad = |detail: String| Err(Error::bad("saved place in the data", detail));
        if cursor.options != options {
            let detail = format!(
                "taken with {:?}, but the recipe says {options:?}; go on with the recipe of the checkpoint, or \
                 start a new run",
                cursor.options
            );
            return bad(detail);
        }
        if cursor.passages != order.cursor.passages {
            let detail = format!(
                "taken over {} passages, but there are {}; go on with the same corpus, or start a new run",
                cursor.passages, order.cursor.passages
            );
            return bad(detail);
        }
        let Counts { passages, cuts, used, cut_off } = cursor.counts;
        let counters = [cursor.rows, cursor.epoch, passages, cuts, used, cut_off];
        if counters.into_iter().any(|count| count > LIMIT)
            || cursor.drawn > cursor.passages
            || cursor.waiting.len() > WAITING
        {
            return bad(format!(
                "its numbers cannot be right: {counters:?}, {} drawn",
                cursor.drawn
            ));
        }
        for &(document, from) in &cursor.waiting {
            let known = usize::try_from(document).is_ok_and(|at| at < order.documents.count());
            if !known || from >= order.tokens_in(document as usize) as u64 {
                return bad(format!("token {from} of document {document} is not in the corpus"));
            }
            order.lengths.push(order.length(document as usize, from as usize));
        }
        order.cursor = cursor;
        Ok(order)
    }

    /// Where the order stands, to be saved.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The documents.
    pub fn documents(&self) -> &D {
        &self.documents
    }

    /// Targets handed out so far, over all ranks.
    pub fn tokens(&self) -> u64 {
        self.cursor.rows.saturating_mul(self.cursor.options.context as u64)
    }

    /// The next `global_batch` rows are decided, and those of `rank` read.
    ///
    /// # Errors
    /// [`Error::Bad`] when `rank` is none of `ranks`, or a document is not as long as it is said to be.
    pub fn next(&mut self, global_batch: usize, rank: usize, ranks: usize) -> Result<Batch> {
        if rank >= ranks {
            return Err(Error::bad("rank", format!("{rank} of {ranks}")));
        }
        let mine = slice(global_batch, rank, ranks);
        let mut batch = Batch {
            first: self.cursor.rows + mine.start as u64,
            rows: mine.len(),
            ids: Vec::new(),
        };
        let mut pieces = Vec::new();
        for row in 0..global_batch {
            self.plan(&mut pieces);
            if mine.contains(&row) {
                self.read(&pieces, &mut batch.ids)?;
            }
        }
        Ok(batch)
    }

    /// Passes over rows without reading them (data that a loss spike came from).
    pub fn skip(&mut self, rows: u64) {
        let mut pieces = Vec::new();
        for _ in 0..rows {
            self.plan(&mut pieces);
        }
    }

    /// Goes to a row, forth or back: by lengths alone, but back means from the start.
    pub fn seek(&mut self, row: u64) {
        if row < self.cursor.rows {
            self.lengths.clear();
            self.cursor.waiting.clear();
            self.cursor.counts = Counts::default();
            (self.cursor.rows, self.cursor.epoch, self.cursor.drawn) = (0, 0, 0);
        }
        self.skip(row - self.cursor.rows);
    }

    /// The rows of `rank` for step `step` of a run whose every step takes `global_batch` rows.
    ///
    /// # Errors
    /// As [`Order::next`].
    pub fn rows(
        &mut self,
        step: u64,
        global_batch: usize,
        rank: usize,
        ranks: usize,
    ) -> Result<Batch> {
        self.seek(step.saturating_mul(global_batch as u64));
        self.next(global_batch, rank, ranks)
    }

    /// Decides the next row.
    fn plan(&mut self, pieces: &mut Vec<Piece>) {
        pieces.clear();
        self.draw();
        let mut room = self.cursor.options.context + 1;
        // The oldest: none waits for long, whatever its length.
        let mut at = Some(0);
        while room > 0 {
            let piece = match at {
                Some(at) => self.take(at, room),
                // Not even BOS and one token: BOS alone, the text before it ends here.
                None => Piece { document: self.cursor.waiting[0].0 as usize, from: 0, take: 1 },
            };
            room -= piece.take;
            pieces.push(piece);
            self.draw();
            at = self.choose(room);
        }
        self.cursor.rows += 1;
    }

    /// Fills the waiting passages. The next epoch begins when none is left.
    fn draw(&mut self) {
        loop {
            while self.lengths.len() < WAITING && self.cursor.drawn < self.cursor.passages {
                let cursor = &mut self.cursor;
                let key = mix(cursor.options.seed ^ mix(cursor.epoch));
                let passage = permuted(cursor.drawn, cursor.passages, key);
                cursor.drawn += 1;
                let (document, from) = self.find(passage);
                self.cursor.waiting.push((document as u64, from as u64));
                self.lengths.push(self.length(document, from));
            }
            if !self.lengths.is_empty() {
                return;
            }
            self.cursor.epoch += 1;
            self.cursor.drawn = 0;
        }
    }

    /// The waiting passage that fits `room` best (of equal ones the oldest), or else the shortest, to be cut: so the
    /// rest is short. (Cutting the longest leaves a long rest, which ends in another cut, once a row.)
    fn choose(&self, room: usize) -> Option<usize> {
        let (mut best, mut best_length) = (None, 0);
        for (at, &length) in self.lengths.iter().enumerate() {
            if length <= room && length > best_length {
                (best, best_length) = (Some(at), length);
            }
        }
        if best.is_some() || room < 2 {
            return best;
        }
        let lengths = self.lengths.iter().enumerate();
        lengths.min_by_key(|&(_, &length)| length).map(|(at, _)| at)
    }

    /// Takes at most `room` ids, at least two, of a waiting passage.
    fn take(&mut self, at: usize, room: usize) -> Piece {
        let (document, from) = self.cursor.waiting[at];
        let (document, from) = (document as usize, from as usize);
        let length = self.lengths[at];
        let take = length.min(room);
        let counts = &mut self.cursor.counts;
        counts.used += take as u64 - 1;
        counts.cuts += u64::from(take < length);
        counts.cut_off += (length - take) as u64;
        if take < length && self.cursor.options.cut == Cut::Carry {
            self.cursor.waiting[at].1 += take as u64 - 1;
            self.lengths[at] -= take - 1;
        } else {
            counts.passages += 1;
            self.cursor.waiting.remove(at);
            self.lengths.remove(at);
        }
        Piece { document, from, take }
    }

    /// Tokens of a document, BOS not counted.
    fn tokens_in(&self, document: usize) -> usize {
        self.documents.length(document).saturating_sub(self.own_bos())
    }

    /// Whether documents begin with a BOS of their own: 1 or 0.
    fn own_bos(&self) -> usize {
        usize::from(self.cursor.options.bos.is_none())
    }

    /// Passages of a document.
    fn passages_of(&self, document: usize) -> u64 {
        self.tokens_in(document).div_ceil(self.cursor.options.context) as u64
    }

    /// Document and first token of a passage.
    fn find(&self, passage: u64) -> (usize, usize) {
        let stretch = self.starts.partition_point(|&start| start <= passage) - 1;
        let mut left = passage - self.starts[stretch];
        let mut document = stretch * STRIDE;
        loop {
            let passages = self.passages_of(document);
            if left < passages {
                return (document, left as usize * self.cursor.options.context);
            }
            left -= passages;
            document += 1;
        }
    }

    /// Ids that the passage which begins here takes, BOS included.
    fn length(&self, document: usize, from: usize) -> usize {
        let context = self.cursor.options.context;
        1 + (self.tokens_in(document) - from).min(context - from % context)
    }

    /// Appends the ids of a row.
    fn read(&self, pieces: &[Piece], out: &mut Vec<u32>) -> Result<()> {
        for &Piece { document, from, take } in pieces {
            let end = out.len() + take;
            match self.cursor.options.bos {
                Some(bos) => out.push(bos),
                None => self.documents.part_of(document, 0..1, out)?,
            }
            if take > 1 {
                let from = from + self.own_bos();
                self.documents.part_of(document, from..from + take - 1, out)?;
            }
            if out.len() != end {
                let detail = format!(
                    "tokens {from}.. are not as many as the length {} says; the corpus is damaged, build it \
                     again",
                    self.documents.length(document)
                );
                return Err(Error::bad(format!("document {document}"), detail));
            }
        }
        Ok(())
    }
}

/// The image of `index` under a permutation of `0..count`: a Feistel network of eight rounds over the next power of
/// four, walked until it falls below `count` (fewer than four steps on average).
fn permuted(index: u64, count: u64, key: u64) -> u64 {
    let half = (u64::BITS - count.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let mut image = index;
    loop {
        let (mut left, mut right) = (image >> half, image & mask);
        for round in 0..8 {
            (left, right) = (right, left ^ (mix(key ^ mix(right ^ (round << 32))) & mask));
        }
        image = (left << half) | right;
        if image < count {
            return image;
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
