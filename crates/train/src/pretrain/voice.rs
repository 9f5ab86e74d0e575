//! What the model writes while it learns: the given beginnings, continued with a fixed seed.
//!
//! The key decision: the decoder that is being trained continues them itself, without keys and values kept. That costs
//! a forward pass a token over a short text, and shows exactly the weights of this step.

use yushan_abi::{Sampling, TokenId};
use yushan_model::sampler::Sampler;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};
use yushan_tensor::Pool;

use crate::Result;
use crate::decoder::Decoder;
use crate::report::Sample;

/// How texts are continued.
pub(super) struct Voice<'a> {
    /// The texts' tokenizer.
    pub(super) tokenizer: &'a Tokenizer,
    /// Stands before every text and after it.
    pub(super) bos: TokenId,
    /// Tokens to write, at most.
    pub(super) tokens: usize,
    /// 0: always the likeliest.
    pub(super) temperature: f32,
    /// Of the sampler.
    pub(super) seed: u64,
}

impl Voice<'_> {
    /// Continues `prompt` until the text ends or there are enough tokens.
    ///
    /// # Errors
    /// A temperature that is no number from 0 up.
    pub(super) fn sample(
        &self,
        decoder: &mut Decoder,
        pool: &mut Pool,
        prompt: &str,
    ) -> Result<Sample> {
        let (context, vocabulary) = (decoder.shape().context, decoder.shape().vocabulary);
        let sampling =
            Sampling { temperature: self.temperature, seed: self.seed, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, vocabulary)?;
        let mut ids = vec![self.bos];
        ids.extend(self.tokenizer.encode(prompt, Special::AsText, Ends::Bare));
        let given = ids.len();
        for _ in 0..self.tokens {
            let seen = &ids[ids.len().saturating_sub(context)..];
            let logits = decoder.logits(pool, seen);
            let token = sampler.sample(&logits[logits.len() - vocabulary..], None);
            if token == self.bos || self.tokenizer.is_end_of_generation(token) {
                break;
            }
            sampler.accept(token);
            ids.push(token);
        }
        Ok(Sample {
            prompt: prompt.to_owned(),
            text: self.tokenizer.decode(&ids[given..], Special::Parse),
            seed: self.seed,
            temperature: self.temperature,
        })
    }
}
