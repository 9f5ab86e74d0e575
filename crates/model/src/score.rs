//! How well a model predicts a text: perplexity and bits per byte.
//!
//! The windows of llama-perplexity (llama.cpp, tools/perplexity), so that figures can be set side by side:
//! the text is cut into windows of equal length, what is left over is not scored; the first token of
//! a window becomes BOS if the model wants one; of each window, the second half is scored (its first
//! token is the first that is only context: 255 of 512 count), so that every prediction had some
//! context.
//!
//! The key decision: bits per byte count the bytes of the scored tokens, not of the text, so that both
//! figures speak of the same predictions. Not here: reading and tokenizing the text.

use std::ops::ControlFlow;

use yushan_abi::{Chunk, Executor, Logits, TokenId};

use crate::generate::scored_rows;
use crate::logprobs::LogprobReader;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The window of llama-perplexity unless it is told another.
pub const DEFAULT_WINDOW: usize = 512;

/// What a model made of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Windows scored.
    pub windows: usize,
    /// Tokens predicted.
    pub tokens: usize,
    /// Bytes that these tokens stand for.
    pub bytes: usize,
    /// Their negative log-likelihood, in nats, summed.
    pub nll: f64,
    /// The squares of each token's, summed.
    pub nll_squares: f64,
}

impl Score {
    /// e to the mean negative log-likelihood of a token.
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// The standard error of [`Score::perplexity`], if tokens were independent.
    pub fn perplexity_error(&self) -> f64 {
        let count = self.tokens as f64;
        let variance = self.nll_squares / count - (self.nll / count).powi(2);
        (variance.max(0.0) / (count - 1.0).max(1.0)).sqrt() * self.perplexity()
    }

    /// Bits to encode a byte of the text.
    pub fn bits_per_byte(&self) -> f64 {
        self.nll / std::f64::consts::LN_2 / self.bytes as f64
    }
}

/// Scores `tokens` (encoded with `Ends::Declared`) in windows of `window`. The callback gets the score so far
/// and the number of windows after each; `Break` ends the scoring there.
pub fn score(
    executor: &mut dyn Executor,
    tokenizer: &Tokenizer,
    tokens: &[TokenId],
    window: usize,
    on_progress: &mut dyn FnMut(&Score, usize) -> ControlFlow<()>,
) -> Result<Score> {
    if window < 4 || window > executor.context() {
        let detail =
            format!("{window} tokens; expected 4 to the context of {}", executor.context());
        return Err(Error::request("window", detail));
    }
    let windows = tokens.len() / window;
    if windows == 0 {
        let detail = format!(
            "{} tokens; expected at least one window of {window}: take a longer text or a smaller window",
            tokens.len()
        );
        return Err(Error::request("text", detail));
    }
    let bos = tokenizer.roles().bos.filter(|_| tokenizer.adds_bos());
    let (mut score, mut reader) = (Score::default(), LogprobReader::default());
    let mut read = Vec::with_capacity(window);
    for text in tokens.chunks_exact(window) {
        read.clear();
        read.extend_from_slice(text);
        read[0] = bos.unwrap_or(read[0]);
        score_window(executor, &read, &mut |logits, token| {
            let nll = -f64::from(reader.read(logits, token, 0).chosen);
            score.tokens += 1;
            score.bytes += tokenizer.token_bytes(token).len();
            score.nll += nll;
            score.nll_squares += nll * nll;
        })?;
        score.windows += 1;
        if on_progress(&score, windows).is_break() {
            break;
        }
    }
    Ok(score)
}

/// Calls `each` with every token of the second half but its first, and the logits before it.
fn score_window(
    executor: &mut dyn Executor,
    window: &[TokenId],
    each: &mut dyn FnMut(&[f32], TokenId),
) -> Result<()> {
    let half = window.len() / 2;
    let admitted = executor.admit("", window)?;
    let sequence = admitted.sequence;
    let rows = executor.max_rows().max(1);
    let scored = scored_rows(executor);
    let mut run = || -> Result<()> {
        let mut at = admitted.cached;
        if at > half {
            // What came from the cache has no logits.
            executor.truncate(sequence, half)?;
            at = half;
        }
        // The last token is only predicted.
        while at + 1 < window.len() {
            let (end, logits) = match at < half {
                true => ((at + rows).min(half), Logits::None),
                false => ((at + scored).min(window.len() - 1), Logits::All),
            };
            let output = executor.step(&[Chunk { sequence, tokens: &window[at..end], logits }])?;
            for row in 0..if at < half { 0 } else { end - at } {
                each(output.row(row), window[at + row + 1]);
            }
            at = end;
        }
        Ok(())
    };
    let result = run();
    let released = executor.release(sequence);
    result?;
    Ok(released?)
}

#[cfg(test)]
mod tests {
    use yushan_abi::scripted::Scripted;

    use super::*;
    use crate::tokenizer::test_tokenizer;

    /// Logits that depend on the last two tokens and the position.
    fn model(history: &[TokenId], logits: &mut [f32]) {
        let last = history[history.len() - 1] + 7 * history[history.len().saturating_sub(2)];
        for (at, logit) in logits.iter_mut().enumerate() {
            *logit = ((at as u32 * 31 + last * 17 + history.len() as u32) % 23) as f32 / 4.0;
        }
    }

    #[test]
    fn windows_are_those_of_llama_perplexity() {
        let tokenizer = test_tokenizer();
        let vocabulary = tokenizer.vocabulary_size();
        let text: Vec<TokenId> = (0..53).map(|at| 3 + at * 5 % 200).collect();
        for window in [4, 7, 16, 50] {
            let mut executor = Scripted::new(vocabulary, 50, model);
            let mut calls = 0;
            let got = score(&mut executor, &tokenizer, &text, window, &mut |_, windows| {
                assert_eq!(windows, 53 / window);
                calls += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
            let (mut nll, mut count) = (0.0, 0);
            for start in (0..=53 - window).step_by(window) {
                let mut tokens = text[start..start + window].to_vec();
                tokens[0] = 1;
                for at in window / 2..window - 1 {
                    let mut logits = vec![0.0; vocabulary];
                    model(&tokens[..=at], &mut logits);
                    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                    nll -= f64::from(logits[tokens[at + 1] as usize]) - sum.ln();
                    count += 1;
                }
            }
            assert_eq!((got.tokens, got.bytes, got.windows), (count, count, calls));
            assert!((got.nll - nll).abs() < 1e-4 * nll, "{} {nll}", got.nll);
            assert!((got.perplexity() - (nll / count as f64).exp()).abs() < 0.05);
            assert!((got.bits_per_byte() - nll / count as f64 / 2f64.ln()).abs() < 1e-3);
            assert!(got.perplexity_error() > 0.0);
            assert_eq!(executor.usage().sequences, 0);
        }
    }

    #[test]
    fn scoring_can_be_cancelled_and_refused() {
        let tokenizer = test_tokenizer();
        let text = [5; 40];
        let mut executor = Scripted::new(tokenizer.vocabulary_size(), 32, model);
        let stop: &mut dyn FnMut(&Score, usize) -> ControlFlow<()> =
            &mut |_, _| ControlFlow::Break(());
        assert_eq!(score(&mut executor, &tokenizer, &text, 8, stop).unwrap().windows, 1);
        for (text, window, message) in [
            (&text[..], 33, "window: 33 tokens; expected 4 to the context of 32"),
            (&text, 3, "window: 3 tokens"),
            (&text[..7], 8, "text: 7 tokens; expected at least one window of 8"),
        ] {
            let error = score(&mut executor, &tokenizer, text, window, stop).unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
        }
    }
}
