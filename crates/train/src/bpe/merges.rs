//! The merge loop: the most frequent pair of neighbours becomes a token, again and again.
//!
//! The key decision: all distinct words lie in one array with a slot a byte, and a token stands in the first
//! slot and in the last slot it covers. The neighbours of any place are then found without links, a
//! list of places is all a pair needs, and a merge touches its own places and nothing else. Every merge
//! takes one symbol away, so all lists ever made are shorter than three times the words.
//!
//! Order, as in Hugging Face's `BpeTrainer`: highest count, then the pair with the lowest left id, then the
//! lowest right id. Two merges that make the same bytes share one id.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::{Error, Result};

/// Between words.
const BOUNDARY: u32 = u32::MAX;
/// Inside a token.
const INSIDE: u32 = u32::MAX - 1;

/// What was learnt.
pub(super) struct Learnt {
    /// Bytes of each id: special tokens, the 256 bytes, merges.
    pub(super) tokens: Vec<Box<[u8]>>,
    /// Left, right.
    pub(super) merges: Vec<(u32, u32)>,
}

/// One byte of the words.
#[derive(Clone, Copy)]
struct Slot {
    /// The token that begins or ends here, [`INSIDE`] or [`BOUNDARY`].
    token: u32,
    /// How often the word occurs.
    weight: u32,
}

/// A pair that may be merged, ordered by what goes first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    count: u64,
    pair: Reverse<(u32, u32)>,
    /// Its places, a range of the arena.
    places: (usize, usize),
}

/// What one round found beside the places it merged, by the id of the neighbour.
#[derive(Default)]
struct Side {
    /// (weight, places), dense by token id.
    sums: Vec<(u64, u32)>,
    /// The ids whose sums are not zero, in the order they were met.
    touched: Vec<u32>,
    /// Neighbour and place of the new pair.
    met: Vec<(u32, u32)>,
}

impl Side {
    #[inline]
    fn add(&mut self, neighbour: u32, place: usize, weight: u32) {
        let sum = &mut self.sums[neighbour as usize];
        if sum.1 == 0 {
            self.touched.push(neighbour);
        }
        sum.0 += u64::from(weight);
        sum.1 += 1;
        self.met.push((neighbour, place as u32));
    }
}

struct Learner {
    slots: Vec<Slot>,
    /// Bytes of each token, and the way back.
    tokens: Vec<Box<[u8]>>,
    ids: HashMap<Box<[u8]>, u32, RandomState>,
    counts: HashMap<u64, i64, RandomState>,
    queue: BinaryHeap<Candidate>,
    arena: Vec<u32>,
    left: Side,
    right: Side,
    least: u64,
}

/// Learns up to `room` tokens from `words` (with counts); pairs that occur less than `least` times are left.
/// Errors: more than 4 GiB of distinct words.
pub(super) fn learn(
    words: Vec<(&str, u64)>,
    specials: &[&[u8]],
    room: usize,
    least: u64,
) -> Result<Learnt> {
    let mut learner = Learner::new(words, specials, room, least)?;
    let target = learner.tokens.len() + room;
    let mut merges = Vec::with_capacity(room);
    while learner.tokens.len() < target {
        let Some(Candidate { pair: Reverse(pair), places, .. }) = learner.pop() else { break };
        learner.merge(pair, places.0..places.1);
        merges.push(pair);
    }
    Ok(Learnt { tokens: learner.tokens, merges: last_of_each(merges) })
}

/// A pair that was merged twice keeps its later place, as in a map that is filled in order.
fn last_of_each(merges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    let last: HashMap<(u32, u32), usize> =
        merges.iter().enumerate().map(|(at, pair)| (*pair, at)).collect();
    let mut at = 0;
    let mut merges = merges;
    merges.retain(|pair| {
        at += 1;
        last[pair] == at - 1
    });
    merges
}

