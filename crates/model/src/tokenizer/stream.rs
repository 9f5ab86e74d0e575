//! From tokens back to text, one token at a time.
//!
//! The key decision: a character is held back until its last byte has come, so that what was
//! emitted is never taken back; U+FFFD stands only for bytes that can no longer become a character.

use yushan_abi::TokenId;

use super::{Special, Tokenizer};

/// Decodes a stream of tokens. Emits whole characters only.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character: at most three bytes.
    held: [u8; 3],
    length: usize,
    /// The next character is the space that encoding put before the first word.
    drop_space: bool,
    show_special: bool,
}

impl StreamDecoder {
    /// For tokens that follow others. `Special::Parse` shows control tokens by their names,
    /// `Special::AsText` leaves them out.
    pub fn new(special: Special) -> Self {
        Self { show_special: special == Special::Parse, ..Self::default() }
    }

    /// For tokens that begin a text: the space that a SentencePiece tokenizer puts before the
    /// first word is left out.
    pub fn at_start(tokenizer: &Tokenizer, special: Special) -> Self {
        Self { drop_space: tokenizer.adds_space(), ..Self::new(special) }
    }

    /// For an answer to `prompt`: the first text of all if the prompt has none, or else the
    /// continuation of its. Control tokens are left out.
    pub fn after(tokenizer: &Tokenizer, prompt: &[TokenId]) -> Self {
        match prompt.iter().all(|&token| tokenizer.is_special(token)) {
            true => Self::at_start(tokenizer, Special::AsText),
            false => Self::new(Special::AsText),
        }
    }

    /// Appends to `out` what `token` makes complete.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: TokenId, out: &mut String) {
        if tokenizer.is_special(token) {
            self.finish(out);
            if self.show_special {
                self.push_bytes(tokenizer.token_bytes(token), out);
            }
            return;
        }
        self.push_bytes(tokenizer.token_bytes(token), out);
    }

    /// Appends to `out` what `bytes` make complete.
    pub fn push_bytes(&mut self, mut bytes: &[u8], out: &mut String) {
        if self.drop_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drop_space = false;
        }
        // Complete the held character byte by byte, then take the rest at once.
        while self.length > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            let mut whole = [0; 4];
            whole[..self.length].copy_from_slice(&self.held[..self.length]);
            whole[self.length] = byte;
            let candidate = &whole[..=self.length];
            match std::str::from_utf8(candidate) {
                Ok(text) => {
                    out.push_str(text);
                    self.length = 0;
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => {
                    self.held[self.length] = byte;
                    self.length += 1;
                    bytes = rest;
                }
                // The byte does not continue the character; it may begin another.
                Err(_) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.length = 0;
                }
            }
        }
        self.take(bytes, out);
    }

    /// Appends U+FFFD if the stream ended inside a character.
    pub fn finish(&mut self, out: &mut String) {
        if self.length > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.length = 0;
        }
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut String) {
        loop {
            match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(length) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            bytes = &rest[length..];
                        }
                        None => {
                            // At most three bytes: four would be a character or an error.
                            self.held[..rest.len()].copy_from_slice(rest);
                            self.length = rest.len();
                            return;
                        }
                    }
                }
            }
        }
    }
}
