//! Chat templates: the file's own Jinja, bounded in time and memory.
//!
//! The key decision: special tokens that stand in a message stay text. Before rendering, an
//! unused private character is set into every spelling of a special token in a message; after
//! rendering the characters are taken out again, and what stood before them is *guarded*, so that
//! [`Tokenizer::encode_guarded`] never takes it for a token. The template may trim, cut and join
//! as it likes. In an assistant's message the words of the model (`</think>`) are left to the
//! template, which often cuts there; its control tokens are not.
//!
//! The environment is the one Hugging Face's `apply_chat_template` gives (`trim_blocks`,
//! `lstrip_blocks`, `raise_exception`, `strftime_now`, `tojson`, loop controls, Python's string
//! methods), with tools and without documents. A file without a template gets the one its special
//! tokens speak for: see [`default_source`]. Tools, calls and results are texts of strangers too:
//! each string in them is marked (`tools.rs`).
//!
//! A known gap: minijinja charges a list by its items, not by what they hold, so a template that
//! puts a list twice into another, some thirty times over, and makes a string of that by `~` or
//! `|string` (not by `{{ }}` or `|tojson`, which are bounded here) can still use up memory.
//!
//! Not here: what a message may say and who may say it (the kernel's guards).

mod clock;
#[cfg(test)]
mod tests;
mod tools;

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use yushan_abi::{Call, TokenId, ToolSpec};

use crate::calls::Convention;
use crate::tokenizer::{Ends, Matcher, Special, Tokenizer};
use crate::{Error, Result};

/// Longest source of a template in bytes. The longest in use have 20 KB.
const LONGEST_SOURCE: usize = 64 << 10;
/// Steps of the interpreter for any conversation; 64 bytes that it makes or reads are one step, so
/// that this bounds memory too.
const STEPS: u64 = 200_000;
/// More steps a message, one more for each of its bytes, and the most of all.
const STEPS_PER_MESSAGE: u64 = 500;
const STEPS_AT_MOST: u64 = 2_000_000;
/// Stack for what nests as deep as the longest source or the last step allows, in bytes.
const STACK: usize = 256 << 20;
/// Calls within calls.
const DEEPEST: usize = 100;
/// Output beside the messages, and how often it may hold each of them.
const OUTPUT: usize = 1 << 20;
const OUTPUT_PER_BYTE: usize = 8;
/// Who may speak. Templates write roles into special tokens, so others are refused.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "ipython"];

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, …
    pub role: String,
    /// What was said.
    pub content: String,
    /// An assistant's calls.
    pub calls: Vec<Call>,
    /// Which call a tool's message answers.
    pub answers: Option<String>,
    /// The tool's name, or the speaker's.
    pub name: Option<String>,
}

impl Message {
    /// A message of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), ..Message::default() }
    }

    /// All that somebody wrote in it.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let calls = self.calls.iter().flat_map(|call| [&call.id, &call.name, &call.arguments]);
        let rest = self.answers.iter().chain(&self.name);
        calls.chain(rest).chain([&self.content]).map(String::as_str)
    }
}

impl From<&yushan_abi::Message> for Message {
    fn from(message: &yushan_abi::Message) -> Self {
        Message {
            role: message.role.name().to_string(),
            content: message.text(),
            calls: message.calls.clone(),
            answers: message.answers.clone(),
            name: message.name.clone(),
        }
    }
}

/// A conversation as the model wants to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of `text` that came from messages and must not be taken for special tokens;
    /// ascending.
    pub guarded: Vec<Range<usize>>,
}

/// A compiled template. Immutable; share it between threads.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The source, for its characters.
    source: String,
    matcher: Arc<Matcher>,
    convention: Convention,
    /// Whether the template writes tools, calls and results itself.
    knows_tools: bool,
    /// `bos_token` and the like, empty where there is none.
    names: Value,
}

impl ChatTemplate {
    /// Compiles the file's own template, or the default one that fits the tokenizer.
    pub fn new(source: Option<&str>, tokenizer: &Tokenizer) -> Result<Self> {
        let source = source.unwrap_or_else(|| default_source(tokenizer));
        if source.len() > LONGEST_SOURCE {
            let size = source.len();
            return Err(Error::Template(format!("{size} bytes; at most {LONGEST_SOURCE}")));
        }
        let source = without_generation_tags(source);
        let mut environment = environment();
        let compile = || environment.add_template_owned("chat", source.clone()).map_err(told);
        on_a_deep_stack(compile)?;
        let roles = tokenizer.roles();
        let names = [
            ("bos_token", roles.bos),
            ("eos_token", roles.eos),
            ("unk_token", roles.unknown),
            ("pad_token", roles.pad),
        ];
        let names = Value::from_pairs(names.map(|(name, id)| {
            (name, id.map_or_else(String::new, |id| tokenizer.decode(&[id], Special::Parse)))
        }));
        let own = Convention::of_template(&source);
        Ok(ChatTemplate {
            environment,
            source,
            matcher: tokenizer.matcher(),
            convention: own.unwrap_or_else(|| default_convention(tokenizer)),
            knows_tools: own.is_some(),
            names,
        })
    }

