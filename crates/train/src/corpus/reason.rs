//! Why documents are dropped: one name for each rule, the same in recipes, reports and manifests.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rule that drops documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A line of JSONL longer than a document may be with all that is around it.
    LineTooLong,
    /// A line that is no JSON object.
    NotJson,
    /// A row without the text field, or with something else in it.
    NoText,
    /// Not UTF-8, and the recipe drops such documents.
    InvalidUtf8,
    /// Nothing is left after cleaning.
    Empty,
    /// `min_words`.
    TooShort,
    /// `max_words`.
    TooLong,
    /// `languages`.
    Language,
    /// `min_mean_word`, `max_mean_word`.
    MeanWord,
    /// `max_symbols_per_word`.
    SymbolsPerWord,
    /// `max_symbol_share`.
    SymbolShare,
    /// `max_bullet_lines`.
    BulletLines,
    /// `max_ellipsis_lines`.
    EllipsisLines,
    /// `min_alphabetic_words`.
    AlphabeticWords,
    /// `min_stop_words`.
    StopWords,
    /// `max_duplicate_lines`.
    DuplicateLines,
    /// `max_duplicate_line_bytes`.
    DuplicateLineBytes,
    /// `max_duplicate_paragraphs`.
    DuplicateParagraphs,
    /// `max_duplicate_paragraph_bytes`.
    DuplicateParagraphBytes,
    /// `max_top_n_grams`.
    TopNGram,
    /// `max_duplicate_n_grams`.
    DuplicateNGrams,
    /// The same text was there before.
    ExactDuplicate,
    /// Nearly the same words were there before.
    NearDuplicate,
}

impl Reason {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Reason; 23] = [
        Reason::LineTooLong,
        Reason::NotJson,
        Reason::NoText,
        Reason::InvalidUtf8,
        Reason::Empty,
        Reason::TooShort,
        Reason::TooLong,
        Reason::Language,
        Reason::MeanWord,
        Reason::SymbolsPerWord,
        Reason::SymbolShare,
        Reason::BulletLines,
        Reason::EllipsisLines,
        Reason::AlphabeticWords,
        Reason::StopWords,
        Reason::DuplicateLines,
        Reason::DuplicateLineBytes,
        Reason::DuplicateParagraphs,
        Reason::DuplicateParagraphBytes,
        Reason::TopNGram,
        Reason::DuplicateNGrams,
        Reason::ExactDuplicate,
        Reason::NearDuplicate,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Reason::LineTooLong => "line too long",
            Reason::NotJson => "not JSON",
            Reason::NoText => "no text field",
            Reason::InvalidUtf8 => "invalid UTF-8",
            Reason::Empty => "empty",
            Reason::TooShort => "too few words",
            Reason::TooLong => "too many words",
            Reason::Language => "other language",
            Reason::MeanWord => "mean word length",
            Reason::SymbolsPerWord => "symbols per word",
            Reason::SymbolShare => "symbol share",
            Reason::BulletLines => "bullet lines",
            Reason::EllipsisLines => "ellipsis lines",
            Reason::AlphabeticWords => "words without letters",
            Reason::StopWords => "stop words",
            Reason::DuplicateLines => "duplicate lines",
            Reason::DuplicateLineBytes => "bytes in duplicate lines",
            Reason::DuplicateParagraphs => "duplicate paragraphs",
            Reason::DuplicateParagraphBytes => "bytes in duplicate paragraphs",
            Reason::TopNGram => "most frequent n-gram",
            Reason::DuplicateNGrams => "duplicate n-grams",
            Reason::ExactDuplicate => "exact duplicate",
            Reason::NearDuplicate => "near duplicate",
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Reason, D::Error> {
        let name = String::deserialize(from)?;
        let found = Reason::ALL.into_iter().find(|reason| reason.name() == name);
        found.ok_or_else(|| D::Error::custom(format!("`{name}` is no reason for dropping")))
    }
}
