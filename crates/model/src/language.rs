//! The text side of a model for the kernel: `abi::Language` and `abi::Writer`.
//!
//! The key decision: nothing is decided here twice. A prompt becomes tokens by the template
//! (`chat.rs`), a row of logits a token by the pen that the loop of one answer writes with too
//! (`pen.rs`), and text calls by the reader that the grammar of calls agrees with (`calls.rs`). Stop
//! texts end text and not calls: they are looked for in what remains of the answer without them.
//!
//! While tools may be called, every answer is held to the grammar of calls, so that none is
//! invalid; with `tool_choice` `none` the model is not told of them.
//!
//! Not here: lengths and budgets of answers, and when which of them gets its turn (the kernel's).

use std::sync::Arc;

use serde_json::json;
use yushan_abi::{
    End, Form, Language, Logprob, Message, Piece, Prompt, Refusal, Request, TokenId, ToolChoice,
    ToolSpec, Writer, Written,
};

use crate::calls::{self, Convention, Ids, Parser, Plain};
use crate::chat::{self, ChatTemplate};
use crate::grammar::{Constraint, Grammar, GrammarEngine};
use crate::logprobs::LogprobReader;
use crate::pen::Pen;
use crate::sampler::Sampler;
use crate::stops::Stops;
use crate::tokenizer::{Ends, Special, StreamDecoder, Tokenizer};
use crate::{Error, ModelFile};

/// The text side of one model.
pub struct ModelLanguage {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    grammars: GrammarEngine,
    /// Width of a row of logits.
    vocabulary: usize,
}

impl ModelLanguage {
    /// Of a model and its tokenizer, with the chat template of its own or the default one.
    pub fn new(file: &ModelFile, tokenizer: Arc<Tokenizer>) -> crate::Result<ModelLanguage> {
        ModelLanguage::with_vocabulary(file.config().vocabulary, tokenizer)
    }

    fn with_vocabulary(
        vocabulary: usize,
        tokenizer: Arc<Tokenizer>,
    ) -> crate::Result<ModelLanguage> {
        let template = ChatTemplate::new(tokenizer.chat_template(), &tokenizer)?;
        let grammars = GrammarEngine::new(Arc::clone(&tokenizer), vocabulary);
        Ok(ModelLanguage { tokenizer, template, grammars, vocabulary })
    }

    /// The tokens, if they are the model's.
    fn checked(&self, field: &str, tokens: &[TokenId]) -> Result<(), Refusal> {
        match tokens.iter().find(|&&token| token as usize >= self.vocabulary) {
            Some(token) => {
                let expected = format!("token {token}; expected ids below {}", self.vocabulary);
                Err(invalid(field, expected))
            }
            None => Ok(()),
        }
    }

    /// The form of an answer as a constraint, and whether it may call tools.
    fn constraint(&self, request: &Request) -> Result<(Option<Constraint>, bool), Refusal> {
        let tools = callable(request)?;
        let plain = match (&request.tool_choice, &request.form) {
            _ if tools.is_empty() => return Ok((self.form(&request.form)?, false)),
            (ToolChoice::Required | ToolChoice::Named(_), _) => Plain::Nothing,
            (_, Form::Text) => Plain::Text,
            (_, Form::Json) => Plain::Json(&json!({"type": "object"})),
            (_, Form::Schema(schema)) => Plain::Json(schema),
            (_, Form::Embedding) => return Ok((None, false)),
            (_, Form::Grammar(_) | Form::Regex(_)) => {
                let detail = "tools and a grammar or regular expression for the text beside them; \
                              expected one of the two (tool_choice \"none\" leaves out the tools)";
                return Err(invalid("response_format", detail.into()));
            }
        };
        // The form alone first, so that a fault in it is not laid at the tools' door.
        if let Plain::Json(schema) = plain {
            self.compile(Grammar::JsonSchema(schema))?;
        }
        let parallel = request.parallel_calls;
        let convention = self.template.convention();
        calls::answer(&self.tokenizer, convention, &tools, parallel, plain)
            .and_then(|lark| self.grammars.compile_own(lark))
            .map(|constraint| (Some(constraint), true))
            .map_err(|error| refusal("tools", error))
    }

