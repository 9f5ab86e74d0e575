//! Byte-pair merging of one word: the lowest-ranked pair of neighbours becomes one token, until no
//! pair is left (Sennrich et al. 2016, arXiv 1508.07909; scores instead of ranks: SentencePiece,
//! Kudo and Richardson 2018, arXiv 1808.06226).
//!
//! The key decision: two loops with one meaning. Short words scan an array for the lowest rank;
//! long ones use a heap over a linked list, so that a megabyte of one letter takes
//! O(n log n). Of equal ranks the leftmost goes first in both.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU8, Ordering};

use yushan_abi::TokenId;

use super::hash::{Merge, PairTable};
use super::vocabulary::{TokenKind, Vocabulary};

/// Symbols up to which scanning beats the heap.
const SHORT: usize = 48;

/// A symbol that is no token (yet), or a rank that is none.
const NONE: u32 = u32::MAX;

/// What one word starts from.
pub(super) enum Alphabet {
    /// Bytes: the token of each of the 256, [`NONE`] where there is none.
    Bytes(Box<[TokenId; 256]>),
    /// Characters.
    Characters,
}

/// Where the order of merges comes from.
pub(super) enum Order {
    /// From a list of pairs.
    Pairs(PairTable),
    /// From the scores of the tokens: every pair that together is a token may merge, the highest
    /// score first.
    Scores,
}

/// Turns words into tokens.
pub(super) struct Merger {
    alphabet: Alphabet,
    order: Order,
    /// A word that is a token is that token, whatever the merges say (Llama 3).
    ignore_merges: bool,
    /// For characters that are no token: the token of each byte, all or nothing.
    byte_tokens: Option<Box<[TokenId; 256]>>,
    /// For what is left: one for a run of unknown characters, or one each.
    unknown: Option<(TokenId, Run)>,
    /// Token → whether merging its own bytes gives the token itself. Found out at first use, so
    /// that most words cost one look-up and loading costs nothing.
    whole: Box<[AtomicU8]>,
}

/// How unknown characters that follow each other are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// One token for all of them.
    Fused,
    /// One token each.
    Single,
}

const UNASKED: u8 = 0;
const WHOLE: u8 = 1;
const SPLIT: u8 = 2;

/// Buffers of [`Merger::word`], kept from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<u64>>,
    /// Words seen before, by the low bits of their hash; empty where nothing is remembered.
    memory: Vec<Remembered>,
}

/// Words that are remembered at once: 256 KiB, half of a small L2 cache.
const MEMORY: usize = 1 << 12;

/// A word and its tokens, in one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Remembered {
    tokens: [TokenId; 7],
    bytes: [u8; 32],
    /// Of the word in bytes; 0 where there is none.
    length: u8,
    count: u8,
}

impl Scratch {
    /// Buffers that remember words.
    pub(super) fn with_memory() -> Self {
        Self { memory: vec![Remembered::default(); MEMORY], ..Self::default() }
    }
}

impl Remembered {
    #[inline]
    fn is(&self, word: &[u8]) -> bool {
        usize::from(self.length) == word.len() && self.bytes.get(..word.len()) == Some(word)
    }

    fn set(&mut self, word: &[u8], tokens: &[TokenId]) {
        if let (Some(bytes), Some(ids)) =
            (self.bytes.get_mut(..word.len()), self.tokens.get_mut(..tokens.len()))
        {
            bytes.copy_from_slice(word);
            ids.copy_from_slice(tokens);
            (self.length, self.count) = (word.len() as u8, tokens.len() as u8);
        }
    }
}

/// One symbol of a word under way, and the merge with its right neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    /// Byte offset in the word.
    start: u32,
    token: TokenId,
    /// Rank of the merge with the right neighbour, [`NONE`] if they do not merge.
    rank: u32,
    /// What the two would become.
    merged: TokenId,
    /// Neighbours, used by the long loop alone; [`NONE`] at the ends. A symbol that was merged
    /// away has rank [`NONE`] and is not linked.
    previous: u32,
    next: u32,
}

