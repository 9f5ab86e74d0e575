//! Two open-addressing tables: bytes → token, and pair of tokens → merge.
//!
//! The key decision: a folded multiply (the mixing step of wyhash) over at most a few 8-byte loads,
//! keyed per table from the standard library's random state, so that a hostile vocabulary cannot
//! be written to collide. Nothing that depends on the key leaves this file: results do not.
//!
//! Not a general map: nothing is removed, and the number of entries is known beforehand.

use std::hash::{BuildHasher, RandomState};

use yushan_abi::TokenId;

/// The secret of one table.
#[derive(Clone, Copy)]
struct Key(u64, u64);

impl Key {
    fn random() -> Self {
        let state = RandomState::new();
        Key(state.hash_one(1u64) | 1, state.hash_one(2u64) | 1)
    }

    /// 64 mixed bits of `bytes`.
    #[inline]
    fn bytes(self, bytes: &[u8]) -> u64 {
        let length = bytes.len();
        let mut secret = self.0;
        let (low, high) = match length {
            0..=3 => {
                let mut word = 0;
                for &byte in bytes {
                    word = word << 8 | u64::from(byte);
                }
                (word, 0)
            }
            4..=8 => (load4(bytes, 0), load4(bytes, length - 4)),
            _ => {
                let mut at = 0;
                while length - at > 16 {
                    secret = fold(load8(bytes, at) ^ secret, load8(bytes, at + 8) ^ self.1);
                    at += 16;
                }
                // The last 16 bytes overlap what came before; of 9 to 15 bytes the two halves do.
                (load8(bytes, length.saturating_sub(16)), load8(bytes, length - 8))
            }
        };
        fold(fold(low ^ secret, high ^ self.1) ^ length as u64, self.0)
    }

    #[inline]
    fn pair(self, left: TokenId, right: TokenId) -> u64 {
        fold((u64::from(left) << 32 | u64::from(right)) ^ self.0, self.1)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Slots for so many entries: half as many again, whatever the number, because memory is bounded by
/// the size of the file (a power of two would waste up to half).
fn slots_for(entries: usize) -> usize {
    (entries + entries / 2).max(16)
}

/// Where to look first: the low half of the hash, spread over the slots.
#[inline]
fn first(hash: u64, slots: usize) -> usize {
    ((hash as u32 as u64 * slots as u64) >> 32) as usize
}

#[inline]
fn next(at: usize, slots: usize) -> usize {
    if at + 1 == slots { 0 } else { at + 1 }
}

#[inline]
fn load8(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn load4(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

/// Bytes → token. The bytes themselves stay in the vocabulary's arena.
pub(super) struct ByteIndex {
    key: Key,
    /// High half: high half of the hash; low half: token + 1, 0 where free.
    slots: Vec<u64>,
}

impl ByteIndex {
    /// Room for `entries` tokens at a load of two thirds.
    pub(super) fn with_room_for(entries: usize) -> Self {
        Self { key: Key::random(), slots: vec![0; slots_for(entries)] }
    }

    /// The hash by which `bytes` are looked up.
    #[inline]
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        self.key.bytes(bytes)
    }

    /// The token whose bytes are `bytes`; `of` gives the bytes of a token.
    #[inline]
    pub(super) fn get<'a>(
        &self,
        bytes: &[u8],
        of: impl Fn(TokenId) -> &'a [u8],
    ) -> Option<TokenId> {
        self.find(bytes, of).ok()
    }

    /// Enters `token` under `bytes`; an earlier token of the same bytes is replaced.
    pub(super) fn insert<'a>(
        &mut self,
        bytes: &[u8],
        token: TokenId,
        of: impl Fn(TokenId) -> &'a [u8],
    ) {
        let hash = self.key.bytes(bytes);
        let entry = hash & !0xffff_ffff | (u64::from(token) + 1);
        let slots = self.slots.len();
        let mut at = first(hash, slots);
        while self.slots[at] != 0 {
            let present = self.slots[at];
            if (present ^ hash) >> 32 == 0 && of(present as u32 - 1) == bytes {
                break;
            }
            at = next(at, slots);
        }
        self.slots[at] = entry;
    }

    #[inline]
    fn find<'a>(&self, bytes: &[u8], of: impl Fn(TokenId) -> &'a [u8]) -> Result<TokenId, usize> {
        let hash = self.key.bytes(bytes);
        let slots = self.slots.len();
        let mut at = first(hash, slots);
        loop {
            let present = self.slots[at];
            if present == 0 {
                return Err(at);
            }
            if (present ^ hash) >> 32 == 0 {
                let token = present as u32 - 1;
                if of(token) == bytes {
                    return Ok(token);
                }
            }
            at = next(at, slots);
        }
    }
}

