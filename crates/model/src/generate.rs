//! From a prompt to an answer: the loop around an executor.
//!
//! Read the prompt in chunks; then step, choose, show, again, until one of the reasons in [`Finish`].
//! One step appends whatever the executor has not seen: the end of the prompt, later the newest
//! token and the guesses after it (`speculate.rs`).
//!
//! The key decision: one place, [`Answer::take`], turns a row of logits into a token (by `pen.rs`),
//! whether the row came from a plain step or from a verified guess; so speculation, masks, penalties
//! and stop strings cannot disagree about what was generated. Before a token is shown it is known
//! whether it is the last, and the text of all events together is exactly [`Outcome::text`].
//!
//! Not here: several answers at once (the scheduler's business, by `language.rs`), templates. Time is
//! read for the report only.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use yushan_abi::{
    Chunk, Executor, ExecutorError, Logits, Sampling, SequenceId, StepOutput, TokenId,
};

use crate::grammar::Constraint;
use crate::logprobs::{LogprobReader, Logprobs};
use crate::pen::Pen;
use crate::sampler::Sampler;
use crate::speculate::{Drafter, Speculation};
use crate::stops::Stops;
use crate::tokenizer::{StreamDecoder, Tokenizer};
use crate::{Error, Result};

/// Bytes of logits that a step may ask for.
const LOGIT_BYTES: usize = 32 << 20;

/// What is asked for. `..Request::new(prompt)` fills in the rest.
pub struct Request<'a> {
    /// What the answer continues; at least one token.
    pub prompt: &'a [TokenId],
    /// Most tokens of the answer. With 0 the prompt is read, and nothing more.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it; none of them empty.
    pub stops: Vec<String>,
    /// The form that the answer must have.
    pub constraint: Option<Constraint>,
    /// Log-probabilities: of the chosen token, and of this many likeliest ones.
    pub top_logprobs: Option<usize>,
    /// Whether the prompt's tokens are events too.
    pub echo: bool,
    /// Whether tokens that end an answer are tokens like others. (To forbid them, bias
    /// [`Tokenizer::ends_of_generation`] to negative infinity.)
    pub ignore_ends: bool,
    /// Whether tokens are guessed.
    pub speculation: Speculation,
}

impl<'a> Request<'a> {
    /// An answer as long as the context allows, with the default sampling.
    pub fn new(prompt: &'a [TokenId]) -> Self {
        Self {
            prompt,
            max_tokens: usize::MAX,
            sampling: Sampling::llama_cpp(),
            stops: Vec::new(),
            constraint: None,
            top_logprobs: None,
            echo: false,
            ignore_ends: false,
            speculation: Speculation::Off,
        }
    }
}

/// What happens along the way. A callback that answers `Break` cancels the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// Some of the prompt has been read.
    Prompt {
        /// Tokens of the prompt whose KV are there.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
        /// How many of `done` came from the cache.
        cached: usize,
    },
    /// With [`Request::echo`]: a token of the prompt.
    Echo {
        /// The token.
        id: TokenId,
        /// What it makes readable; empty inside a character.
        text: &'a str,
        /// If asked for; never for the first token.
        logprobs: Option<&'a Logprobs>,
    },
    /// A token of the answer.
    Token {
        /// The token.
        id: TokenId,
        /// What can be shown now: empty inside a character and while a stop string may have begun.
        /// The last token brings what was held back.
        text: &'a str,
        /// If asked for.
        logprobs: Option<&'a Logprobs>,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or its form was complete.
    End,
    /// It has [`Request::max_tokens`].
    Length,
    /// The stop string of this index stood next.
    Stop(usize),
    /// The context window holds no more tokens.
    ContextFull,
    /// The callback said so.
    Cancelled,
}

/// What was spent, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the prompt; none is ever dropped.
    pub prompt: usize,
    /// Of these, from the cache.
    pub cached: usize,
    /// Of the answer.
    pub generated: usize,
    /// Guessed.
    pub drafted: usize,
    /// Of these, right.
    pub accepted: usize,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub finish: Finish,
    /// Its tokens, an end token and the tokens of a stop string included.
    pub tokens: Vec<TokenId>,
    /// Its text: what the events showed.
    pub text: String,
    /// What was spent.
    pub counts: Counts,
    /// Until the logits of the first token were there.
    pub prefill: Duration,
    /// From then on.
    pub decode: Duration,
}