impl Merger {
    /// `unknown`: the token for what cannot be written otherwise.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        alphabet: Alphabet,
        order: Order,
        ignore_merges: bool,
        unknown: Option<(TokenId, Run)>,
    ) -> Self {
        let byte_tokens = match alphabet {
            Alphabet::Bytes(_) => None,
            Alphabet::Characters => byte_tokens(vocabulary),
        };
        let whole = (0..vocabulary.len()).map(|_| AtomicU8::new(UNASKED)).collect();
        Self { alphabet, order, ignore_merges, byte_tokens, unknown, whole }
    }

    /// The list of merges, where there is one.
    pub(super) fn pairs(&self) -> Option<&PairTable> {
        match &self.order {
            Order::Pairs(pairs) => Some(pairs),
            Order::Scores => None,
        }
    }

    /// Whether a word that is a token skips the merges.
    pub(super) fn ignores_merges(&self) -> bool {
        self.ignore_merges
    }

    /// Appends the tokens of one word. Words are shorter than 4 GiB: the caller splits.
    #[inline]
    pub(super) fn word(
        &self,
        vocabulary: &Vocabulary,
        word: &str,
        scratch: &mut Scratch,
        out: &mut Vec<TokenId>,
    ) {
        if scratch.memory.is_empty() {
            return self.new_word(vocabulary, word, scratch, out);
        }
        let at = vocabulary.hash(word.as_bytes()) as usize % MEMORY;
        let known = &scratch.memory[at];
        if known.is(word.as_bytes()) {
            match known.count {
                1 => out.push(known.tokens[0]),
                count => out.extend_from_slice(&known.tokens[..usize::from(count)]),
            }
            return;
        }
        let before = out.len();
        self.new_word(vocabulary, word, scratch, out);
        scratch.memory[at].set(word.as_bytes(), &out[before..]);
    }

    /// As [`Merger::word`], for a word that is not remembered.
    fn new_word(
        &self,
        vocabulary: &Vocabulary,
        word: &str,
        scratch: &mut Scratch,
        out: &mut Vec<TokenId>,
    ) {
        let bytes = word.as_bytes();
        if let Some(token) = vocabulary.find(bytes) {
            let known = &self.whole[token as usize];
            let state = known.load(Ordering::Relaxed);
            if self.ignore_merges || state == WHOLE {
                out.push(token);
                return;
            }
            if state == UNASKED {
                let before = out.len();
                self.merge(vocabulary, word, scratch, out);
                let whole = out[before..] == [token];
                known.store(if whole { WHOLE } else { SPLIT }, Ordering::Relaxed);
                return;
            }
        }
        self.merge(vocabulary, word, scratch, out);
    }

    fn merge(
        &self,
        vocabulary: &Vocabulary,
        word: &str,
        scratch: &mut Scratch,
        out: &mut Vec<TokenId>,
    ) {
        let Scratch { symbols, heap, .. } = scratch;
        symbols.clear();
        self.start(vocabulary, word, symbols);
        let job = Job { merger: self, vocabulary, word: word.as_bytes() };
        if symbols.len() <= SHORT {
            job.merge_short(symbols);
        } else {
            job.merge_long(symbols, heap);
        }
        self.finish(word, symbols, out);
    }

    /// One symbol a byte or a character.
    fn start(&self, vocabulary: &Vocabulary, word: &str, symbols: &mut Vec<Symbol>) {
        let symbol = |start: usize, token| Symbol {
            start: start as u32,
            token,
            rank: NONE,
            merged: NONE,
            previous: NONE,
            next: NONE,
        };
        match &self.alphabet {
            Alphabet::Bytes(tokens) => symbols.extend(
                word.bytes().enumerate().map(|(at, byte)| symbol(at, tokens[byte as usize])),
            ),
            Alphabet::Characters => symbols.extend(word.char_indices().map(|(at, character)| {
                let bytes = &word.as_bytes()[at..at + character.len_utf8()];
                symbol(at, vocabulary.find(bytes).unwrap_or(NONE))
            })),
        }
    }

    /// Writes out the symbols; those that are no token fall back to bytes or to the unknown token.
    fn finish(&self, word: &str, symbols: &[Symbol], out: &mut Vec<TokenId>) {
        let mut after_unknown = false;
        for (at, symbol) in symbols.iter().enumerate() {
            if symbol.token != NONE {
                out.push(symbol.token);
                after_unknown = false;
            } else if let Some(tokens) = &self.byte_tokens {
                let end = symbols.get(at + 1).map_or(word.len(), |next| next.start as usize);
                let bytes = &word.as_bytes()[symbol.start as usize..end];
                out.extend(bytes.iter().map(|&byte| tokens[byte as usize]));
            } else if let Some((token, run)) = self.unknown {
                if !(after_unknown && run == Run::Fused) {
                    out.push(token);
                }
                after_unknown = true;
            }
        }
    }
}