    /// How the model writes calls.
    pub fn convention(&self) -> Convention {
        self.convention
    }

    /// The conversation as text, with the tools that the model may call. With
    /// `add_generation_prompt` it ends where an assistant begins.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[ToolSpec],
        add_generation_prompt: bool,
    ) -> Result<Rendered> {
        for message in messages {
            if !ROLES.contains(&message.role.as_str()) {
                let roles = ROLES.join(", ");
                let detail = format!("role {:?}; expected one of {roles}", message.role);
                return Err(Error::Template(detail));
            }
        }
        let mut texts: Vec<&str> = messages.iter().flat_map(Message::texts).collect();
        let described = tools::describe(tools);
        let json: Vec<String> = described.iter().map(ToString::to_string).collect();
        texts.extend(json.iter().map(String::as_str));
        let size: usize = texts.iter().map(|text| text.len()).sum();
        texts.push(&self.source);
        let marker = tools::Marker { matcher: &self.matcher, mark: unused_character(&texts)? };
        let described: Vec<_> = described.iter().map(|tool| marker.json(tool)).collect();
        let text = on_a_deep_stack(|| {
            let render = |seen: tools::Seen| self.text_of(seen, size, add_generation_prompt);
            if self.knows_tools {
                return render(marker.own_form(messages, described, self.convention));
            }
            let plain =
                |in_system| marker.plain_form(messages, &described, self.convention, in_system);
            // Some templates refuse instructions from anybody but the user.
            let asked_for = messages.iter().any(|message| message.role == "system");
            match render(plain(true)) {
                Err(_) if !described.is_empty() && !asked_for => render(plain(false)),
                result => result,
            }
        })?;
        Ok(unmarked(&text, marker.mark))
    }

    /// The rendered text with its marks, of messages and tools of `size` bytes.
    fn text_of(
        &self,
        seen: tools::Seen,
        size: usize,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let mut environment = self.environment.clone();
        let steps = STEPS + STEPS_PER_MESSAGE * seen.messages.len() as u64 + size as u64;
        environment.set_fuel(Some(steps.min(STEPS_AT_MOST)));
        let template = environment.get_template("chat").map_err(told)?;
        let limit = OUTPUT.saturating_add(size.saturating_mul(OUTPUT_PER_BYTE));
        let mut output = Bounded { bytes: Vec::new(), limit };
        let variables = context! {
            messages => seen.messages,
            add_generation_prompt,
            tools => seen.tools,
            documents => (),
            ..self.names.clone()
        };
        template.render_captured_to(variables, &mut output).map_err(told)?;
        String::from_utf8(output.bytes)
            .map_err(|error| Error::Template(format!("its output is no UTF-8: {error}")))
    }

    /// The conversation as token ids. A model that wants BOS before every text gets it once,
    /// whether the template writes it or not.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[ToolSpec],
        add_generation_prompt: bool,
    ) -> Result<Vec<TokenId>> {
        let Rendered { text, guarded } = self.render(messages, tools, add_generation_prompt)?;
        let mut ids = tokenizer.encode_guarded(&text, &guarded, Ends::Bare);
        let bos = tokenizer.roles().bos.filter(|_| tokenizer.adds_bos());
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }
}

/// A private character that stands in none of the texts.
fn unused_character(texts: &[&str]) -> Result<char> {
    let private = '\u{F0000}'..='\u{FFFFD}';
    let chars = texts.iter().flat_map(|text| text.chars());
    let used: HashSet<char> = chars.filter(|char| private.contains(char)).collect();
    private.clone().find(|char| !used.contains(char)).ok_or_else(|| {
        Error::Template("the messages use up all private characters of Unicode".into())
    })
}

/// Runs `work` on a thread with room for deep recursion: minijinja bounds that of calls, but not
/// how deep expressions and lists nest.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| Error::Template(format!("no thread to render it on: {error}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes the marks out; the character before each is guarded.
fn unmarked(marked: &str, mark: char) -> Rendered {
    let mut text = String::with_capacity(marked.len());
    let mut guarded: Vec<Range<usize>> = Vec::new();
    for (at, piece) in marked.split(mark).enumerate() {
        if let (true, Some(before)) = (at > 0, text.chars().next_back()) {
            let range = text.len() - before.len_utf8()..text.len();
            if guarded.last() != Some(&range) {
                guarded.push(range);
            }
        }
        text.push_str(piece);
    }
    Rendered { text, guarded }
}

