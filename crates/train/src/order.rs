//! From documents to packed rows of `context + 1` ids, in an order that can be taken up again anywhere.
//!
//! Every row begins with BOS, at the beginning of a document where one fits; the inputs are its first `context`
//! ids, the targets its last. Rows are filled by best fit from the next [`WAITING`] documents of a seeded
//! permutation of the epoch; where none fits, one is cut and, unless [`Cut::Crop`] is asked for, its rest becomes a
//! passage of its own (BOS again, then the rest), so that nothing is lost and nothing is padded. The BOS of the
//! next document is a target like any other: it is the end of a text.
//!
//! The key decision: what is where is decided from lengths alone, by every rank for all rows, and only a rank's own
//! rows are read. So row `r` of a step is the same for any number of ranks, skipping costs no reading, and all that a
//! checkpoint has to keep is [`Cursor`]: the place in the permutation and the few passages that wait. The
//! permutation is a Feistel network, computed and not stored; memory does not grow with the corpus.
//!
//! It does not mix sources by weight and does not know what a token means.
//!
//! Sources: best fit against cutting, Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (2404.10830);
//! permutations by cycle walking, Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains".

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Passages that wait for a row at a time.
pub const WAITING: usize = 256;

/// No counter of a cursor passes this (2^53 tokens are more than anybody has).
const LIMIT: u64 = 1 << 53;

/// Texts as token ids, each of known length.
pub trait Documents {
    /// How many there are.
    fn count(&self) -> usize;

    /// Tokens of one of them.
    fn length(&self, document: usize) -> usize;

    /// Appends the tokens of one of them.
    fn tokens_of(&self, document: usize, out: &mut Vec<u32>);

    /// Appends a part of one of them. Worth writing where documents are much longer than a row.
    fn part_of(&self, document: usize, part: Range<usize>, out: &mut Vec<u32>) {
        let mut whole = Vec::new();
        self.tokens_of(document, &mut whole);
        out.extend_from_slice(whole.get(part).unwrap_or_default());
    }
}

impl<D: Documents + ?Sized> Documents for &D {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn length(&self, document: usize) -> usize {
        (**self).length(document)
    }

    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) {
        (**self).tokens_of(document, out);
    }

    fn part_of(&self, document: usize, part: Range<usize>, out: &mut Vec<u32>) {
        (**self).part_of(document, part, out);
    }
}

/// What becomes of the rest of a document that was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// It becomes a passage of its own, with BOS before it. The longest waiting passage is cut, so that
    /// short ones stay whole.
    #[default]
    Carry,
    /// It is left out, and counted. The shortest waiting passage is cut, so that little is lost.
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
    /// What becomes of the rest of a document that was cut.
    pub cut: Cut,
}

/// What became of the documents so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Documents that are done, in all epochs.
    pub documents: u64,
    /// Documents without a token, passed over.
    pub empty: u64,
    /// Times a passage was cut.
    pub cuts: u64,
    /// Tokens of documents that were handed out (without a BOS that was added).
    pub used: u64,
    /// Tokens that were left out ([`Cut::Crop`]).
    pub cropped: u64,
}

impl Counts {
    /// The share of tokens that was left out, 0 to 1.
    pub fn cropped_share(&self) -> f64 {
        self.cropped as f64 / (self.used + self.cropped).max(1) as f64
    }
}

/// Where an order stands: with the documents, all that is needed to go on. A few kilobytes of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// What the order was made with.
    pub options: Options,
    /// How many documents there are.
    pub documents: u64,
    /// Rows handed out.
    pub rows: u64,
    /// Epochs that are done; the rows of one all come before those of the next.
    pub epoch: u64,
    /// Documents drawn from the permutation of this epoch.
    pub drawn: u64,
    /// Passages that wait: document, and its tokens that are handed out already.
    pub waiting: Vec<(u64, u64)>,
    /// What became of the documents so far.
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

/// A part of a document in a row.
#[derive(Clone, Copy)]
struct Piece {
    document: usize,
    /// Its first token.
    from: usize,
    /// Ids in the row, BOS included.
    take: usize,
}

/// Packed rows of documents, in order.
pub struct Order<D> {
    documents: D,
    cursor: Cursor,
    /// Ids that each waiting passage would take, BOS included.
    lengths: Vec<usize>,
}

