//! From a row of logits to a token, and from the token to text.
//!
//! The key decision: the one place where that happens, for the loop of one answer (`generate.rs`) and
//! for a scheduler's many (`language.rs`). Choosing and taking are apart: a token that was chosen
//! before a crash is taken again without its logits, and the pen is where it was, down to the next
//! random number.
//!
//! Not here: stop strings and calls, which look at the text; when an answer is long enough.

use yushan_abi::TokenId;

use crate::Result;
use crate::grammar::Constraint;
use crate::sampler::Sampler;
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// What one answer's tokens are written with.
pub(crate) struct Pen {
    sampler: Sampler,
    constraint: Option<Constraint>,
    decoder: StreamDecoder,
    ignore_ends: bool,
    /// Control tokens that are shown by their names.
    named: Vec<TokenId>,
    /// What the newest token made readable.
    readable: String,
}

impl Pen {
    pub(crate) fn new(
        sampler: Sampler,
        constraint: Option<Constraint>,
        decoder: StreamDecoder,
    ) -> Self {
        let (named, readable) = (Vec::new(), String::new());
        Pen { sampler, constraint, decoder, ignore_ends: false, named, readable }
    }

    /// Tokens that end an answer are tokens like others.
    pub(crate) fn ignoring_ends(self, ignore_ends: bool) -> Self {
        Pen { ignore_ends, ..self }
    }

    /// Shows these control tokens by their names.
    pub(crate) fn naming(self, named: Vec<TokenId>) -> Self {
        Pen { named, ..self }
    }

    /// The next token. It is to be taken before another is chosen.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<TokenId> {
        let mask = self.constraint.as_mut().map(Constraint::mask).transpose()?;
        Ok(self.sampler.sample(logits, mask))
    }

    /// Goes past the choice of a token that is known.
    pub(crate) fn skip(&mut self) {
        self.sampler.skip();
    }

    /// Takes a token; says whether it is the last by itself. What it makes readable is in
    /// [`Pen::readable`].
    pub(crate) fn take(&mut self, tokenizer: &Tokenizer, token: TokenId) -> Result<bool> {
        self.sampler.accept(token);
        let mut complete = !self.ignore_ends && tokenizer.is_end_of_generation(token);
        self.readable.clear();
        if self.named.contains(&token) {
            self.decoder.finish(&mut self.readable);
            self.decoder.push_bytes(tokenizer.token_bytes(token), &mut self.readable);
        } else if !complete {
            self.decoder.push(tokenizer, token, &mut self.readable);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
            complete |= constraint.is_finished();
        }
        Ok(complete)
    }

    /// Makes a token of the prompt readable.
    pub(crate) fn echo(&mut self, tokenizer: &Tokenizer, token: TokenId) -> &str {
        self.readable.clear();
        self.decoder.push(tokenizer, token, &mut self.readable);
        &self.readable
    }

    /// What the newest token made readable: nothing inside a character.
    pub(crate) fn readable(&self) -> &str {
        &self.readable
    }

    /// What was held back of a character that is not going to be whole.
    pub(crate) fn rest(&mut self) -> &str {
        self.readable.clear();
        self.decoder.finish(&mut self.readable);
        &self.readable
    }
}