/// Answers one request. `draft` is the small model of [`Speculation::Draft`]. The sequences that it
/// opens are closed, whatever happens.
pub fn generate(
    executor: &mut dyn Executor,
    draft: Option<&mut dyn Executor>,
    tokenizer: &Tokenizer,
    request: Request<'_>,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Outcome> {
    let start = Instant::now();
    let prompt = request.prompt;
    if prompt.is_empty() {
        return Err(Error::request("prompt", "no tokens; expected at least one, e.g. BOS"));
    }
    if prompt.len() > executor.context() {
        let (tokens, context) = (prompt.len(), executor.context());
        return Err(Error::PromptTooLong { tokens, context });
    }
    let mut drafter = Drafter::new(request.speculation, draft, executor.vocabulary())?;
    let mut answer = Answer::new(executor, tokenizer, request)?;
    let admitted = executor.admit("", prompt)?;
    answer.counts.cached = admitted.cached;
    let sequence = admitted.sequence;
    let mut run = Run { executor, sequence, length: admitted.cached, first_logits: None };
    let result = run.complete(&mut answer, &mut drafter, on_event);
    let first_logits = run.first_logits;
    let released = executor.release(sequence).map_err(Error::from).and(drafter.release());
    let finish = result?;
    released?;
    let end = Instant::now();
    let prefilled = first_logits.unwrap_or(end);
    Ok(Outcome {
        finish,
        counts: Counts { generated: answer.tokens().len(), ..answer.counts },
        tokens: answer.tokens().to_vec(),
        text: answer.text,
        prefill: prefilled - start,
        decode: end - prefilled,
    })
}

/// Rows of a step that needs the logits of all: 53 of a vocabulary of 150,000.
pub(crate) fn scored_rows(executor: &dyn Executor) -> usize {
    let row = size_of::<f32>() * executor.vocabulary().max(1);
    (LOGIT_BYTES / row).clamp(1, executor.max_rows().max(1))
}

/// The executor's side of an answer: what it has been fed.
struct Run<'a> {
    executor: &'a mut dyn Executor,
    sequence: SequenceId,
    /// Tokens in the sequence, all of them tokens of the history.
    length: usize,
    first_logits: Option<Instant>,
}