/// What two neighbouring tokens become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower goes first; never `u32::MAX`.
    pub(super) rank: u32,
    /// The token both become.
    pub(super) token: TokenId,
}

/// Pair of tokens → merge.
pub(super) struct PairTable {
    key: Key,
    /// (left << 32 | right, rank << 32 | token); [`PairTable::FREE`] first where free.
    slots: Vec<(u64, u64)>,
    /// A bit for each hash that was entered, about one in 16 set: most pairs of neighbours do not
    /// merge, and this tells so without a walk through the slots.
    entered: Vec<u64>,
}

impl PairTable {
    const FREE: u64 = u64::MAX;

    /// Room for `entries` pairs at a load of three quarters: what the bits of `entered` take, and they spare
    /// the long walks of pairs that are not there.
    pub(super) fn with_room_for(entries: usize) -> Self {
        let entered = vec![0; entries / 4 + 1];
        let slots = (entries + entries / 3).max(16);
        Self { key: Key::random(), slots: vec![(Self::FREE, 0); slots], entered }
    }

    /// Word and mask of the bit of a hash, from its high half.
    #[inline]
    fn bit(&self, hash: u64) -> (usize, u64) {
        (first(hash >> 32, self.entered.len()), 1 << ((hash >> 16) % 64))
    }

    /// Enters a pair; the first entry of a pair stays.
    pub(super) fn insert(&mut self, left: TokenId, right: TokenId, merge: Merge) {
        let wanted = u64::from(left) << 32 | u64::from(right);
        let slots = self.slots.len();
        let hash = self.key.pair(left, right);
        let (word, mask) = self.bit(hash);
        self.entered[word] |= mask;
        let mut at = first(hash, slots);
        while self.slots[at].0 != Self::FREE {
            if self.slots[at].0 == wanted {
                return;
            }
            at = next(at, slots);
        }
        self.slots[at] = (wanted, u64::from(merge.rank) << 32 | u64::from(merge.token));
    }

    /// The merge of this pair.
    #[inline]
    pub(super) fn get(&self, left: TokenId, right: TokenId) -> Option<Merge> {
        let wanted = u64::from(left) << 32 | u64::from(right);
        let hash = self.key.pair(left, right);
        let (word, mask) = self.bit(hash);
        if self.entered[word] & mask == 0 {
            return None;
        }
        let slots = self.slots.len();
        let mut at = first(hash, slots);
        loop {
            let (pair, merge) = self.slots[at];
            // First: a pair of two symbols that are no tokens looks like a free slot.
            if pair == Self::FREE {
                return None;
            }
            if pair == wanted {
                return Some(Merge { rank: (merge >> 32) as u32, token: merge as u32 });
            }
            at = next(at, slots);
        }
    }

    /// All merges as (left, right, merge), lowest rank first.
    pub(super) fn sorted(&self) -> Vec<(TokenId, TokenId, Merge)> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .filter(|(pair, _)| *pair != Self::FREE)
            .map(|&(pair, merge)| {
                let merge = Merge { rank: (merge >> 32) as u32, token: merge as u32 };
                ((pair >> 32) as u32, pair as u32, merge)
            })
            .collect();
        all.sort_unstable_by_key(|(_, _, merge)| merge.rank);
        all
    }
}
