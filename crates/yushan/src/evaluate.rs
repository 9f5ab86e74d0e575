//! `evaluate`: questions answered by likelihood, and bits per byte, of a file, a run, or a model on a server.
//!
//! The key decision: whoever is evaluated, the same rows of token ids are scored by the library's code
//! (`yushan_train::evaluate`); a server is asked for them over `/v1/completions`. The figures are those of
//! lm-evaluation-harness (`acc`, `acc_norm`) and not of `score`, which has llama-perplexity's windows.

mod server;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::json;
use yushan_abi::Executor;
use yushan_model::tokenizer::Tokenizer;
use yushan_train::checkpoint;
use yushan_train::evaluate::{self, File, Form, Interval, Likelihood, Questions, Subject, Texts};
use yushan_train::report::{Line, Run, Writer, card};

use crate::exit::{BadFile, BadUsage};
use crate::figures::exact;
use crate::{flags, open, progress, remote};

/// Measure a model: questions answered by likelihood (ARC, HellaSwag, MMLU, cloze), bits per byte of texts
#[derive(clap::Args)]
#[command(after_long_help = HOW)]
pub(crate) struct Evaluate {
    /// A file or folder of parameters, a pulled model, a run's folder (its last checkpoint), or the address of a server,
    /// as http://127.0.0.1:3952/v1
    model: String,
    /// Questions, JSON lines (may be given again)
    #[arg(long, value_name = "FILE")]
    questions: Vec<PathBuf>,
    /// Texts, for bits per byte: a .jsonl with a field `text`, or plain (may be given again)
    #[arg(long, value_name = "FILE")]
    texts: Vec<PathBuf>,
    /// Texts of whose paragraphs questions are made: which is the last word? (may be given again)
    #[arg(long, value_name = "FILE")]
    cloze: Vec<PathBuf>,
    /// The form of the questions [default: as the first one looks]
    #[arg(long, value_enum)]
    form: Option<Shape>,
    /// The first N questions of each file alone; of cloze, so many [default: all; of cloze 200]
    #[arg(long, value_name = "N", value_parser = flags::positive)]
    limit: Option<usize>,
    /// About the first N tokens of each file of texts alone
    #[arg(long, value_name = "N", value_parser = flags::positive)]
    tokens: Option<usize>,
    /// The line that stands between documents in plain texts [default: a file is one document]
    #[arg(long, value_name = "LINE")]
    between: Option<String>,
    /// The seed that cloze questions are drawn with
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The model's name on the server [default: the only one there]
    #[arg(long, value_name = "NAME")]
    served: Option<String>,
    /// The tokenizer, where the model has none of its own; for a server the model's file, or its tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Keep the answers to questions in the run's log, and write its report anew
    #[arg(long)]
    record: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: flags::Engine,
}

