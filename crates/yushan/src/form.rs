//! The form a reply must have, from the files on the command line.
use crate::run::Form;
use anyhow::Result;
use yushan_model::grammar::Constraint;
use yushan_model::tokenizer::Tokenizer;
pub(crate) struct Forms;
impl Forms {
    pub(crate) fn read(
        _flags: &Form,
        _tokenizer: &Tokenizer,
        _vocabulary: usize,
    ) -> Result<Option<Forms>> {
        Ok(None)
    }
    pub(crate) fn constraint(&self) -> Result<Constraint> {
        anyhow::bail!("stub")
    }
}