/// The word under way.
struct Job<'a> {
    merger: &'a Merger,
    vocabulary: &'a Vocabulary,
    word: &'a [u8],
}

impl Job<'_> {
    /// What two neighbours become; `end` is where the right one ends.
    #[inline]
    fn pair(&self, left: &Symbol, right: TokenId, end: usize) -> Option<Merge> {
        match &self.merger.order {
            Order::Pairs(pairs) => pairs.get(left.token, right),
            Order::Scores => {
                let token = self.vocabulary.find(&self.word[left.start as usize..end])?;
                Some(Merge { rank: rank_of_score(self.vocabulary.score(token)), token })
            }
        }
    }

    fn merge_short(&self, symbols: &mut Vec<Symbol>) {
        for at in 0..symbols.len() {
            self.rate(symbols, at);
        }
        loop {
            let mut best = (NONE, 0);
            for (at, symbol) in symbols.iter().enumerate() {
                if symbol.rank < best.0 {
                    best = (symbol.rank, at);
                }
            }
            let (rank, at) = best;
            if rank == NONE {
                return;
            }
            symbols[at].token = symbols[at].merged;
            symbols.remove(at + 1);
            self.rate(symbols, at);
            if at > 0 {
                self.rate(symbols, at - 1);
            }
        }
    }

    /// Finds the merge of symbol `at` with the next one in the array.
    #[inline]
    fn rate(&self, symbols: &mut [Symbol], at: usize) {
        let merge = symbols.get(at + 1).and_then(|right| {
            let end = symbols.get(at + 2).map_or(self.word.len(), |after| after.start as usize);
            self.pair(&symbols[at], right.token, end)
        });
        let Merge { rank, token } = merge.unwrap_or(Merge { rank: NONE, token: NONE });
        symbols[at].rank = rank;
        symbols[at].merged = token;
    }

    /// The heap holds `rank << 32 | symbol`; an entry whose rank is no longer the symbol's is
    /// stale and skipped. Every merge pushes at most two entries, so the heap stays below 3 n.
    fn merge_long(&self, symbols: &mut Vec<Symbol>, heap: &mut BinaryHeap<Reverse<u64>>) {
        heap.clear();
        let last = symbols.len() as u32 - 1;
        for (at, symbol) in symbols.iter_mut().enumerate() {
            symbol.previous = (at as u32).checked_sub(1).unwrap_or(NONE);
            symbol.next = if at as u32 == last { NONE } else { at as u32 + 1 };
        }
        for at in 0..symbols.len() as u32 {
            self.rate_linked(symbols, at, heap);
        }
        while let Some(Reverse(entry)) = heap.pop() {
            let (rank, at) = ((entry >> 32) as u32, entry as u32);
            let left = symbols[at as usize];
            if left.rank != rank {
                continue;
            }
            let gone = left.next as usize;
            let after = symbols[gone].next;
            symbols[gone].rank = NONE;
            symbols[at as usize].token = left.merged;
            symbols[at as usize].next = after;
            if after != NONE {
                symbols[after as usize].previous = at;
            }
            self.rate_linked(symbols, at, heap);
            if left.previous != NONE {
                self.rate_linked(symbols, left.previous, heap);
            }
        }
        // Pack the survivors to the front, in order.
        let (mut from, mut to) = (0, 0);
        while from != NONE {
            symbols[to] = symbols[from as usize];
            from = symbols[to].next;
            to += 1;
        }
        symbols.truncate(to);
    }

    fn rate_linked(&self, symbols: &mut [Symbol], at: u32, heap: &mut BinaryHeap<Reverse<u64>>) {
        let left = symbols[at as usize];
        let merge = symbols.get(left.next as usize).and_then(|right| {
            let after = symbols.get(right.next as usize);
            let end = after.map_or(self.word.len(), |after| after.start as usize);
            self.pair(&left, right.token, end)
        });
        let Merge { rank, token } = merge.unwrap_or(Merge { rank: NONE, token: NONE });
        symbols[at as usize].rank = rank;
        symbols[at as usize].merged = token;
        if rank != NONE {
            heap.push(Reverse(u64::from(rank) << 32 | u64::from(at)));
        }
    }
}

