//! `run`: a prompt in, words out; once, or in a conversation.
//!
//! With a prompt, or with stdin that is no terminal, there is one reply. Otherwise a conversation
//! begins (`chat.rs`). A model whose file has a chat template is spoken to through it; one without
//! continues the text, and so does any with `--raw`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;
use yushan_model::generate::Finish;

use crate::exit::Interrupted;
use crate::interrupt::Interrupt;
use crate::reply::Speaker;
use crate::{chat, flags, open};

/// Run a model: reply to a prompt, or talk
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  yushan run model.gguf                         a conversation; /help inside it
  yushan run model.gguf 'Why is the sky blue?'  one reply
  yushan run model.gguf - < question.txt        the prompt comes from stdin
  yushan run stories.bin 'Once upon a time' --tokenizer tok512.bin -n 200 -t 0 --stats")]
pub(crate) struct Run {
    /// The model: a file, a folder with safetensors, a pulled model's name, or hf:owner/repo:file
    pub(crate) file: String,
    /// What to reply to; - reads stdin; without it a conversation begins
    prompt: Option<String>,
    /// Most tokens of a reply [default: as many as the context holds]
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = flags::positive)]
    pub(crate) most: Option<usize>,
    /// End the reply before this text (may be given again)
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Speak to the model under this instruction
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Continue the prompt as it stands, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Show the prompt too
    #[arg(long)]
    pub(crate) echo: bool,
    /// Go on past the tokens that end a reply
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Print token ids instead of text
    #[arg(long, conflicts_with = "logprobs")]
    pub(crate) ids: bool,
    /// Print a JSON line a token, with its log-probability and the N likeliest tokens
    #[arg(long, value_name = "N", value_parser = flags::count)]
    pub(crate) logprobs: Option<usize>,
    /// Print speeds, counts and the reason of the end on stderr
    #[arg(long)]
    pub(crate) stats: bool,
    /// The tokenizer, where the format keeps it apart
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) drawing: flags::Drawing,
    #[command(flatten)]
    pub(crate) form: Form,
    #[command(flatten)]
    pub(crate) guessing: Guessing,
    #[command(flatten)]
    pub(crate) engine: flags::Engine,
}

/// What form the reply must have.
#[derive(clap::Args)]
#[command(next_help_heading = "Form of the reply")]
pub(crate) struct Form {
    /// Only JSON that this JSON schema allows
    #[arg(long, value_name = "FILE", conflicts_with = "grammar")]
    pub(crate) json_schema: Option<PathBuf>,
    /// Only what this grammar allows: GBNF or Lark, or a regular expression in a .regex file
    #[arg(long, value_name = "FILE")]
    pub(crate) grammar: Option<PathBuf>,
}

/// How tokens are guessed ahead; the reply is the same with and without.
#[derive(clap::Args)]
#[command(next_help_heading = "Speculation (changes the speed, never the reply)")]
pub(crate) struct Guessing {
    /// Let this small model of the same vocabulary guess ahead
    #[arg(long, value_name = "FILE", conflicts_with = "lookup")]
    pub(crate) draft: Option<String>,
    /// Guess that the text repeats itself
    #[arg(long)]
    pub(crate) lookup: bool,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        let prompt = match &self.prompt {
            Some(prompt) if prompt != "-" => Some(prompt.clone()),
            None if std::io::stdin().is_terminal() => None,
            _ => Some(stdin()?),
        };
        let mut speaker = Speaker::load(&self)?;
        let interrupt = Interrupt::catch()?;
        let Some(prompt) = prompt else { return chat::talk(&mut speaker, &interrupt) };
        let tokens = speaker.encode_prompt(&prompt)?;
        let outcome = speaker.reply(&tokens, &interrupt)?;
        if outcome.finish == Finish::Cancelled { Err(Interrupted.into()) } else { Ok(()) }
    }
}

/// All of stdin, without the newline that ends its last line.
fn stdin() -> Result<String> {
    let mut text = open::text(Path::new("-"))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
