//! One reply: from token ids to what stands on stdout.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use yushan_abi::{Executor, Sampling, TokenId};
use yushan_model::Config;
use yushan_model::chat::{ChatTemplate, Message};
use yushan_model::engine::Engine;
use yushan_model::generate::{Event, Finish, Outcome, Request, generate};
use yushan_model::grammar::Constraint;
use yushan_model::logprobs::Logprobs;
use yushan_model::speculate::Speculation;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

use crate::figures::speed;
use crate::form;
use crate::interrupt::Interrupt;
use crate::open;
use crate::run::Run;

/// Guesses a step: a draft model's are good but cost time, look-up's are free but often wrong.
const DRAFTED: usize = 6;
const LOOKED_UP: usize = 10;
/// Tokens that must repeat before look-up guesses.
const LOOKUP_NGRAM: usize = 3;

/// A loaded model and all that a reply needs.
pub(crate) struct Speaker<'a> {
    flags: &'a Run,
    engine: Engine,
    draft: Option<Engine>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// `None` for a model that only continues text.
    pub(crate) template: Option<ChatTemplate>,
    constraint: Option<Constraint>,
    load: Duration,
    last: Option<(Outcome, Sampling)>,
}

impl<'a> Speaker<'a> {
    pub(crate) fn load(flags: &'a Run) -> Result<Speaker<'a>> {
        let start = Instant::now();
        let file = open::model(&flags.file)?;
        let tokenizer = Arc::new(open::tokenizer(&file, flags.tokenizer.as_deref())?);
        let template = match tokenizer.chat_template() {
            Some(source) if !flags.raw => Some(ChatTemplate::new(Some(source), &tokenizer)?),
            None if flags.system.is_some() => Some(ChatTemplate::new(None, &tokenizer)?),
            _ => None,
        };
        let options = flags.engine.options(&file);
        let Config { vocabulary, context, .. } = *file.config();
        if options.context > context {
            eprintln!(
                "warning: the model was trained for contexts of {context} tokens and may lose the \
                 thread beyond them; -c {context} stays within"
            );
        }
        let constraint = form::constraint(&flags.form, &tokenizer, vocabulary)?;
        let engine = open::engine(&file, &options)?;
        let draft = flags.guessing.draft.as_deref().map(|name| load_draft(name, flags, &engine));
        Ok(Speaker {
            flags,
            draft: draft.transpose().context("the draft model")?,
            engine,
            tokenizer,
            template,
            constraint,
            load: start.elapsed(),
            last: None,
        })
    }

    /// The ids of a prompt without a past.
    pub(crate) fn encode_prompt(&self, prompt: &str) -> Result<Vec<TokenId>> {
        if self.template.is_none() {
            return Ok(self.tokenizer.encode(prompt, Special::AsText, Ends::Declared));
        }
        let mut messages = Vec::new();
        messages.extend(self.flags.system.as_ref().map(|text| Message::new("system", text)));
        messages.push(Message::new("user", prompt));
        self.encode_chat(&messages)
    }

    /// The ids of a conversation up to where the model speaks.
    pub(crate) fn encode_chat(&self, messages: &[Message]) -> Result<Vec<TokenId>> {
        let Some(template) = &self.template else { return Ok(Vec::new()) };
        Ok(template.encode(&self.tokenizer, messages, &[], true)?)
    }

    /// The instruction given on the command line.
    pub(crate) fn system(&self) -> Option<&str> {
        self.flags.system.as_deref()
    }

    /// Generates a reply and writes it as it comes.
    pub(crate) fn reply(&mut self, prompt: &[TokenId], interrupt: &Interrupt) -> Result<Outcome> {
        let flags = self.flags;
        let sampling = flags.drawing.sampling();
        let request = Request {
            max_tokens: flags.most.unwrap_or(usize::MAX),
            sampling: sampling.clone(),
            stops: flags.stop.clone(),
            constraint: self.constraint.clone(),
            top_logprobs: flags.logprobs,
            echo: flags.echo,
            ignore_ends: flags.ignore_eos,
            speculation: match (&self.draft, flags.guessing.lookup) {
                (Some(_), _) => Speculation::Draft { most: DRAFTED },
                (None, true) => Speculation::PromptLookup { ngram: LOOKUP_NGRAM, most: LOOKED_UP },
                (None, false) => Speculation::Off,
            },
            ..Request::new(prompt)
        };
        let mut page = Page::new(flags, &self.tokenizer);
        let draft = self.draft.as_mut().map(|draft| draft as &mut dyn Executor);
        let mut on_event = |event: Event<'_>| {
            page.show(event);
            if page.failed.is_some() { ControlFlow::Break(()) } else { interrupt.flow() }
        };
        let outcome = generate(&mut self.engine, draft, &self.tokenizer, request, &mut on_event)?;
        page.end()?;
        self.last = Some((outcome.clone(), sampling));
        let (cut, full) = (outcome.finish == Finish::Length, outcome.finish == Finish::ContextFull);
        if full || cut && self.constraint.is_some() {
            eprintln!("warning: the reply is cut off: {}", self.end(&outcome));
        }
        if flags.stats {
            eprint!("{}", self.stats());
        }
        Ok(outcome)
    }

