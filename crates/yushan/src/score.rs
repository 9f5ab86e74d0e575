//! `score`: how well a model predicts a text.
//!
//! The key decision: the windows are those of llama.cpp's `llama-perplexity`, so that the two
//! figures can be compared. The text is cut into windows of `--context` tokens that do not
//! overlap; the first half of each is only read, the tokens of the second half are scored; with
//! models that want one, BOS takes the place of a window's first token. A text shorter than one
//! window is one window, of which everything after its first token is scored.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;
use yushan_abi::{Chunk, Executor, Logits, TokenId};
use yushan_model::engine::Engine;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

use crate::{flags, open, progress};

/// Rows of logits computed at once: with large vocabularies they are most of the memory.
const LOGIT_ROWS: usize = 64;

/// Measure how well a model predicts a text: perplexity and bits per byte
#[derive(clap::Args)]
pub(crate) struct Score {
    /// The model
    file: String,
    /// The text, or - for stdin
    text: PathBuf,
    /// Tokens in a window
    #[arg(long, short = 'c', value_name = "N", default_value_t = 512, value_parser = flags::positive)]
    context: usize,
    /// Score only the first N windows
    #[arg(long, value_name = "N", value_parser = flags::positive)]
    chunks: Option<usize>,
    /// The tokenizer, where the format keeps it apart
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Threads to compute with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::positive)]
    threads: Option<usize>,
    /// How keys and values are stored
    #[arg(long, value_enum, default_value_t = flags::Kv::F16)]
    kv: flags::Kv,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was measured, in nats.
#[derive(Default)]
struct Sums {
    tokens: usize,
    bytes: usize,
    nats: f64,
    squares: f64,
}

impl Score {
    pub(crate) fn run(self) -> Result<()> {
        let file = open::model(&self.file)?;
        let tokenizer = open::tokenizer(&file, self.tokenizer.as_deref())?;
        let text = open::text(&self.text)?;
        let mut tokens = tokenizer.encode(&text, Special::AsText, Ends::Declared);
        let windows = windows(tokens.len(), self.context, self.chunks)?;
        let size = self.context.min(tokens.len());
        let engine = flags::Engine { threads: self.threads, context: Some(size), kv: self.kv };
        let options = engine.options(&file);
        let mut engine = Engine::load(&file, &options)?;
        let bar = progress::of_steps(windows as u64);
        let mut sums = Sums::default();
        let bos = tokenizer.roles().bos.filter(|_| tokenizer.adds_bos());
        for window in tokens.chunks_exact_mut(size).take(windows) {
            window[0] = bos.unwrap_or(window[0]);
            let from = if size < self.context { 0 } else { size / 2 };
            score(&mut engine, window, from, options.threads, &tokenizer, &mut sums)?;
            bar.inc(1);
            bar.set_message(format!("perplexity {:.4}", sums.perplexity().0));
        }
        bar.finish_and_clear();
        self.report(&sums, tokens.len(), windows, size)
    }

    fn report(&self, sums: &Sums, tokens: usize, windows: usize, size: usize) -> Result<()> {
        let (perplexity, error) = sums.perplexity();
        let nats_per_byte = sums.nats / sums.bytes as f64;
        let bits_per_byte = nats_per_byte / std::f64::consts::LN_2;
        let scored = sums.tokens;
        let mut out = std::io::stdout();
        if self.json {
            let result = json!({
                "model": self.file,
                "tokens": tokens,
                "windows": windows,
                "context": size,
                "scored_tokens": scored,
                "scored_bytes": sums.bytes,
                "perplexity": perplexity,
                "standard_error": error,
                "nats_per_byte": nats_per_byte,
                "bits_per_byte": bits_per_byte,
            });
            writeln!(out, "{result:#}")?;
        } else {
            writeln!(out, "perplexity     {perplexity:.4} ± {error:.4}")?;
            writeln!(out, "bits per byte  {bits_per_byte:.4} ({nats_per_byte:.4} nats)")?;
            writeln!(
                out,
                "scored         {scored} of {tokens} tokens, {windows} windows of {size}"
            )?;
        }
        Ok(())
    }
}