impl Run<'_> {
    fn complete(
        &mut self,
        answer: &mut Answer<'_>,
        drafter: &mut Drafter<'_>,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Finish> {
        if self.prefill(answer, on_event)?.is_break() {
            return Ok(Finish::Cancelled);
        }
        if answer.max_tokens == 0 {
            return Ok(Finish::Length);
        }
        let (mut feed, mut guesses) = (Vec::new(), Vec::new());
        loop {
            feed.clear();
            feed.extend_from_slice(&answer.history[self.length..]);
            guesses.clear();
            if feed.len() == 1 {
                let room = self.room(answer);
                drafter.propose(&answer.history, room, &mut guesses)?;
                feed.extend_from_slice(&guesses);
            }
            let logits = if guesses.is_empty() { Logits::Last } else { Logits::All };
            let chunk = Chunk { sequence: self.sequence, tokens: &feed, logits };
            let output = match self.executor.step(&[chunk]) {
                // Without guesses there may be a page left: they never cost an answer.
                Err(ExecutorError::OutOfPages { .. }) if !guesses.is_empty() => {
                    guesses.clear();
                    feed.truncate(1);
                    let (sequence, logits) = (self.sequence, Logits::Last);
                    let chunk = Chunk { sequence, tokens: &feed, logits };
                    self.executor.step(&[chunk])?
                }
                other => other?,
            };
            if self.first_logits.is_none() {
                self.first_logits = Some(Instant::now());
                if on_event(answer.progress(answer.prompt)).is_break() {
                    return Ok(Finish::Cancelled);
                }
            }
            if let Some(finish) = answer.take_all(output, &guesses, on_event)? {
                return Ok(finish);
            }
            // All of the history but the newest token has been fed; wrong guesses go.
            let fed = self.length + feed.len();
            self.length = answer.history.len() - 1;
            if fed > self.length {
                self.executor.truncate(self.sequence, self.length)?;
            }
        }
    }

    /// Feeds the prompt except for the end that the first step takes.
    fn prefill(
        &mut self,
        answer: &mut Answer<'_>,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let scored = answer.echo && answer.top_logprobs.is_some();
        if scored && self.length > 0 {
            // What came from the cache has no logits.
            self.executor.truncate(self.sequence, 0)?;
            (self.length, answer.counts.cached) = (0, 0);
        }
        let rows = self.executor.max_rows().max(1);
        let rows = if scored { scored_rows(self.executor) } else { rows };
        let left = match answer.max_tokens {
            0 => 0,
            _ if scored => 1,
            _ => rows,
        };
        if on_event(answer.progress(self.length)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let unscored = if scored { 1 } else { answer.prompt };
        for at in 0..if answer.echo { unscored } else { 0 } {
            if answer.echo(at, None, on_event).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        while self.length + left < answer.prompt {
            let end = (self.length + rows).min(answer.prompt - left.min(1));
            let tokens = &answer.history[self.length..end];
            let logits = if scored { Logits::All } else { Logits::None };
            let chunk = Chunk { sequence: self.sequence, tokens, logits };
            let output = self.executor.step(&[chunk])?;
            let rows = if scored { end - self.length } else { 0 };
            for row in 0..rows {
                let at = self.length + row + 1;
                if at < answer.prompt && answer.echo(at, Some(output.row(row)), on_event).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            self.length = end;
            if on_event(answer.progress(end)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// How many guesses a step can take: more would be past the step's rows, the window or the
    /// answer's length.
    fn room(&self, answer: &Answer<'_>) -> usize {
        let rows = self.executor.max_rows().saturating_sub(1);
        let window = answer.context - answer.history.len();
        let wanted = answer.max_tokens - answer.tokens().len() - 1;
        rows.min(window).min(wanted)
    }
}

/// The text's side of an answer: what was chosen and shown.
struct Answer<'a> {
    tokenizer: &'a Tokenizer,
    /// Prompt and answer.
    history: Vec<TokenId>,
    /// How many tokens of the history are the prompt.
    prompt: usize,
    context: usize,
    max_tokens: usize,
    pen: Pen,
    stops: Stops,
    top_logprobs: Option<usize>,
    logprobs: LogprobReader,
    echo: bool,
    /// All that was shown.
    text: String,
    counts: Counts,
}

impl<'a> Answer<'a> {
    fn new(
        executor: &dyn Executor,
        tokenizer: &'a Tokenizer,
        request: Request<'_>,
    ) -> Result<Self> {
        let prompt = request.prompt;
        let mut sampler = Sampler::new(request.sampling, executor.vocabulary())?;
        for &token in prompt {
            sampler.accept(token);
        }
        let decoder = StreamDecoder::after(tokenizer, if request.echo { &[] } else { prompt });
        let context = executor.context();
        let mut history =
            Vec::with_capacity(context.min(prompt.len().saturating_add(request.max_tokens)) + 1);
        history.extend_from_slice(prompt);
        Ok(Self {
            tokenizer,
            history,
            prompt: prompt.len(),
            context,
            max_tokens: request.max_tokens,
            pen: Pen::new(sampler, request.constraint, decoder).ignoring_ends(request.ignore_ends),
            stops: Stops::new(request.stops)?,
            top_logprobs: request.top_logprobs,
            logprobs: LogprobReader::default(),
            echo: request.echo,
            text: String::new(),
            counts: Counts { prompt: prompt.len(), ..Counts::default() },
        })
    }

    fn tokens(&self) -> &[TokenId] {
        &self.history[self.prompt..]
    }

    fn progress(&self, done: usize) -> Event<'static> {
        Event::Prompt { done, total: self.prompt, cached: self.counts.cached }
    }

    /// Shows token `at` of the prompt, which followed `logits`.
    fn echo(
        &mut self,
        at: usize,
        logits: Option<&[f32]>,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let id = self.history[at];
        let text = self.pen.echo(self.tokenizer, id);
        let logprobs = match (logits, self.top_logprobs) {
            (Some(logits), Some(top)) => Some(self.logprobs.read(logits, id, top)),
            _ => None,
        };
        on_event(Event::Echo { id, text, logprobs })
    }

    /// Takes tokens as long as they are the guessed ones, and the one after them.
    fn take_all(
        &mut self,
        output: StepOutput<'_>,
        guesses: &[TokenId],
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Finish>> {
        self.counts.drafted += guesses.len();
        for row in 0..output.rows() {
            let (token, finish) = self.take(output.row(row), on_event)?;
            let right = guesses.get(row) == Some(&token);
            self.counts.accepted += usize::from(right);
            if finish.is_some() || !right {
                return Ok(finish);
            }
        }
        Ok(None)
    }

    /// Chooses a token from `logits` and shows it; says whether, and why, it is the last.
    fn take(
        &mut self,
        logits: &[f32],
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(TokenId, Option<Finish>)> {
        let id = self.pen.choose(logits)?;
        self.history.push(id);
        let complete = self.pen.take(self.tokenizer, id)?;
        let shown = self.text.len();
        let mut finish = self.stops.push(self.pen.readable(), &mut self.text).map(Finish::Stop);
        if finish.is_none() {
            finish = match () {
                () if complete => Some(Finish::End),
                () if self.tokens().len() >= self.max_tokens => Some(Finish::Length),
                () if self.history.len() > self.context => Some(Finish::ContextFull),
                () => None,
            };
            if finish.is_some() {
                let stop = self.stops.last(self.pen.rest(), &mut self.text).map(Finish::Stop);
                finish = stop.or(finish);
            }
        }
        let logprobs = self.top_logprobs.map(|top| self.logprobs.read(logits, id, top));
        let flow = on_event(Event::Token { id, text: &self.text[shown..], logprobs });
        Ok((id, finish.or(flow.is_break().then_some(Finish::Cancelled))))
    }
}

#[cfg(test)]
mod tests;