    /// The figures of the last reply, a line each.
    pub(crate) fn stats(&self) -> String {
        let Some((outcome, sampling)) = &self.last else { return "no reply yet\n".into() };
        let counts = outcome.counts;
        let mut out = format!("load         {:.3} s\n", self.load.as_secs_f64());
        let read = counts.prompt - counts.cached;
        let (prefill, decode) = (outcome.prefill.as_secs_f64(), outcome.decode.as_secs_f64());
        let _ = writeln!(
            out,
            "prompt       {} tokens, {} of them cached, {prefill:.3} s, {} tokens/s",
            counts.prompt,
            counts.cached,
            speed(read as u64, prefill),
        );
        // The first token comes from the logits of the prompt: it costs no step.
        let steps = counts.generated.saturating_sub(1);
        let _ = writeln!(
            out,
            "reply        {} tokens, {decode:.3} s, {} tokens/s",
            counts.generated,
            speed(steps as u64, decode),
        );
        if counts.drafted > 0 {
            let share = 100.0 * counts.accepted as f64 / counts.drafted as f64;
            let (right, all) = (counts.accepted, counts.drafted);
            let _ = writeln!(out, "speculation  {right} of {all} guesses right ({share:.0} %)");
        }
        if sampling.temperature > 0.0 {
            let _ = writeln!(out, "seed         {}", sampling.seed);
        }
        let _ = writeln!(out, "end          {}", self.end(outcome));
        out
    }

    /// Why a reply ended.
    fn end(&self, outcome: &Outcome) -> String {
        match outcome.finish {
            Finish::End => "the model ended its reply".into(),
            Finish::Length => "as many tokens as -n allows".into(),
            Finish::Stop(which) => format!("the stop text {:?}", self.flags.stop[which]),
            Finish::ContextFull => {
                format!("the context of {} tokens is full; see --context", self.engine.context())
            }
            Finish::Cancelled => "interrupted".into(),
        }
    }
}

/// The small model, with the window of the large one.
fn load_draft(name: &str, flags: &Run, engine: &Engine) -> Result<Engine> {
    let file = open::model(name)?;
    let mut options = flags.engine.options(&file);
    options.context = engine.context();
    open::engine(&file, &options)
}

/// Writes events to stdout in the form asked for.
struct Page<'a> {
    flags: &'a Run,
    tokenizer: &'a Tokenizer,
    out: io::Stdout,
    /// Whether something stands on the last line.
    open_line: bool,
    failed: Option<io::Error>,
}

impl<'a> Page<'a> {
    fn new(flags: &'a Run, tokenizer: &'a Tokenizer) -> Self {
        Page { flags, tokenizer, out: io::stdout(), open_line: false, failed: None }
    }

    fn show(&mut self, event: Event<'_>) {
        let (id, text, logprobs) = match event {
            Event::Prompt { .. } => return,
            Event::Echo { id, text, logprobs } | Event::Token { id, text, logprobs } => {
                (id, text, logprobs)
            }
        };
        if let Err(error) = self.write(id, text, logprobs) {
            self.failed.get_or_insert(error);
        }
    }

    fn write(&mut self, id: TokenId, text: &str, logprobs: Option<&Logprobs>) -> io::Result<()> {
        if self.flags.ids {
            let before = if self.open_line { " " } else { "" };
            write!(self.out, "{before}{id}")?;
            self.open_line = true;
        } else if self.flags.logprobs.is_some() {
            writeln!(self.out, "{}", self.line(id, text, logprobs))?;
        } else if !text.is_empty() {
            self.out.write_all(text.as_bytes())?;
            self.open_line = !text.ends_with('\n');
        } else {
            return Ok(());
        }
        self.out.flush()
    }

    /// A token as a line of JSON.
    fn line(&self, id: TokenId, text: &str, logprobs: Option<&Logprobs>) -> serde_json::Value {
        let name = |id: TokenId| String::from_utf8_lossy(self.tokenizer.token_bytes(id));
        let top = logprobs.map(|logprobs| {
            let top = logprobs.top.iter();
            top.map(|&(id, p)| json!({"id": id, "token": name(id), "logprob": p}))
                .collect::<Vec<_>>()
        });
        let chosen = logprobs.map(|logprobs| logprobs.chosen);
        json!({"id": id, "token": name(id), "text": text, "logprob": chosen, "top": top})
    }

    fn end(mut self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        if self.open_line {
            writeln!(self.out)?;
        }
        Ok(self.out.flush()?)
    }
}