impl Learner {
    fn new(words: Vec<(&str, u64)>, specials: &[&[u8]], room: usize, least: u64) -> Result<Self> {
        let mut tokens: Vec<Box<[u8]>> = specials.iter().map(|name| (*name).into()).collect();
        let mut byte_ids = [0; 256];
        for byte in alphabet() {
            byte_ids[byte as usize] = tokens.len() as u32;
            tokens.push([byte].into());
        }
        let ids = tokens.iter().zip(0..).map(|(bytes, id)| (bytes.clone(), id)).collect();
        let slots = lay_out(words, &byte_ids)?;
        let sums = vec![(0, 0); tokens.len() + room];
        let side = || Side { sums: sums.clone(), ..Side::default() };
        let mut learner = Self {
            slots,
            tokens,
            ids,
            counts: HashMap::default(),
            queue: BinaryHeap::new(),
            arena: Vec::new(),
            left: side(),
            right: side(),
            least,
        };
        learner.first_pairs(specials.len());
        Ok(learner)
    }

    /// Counts the pairs of bytes and lists their places.
    fn first_pairs(&mut self, first_byte: usize) {
        let row = |slot: Slot| (slot.token as usize).wrapping_sub(first_byte);
        let at = |pair: &[Slot]| match (row(pair[0]), row(pair[1])) {
            (left @ 0..256, right @ 0..256) => Some(left * 256 + right),
            _ => None,
        };
        let mut sums = vec![(0u64, 0usize); 256 * 256];
        for pair in self.slots.windows(2) {
            if let Some(at) = at(pair) {
                sums[at].0 += u64::from(pair[0].weight);
                sums[at].1 += 1;
            }
        }
        let mut ends = Vec::with_capacity(sums.len());
        let mut end = 0;
        for &(count, places) in &sums {
            ends.push(end);
            end += if count >= self.least { places } else { 0 };
        }
        self.arena = vec![0; end];
        for (place, pair) in self.slots.windows(2).enumerate() {
            if let Some(at) = at(pair).filter(|&at| sums[at].0 >= self.least) {
                self.arena[ends[at]] = place as u32;
                ends[at] += 1;
            }
        }
        for (at, &(count, places)) in sums.iter().enumerate().filter(|(_, sum)| sum.1 > 0) {
            let pair = ((at / 256 + first_byte) as u32, (at % 256 + first_byte) as u32);
            self.counts.insert(key(pair), count as i64);
            if count >= self.least {
                let places = (ends[at] - places, ends[at]);
                self.queue.push(Candidate { count, pair: Reverse(pair), places });
            }
        }
    }

    /// The pair to merge next.
    fn pop(&mut self) -> Option<Candidate> {
        loop {
            let mut top = self.queue.pop()?;
            let now = self.counts.get(&key(top.pair.0)).copied().unwrap_or(0).max(0) as u64;
            if now == top.count {
                return Some(top);
            }
            // Merges of its neighbours took some of its places.
            top.count = now;
            if now >= self.least {
                self.queue.push(top);
            }
        }
    }

    fn merge(&mut self, pair: (u32, u32), places: Range<usize>) {
        let (a, b) = pair;
        let [a_length, b_length] = [a, b].map(|token| self.tokens[token as usize].len());
        let bytes = [&*self.tokens[a as usize], &*self.tokens[b as usize]].concat();
        let next_id = self.tokens.len() as u32;
        let new = *self.ids.entry(bytes.into_boxed_slice()).or_insert_with_key(|bytes| {
            self.tokens.push(bytes.clone());
            next_id
        });
        for at in places {
            let place = self.arena[at] as usize;
            let middle = place + a_length;
            // Neither holds if an earlier merge took a part of it.
            if self.slots[place].token != a || self.slots[middle].token != b {
                continue;
            }
            let end = middle + b_length;
            let weight = self.slots[place].weight;
            self.slots[middle - 1].token = INSIDE;
            self.slots[middle].token = INSIDE;
            self.slots[place].token = new;
            self.slots[end - 1].token = new;
            let before = self.slots[place - 1].token;
            if before != BOUNDARY {
                let start = place - self.tokens[before as usize].len();
                self.left.add(before, start, weight);
            }
            let after = self.slots[end].token;
            if after != BOUNDARY {
                self.right.add(after, place, weight);
            }
        }
        self.settle(pair, new);
    }