/// How many windows there are to score.
fn windows(tokens: usize, context: usize, most: Option<usize>) -> Result<usize> {
    if tokens < 2 || context < 2 {
        bail!(
            "{tokens} tokens in windows of {context}: at least 2 are needed to score one of them"
        );
    }
    Ok((tokens / context).max(1).min(most.unwrap_or(usize::MAX)))
}

/// Scores `window[from + 1..]`, each token after all before it.
fn score(
    engine: &mut Engine,
    window: &[TokenId],
    from: usize,
    threads: usize,
    tokenizer: &Tokenizer,
    sums: &mut Sums,
) -> Result<()> {
    // A prompt of one token is never taken from the cache, and every position is computed.
    let sequence = engine.admit(&window[..1])?.sequence;
    let most = engine.max_rows();
    let mut at = 0;
    // The last token predicts nothing that is there.
    let end = window.len() - 1;
    while at < end {
        let (rows, logits) = if at < from {
            (most.min(from - at), Logits::None)
        } else {
            (most.min(LOGIT_ROWS).min(end - at), Logits::All)
        };
        let chunk = Chunk { sequence, tokens: &window[at..at + rows], logits };
        let output = engine.step(&[chunk])?;
        if logits == Logits::All {
            let next = &window[at + 1..at + 1 + rows];
            let mut nats = vec![0.0; rows];
            let share = rows.div_ceil(threads);
            std::thread::scope(|scope| {
                for (part, nats) in nats.chunks_mut(share).enumerate() {
                    scope.spawn(move || {
                        for (index, nats) in nats.iter_mut().enumerate() {
                            let row = part * share + index;
                            *nats = surprise(output.row(row), next[row]);
                        }
                    });
                }
            });
            for (nats, &token) in nats.into_iter().zip(next) {
                sums.add(nats, tokenizer.token_bytes(token).len());
            }
        }
        at += rows;
    }
    engine.release(sequence)?;
    Ok(())
}

/// `-ln` of the softmax at `token`, in nats.
fn surprise(logits: &[f32], token: TokenId) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - top).exp())).sum();
    sum.ln() - f64::from(logits[token as usize] - top)
}

impl Sums {
    fn add(&mut self, nats: f64, bytes: usize) {
        self.tokens += 1;
        self.bytes += bytes;
        self.nats += nats;
        self.squares += nats * nats;
    }

    /// The perplexity and its standard error: that of the mean of the nats, carried through `exp`.
    fn perplexity(&self) -> (f64, f64) {
        let n = self.tokens as f64;
        let mean = self.nats / n;
        let variance = (self.squares / n - mean * mean).max(0.0) / (n - 1.0).max(1.0);
        (mean.exp(), mean.exp() * variance.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_the_softmax_in_logarithms() {
        let logits = [1f32.ln(), 2f32.ln(), 5f32.ln()].map(|logit| logit + 80.0);
        assert!((surprise(&logits, 1) - 4f64.ln()).abs() < 1e-5);
    }

    #[test]
    fn perplexity_of_a_coin_is_two() {
        let mut sums = Sums::default();
        (0..10).for_each(|_| sums.add(std::f64::consts::LN_2, 1));
        assert!((sums.perplexity().0 - 2.0).abs() < 1e-9 && sums.perplexity().1 < 1e-6);
    }

    #[test]
    fn windows_are_whole_or_one() {
        assert_eq!(windows(1100, 512, None).unwrap(), 2);
        assert_eq!(windows(5000, 512, Some(3)).unwrap(), 3);
        assert_eq!(windows(100, 512, None).unwrap(), 1);
        assert!(windows(1, 512, None).is_err());
    }
}
