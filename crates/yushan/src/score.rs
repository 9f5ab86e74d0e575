//! `score`: how well a model predicts a text.
//!
//! The windows and the arithmetic are the library's (`yushan_model::score`), which follow
//! llama.cpp's `llama-perplexity`, so that the two figures can be compared. A text shorter than one
//! window is one window.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use yushan_model::score::{self, DEFAULT_WINDOW, score};
use yushan_model::tokenizer::{Ends, Special};

use crate::exit::BadFile;
use crate::{flags, open, progress};

/// Measure how well a model predicts a text: perplexity and bits per byte
#[derive(clap::Args)]
pub(crate) struct Score {
    /// The model
    file: String,
    /// The text, or - for stdin
    text: PathBuf,
    /// Tokens in a window
    #[arg(long, short = 'c', value_name = "N", default_value_t = DEFAULT_WINDOW, value_parser = flags::window)]
    context: usize,
    /// Score only the first N windows
    #[arg(long, value_name = "N", value_parser = flags::positive)]
    chunks: Option<usize>,
    /// The tokenizer, where the format keeps it apart
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Threads to compute with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
    /// How keys and values are stored
    #[arg(long, value_enum, default_value_t = flags::Kv::F16)]
    kv: flags::Kv,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Score {
    pub(crate) fn run(self) -> Result<()> {
        let file = open::model(&self.file)?;
        let tokenizer = open::tokenizer(&file, self.tokenizer.as_deref())?;
        let text = open::text(&self.text)?;
        let tokens = tokenizer.encode(&text, Special::AsText, Ends::Declared);
        if tokens.len() < flags::SHORTEST_WINDOW {
            let (found, least) = (tokens.len(), flags::SHORTEST_WINDOW);
            let detail = format!("{found} tokens; expected at least {least}: take a longer text");
            return Err(BadFile(format!("{}: {detail}", self.text.display())).into());
        }
        let window = self.context.min(tokens.len());
        let engine = flags::Engine { threads: self.threads, context: Some(window), kv: self.kv };
        let mut engine = open::engine(&file, &engine.options(&file))?;
        let most = self.chunks.unwrap_or(usize::MAX);
        let bar = progress::of_steps(0);
        let scored = score(&mut engine, &tokenizer, &tokens, window, &mut |score, windows| {
            bar.set_length(windows.min(most) as u64);
            bar.set_position(score.windows as u64);
            bar.set_message(format!("perplexity {:.4}", score.perplexity()));
            if score.windows < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        bar.finish_and_clear();
        self.report(&scored?, tokens.len(), window)
    }

    fn report(&self, score: &score::Score, tokens: usize, window: usize) -> Result<()> {
        let (perplexity, error) = (score.perplexity(), score.perplexity_error());
        let (bits, nats) = (score.bits_per_byte(), score.nll / score.bytes as f64);
        let (scored, windows) = (score.tokens, score.windows);
        let mut out = std::io::stdout();
        if self.json {
            let result = json!({
                "model": self.file,
                "tokens": tokens,
                "windows": windows,
                "context": window,
                "scored_tokens": scored,
                "scored_bytes": score.bytes,
                "perplexity": perplexity,
                "standard_error": error,
                "nats_per_byte": nats,
                "bits_per_byte": bits,
            });
            writeln!(out, "{result:#}")?;
        } else {
            writeln!(out, "perplexity     {perplexity:.4} ± {error:.4}")?;
            writeln!(out, "bits per byte  {bits:.4} ({nats:.4} nats)")?;
            writeln!(
                out,
                "scored         {scored} of {tokens} tokens, {windows} windows of {window}"
            )?;
        }
        Ok(())
    }
}
