//! Files of questions and of text put before a model: the figures, and which file they are of.
//!
//! The key decision: who is tried is a [`Likelihood`] with a tokenizer, so a file, a checkpoint and a server are given
//! the same rows of token ids, and their figures can be set side by side. Questions begin with a start token if the
//! model's texts do; documents always do, since their first token has to be predicted from something.

use serde::Serialize;
use yushan_abi::TokenId;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

use super::file::File;
use super::hold_out::{Document, Windows, bits_per_byte};
use super::items::{Form, Item, Items};
use super::{Accuracy, BitsPerByte, Likelihood, Reading, cloze, multiple_choice};
use crate::{Error, Result};

/// A model that is tried.
pub struct Subject<'a> {
    /// Tells probabilities.
    pub model: &'a mut dyn Likelihood,
    /// Makes its tokens of text.
    pub tokenizer: &'a Tokenizer,
    /// Tokens of a row at most.
    pub window: usize,
    /// Questions, or rows of text, that are handed over together.
    pub batch: usize,
}

/// Figures of a file of questions.
#[derive(Clone, Debug, Serialize)]
pub struct Questions {
    /// The file's name.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// `arc`, `hellaswag`, or `cloze`.
    pub form: &'static str,
    /// How many were right.
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Standard error of the share that was right.
    pub standard_error: Option<f64>,
    /// Standard error of the share that was right by length.
    pub normalised_standard_error: Option<f64>,
    /// Rows that are no questions: all, and the first with their fault.
    pub malformed: usize,
    /// Number from 1, and why.
    pub faults: Vec<(usize, String)>,
}

/// Figures of a file of text.
#[derive(Clone, Debug, Serialize)]
pub struct Texts {
    /// The file's name.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// How well it was predicted.
    #[serde(flatten)]
    pub score: BitsPerByte,
}

impl Subject<'_> {
    /// The token that rows of questions begin with, if any.
    pub fn start(&self) -> Option<TokenId> {
        self.tokenizer.roles().bos.filter(|_| self.tokenizer.adds_bos())
    }

    /// Questions of a file, the first `limit`; `form` is found out if it is not given. `each` is told how many are done of all.
    ///
    /// # Errors
    /// A file without a question; what the model says.
    pub fn questions(
        &mut self,
        file: &File,
        form: Option<Form>,
        limit: Option<usize>,
        each: &mut dyn FnMut(usize, usize),
    ) -> Result<Questions> {
        let form = form.unwrap_or_else(|| Form::of(&file.text));
        let Items { mut items, problems, problem_count } = Items::read(&file.text, form);
        if items.is_empty() {
            let first =
                problems.first().map_or(String::new(), |(row, why)| format!(": row {row}: {why}"));
            let detail = format!("no question of the form {}{first}", form.name());
            return Err(Error::bad(file.name.clone(), detail));
        }
        items.truncate(limit.unwrap_or(usize::MAX));
        let accuracy = self.answer(&items, each)?;
        Ok(Questions {
            malformed: problem_count,
            faults: problems,
            ..Questions::of(file, form.name(), accuracy)
        })
    }

    /// Cloze questions made of a file's text: `count`, drawn with `seed`.
    ///
    /// # Errors
    /// A text that gives none; what the model says.
    pub fn cloze(
        &mut self,
        file: &File,
        between: Option<&str>,
        (count, seed): (usize, u64),
        each: &mut dyn FnMut(usize, usize),
    ) -> Result<Questions> {
        // Paragraphs end with an empty line, whatever ends the lines.
        let bare = |text: String| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        let documents: Vec<_> = file.documents(between)?.into_iter().map(bare).collect();
        let items = cloze(&mut documents.iter().map(String::as_str), count, seed)
            .map_err(|error| Error::bad(file.name.clone(), error.to_string()))?;
        let accuracy = self.answer(&items, each)?;
        Ok(Questions::of(file, "cloze", accuracy))
    }

    fn answer(&mut self, items: &[Item], each: &mut dyn FnMut(usize, usize)) -> Result<Accuracy> {
        let tokenizer = self.tokenizer;
        let encode = |text: &str| tokenizer.encode(text, Special::AsText, Ends::Bare);
        let (start, window, batch) = (self.start(), self.window, self.batch);
        let reading = Reading { encode: &encode, start, window, batch };
        let told = &mut |answered: &super::Answered| each(answered.item + 1, items.len());
        multiple_choice(self.model, items, &reading, told)
    }

    /// Bits per byte of a file's documents, of about the first `tokens` tokens.
    ///
    /// # Errors
    /// A model without a token to begin with; a file without a text; what the model says.
    pub fn texts(
        &mut self,
        file: &File,
        between: Option<&str>,
        tokens: Option<u64>,
        each: &mut dyn FnMut(usize, usize),
    ) -> Result<Texts> {
        let tokenizer = self.tokenizer;
        let roles = tokenizer.roles();
        let Some(start) = roles.bos.or(roles.eos) else {
            let detail = "it has no token that begins or ends a text, so a text's first token cannot be predicted";
            return Err(Error::bad("the tokenizer", detail));
        };
        let texts = file.documents(between)?;
        let bytes = |id| tokenizer.token_bytes(id).len() as u32;
        let table: Vec<u32> = (0..tokenizer.vocabulary_size() as TokenId).map(bytes).collect();
        let windows = Windows {
            batch: self.batch,
            limit: tokens,
            token_bytes: tokens.is_some().then_some(&table[..]),
            ..Windows::new(start, self.window)
        };
        let mut documents = texts.iter().enumerate().map(|(at, text)| {
            each(at, texts.len());
            let tokens = tokenizer.encode(text, Special::AsText, Ends::Bare);
            Ok(Document { tokens, bytes: text.len() as u64 })
        });
        let score = bits_per_byte(self.model, &mut documents, &windows)?;
        if score.bpb.is_none() {
            return Err(Error::bad(file.name.clone(), "no text; expected at least a word"));
        }
        Ok(Texts { file: file.name.clone(), sha256: file.sha256.clone(), score })
    }
}

impl Questions {
    fn of(file: &File, form: &'static str, accuracy: Accuracy) -> Questions {
        Questions {
            file: file.name.clone(),
            sha256: file.sha256.clone(),
            form,
            standard_error: accuracy.standard_error(&accuracy.accuracy),
            normalised_standard_error: accuracy.standard_error(&accuracy.normalised),
            accuracy,
            malformed: 0,
            faults: Vec::new(),
        }
    }
}