/// The template for a file that has none: ChatML if the vocabulary has `<|im_start|>`, Llama 3's
/// headers if it has `<|start_header_id|>`, Llama 2's and Mistral's brackets if it has `[INST]`,
/// and plain `User:` and `Assistant:` otherwise.
fn default_source(tokenizer: &Tokenizer) -> &'static str {
    let has = |name: &str| tokenizer.token_of(name).is_some();
    if has("<|im_start|>") {
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
         {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    } else if has("<|start_header_id|>") {
        "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' \
         + message.content | trim + '<|eot_id|>' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    } else if has("[INST]") {
        "{{ bos_token }}{% set at = namespace(system='') %}{% for message in messages %}\
         {% if message.role in ['system', 'developer'] %}{% set at.system = message.content | trim + '\\n\\n' %}\
         {% elif message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}\
         {% else %}{{ '[INST] ' + at.system + message.content | trim + ' [/INST]' }}{% set at.system = '' %}\
         {% endif %}{% endfor %}"
    } else {
        "{% for message in messages %}{{ message.role | capitalize + ': ' + message.content | trim + '\\n' }}\
         {% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    }
}

/// How a model writes calls whose template knows no tools: as the control tokens of its vocabulary
/// have it, or else the way most models have learnt.
fn default_convention(tokenizer: &Tokenizer) -> Convention {
    let has = |convention: &Convention| tokenizer.token_of(convention.opener()).is_some();
    Convention::ALL.into_iter().find(has).unwrap_or(Convention::Hermes)
}

/// Jinja as Hugging Face sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEEPEST);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|to, state, value| {
        // Strings were paid for; what a list would be as text is not known yet.
        if value.as_object().is_some() {
            return minijinja::escape_formatter(to, state, &Value::from(bounded_text(value)?));
        }
        minijinja::escape_formatter(to, state, value)
    });
    environment.add_function("raise_exception", |text: String| -> Jinja<Value> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", |format: String| clock::format(clock::now(), &format));
    environment.add_filter("tojson", tojson);
    environment
}

type Jinja<T> = std::result::Result<T, minijinja::Error>;

/// Python's `json.dumps(value, ensure_ascii=False, indent=…)`: unlike Jinja's own `tojson` it
/// does not escape for HTML.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Jinja<String> {
    let failed = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, "no JSON").with_source(error)
    };
    let indent = indent.or(options.get("indent")?);
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut out = Bounded { bytes: Vec::new(), limit: OUTPUT };
    if let Some(indent) = indent {
        let spaces = " ".repeat(indent.min(16));
        let pretty = PrettyFormatter::with_indent(spaces.as_bytes());
        value.serialize(&mut Serializer::with_formatter(&mut out, pretty)).map_err(failed)?;
    } else {
        value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)).map_err(failed)?;
    }
    Ok(String::from_utf8_lossy(&out.bytes).into_owned())
}

/// A list or map as text, if it stays within bounds: a list that holds another twice, again and
/// again, is small in memory and endless as text.
fn bounded_text(value: &Value) -> Jinja<String> {
    let mut out = Bounded { bytes: Vec::new(), limit: OUTPUT };
    write!(out, "{value}").map_err(|_| minijinja::Error::from(ErrorKind::WriteFailure))?;
    Ok(String::from_utf8_lossy(&out.bytes).into_owned())
}

/// One line with a space after `,` and `:`, as Python writes it.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

/// `{% generation %}` marks what is trained on; for rendering it is a block that is always taken.
fn without_generation_tags(source: &str) -> String {
    let mut out = source.to_string();
    for (tag, plain) in [("generation", "if true"), ("endgeneration", "endif")] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            let from = format!("{open} {tag} {close}");
            out = out.replace(&from, &format!("{open} {plain} {close}"));
        }
    }
    out
}

/// What went wrong, in one line.
fn told(error: minijinja::Error) -> Error {
    let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    Error::Template(match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("{line}it takes more steps or memory than a conversation of this length needs")
        }
        (ErrorKind::WriteFailure, _) => {
            format!("{line}it writes more than {OUTPUT} bytes beside the messages")
        }
        (ErrorKind::InvalidOperation, Some(detail)) => format!("{line}{detail}"),
        (kind, Some(detail)) => format!("{line}{kind}: {detail}"),
        (kind, None) => format!("{line}{kind}"),
    })
}

/// A sink that refuses to grow past its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
