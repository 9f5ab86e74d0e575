//! One vector for a whole text: which hidden states it is made of.
//!
//! The key decision: rows are added one by one in the order of their positions, in double precision, so
//! that the vector has the same bits however the text was cut into chunks and whatever ran beside it.
//!
//! Which pooling a model was trained for stands in its file: in GGUF under `{arch}.pooling_type`
//! (llama.cpp's numbers), in a folder in `1_Pooling/config.json` (sentence-transformers'). Where
//! neither says, it is the mean, as both take it.

use crate::json::Object;
use crate::mmap::Mapping;
use crate::{Error, Format, ModelFile, Result};

/// Where sentence-transformers keeps it.
const IN_FOLDER: &str = "1_Pooling/config.json";

/// Which hidden states an embedding is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    #[default]
    Mean,
    /// That of the first token.
    First,
    /// That of the last token, which alone has seen the whole text.
    Last,
}

/// The poolings that can be run: llama.cpp's number, and the name in sentence-transformers' file.
const KNOWN: [(Pooling, usize, &str); 3] = [
    (Pooling::Mean, 1, "mean_tokens"),
    (Pooling::First, 2, "cls_token"),
    (Pooling::Last, 3, "lasttoken"),
];

/// Those that cannot.
const OTHERS: [&str; 3] = ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"];

impl Pooling {
    /// The pooling a model was made for.
    pub fn of(file: &ModelFile) -> Result<Pooling> {
        match (file.format(), file.metadata()) {
            (Format::Gguf, Some(metadata)) => {
                let key = format!("{}.pooling_type", file.config().architecture);
                let number = metadata.integer(&key)?.unwrap_or(0);
                let known = KNOWN.iter().find(|(_, known, _)| *known == number);
                match (number, known) {
                    (0, _) => Ok(Pooling::default()),
                    (_, Some((pooling, ..))) => Ok(*pooling),
                    _ => Err(unsupported(format!("{key} {number}"))),
                }
            }
            (Format::Safetensors, _) => {
                let path = file.folder().join(IN_FOLDER);
                if path.is_file() {
                    Pooling::read(&Mapping::open(&path)?)
                } else {
                    Ok(Pooling::default())
                }
            }
            _ => Ok(Pooling::default()),
        }
    }

    /// What sentence-transformers' file says.
    fn read(bytes: &[u8]) -> Result<Pooling> {
        let json = Object::parse(IN_FOLDER, bytes)?;
        let is = |name: &str| json.flag(&format!("pooling_mode_{name}"));
        for name in OTHERS {
            if is(name)? {
                return Err(unsupported(format!("pooling_mode_{name}")));
            }
        }
        let mut chosen = None;
        for (pooling, _, name) in KNOWN {
            if is(name)? && chosen.replace(pooling).is_some() {
                return Err(unsupported("several poolings side by side".into()));
            }
        }
        Ok(chosen.unwrap_or_default())
    }

    /// llama.cpp's number.
    pub(crate) fn number(self) -> usize {
        KNOWN.iter().find(|(pooling, ..)| *pooling == self).map_or(0, |(_, number, _)| *number)
    }
}

fn unsupported(what: String) -> Error {
    let expected = "the mean, the first or the last token can be pooled".into();
    Error::Unsupported { what, expected }
}

/// An embedding in the making.
#[derive(Clone, Debug)]
pub(crate) struct Pooled {
    /// The sum, or the one state: `(D)`.
    sum: Vec<f64>,
    /// Rows that were taken.
    pub(crate) rows: usize,
}

impl Pooled {
    pub(crate) fn new(dim: usize) -> Pooled {
        Pooled { sum: vec![0.0; dim], rows: 0 }
    }

    /// Takes the state of the next token, `(D)`.
    pub(crate) fn take(&mut self, pooling: Pooling, state: &[f32]) {
        let keep = match pooling {
            Pooling::Mean => 1.0,
            Pooling::Last => 0.0,
            Pooling::First if self.rows > 0 => {
                self.rows += 1;
                return;
            }
            Pooling::First => 0.0,
        };
        for (sum, &state) in self.sum.iter_mut().zip(state) {
            *sum = keep * *sum + f64::from(state);
        }
        self.rows += 1;
    }

    /// The embedding, `(D)`.
    pub(crate) fn vector(&self, pooling: Pooling) -> Vec<f32> {
        let over = if pooling == Pooling::Mean { self.rows.max(1) as f64 } else { 1.0 };
        self.sum.iter().map(|sum| (sum / over) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pooled_as_the_model_wants() {
        for (pooling, expected) in
            [(Pooling::Mean, [2.0, 3.0]), (Pooling::First, [1.0, 5.0]), (Pooling::Last, [4.0, 2.0])]
        {
            let mut pooled = Pooled::new(2);
            for state in [[1.0, 5.0], [1.0, 2.0], [4.0, 2.0]] {
                pooled.take(pooling, &state);
            }
            assert_eq!((pooled.vector(pooling), pooled.rows), (expected.to_vec(), 3));
        }
    }

    #[test]
    fn the_file_of_sentence_transformers_says_which() {
        for (text, expected) in [
            (r#"{"word_embedding_dimension": 64, "pooling_mode_mean_tokens": true}"#, "Ok(Mean)"),
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_lasttoken": false}"#, "Ok(First)"),
            (r#"{"pooling_mode_lasttoken": true}"#, "Ok(Last)"),
            ("{}", "Ok(Mean)"),
            (r#"{"pooling_mode_max_tokens": true}"#, "pooling_mode_max_tokens"),
            (r#"{"pooling_mode_lasttoken": true, "pooling_mode_cls_token": true}"#, "several"),
            (r#"{"pooling_mode_lasttoken": 7}"#, "pooling_mode_lasttoken"),
            ("[", "1_Pooling"),
        ] {
            let found = format!("{:?}", Pooling::read(text.as_bytes()));
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