    /// Brings counts and queue up to date after the places of `pair` became `new`.
    fn settle(&mut self, (a, b): (u32, u32), new: u32) {
        // All decreases first: a pair can be both lost and found in one round.
        for &id in &self.left.touched {
            *self.counts.entry(key((id, a))).or_default() -= self.left.sums[id as usize].0 as i64;
        }
        for &id in &self.right.touched {
            *self.counts.entry(key((b, id))).or_default() -= self.right.sums[id as usize].0 as i64;
        }
        for (side, of) in [
            (&mut self.left, (|id, new| (id, new)) as fn(u32, u32) -> (u32, u32)),
            (&mut self.right, |id, new| (new, id)),
        ] {
            for &id in &side.touched {
                let count = self.counts.entry(key(of(id, new))).or_default();
                *count += side.sums[id as usize].0 as i64;
            }
        }
        let mut sides = [std::mem::take(&mut self.left), std::mem::take(&mut self.right)];
        self.enqueue(&mut sides[0], |id| (id, new));
        self.enqueue(&mut sides[1], |id| (new, id));
        let [left, right] = sides;
        (self.left, self.right) = (left, right);
    }

    /// Lists the places of the new pairs on one side, and clears the side.
    fn enqueue(&mut self, side: &mut Side, pair_of: impl Fn(u32) -> (u32, u32)) {
        for &id in &side.touched {
            let pair = pair_of(id);
            let count = self.counts.get(&key(pair)).copied().unwrap_or(0).max(0) as u64;
            let sum = &mut side.sums[id as usize];
            let places = sum.1 as usize;
            if count < self.least {
                *sum = (u64::MAX, 0);
                continue;
            }
            let start = self.arena.len();
            self.arena.resize(start + places, 0);
            self.queue.push(Candidate {
                count,
                pair: Reverse(pair),
                places: (start, start + places),
            });
            // From here on where the next place goes.
            sum.0 = start as u64;
        }
        for &(id, place) in &side.met {
            let at = &mut side.sums[id as usize].0;
            if *at != u64::MAX {
                self.arena[*at as usize] = place;
                *at += 1;
            }
        }
        for &id in &side.touched {
            side.sums[id as usize] = (0, 0);
        }
        side.touched.clear();
        side.met.clear();
    }
}

fn key((left, right): (u32, u32)) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The words in slots, one for each byte, with a boundary before, between and after.
fn lay_out(words: Vec<(&str, u64)>, byte_ids: &[u32; 256]) -> Result<Vec<Slot>> {
    // A count that does not fit a slot is laid out in parts.
    let most = u64::from(u32::MAX);
    let copies = |count: u64| count.div_ceil(most) as usize;
    let length: usize =
        words.iter().map(|(word, count)| (word.len() + 1) * copies(*count)).sum::<usize>() + 1;
    if length > INSIDE as usize {
        let detail =
            format!("its distinct words take {length} bytes, at most 4 GiB can be trained on");
        return Err(Error::bad("corpus", format!("{detail}; lower the memory limit of the words")));
    }
    let boundary = Slot { token: BOUNDARY, weight: 0 };
    let mut slots = Vec::with_capacity(length);
    slots.push(boundary);
    for (word, mut count) in words {
        while count > 0 {
            let weight = count.min(most) as u32;
            count -= u64::from(weight);
            slots.extend(word.bytes().map(|b| Slot { token: byte_ids[b as usize], weight }));
            slots.push(boundary);
        }
    }
    Ok(slots)
}

/// The bytes in the order of their ids: those that are printable in Latin-1 first, as GPT-2 counts them.
pub(super) fn alphabet() -> impl Iterator<Item = u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    (0..=255u8).filter(printable).chain((0..=255u8).filter(move |byte| !printable(byte)))
}