const HOW: &str = "\
A question is a line of JSON:
  {\"question\": …, \"choices\": [\"…\", …], \"answer\": 0}                          an index, as MMLU has it
  {\"question\": …, \"choices\": {\"text\": […], \"label\": […]}, \"answerKey\": \"B\"}   as ARC has it
  {\"ctx\": …, \"endings\": [\"…\", …], \"label\": 0}                                as HellaSwag has it
\"right\" is the share of questions whose likeliest ending is the right one (acc of lm-evaluation-harness), \"by length\"
the same with likelihoods over the endings' bytes (acc_norm); ± is the standard error, in brackets stand 95 %
(Wilson). Texts are scored document by document, each token once, the first from the start token alone; the
interval is bootstrapped over documents. Files may be packed (gzip, xz, zstd). A server's key: YUSHAN_REMOTE_KEY.";

/// Cloze questions that are made of a file.
const CLOZE: usize = 200;
/// Questions, or rows of text, that are handed over together.
const BATCH: usize = 8;
/// Malformed rows that are named.
const NAMED: usize = 3;

#[derive(Clone, Copy, clap::ValueEnum)]
enum Shape {
    /// question, choices, and answer or answerKey: MMLU's too
    Arc,
    /// ctx, endings, label
    #[value(name = "hellaswag")]
    HellaSwag,
}

impl Shape {
    fn form(self) -> Form {
        match self {
            Shape::Arc => Form::Arc,
            Shape::HellaSwag => Form::HellaSwag,
        }
    }
}

/// What came of it.
#[derive(Default)]
struct Figures {
    window: usize,
    questions: Vec<Questions>,
    texts: Vec<Texts>,
}

impl Evaluate {
    pub(crate) fn run(self) -> Result<()> {
        if [&self.questions, &self.texts, &self.cloze].iter().all(|files| files.is_empty()) {
            let what = "nothing to measure: give --questions, --texts or --cloze";
            return Err(BadUsage(what.into()).into());
        }
        let figures = match remote::is_address(&self.model) {
            true => self.served()?,
            false => self.here()?,
        };
        if self.json {
            let figures = json!({
                "model": self.model,
                "context": figures.window,
                "questions": figures.questions,
                "texts": figures.texts,
            });
            println!("{figures:#}");
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        figures.questions.iter().try_for_each(|one| write_questions(&mut out, one))?;
        Ok(figures.texts.iter().try_for_each(|one| write_texts(&mut out, one))?)
    }

    /// A model that this process runs.
    fn here(&self) -> Result<Figures> {
        if self.served.is_some() {
            let what = "--served NAME is for a model on a server; give its address as MODEL";
            return Err(BadUsage(what.into()).into());
        }
        let run = Some(Path::new(&self.model)).filter(|path| path.join("checkpoints").is_dir());
        if self.record && run.is_none() {
            return Err(BadUsage("--record is for a run's folder as MODEL".into()).into());
        }
        let checkpoint = run.map(last_checkpoint).transpose()?;
        let file = match &checkpoint {
            Some((_, checkpoint)) => open::file(checkpoint)?,
            None => open::model(&self.model)?,
        };
        let tokenizer = open::tokenizer(&file, self.tokenizer.as_deref())?;
        let mut engine = open::engine(&file, &self.engine.options(&file))?;
        let window = engine.context();
        let mut model = evaluate::Engine::new(&mut engine);
        let figures = self.measure(&mut model, &tokenizer, window)?;
        if let (Some(run), Some((step, _)), true) = (run, checkpoint, self.record) {
            record(run, step, &figures.questions)?;
        }
        Ok(figures)
    }

    /// A model on a server.
    fn served(&self) -> Result<Figures> {
        if self.record {
            return Err(BadUsage("--record is for a run's folder as MODEL".into()).into());
        }
        let Some(path) = &self.tokenizer else {
            let what = "--tokenizer FILE: questions go to a server as token ids";
            return Err(BadUsage(what.into()).into());
        };
        let tokenizer = match path.is_dir() || path.extension().is_some_and(|end| end == "json") {
            true => Tokenizer::from_file(path, 0).with_context(|| path.display().to_string())?,
            false => open::tokenizer(&open::file(path)?, None)?,
        };
        let found = server::find(&self.model, self.served.as_deref())?;
        let window = match (self.engine.context, found.context) {
            (Some(asked), Some(holds)) => asked.min(holds),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => {
                let what =
                    "the server does not say how many tokens the model holds: give --context N";
                return Err(BadUsage(what.into()).into());
            }
        };
        let mut model = found.completions();
        self.measure(&mut model, &tokenizer, window)
    }

    fn measure(
        &self,
        model: &mut dyn Likelihood,
        tokenizer: &Tokenizer,
        window: usize,
    ) -> Result<Figures> {
        let between = self.between.as_deref();
        let mut subject = Subject { model, tokenizer, window, batch: BATCH };
        let mut figures = Figures { window, ..Figures::default() };
        let bar = progress::of_steps(0);
        for path in &self.questions {
            let file = read(path, &bar)?;
            let form = self.form.map(Shape::form);
            let asked = subject.questions(&file, form, self.limit, &mut shown(&bar))?;
            figures.questions.push(asked);
        }
        for path in &self.cloze {
            let (file, count) = (read(path, &bar)?, self.limit.unwrap_or(CLOZE));
            let asked = subject.cloze(&file, between, (count, self.seed), &mut shown(&bar))?;
            figures.questions.push(asked);
        }
        for path in &self.texts {
            let (file, tokens) = (read(path, &bar)?, self.tokens.map(|count| count as u64));
            figures.texts.push(subject.texts(&file, between, tokens, &mut shown(&bar))?);
        }
        bar.finish_and_clear();
        for questions in &figures.questions {
            warn(questions);
        }
        Ok(figures)
    }
}

fn read(path: &Path, bar: &ProgressBar) -> Result<File> {
    bar.set_message(path.display().to_string());
    File::read(path).map_err(|error| match error {
        yushan_train::Error::Io { .. } => BadFile(error.to_string()).into(),
        error => error.into(),
    })
}

fn shown(bar: &ProgressBar) -> impl FnMut(usize, usize) + '_ {
    |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }
}

/// The newest checkpoint of a run that is whole, and its step.
fn last_checkpoint(run: &Path) -> Result<(u64, PathBuf)> {
    let loaded = checkpoint::load_latest(&run.join("checkpoints"))?;
    let loaded = loaded.ok_or_else(|| {
        let what = "it has no checkpoint yet; wait for the first, or go on with the run (--resume)";
        BadFile(format!("{}: {what}", run.display()))
    })?;
    for one in &loaded.rejected {
        eprintln!("warning: {} is passed over: {}", one.path.display(), one.reason);
    }
    Ok((loaded.snapshot.state.step, loaded.path))
}

/// Adds the answers to a run's log.
fn record(run: &Path, step: u64, questions: &[Questions]) -> Result<()> {
    let name = |one: &Questions| match one.form {
        "cloze" => format!("cloze of {}", one.file),
        _ => one.file.clone(),
    };
    let tasks = questions.iter().map(|one| (name(one), one.accuracy.clone())).collect();
    Writer::beside(run)?.append(&Line { step, tasks, ..Line::default() })?;
    card(&[Run::read(run)?])?.write(run)?;
    eprintln!("{}", run.join("report.html").display());
    Ok(())
}

fn warn(questions: &Questions) {
    let Questions { file, malformed, faults, accuracy, .. } = questions;
    for (row, why) in faults.iter().take(NAMED) {
        eprintln!("warning: {file}, row {row}: {why}");
    }
    if *malformed > NAMED {
        eprintln!("warning: {file}: {malformed} rows are no questions");
    }
    if accuracy.skipped > 0 {
        let skipped = accuracy.skipped;
        eprintln!(
            "warning: {file}: {skipped} questions do not fit into the context and are left out"
        );
    }
}

/// `right  0.2807 ± 0.0267  (0.2317 to 0.3358; chance 0.25)`.
fn write_questions(out: &mut dyn Write, questions: &Questions) -> std::io::Result<()> {
    let Questions { file, sha256, form, accuracy, .. } = questions;
    writeln!(out, "{file}: {} questions ({form})", exact(accuracy.items))?;
    let mut share = |name: &str, share: &Option<Interval>, error: Option<f64>| {
        let Some(Interval { value, low, high }) = share else { return Ok(()) };
        let error = error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        let chance = accuracy.chance;
        writeln!(out, "  {name:<16} {value:.4}{error}  ({low:.4} to {high:.4}; chance {chance:.4})")
    };
    share("right", &accuracy.accuracy, questions.standard_error)?;
    share("right by length", &accuracy.normalised, questions.normalised_standard_error)?;
    writeln!(out, "  {:<16} {sha256}", "SHA-256")
}

fn write_texts(out: &mut dyn Write, texts: &Texts) -> std::io::Result<()> {
    let Texts { file, sha256, score } = texts;
    let documents = match score.documents {
        1 => "1 document".into(),
        more => format!("{} documents", exact(more)),
    };
    let (tokens, bytes) = (exact(score.tokens), exact(score.bytes));
    writeln!(out, "{file}: {documents}, {tokens} tokens, {bytes} bytes")?;
    if let (Some(bpb), Some(loss)) = (score.bpb, score.loss) {
        let within = score.interval;
        let within = within.map_or(String::new(), |i| format!("  ({:.4} to {:.4})", i.low, i.high));
        writeln!(out, "  {:<16} {bpb:.4}{within}", "bits per byte")?;
        writeln!(out, "  {:<16} {loss:.4}", "nats a token")?;
    }
    writeln!(out, "  {:<16} {sha256}", "SHA-256")
}
