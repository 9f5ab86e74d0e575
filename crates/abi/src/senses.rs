//! `Senses`: what a model cannot do with text alone.
//!
//! The key decision: one trait for all of them, so that whoever starts the system decides once where pictures come from.
//! Today it draws; to hear, speak and see come with the parts that can.

use crate::tool::Cancel;

/// A picture that is wished for.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// What is to be seen.
    pub prompt: &'a str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Set when nobody waits any more.
    pub cancel: Cancel,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// A file.
    pub bytes: Vec<u8>,
    /// For example `image/png`.
    pub media_type: String,
}

/// Why there is nothing to see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SensesError {
    /// There is nobody who could; what to do about it.
    #[error("{0}")]
    Absent(String),
    /// Whoever was asked will not: these are its words.
    #[error("refused: {0}")]
    Refused(String),
    /// It went wrong.
    #[error("{0}")]
    Failed(String),
}

/// Sees to pictures. Implementations: an OpenAI-compatible endpoint (`yushan-tools`); [`Absent`].
pub trait Senses: Send + Sync {
    /// Draws. May block for long.
    ///
    /// # Errors
    /// Nobody can, somebody will not, or it went wrong.
    fn draw(&self, wish: &Wish<'_>) -> Result<Picture, SensesError>;
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Absent;

impl Senses for Absent {
    fn draw(&self, _wish: &Wish<'_>) -> Result<Picture, SensesError> {
        Err(SensesError::Absent(
            "no image generator is configured; diagrams and charts can be drawn with the tool `draw`".into(),
        ))
    }
}
