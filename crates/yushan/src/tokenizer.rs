//! `tokenizer`: byte-level BPE from texts, and how well a tokenizer compresses.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use yushan_train::bpe;

use crate::exit::BadFile;
use crate::{flags, train};

/// Train a tokenizer, and see how well one compresses
#[derive(clap::Args)]
pub(crate) struct Tokenizer {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Learn byte-level BPE from texts; writes tokenizer.json
    Train(Train),
    /// Bytes a token, on the same texts, of several tokenizers side by side
    Eval(Eval),
}

#[derive(clap::Args)]
struct Train {
    /// Texts; in each, a line <|endoftext|> stands between documents
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// Tokens in all, special ones and the 256 bytes among them
    #[arg(long, value_name = "N", default_value_t = 8192)]
    vocabulary: usize,
    /// The folder to write to
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Memory for distinct words, in megabytes; the rarest are forgotten beyond it
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    memory: usize,
    /// Threads to work with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
}

#[derive(clap::Args)]
struct Eval {
    /// Texts
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// A tokenizer: tokenizer.json or its folder, a .tiktoken file, GPT-2's encoder.json; as often as needed
    #[arg(long = "tokenizer", value_name = "FILE", required = true)]
    tokenizers: Vec<PathBuf>,
    /// Threads to work with [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
}

impl Tokenizer {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Train(train) => train.run(),
            What::Eval(eval) => eval.run(),
        }
    }
}

/// The documents of some files.
fn documents(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    for path in paths {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let what = format!("{}: byte {at} is no UTF-8", path.display());
            BadFile(format!("{what}; clean it first (yushan data build)"))
        })?;
        let parts = text.split("<|endoftext|>").map(|part| part.trim_matches(['\r', '\n']));
        documents.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
    }
    Ok(documents)
}

impl Train {
    fn run(self) -> Result<()> {
        let documents = documents(&self.texts)?;
        let options = bpe::Options { vocabulary: self.vocabulary, ..bpe::Options::default() };
        let threads = self.threads.unwrap_or_else(train::processors);
        let limit = self.memory.saturating_mul(1_000_000);
        let words = bpe::Words::count(documents.into_iter(), options.pre_tokenizer, limit, threads);
        let trained = bpe::train(&words, &options)?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("making {}", self.out.display()))?;
        trained.write(&self.out, 1 << 20)?;
        if words.forgotten() > 0 {
            let forgotten = words.forgotten();
            eprintln!("warning: {forgotten} rare words were forgotten; give more --memory");
        }
        eprintln!(
            "{} tokens from {} distinct words of {}",
            trained.vocabulary_size(),
            words.len(),
            crate::figures::bytes(words.text_bytes())
        );
        println!("{}", self.out.join("tokenizer.json").display());
        Ok(())
    }
}

impl Eval {
    fn run(self) -> Result<()> {
        let threads = self.threads.unwrap_or_else(train::processors);
        let mut rows = Vec::new();
        for path in &self.texts {
            let documents = documents(std::slice::from_ref(path))?;
            for tokenizer in &self.tokenizers {
                let loaded = bpe::open(tokenizer)?;
                let figures = bpe::evaluate(&loaded, documents.iter(), threads)?;
                rows.push((name(tokenizer), name(path), figures));
            }
        }
        print!("{}", bpe::table(&rows));
        Ok(())
    }
}

/// The last part of a path that says something.
fn name(path: &Path) -> String {
    let plain = ["tokenizer.json", "encoder.json"].map(std::ffi::OsStr::new);
    let named = match path.file_name() {
        Some(last) if plain.contains(&last) => {
            path.parent().and_then(Path::file_name).or(Some(last))
        }
        last => last,
    };
    named.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