    fn form(&self, form: &Form) -> Result<Option<Constraint>, Refusal> {
        let grammar = match form {
            Form::Text | Form::Embedding => return Ok(None),
            Form::Json => return self.compile(Grammar::JsonSchema(&json!({"type": "object"}))),
            Form::Schema(schema) => Grammar::JsonSchema(schema),
            Form::Grammar(text) => Grammar::of_text(text),
            Form::Regex(regex) => Grammar::Regex(regex),
        };
        self.compile(grammar)
    }

    fn compile(&self, grammar: Grammar<'_>) -> Result<Option<Constraint>, Refusal> {
        let compiled = self.grammars.compile(grammar);
        compiled.map(Some).map_err(|error| refusal("response_format", error))
    }

    /// The control tokens that the calls of a convention are written with.
    fn markers(&self, convention: Convention) -> Vec<TokenId> {
        let markers = [convention.opener(), convention.closer()];
        markers.iter().filter_map(|text| calls::control(&self.tokenizer, text)).collect()
    }

    fn writer(&self, request: &Request, prompt: &[TokenId]) -> Result<ModelWriter, Refusal> {
        self.checked("prompt", prompt)?;
        let mut sampler = Sampler::new(request.sampling.clone(), self.vocabulary)
            .map_err(|error| refusal("sampling", error))?;
        prompt.iter().for_each(|&token| sampler.accept(token));
        let stops = Stops::new(request.stops.clone()).map_err(|error| refusal("stop", error))?;
        let (constraint, may_call) = self.constraint(request)?;
        let before = if request.echo { &[] } else { prompt };
        let mut pen = Pen::new(sampler, constraint, StreamDecoder::after(&self.tokenizer, before));
        let mut calls = None;
        if may_call {
            let convention = self.template.convention();
            let names = request.tools.iter().map(|tool| tool.name.clone()).collect();
            pen = pen.naming(self.markers(convention));
            calls = Some(Parser::new(convention, names, Ids::of_prompt(prompt)));
        }
        Ok(ModelWriter {
            tokenizer: Arc::clone(&self.tokenizer),
            pen,
            calls,
            stops,
            stop_texts: request.stops.clone(),
            top_logprobs: request.logprobs,
            logprobs: LogprobReader::default(),
            ended: false,
        })
    }
}

const CANNOT_INFILL: &str = "this model has no tokens for filling in the middle; expected one that was \
                             trained for it, as Qwen2.5-Coder, StarCoder2 or CodeLlama: leave it out, or \
                             ask such a model";

impl Language for ModelLanguage {
    fn encode(&self, request: &Request) -> Result<Vec<TokenId>, Refusal> {
        let (field, tokens) = match &request.prompt {
            Prompt::Chat(messages) => {
                if messages.is_empty() {
                    return Err(invalid("messages", "none; expected at least one".into()));
                }
                let none = request.tool_choice == ToolChoice::None;
                let tools = if none { &[] } else { &request.tools[..] };
                let messages: Vec<chat::Message> = messages.iter().map(Into::into).collect();
                let encoded = self.template.encode(&self.tokenizer, &messages, tools, true);
                ("messages", encoded.map_err(|error| refusal("messages", error))?)
            }
            Prompt::Text(text) => {
                ("prompt", self.tokenizer.encode(text, Special::AsText, Ends::Declared))
            }
            Prompt::Tokens(tokens) => ("prompt", tokens.clone()),
            Prompt::Infill { prefix, suffix } => {
                let encoded = self.tokenizer.encode_infill(prefix, suffix);
                ("prompt", encoded.ok_or_else(|| invalid("suffix", CANNOT_INFILL.into()))?)
            }
        };
        if tokens.is_empty() {
            return Err(invalid(field, "no tokens; expected at least one".into()));
        }
        self.checked(field, &tokens)?;
        Ok(tokens)
    }