impl<D: Documents> Order<D> {
    /// The order from its start.
    ///
    /// # Errors
    /// [`Error::Bad`] for a context of 0 and for documents without a single token.
    pub fn new(documents: D, options: Options) -> Result<Order<D>> {
        if options.context == 0 || options.context >= u32::MAX as usize {
            let detail = format!("{}, expected 1 to 2^32 - 2 tokens", options.context);
            return Err(Error::bad("context", detail));
        }
        let count = documents.count();
        let empty = |document| is_empty(&documents, &options, document);
        if (0..count).all(empty) {
            let detail = format!("none of {count} documents holds a token; build the corpus again");
            return Err(Error::bad("training documents", detail));
        }
        let cursor = Cursor {
            options,
            documents: count as u64,
            rows: 0,
            epoch: 0,
            drawn: 0,
            waiting: Vec::new(),
            counts: Counts::default(),
        };
        Ok(Order { documents, cursor, lengths: Vec::new() })
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
        if cursor.documents != order.cursor.documents {
            let detail = format!(
                "taken over {} documents, but there are {}; go on with the same corpus, or start a new run",
                cursor.documents, order.cursor.documents
            );
            return bad(detail);
        }
        let counts = cursor.counts;
        let counters = [cursor.rows, cursor.epoch, counts.documents, counts.empty, counts.cuts];
        let sums = [counts.used, counts.cropped];
        if counters.into_iter().chain(sums).any(|count| count > LIMIT)
            || cursor.drawn > cursor.documents
            || cursor.waiting.len() > WAITING
        {
            return bad(format!("its numbers cannot be right: {counters:?}, {sums:?}"));
        }
        for &(document, from) in &cursor.waiting {
            let known = document < cursor.documents;
            if !known || from >= order.documents.length(document as usize) as u64 {
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
            self.cursor = Cursor {
                rows: 0,
                epoch: 0,
                drawn: 0,
                waiting: Vec::new(),
                counts: Counts::default(),
                ..self.cursor
            };
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
        let width = self.cursor.options.context + 1;
        let mut room = width;
        while room > 0 {
            self.draw();
            let piece = self.place(room, room == width);
            room -= piece.take;
            pieces.push(piece);
        }
        self.cursor.rows += 1;
    }

    /// Fills the waiting passages. The next epoch begins when none is left.
    fn draw(&mut self) {
        loop {
            while self.lengths.len() < WAITING && self.cursor.drawn < self.cursor.documents {
                let cursor = &mut self.cursor;
                let key = mix(cursor.options.seed ^ mix(cursor.epoch));
                let document = permuted(cursor.drawn, cursor.documents, key);
                cursor.drawn += 1;
                if is_empty(&self.documents, &cursor.options, document as usize) {
                    cursor.counts.empty += 1;
                    continue;
                }
                cursor.waiting.push((document, 0));
                self.lengths.push(self.length(document as usize, 0));
            }
            if !self.lengths.is_empty() {
                return;
            }
            self.cursor.epoch += 1;
            self.cursor.drawn = 0;
        }
    }

    /// Takes what fits `room` best. In an empty row a passage that is longer than the row fits: it fills it.
    fn place(&mut self, room: usize, empty_row: bool) -> Piece {
        let fits = |length: usize| if empty_row { length.min(room) } else { length };
        // The first of the largest, so that ties are settled by age.
        let (mut best, mut best_fit) = (0, 0);
        for (at, &length) in self.lengths.iter().enumerate() {
            let fit = fits(length);
            if fit <= room && fit > best_fit {
                (best, best_fit) = (at, fit);
            }
        }
        if best_fit == 0 {
            if room == 1 {
                // BOS alone: the text before it ends here.
                let document = self.cursor.waiting[0].0 as usize;
                return Piece { document, from: 0, take: 1 };
            }
            let lengths = self.lengths.iter().copied().enumerate();
            let cut = match self.cursor.options.cut {
                Cut::Carry => lengths.min_by_key(|&(_, length)| std::cmp::Reverse(length)),
                Cut::Crop => lengths.min_by_key(|&(_, length)| length),
            };
            best = cut.map_or(0, |(at, _)| at);
        }
        self.take(best, room)
    }

    /// Takes at most `room` ids of a waiting passage.
    fn take(&mut self, at: usize, room: usize) -> Piece {
        let (document, from) = self.cursor.waiting[at];
        let (document, from) = (document as usize, from as usize);
        let length = self.lengths[at];
        let take = length.min(room);
        let own = take - self.lead(from);
        let counts = &mut self.cursor.counts;
        counts.used += own as u64;
        counts.cuts += u64::from(take < length);
        if take < length && self.cursor.options.cut == Cut::Carry {
            self.cursor.waiting[at].1 += own as u64;
            self.lengths[at] = self.length(document, from + own);
        } else {
            counts.cropped += (length - take) as u64;
            counts.documents += 1;
            self.cursor.waiting.swap_remove(at);
            self.lengths.swap_remove(at);
        }
        Piece { document, from, take }
    }

    /// Ids put before a passage that begins at this token of its document.
    fn lead(&self, from: usize) -> usize {
        usize::from(self.cursor.options.bos.is_some() || from > 0)
    }

    /// Ids that a passage takes.
    fn length(&self, document: usize, from: usize) -> usize {
        self.documents.length(document) - from + self.lead(from)
    }

    /// Appends the ids of a row.
    fn read(&self, pieces: &[Piece], out: &mut Vec<u32>) -> Result<()> {
        for &Piece { document, from, take } in pieces {
            let end = out.len() + take;
            let lead = self.lead(from);
            match self.cursor.options.bos {
                Some(bos) => out.push(bos),
                None if lead > 0 => self.documents.part_of(document, 0..1, out),
                None => {}
            }
            if take > lead {
                self.documents.part_of(document, from..from + take - lead, out);
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

/// Whether there is nothing to learn from a document: no token past BOS.
fn is_empty<D: Documents>(documents: &D, options: &Options, document: usize) -> bool {
    documents.length(document) <= usize::from(options.bos.is_none())
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
