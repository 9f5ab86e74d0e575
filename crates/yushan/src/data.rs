//! `data build`: from a recipe to cleaned documents, a tokenizer and shards of tokens.
//!
//! The key decision: three steps with files between them, each of which is left alone when it is done already, so a build
//! that was interrupted goes on with the step it was in.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use yushan_model::tokenizer::{self, Tokenizer};
use yushan_train::bpe;
use yushan_train::corpus::{self, Corpus, Progress, Recipe};
use yushan_train::digest::sha256;
use yushan_train::pretrain::{CORPUS, SHARDS};
use yushan_train::shard::TRAIN;

use crate::figures::{bytes, count};
use crate::{flags, progress, train};

/// Tokens of a vocabulary, where the recipe names no size: enough for a model of a few million parameters.
const VOCABULARY: usize = 4096;

/// Make training data from texts
#[derive(clap::Args)]
pub(crate) struct Data {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Clean texts, leave out duplicates, hold some out, train a tokenizer, write shards of tokens
    Build(Build),
}

#[derive(clap::Args)]
struct Build {
    /// What is read and how it is cleaned, in TOML
    recipe: PathBuf,
    /// The folder to make [default: data/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Threads to work with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
}

impl Data {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Build(build) => build.run(),
        }
    }
}

impl Build {
    fn run(self) -> Result<()> {
        let recipe = Recipe::read(&self.recipe)?;
        let out = self.out.clone().unwrap_or_else(|| Path::new("data").join(&recipe.name));
        let threads = self.threads.unwrap_or_else(train::processors);
        let bar = progress::of_bytes(0);
        let built = corpus::clean(&recipe, &out.join(CORPUS), threads, &mut shown(&bar));
        bar.finish_and_clear();
        let built = built?;
        for one in &built.counts {
            eprintln!(
                "{}: {} documents read, {} kept for training ({}), {} held out ({})",
                one.source,
                one.read.documents,
                one.train.documents,
                bytes(one.train.bytes),
                one.holdout.documents,
                bytes(one.holdout.bytes)
            );
        }
        let (tokenizer, hash) = prepare(&recipe, &built.corpus, &out, threads)?;
        let encoder = Encoder { tokenizer: &tokenizer, hash, idle: Mutex::default() };
        let shards = out.join(SHARDS);
        if !shards.exists() {
            let bar = progress::of_bytes(0);
            let made = corpus::tokenize(&built.corpus, &encoder, &shards, &mut shown(&bar));
            bar.finish_and_clear();
            for split in made?.splits {
                let (documents, tokens, text) = split.totals();
                eprintln!(
                    "{}: {documents} documents, {} tokens of {}",
                    split.name,
                    count(tokens),
                    bytes(text)
                );
            }
        }
        println!("{}", out.display());
        Ok(())
    }
}

fn shown(bar: &ProgressBar) -> impl FnMut(&Progress) + '_ {
    move |now| {
        bar.set_length(now.total);
        bar.set_position(now.done);
        bar.set_message(format!("{}: {} documents, {} kept", now.stage, now.documents, now.kept));
    }
}

/// The tokenizer that stands beside the shards and its file's hash: made once, from the recipe's file or from the cleaned documents.
fn prepare(
    recipe: &Recipe,
    corpus: &Corpus,
    out: &Path,
    threads: usize,
) -> Result<(Tokenizer, [u8; 32])> {
    let path = out.join("tokenizer.json");
    if !path.exists() {
        match &recipe.tokenizer.file {
            Some(file) => {
                let from = recipe.folder.join(file);
                std::fs::copy(&from, &path)
                    .with_context(|| format!("copying {} to {}", from.display(), path.display()))?;
                let beside = from.with_file_name("tokenizer_config.json");
                if beside.exists() {
                    std::fs::copy(beside, out.join("tokenizer_config.json"))?;
                }
            }
            None => learn(recipe, corpus, out, threads)?,
        }
    }
    let json = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok((Tokenizer::from_hugging_face(out)?, sha256(&json)))
}

fn learn(recipe: &Recipe, corpus: &Corpus, out: &Path, threads: usize) -> Result<()> {
    let vocabulary = recipe.tokenizer.vocabulary.map_or(VOCABULARY, |size| size as usize);
    let options = bpe::Options { vocabulary, ..bpe::Options::default() };
    let mut failed = None;
    let texts = corpus.rows(TRAIN)?.map_while(|row| match row {
        Ok(row) => Some(row.text),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let limit = recipe.memory.bytes();
    let words = bpe::Words::count(texts, options.pre_tokenizer, limit, threads);
    if let Some(error) = failed {
        return Err(error.into());
    }
    let trained = bpe::train(&words, &options)?;
    eprintln!(
        "tokenizer: {} tokens from {} distinct words",
        trained.vocabulary_size(),
        words.len()
    );
    Ok(trained.write(out, CONTEXT)?)
}

/// What `tokenizer_config.json` says of the longest text; the model's own file says more exactly.
const CONTEXT: usize = 1 << 20;

/// A tokenizer whose buffers go from text to text, one set for each thread that is at work.
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    hash: [u8; 32],
    idle: Mutex<Vec<tokenizer::Encoder<'a>>>,
}

impl corpus::Encode for Encoder<'_> {
    fn vocabulary(&self) -> u32 {
        self.tokenizer.vocabulary_size() as u32
    }

    fn sha256(&self) -> [u8; 32] {
        self.hash
    }

    fn encode(&self, text: &str, out: &mut Vec<u32>) -> yushan_train::Result<()> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = idle.unwrap_or_else(|| self.tokenizer.encoder());
        encoder.append(text, out);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
        Ok(())
    }
}