/// Higher scores get lower ranks; equal scores equal ranks. Not for NaN, which the vocabulary
/// refuses.
fn rank_of_score(score: f32) -> u32 {
    // Adding zero turns -0 into 0. Flipping the sign bit of positive numbers, and all bits of
    // negative ones, makes the order of the bits the order of the numbers.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits };
    !ascending
}

/// The token of each byte, if the vocabulary has all 256.
fn byte_tokens(vocabulary: &Vocabulary) -> Option<Box<[TokenId; 256]>> {
    let mut tokens = Box::new([NONE; 256]);
    for (token, kind) in vocabulary.kinds() {
        if let (TokenKind::Byte, &[byte]) = (kind, vocabulary.bytes(token)) {
            tokens[byte as usize] = token;
        }
    }
    tokens.iter().all(|&token| token != NONE).then_some(tokens)
}

/// The token of each byte in a byte-level vocabulary, [`NONE`] where there is none.
pub(super) fn byte_alphabet(vocabulary: &Vocabulary) -> Alphabet {
    let mut tokens = Box::new([NONE; 256]);
    for byte in 0..=255u8 {
        tokens[byte as usize] = vocabulary.find(&[byte]).unwrap_or(NONE);
    }
    Alphabet::Bytes(tokens)
}

/// Collects a list of merges in order.
pub(super) struct PairCollector<'a> {
    vocabulary: &'a Vocabulary,
    table: PairTable,
    rank: u32,
    joined: Vec<u8>,
    /// The token after the one merged last: merges and tokens mostly stand in one order.
    guess: TokenId,
}

impl<'a> PairCollector<'a> {
    /// Room for about `merges` merges.
    pub(super) fn new(vocabulary: &'a Vocabulary, merges: usize) -> Self {
        let table = PairTable::with_room_for(merges);
        Self { vocabulary, table, rank: 0, joined: Vec::new(), guess: 0 }
    }

    /// Adds the next merge. `false` if one of the three is no token; the rank is used up anyway.
    pub(super) fn add(&mut self, left: &[u8], right: &[u8]) -> bool {
        let rank = self.rank;
        // More merges than ranks do not fit in a file that a person has.
        self.rank = self.rank.saturating_add(1).min(NONE - 1);
        self.joined.clear();
        self.joined.extend_from_slice(left);
        self.joined.extend_from_slice(right);
        let token = match self.vocabulary.is_text(self.guess, &self.joined) {
            true => Some(self.guess),
            false => self.vocabulary.find(&self.joined),
        };
        let (Some(left), Some(right), Some(token)) =
            (self.vocabulary.find(left), self.vocabulary.find(right), token)
        else {
            return false;
        };
        self.guess = token + 1;
        self.table.insert(left, right, Merge { rank, token });
        true
    }

    /// The order that the merges give.
    pub(super) fn order(self) -> Order {
        Order::Pairs(self.table)
    }
}
