//! Answers of a forced form: JSON schema, regular expression, Lark, GBNF.

use crate::Result;
use yushan_abi::TokenId;

/// The state of a grammar along one answer.
pub struct Constraint;

impl Constraint {
    /// The tokens that may come next: bit `t % 32` of word `t / 32`.
    pub fn mask(&mut self) -> Result<&[u32]> {
        Ok(&[])
    }

    /// Goes past a token.
    pub fn accept(&mut self, _token: TokenId) -> Result<()> {
        Ok(())
    }

    /// Whether nothing may follow any more.
    pub fn is_finished(&self) -> bool {
        false
    }
}