    fn apply_template(&self, messages: &[Message]) -> Result<String, Refusal> {
        let messages: Vec<chat::Message> = messages.iter().map(Into::into).collect();
        let rendered = self.template.render(&messages, &[], true);
        Ok(rendered.map_err(|error| refusal("messages", error))?.text)
    }

    fn tokenize(&self, text: &str, add_bos: bool, special: bool) -> Vec<TokenId> {
        let special = if special { Special::Parse } else { Special::AsText };
        let mut tokens = self.tokenizer.encode(text, special, Ends::Bare);
        let bos = self.tokenizer.roles().bos.filter(|_| add_bos && self.tokenizer.adds_bos());
        if let Some(bos) = bos {
            tokens.insert(0, bos);
        }
        tokens
    }

    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        self.checked("tokens", tokens)?;
        Ok(self.tokenizer.decode(tokens, Special::Parse))
    }

    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        self.tokenizer.token_bytes(token).to_vec()
    }

    fn begin(&self, request: &Request, prompt: &[TokenId]) -> Result<Box<dyn Writer>, Refusal> {
        Ok(Box::new(self.writer(request, prompt)?))
    }
}

/// The tools that an answer may call; none if it calls none.
fn callable(request: &Request) -> Result<Vec<&ToolSpec>, Refusal> {
    for (at, tool) in request.tools.iter().enumerate() {
        if tool.name.is_empty() {
            return Err(invalid("tools", format!("tool {at} has no name; expected one")));
        }
        if request.tools[..at].iter().any(|other| other.name == tool.name) {
            let detail = format!("two of the name {:?}; expected different names", tool.name);
            return Err(invalid("tools", detail));
        }
    }
    let all = request.tools.iter();
    match &request.tool_choice {
        ToolChoice::None => Ok(Vec::new()),
        ToolChoice::Required if request.tools.is_empty() => {
            Err(invalid("tool_choice", "required, but there are no tools; expected some".into()))
        }
        ToolChoice::Auto | ToolChoice::Required => Ok(all.collect()),
        ToolChoice::Named(name) => {
            let named: Vec<&ToolSpec> = all.filter(|tool| tool.name == *name).collect();
            if named.is_empty() {
                let detail = format!("{name:?} is none of the tools; expected one of them");
                return Err(invalid("tool_choice", detail));
            }
            Ok(named)
        }
    }
}

fn invalid(field: &str, detail: String) -> Refusal {
    Refusal::Invalid { field: field.to_string(), detail }
}

/// An error as a fault of the request: in the field that the error names, or else in this one.
fn refusal(field: &str, error: Error) -> Refusal {
    match error {
        Error::Request { field, detail } => invalid(field, detail),
        other => invalid(field, other.to_string()),
    }
}

/// One answer in the making.
pub struct ModelWriter {
    tokenizer: Arc<Tokenizer>,
    pen: Pen,
    /// While tools may be called.
    calls: Option<Parser>,
    stops: Stops,
    stop_texts: Vec<String>,
    top_logprobs: Option<usize>,
    logprobs: LogprobReader,
    ended: bool,
}

impl ModelWriter {
    fn goes_on(&self) -> Result<(), Refusal> {
        match self.ended {
            true => Err(Refusal::Internal("the answer has ended; nothing follows".into())),
            false => Ok(()),
        }
    }

