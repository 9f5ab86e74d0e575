//! Filling in the middle: which tokens mark a text with a gap, and such a text as token ids.
//!
//! The key decision: the ids come from the file's own keys, and where it has none from the texts of
//! tokens that llama.cpp knows too; the three markers are of one family, never mixed. A model without
//! them does not fill in the middle, and nothing is made up in their place.
//!
//! Not here: names of repositories and files around the text (`repository` and `file` only end answers).

use yushan_abi::TokenId;

use super::Tokenizer;
use super::merge::Scratch;
use super::pieces::Place;
use super::vocabulary::{TokenKind, Vocabulary};

/// The ids that mark a text with a gap, each if the model has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InfillIds {
    /// Stands before what comes before the gap.
    pub prefix: Option<TokenId>,
    /// Stands before what comes after it.
    pub suffix: Option<TokenId>,
    /// Stands where the answer begins; without it the model reads what comes after the gap first.
    pub middle: Option<TokenId>,
    /// Fills a batch. This and the next two end an answer.
    pub pad: Option<TokenId>,
    /// Stands before a repository's name.
    pub repository: Option<TokenId>,
    /// Stands before a file's name.
    pub file: Option<TokenId>,
}

/// Prefix, suffix and middle of each family. SentencePiece's `▁` is a space in text.
const MARKERS: &[[&str; 3]] = &[
    // Qwen2.5-Coder, CodeGemma.
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // StarCoder, Granite.
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // SantaCoder.
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    // DeepSeek.
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // CodeLlama.
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    [" <PRE>", " <SUF>", " <MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    // GLM-4.5.
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    // Falcon-H1-Tiny-Coder.
    ["<|prefix|>", "<|suffix|>", "<|middle|>"],
];

/// Codestral's, which has no marker of the middle: mistral-common's `encode_fim` puts the suffix first.
const SUFFIX_FIRST: [&str; 2] = ["[PREFIX]", "[SUFFIX]"];

const PADS: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const REPOSITORIES: &[&str] =
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FILES: &[&str] = &["<|file_sep|>"];

/// CodeLlama's end of an answer.
const ENDS: &[&str] = &["▁<EOT>", " <EOT>"];

/// All of these.
fn names() -> Vec<&'static str> {
    let lists = [&SUFFIX_FIRST[..], PADS, REPOSITORIES, FILES, ENDS];
    MARKERS.iter().flatten().chain(lists.into_iter().flatten()).copied().collect()
}

/// Completes the ids that the file gave by the texts of tokens; what is found steers the model from
/// now on. Returns the tokens that end an answer.
pub(super) fn find(vocabulary: &mut Vocabulary, ids: &mut InfillIds) -> Vec<TokenId> {
    let names = names();
    let found = vocabulary.named(&names);
    let of = |name: &str| names.iter().position(|other| *other == name).and_then(|at| found[at]);
    let first = |names: &[&str]| names.iter().find_map(|name| of(name));
    let whole = || {
        MARKERS.iter().find_map(|&[prefix, suffix, middle]| {
            let prefix = ids.prefix.or(of(prefix))?;
            Some((prefix, ids.suffix.or(of(suffix))?, Some(ids.middle.or(of(middle))?)))
        })
    };
    let suffix_first = || {
        // Keys that name other tokens than these are of another family.
        let named =
            |id: Option<TokenId>, name| of(name).filter(|&found| id.unwrap_or(found) == found);
        let [prefix, suffix] = SUFFIX_FIRST;
        Some((named(ids.prefix, prefix)?, named(ids.suffix, suffix)?, None))
    };
    let (prefix, suffix, middle) = match suffix_first().or_else(whole) {
        Some((prefix, suffix, middle)) => (Some(prefix), Some(suffix), middle),
        None => (None, None, None),
    };
    *ids = InfillIds {
        prefix,
        suffix,
        middle,
        pad: ids.pad.or_else(|| first(PADS)),
        repository: ids.repository.or_else(|| first(REPOSITORIES)),
        file: ids.file.or_else(|| first(FILES)),
    };
    let mut ends: Vec<TokenId> =
        [ids.pad, ids.repository, ids.file].into_iter().flatten().collect();
    ends.extend(first(ENDS));
    let markers = [ids.prefix, ids.suffix, ids.middle].into_iter().flatten();
    for token in markers.chain(ends.iter().copied()) {
        // What a file calls text, against all names, stays text.
        let named = found.contains(&Some(token));
        if named || vocabulary.kind(token) == TokenKind::UserDefined {
            vocabulary.set_kind(token, TokenKind::Control);
        }
    }
    ends
}

impl Tokenizer {
    /// A text with a gap: `BOS prefix-marker PREFIX suffix-marker SUFFIX middle-marker`, BOS if the model
    /// wants it, or for Codestral `BOS suffix-marker SUFFIX prefix-marker PREFIX`. Special tokens in both
    /// texts are text. `None` if the model does not fill in the middle.
    ///
    /// SentencePiece puts its space before the prefix alone, as CodeLlama's and Mistral's own code does:
    /// the suffix goes on where the gap ends. llama.cpp puts one there too.
    pub fn encode_infill(&self, prefix: &str, suffix: &str) -> Option<Vec<TokenId>> {
        let ids = &self.roles.infill;
        let before = (ids.prefix?, prefix, Place::First);
        let after = (ids.suffix?, suffix, Place::Continued);
        let mut out = Vec::with_capacity((prefix.len() + suffix.len()) / 4 + 8);
        out.extend(self.roles.bos.filter(|_| self.add_bos));
        let mut scratch = Scratch::default();
        let parts = if ids.middle.is_some() { [before, after] } else { [after, before] };
        for (marker, text, place) in parts {
            out.push(marker);
            let guarded = 0..text.len();
            self.encode_into(text, std::slice::from_ref(&guarded), place, &mut scratch, &mut out);
        }
        out.extend(ids.middle);
        Some(out)
    }
}
