//! How good a model is: bits per byte on hold-outs, and questions answered by likelihood.
//!
//! The key decision: everything asks one thing of a model, the log-probability of each token of a row, so
//! the trainer's decoder, the engine and a server across the network are scored by the same code.

pub mod choices;
mod cloze;
pub mod completions;
pub mod file;
pub mod hold_out;
mod interval;
pub mod items;
pub mod likelihood;
mod trial;

use serde::{Deserialize, Serialize};

pub use choices::{Answered, Reading, multiple_choice};
pub use cloze::cloze;
pub use completions::{CompletionRequest, Completions};
pub use file::File;
pub use hold_out::{Document, Windows, bits_per_byte};
pub use interval::Interval;
#[cfg(test)]
pub(crate) use interval::Random;
pub use items::{Form, Item, Items};
pub use likelihood::{Engine, Likelihood, Losses};
pub use trial::{Questions, Subject, Texts};

use crate::Result;
use crate::report::{Sample, number};

/// How well a hold-out was predicted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BitsPerByte {
    /// Bits a byte of UTF-8; `None` when nothing was scored.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub bpb: Option<f64>,
    /// Nats a token.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Tokens that were scored.
    #[serde(default)]
    pub tokens: u64,
    /// UTF-8 bytes that they stand for.
    #[serde(default)]
    pub bytes: u64,
    /// Documents that they come from.
    #[serde(default)]
    pub documents: u64,
    /// 95 % interval of `bpb`, bootstrapped over documents; from eight documents on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// How many questions were answered right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Questions scored.
    pub items: u64,
    /// Questions left out: malformed, or longer than the context.
    #[serde(default)]
    pub skipped: u64,
    /// Share right by the whole answer's log-probability (`acc` of lm-evaluation-harness), with a 95 % interval.
    pub accuracy: Option<Interval>,
    /// Share right by log-probability over the answer's length in bytes (`acc_norm`).
    pub normalised: Option<Interval>,
    /// Share right by chance.
    #[serde(default)]
    pub chance: f64,
}

impl Accuracy {
    /// Standard error of a share of these questions, as lm-evaluation-harness has it: √(p (1 − p) / (n − 1)).
    pub fn standard_error(&self, share: &Option<Interval>) -> Option<f64> {
        let p = share.filter(|_| self.items > 1)?.value;
        Some((p * (1.0 - p) / (self.items - 1) as f64).sqrt())
    }
}

/// What the model writes after each prompt; `write` gets prompt, seed and temperature. The seed of each
/// prompt is its own, so that one more prompt changes nothing of the others.
pub fn samples(
    prompts: &[String],
    seed: u64,
    temperature: f32,
    write: &mut dyn FnMut(&str, u64, f32) -> Result<String>,
) -> Result<Vec<Sample>> {
    let sample = |(at, prompt): (usize, &String)| {
        let seed = seed.wrapping_add(at as u64);
        let text = write(prompt, seed, temperature)?;
        Ok(Sample { prompt: prompt.clone(), text, seed, temperature })
    };
    prompts.iter().enumerate().map(sample).collect()
}

#[cfg(test)]
mod tests;