    /// What a token adds to the answer, and whether it is the last.
    fn take(&mut self, token: TokenId) -> Result<(Vec<Piece>, Option<End>), Refusal> {
        let complete = self.pen.take(&self.tokenizer, token).map_err(failed)?;
        let mut read = Vec::new();
        match &mut self.calls {
            Some(calls) => calls.push(self.pen.readable(), &mut read),
            None => read.push(Piece::Text(self.pen.readable().to_string())),
        }
        let mut pieces = Vec::new();
        let mut stop = self.show(read, &mut pieces);
        if complete && stop.is_none() {
            stop = self.rest(&mut pieces);
        }
        let end = match stop {
            Some(which) => Some(End::Stop(self.stop_texts[which].clone())),
            None if complete => Some(match self.calls.as_ref().map(Parser::calls) {
                Some(calls) if !calls.is_empty() => End::Calls(calls.to_vec()),
                _ => End::End,
            }),
            None => None,
        };
        self.ended = end.is_some();
        Ok((pieces, end))
    }

    /// Appends what of the pieces comes before a stop text; says which that is.
    fn show(&mut self, read: Vec<Piece>, pieces: &mut Vec<Piece>) -> Option<usize> {
        for piece in read {
            let Piece::Text(text) = piece else {
                // A stop text does not reach across a call.
                self.show_text("", true, pieces);
                pieces.push(piece);
                continue;
            };
            let stop = self.show_text(&text, false, pieces);
            if stop.is_some() {
                return stop;
            }
        }
        None
    }

    fn show_text(&mut self, text: &str, last: bool, pieces: &mut Vec<Piece>) -> Option<usize> {
        let mut shown = String::new();
        let stop = match last {
            true => self.stops.last(text, &mut shown),
            false => self.stops.push(text, &mut shown),
        };
        if !shown.is_empty() {
            pieces.push(Piece::Text(shown));
        }
        stop
    }

    /// What has been held back: no more tokens come.
    fn rest(&mut self, pieces: &mut Vec<Piece>) -> Option<usize> {
        let text = self.pen.rest();
        let mut read = Vec::new();
        match &mut self.calls {
            Some(calls) => {
                calls.push(text, &mut read);
                calls.finish(&mut read);
            }
            None => read.push(Piece::Text(text.to_string())),
        }
        self.show(read, pieces).or_else(|| self.show_text("", true, pieces))
    }
}

impl Writer for ModelWriter {
    fn next(&mut self, logits: &[f32]) -> Result<Written, Refusal> {
        self.goes_on()?;
        let token = self.pen.choose(logits).map_err(failed)?;
        let (pieces, end) = self.take(token)?;
        let logprob = self
            .top_logprobs
            .map(|top| logprob(&self.tokenizer, &mut self.logprobs, logits, token, top));
        Ok(Written { token, pieces, logprob, end })
    }

    fn replay(&mut self, token: TokenId) -> Result<Written, Refusal> {
        self.goes_on()?;
        self.pen.skip();
        let (pieces, end) = self.take(token)?;
        Ok(Written { token, pieces, logprob: None, end })
    }

    fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if !std::mem::replace(&mut self.ended, true) {
            self.rest(&mut pieces);
        }
        pieces
    }

    fn score(&self, logits: &[f32], token: TokenId) -> Option<Logprob> {
        let mut reader = LogprobReader::default();
        self.top_logprobs.map(|top| logprob(&self.tokenizer, &mut reader, logits, token, top))
    }

    fn echo(&mut self, token: TokenId) -> String {
        self.pen.echo(&self.tokenizer, token).to_string()
    }
}

/// A fault on the way that no request should cause.
fn failed(error: Error) -> Refusal {
    Refusal::Internal(error.to_string())
}

fn logprob(
    tokenizer: &Tokenizer,
    reader: &mut LogprobReader,
    logits: &[f32],
    token: TokenId,
    top: usize,
) -> Logprob {
    let bytes = |token: TokenId| tokenizer.token_bytes(token).to_vec();
    let row = reader.read(logits, token, top);
    let top = row.top.iter().map(|&(token, logprob)| (token, bytes(token), logprob)).collect();
    Logprob { id: token, bytes: bytes(token), logprob: Some(row.chosen), top }
}

#[cfg(test)]
mod tests;
