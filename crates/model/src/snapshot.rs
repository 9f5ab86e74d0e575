//! A sequence as bytes: its tokens and the pages with their keys and values.
//!
//! The key decision: pages are written as they stand in memory, under a header that names the model,
//! the layout and a checksum of everything; whatever differs is refused, since keys of another model
//! read as nonsense without a sign of it. All numbers are little-endian 64-bit.
//!
//! | header | tokens | pages | checksum |
//! |---|---|---|---|
//! | magic, version, model, page tokens, page bytes, tokens | u32 each | bytes | FNV-1a of all before |

use yushan_abi::{ExecutorError, TokenId};

const MAGIC: u64 = u64::from_le_bytes(*b"yushanKV");
const VERSION: u64 = 1;

/// FNV-1a over 64-bit words (Fowler, Noll and Vo; the offset basis and prime of the 64-bit variant).
#[derive(Clone, Copy)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

const NAMES: [&str; 6] = ["magic", "version", "model", "page tokens", "page bytes", "tokens"];

/// The model and the layout of pages: what two engines must have in common.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// Tells one model from another.
    pub(crate) fingerprint: u64,
    pub(crate) page_tokens: usize,
    pub(crate) page_bytes: usize,
}

impl Form {
    fn header(self, tokens: usize) -> [u64; NAMES.len()] {
        let numbers = [self.page_tokens, self.page_bytes, tokens].map(|number| number as u64);
        [MAGIC, VERSION, self.fingerprint, numbers[0], numbers[1], numbers[2]]
    }

    /// Bytes of a sequence without its checksum.
    fn bytes(self, tokens: usize) -> Option<usize> {
        let pages = tokens.div_ceil(self.page_tokens).checked_mul(self.page_bytes)?;
        tokens.checked_mul(4)?.checked_add(pages)?.checked_add(8 * NAMES.len())
    }
}

/// A sequence as bytes.
pub(crate) fn write<'a>(
    form: Form,
    tokens: &[TokenId],
    pages: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(form.bytes(tokens.len()).unwrap_or(0) + 8);
    form.header(tokens.len()).iter().for_each(|number| out.extend(number.to_le_bytes()));
    tokens.iter().for_each(|token| out.extend(token.to_le_bytes()));
    let mut checksum = Checksum::new();
    checksum.add(&out);
    for page in pages {
        // While it is in the processor's cache.
        checksum.add(page);
        out.extend_from_slice(page);
    }
    out.extend(checksum.value().to_le_bytes());
    out
}

/// What [`write`] wrote, checked.
pub(crate) struct Saved<'a> {
    pub(crate) tokens: Vec<TokenId>,
    pages: &'a [u8],
    page_bytes: usize,
}

impl<'a> Saved<'a> {
    /// Reads the bytes of a sequence of at most `context` tokens of a vocabulary. Nothing is taken from
    /// what does not fit the model and the layout, or is damaged.
    pub(crate) fn read(
        form: Form,
        bytes: &'a [u8],
        context: usize,
        vocabulary: usize,
    ) -> Result<Saved<'a>, ExecutorError> {
        let bad = |detail: String| ExecutorError::BadSaved(detail);
        let (words, _) = bytes.as_chunks::<8>();
        let number = |at: usize| words.get(at).map(|word| u64::from_le_bytes(*word));
        let found = number(NAMES.len() - 1).and_then(|tokens| usize::try_from(tokens).ok());
        let tokens = found.unwrap_or(0);
        for (at, (expected, name)) in form.header(tokens).into_iter().zip(NAMES).enumerate() {
            let found = number(at).ok_or_else(|| bad(format!("it ends before its {name}")))?;
            if found != expected {
                let detail = format!("{name}: {found:#x}; this engine needs {expected:#x}");
                return Err(bad(detail));
            }
        }
        if tokens == 0 || tokens > context {
            return Err(bad(format!("tokens: {tokens}; expected 1 to {context}")));
        }
        let length = form.bytes(tokens).filter(|length| length + 8 == bytes.len());
        let Some(length) = length else {
            return Err(bad(format!("{} bytes do not hold {tokens} tokens", bytes.len())));
        };
        let (contents, sum) = bytes.split_at(length);
        let pages_at = 8 * NAMES.len() + 4 * tokens;
        let (front, pages) = contents.split_at(pages_at);
        let mut checksum = Checksum::new();
        checksum.add(front);
        pages.chunks(form.page_bytes).for_each(|page| checksum.add(page));
        if sum != checksum.value().to_le_bytes() {
            return Err(bad("checksum: it is damaged".into()));
        }
        let (ids, _) = front[8 * NAMES.len()..].as_chunks::<4>();
        let tokens: Vec<TokenId> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(bad(format!("token {token} is outside the vocabulary of {vocabulary}")));
        }
        Ok(Saved { tokens, pages, page_bytes: form.page_bytes })
    }

    /// The bytes of page `at`.
    pub(crate) fn page(&self, at: usize) -> &'a [u8] {
        &self.pages[at * self.page_bytes..][..self.page_bytes]
    }
}
