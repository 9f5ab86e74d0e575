//! Fields that several OpenAI requests share, checked.
//!
//! The key decision: one function for each field, so that a range stands in one place and in the error alike.

use std::collections::BTreeMap;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use yushan_abi::{Class, Form, Overflow, Sampling, ToolChoice, ToolSpec};
use yushan_kernel::gate::Capability;
use yushan_kernel::life::Mode;

use crate::body::{Ignored, whole, within};
use crate::fault::Fault;
use crate::ids;

/// Answers to one request.
pub(crate) const MOST_ANSWERS: usize = 16;
/// Stop texts of one request.
const MOST_STOPS: usize = 16;
/// Entries of `logit_bias`.
const MOST_BIASES: usize = 1024;
/// Tools of one request.
const MOST_TOOLS: usize = 512;

/// How tokens are chosen, as it stood in a body.
#[derive(Default)]
pub(crate) struct Knobs<'a> {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<u64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) typical_p: Option<f64>,
    pub(crate) repeat_penalty: Option<f64>,
    pub(crate) repeat_last_n: Option<u64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) logit_bias: Option<&'a BTreeMap<String, f64>>,
    pub(crate) seed: Option<i64>,
}

impl Knobs<'_> {
    /// Checked; `prefix` stands before the names of fields in errors. Without a seed one is drawn.
    pub(crate) fn sampling(&self, prefix: &str, default: Sampling) -> Result<Sampling, Fault> {
        let name = |field: &str| format!("{prefix}{field}");
        let number = |field: &str, value, low, high, default| {
            Ok::<f32, Fault>(within(&name(field), value, low, high)?.unwrap_or(default))
        };
        let count = |field: &str, value, high, default| {
            Ok::<usize, Fault>(whole(&name(field), value, 0, high)?.unwrap_or(default))
        };
        Ok(Sampling {
            temperature: number("temperature", self.temperature, 0.0, 2.0, default.temperature)?,
            top_k: count("top_k", self.top_k, 1 << 20, default.top_k)?,
            top_p: number("top_p", self.top_p, 0.0, 1.0, default.top_p)?,
            min_p: number("min_p", self.min_p, 0.0, 1.0, default.min_p)?,
            typical_p: number("typical_p", self.typical_p, 0.0, 1.0, default.typical_p)?,
            repeat_penalty: number(
                "repeat_penalty",
                self.repeat_penalty,
                0.01,
                10.0,
                default.repeat_penalty,
            )?,
            repeat_last_n: count(
                "repeat_last_n",
                self.repeat_last_n,
                1 << 20,
                default.repeat_last_n,
            )?,
            frequency_penalty: number(
                "frequency_penalty",
                self.frequency_penalty,
                -2.0,
                2.0,
                default.frequency_penalty,
            )?,
            presence_penalty: number(
                "presence_penalty",
                self.presence_penalty,
                -2.0,
                2.0,
                default.presence_penalty,
            )?,
            logit_bias: biases(self.logit_bias)?,
            // Negative seeds are allowed by OpenAI: any 64 bits will do.
            seed: self.seed.map_or_else(ids::random, |seed| seed as u64),
        })
    }
}

fn biases(biases: Option<&BTreeMap<String, f64>>) -> Result<Vec<(u32, f32)>, Fault> {
    let Some(biases) = biases else { return Ok(Vec::new()) };
    if biases.len() > MOST_BIASES {
        let count = biases.len();
        return Err(Fault::invalid(
            "logit_bias",
            format!("{count} entries; at most {MOST_BIASES}"),
        ));
    }
    biases
        .iter()
        .map(|(token, &bias)| {
            let field = format!("logit_bias.{token}");
            let Ok(id) = token.parse() else {
                return Err(Fault::invalid(field, "expected a token id as the name"));
            };
            Ok((id, within(&field, Some(bias), -100.0, 100.0)?.unwrap_or_default()))
        })
        .collect()
}

/// One text, or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(crate) enum Texts {
    One(String),
    Several(Vec<String>),
}

impl Texts {
    /// As a list.
    pub(crate) fn list(self) -> Vec<String> {
        match self {
            Texts::One(one) => vec![one],
            Texts::Several(several) => several,
        }
    }
}

/// Stop texts, checked.
pub(crate) fn stops(field: &str, stop: Option<Texts>) -> Result<Vec<String>, Fault> {
    let stops = stop.map_or_else(Vec::new, Texts::list);
    if stops.len() > MOST_STOPS {
        let count = stops.len();
        return Err(Fault::invalid(field, format!("{count} texts; at most {MOST_STOPS}")));
    }
    match stops.iter().position(String::is_empty) {
        Some(at) => Err(Fault::invalid(format!("{field}[{at}]"), "an empty text ends everything")),
        None => Ok(stops),
    }
}

/// Bound on tokens where nobody knows how many a model's context holds.
const MOST_TOKENS: usize = 1 << 24;

/// Most tokens that a request may name for a model: as many as its context holds, if that is known.
pub(crate) fn most_tokens(model: &yushan_abi::ModelInfo) -> usize {
    if model.context == 0 { MOST_TOKENS } else { model.context }
}

/// Most tokens of an answer: no more than the context holds.
pub(crate) fn max_tokens(
    field: &str,
    value: Option<u64>,
    low: usize,
    context: usize,
) -> Result<Option<usize>, Fault> {
    whole(field, value, low, context.max(low))
}

/// The form of an answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object`, `json_schema`; our extensions: `grammar` (GBNF or Lark), `regex`.
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<NamedSchema>,
    grammar: Option<String>,
    regex: Option<String>,
}

/// A schema, as chats wrap it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    #[serde(rename = "name")]
    _name: Option<String>,
    schema: Option<Value>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
    #[serde(rename = "description")]
    _description: Option<String>,
}

impl ResponseFormat {
    /// Checked.
    pub(crate) fn form(self, field: &str) -> Result<Form, Fault> {
        let needs = |name: &str| {
            Fault::invalid(format!("{field}.{name}"), format!("type {name:?} needs it"))
        };
        match self.kind.as_str() {
            "text" => Ok(Form::Text),
            "json_object" => Ok(Form::Json),
            "json_schema" => {
                let schema = self.json_schema.ok_or_else(|| needs("json_schema"))?.schema;
                let name = format!("{field}.json_schema.schema");
                schema_form(&name, schema.ok_or_else(|| needs("json_schema.schema"))?)
            }
            "grammar" => self.grammar.map(Form::Grammar).ok_or_else(|| needs("grammar")),
            "regex" => self.regex.map(Form::Regex).ok_or_else(|| needs("regex")),
            other => Err(Fault::invalid(
                format!("{field}.type"),
                format!(
                    "{other:?} was given; expected text, json_object, json_schema, grammar or regex"
                ),
            )),
        }
    }
}

/// A schema is an object or a boolean.
pub(crate) fn schema_form(field: &str, schema: Value) -> Result<Form, Fault> {
    match schema {
        schema @ (Value::Object(_) | Value::Bool(true)) => Ok(Form::Schema(schema)),
        _ => Err(Fault::invalid(field, "expected a JSON schema: an object")),
    }
}

/// A function that a model may call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default)]
    pub(crate) parameters: Option<Value>,
    /// Taken; arguments always follow the schema.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

impl Function {
    /// Checked.
    pub(crate) fn spec(self, field: &str) -> Result<ToolSpec, Fault> {
        let word = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.');
        if self.name.is_empty() || self.name.len() > 128 || !self.name.chars().all(word) {
            return Err(Fault::invalid(
                format!("{field}.name"),
                "expected 1 to 128 letters, digits, dashes, dots and underscores",
            ));
        }
        let schema = match self.parameters {
            None => json!({"type": "object", "properties": {}}),
            Some(schema) if schema.is_object() => schema,
            Some(_) => {
                let field = format!("{field}.parameters");
                return Err(Fault::invalid(field, "expected a JSON schema: an object"));
            }
        };
        Ok(ToolSpec {
            name: self.name,
            description: self.description.unwrap_or_default(),
            schema,
            // The client runs it.
            effect: yushan_abi::Effect::Read,
            roles: BTreeMap::new(),
        })
    }
}

/// A tool, as chats wrap it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) function: Option<Function>,
    /// Our extension, with the type `system`: a tool that is run here.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Our extension, with the type `system`: `auto` (the default), `ask` or `deny`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) mode: Option<Mode>,
    /// Our extension, with the type `system`: what may be done with it, at most.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) capability: Option<Capability>,
    #[serde(rename = "custom")]
    _custom: Option<Ignored>,
}

/// Tools, checked.
#[derive(Default)]
pub(crate) struct Toolbox {
    /// Those that the client runs.
    pub(crate) functions: Vec<ToolSpec>,
    /// Those that are run here, and how each call of them is decided.
    pub(crate) system: BTreeMap<String, (Mode, Capability)>,
}

/// Tools, checked; whether those of the system are there is for the kernel to say.
pub(crate) fn tools(tools: Vec<Tool>) -> Result<Toolbox, Fault> {
    let mut toolbox = Toolbox::default();
    for (at, tool) in tools.into_iter().enumerate() {
        let field = |name: &str| format!("tools[{at}].{name}");
        match (tool.kind.as_str(), tool.function, tool.name) {
            ("function", Some(function), None) => {
                toolbox.functions.push(function.spec(&field("function"))?);
            }
            ("function", Some(_), Some(_)) => {
                let why = "is the system's tools' alone: a function has its name in it";
                return Err(Fault::invalid(field("name"), why));
            }
            ("function", None, _) => {
                return Err(Fault::invalid(field("function"), "type \"function\" needs it"));
            }
            ("system", None, Some(name)) => {
                let may = (tool.mode.unwrap_or_default(), tool.capability.unwrap_or_default());
                if toolbox.system.insert(name.clone(), may).is_some() {
                    return Err(Fault::invalid(field("name"), format!("{name:?} stands twice")));
                }
            }
            ("system", _, _) => {
                let why =
                    "type \"system\" needs the name of a tool of this system, and no function";
                return Err(Fault::invalid(field("name"), why));
            }
            (other, ..) => {
                let why =
                    format!("{other:?} was given; this server knows \"function\" and \"system\"");
                return Err(Fault::invalid(field("type"), why));
            }
        }
    }
    toolbox.functions = distinct(toolbox.functions)?;
    let both = toolbox.functions.iter().position(|tool| toolbox.system.contains_key(&tool.name));
    match both {
        Some(at) => Err(Fault::invalid(
            format!("tools[{at}].function.name"),
            "a tool of the system has this name too: give one",
        )),
        None => Ok(toolbox),
    }
}

/// Tools that the client runs, and no others.
pub(crate) fn functions(given: Vec<Tool>) -> Result<Vec<ToolSpec>, Fault> {
    let Toolbox { functions, system } = tools(given)?;
    match system.is_empty() {
        true => Ok(functions),
        false => {
            Err(Fault::invalid("tools", "tools of the system are for /v1/chat/completions alone"))
        }
    }
}

/// No two of one name, and not too many.
pub(crate) fn distinct(tools: Vec<ToolSpec>) -> Result<Vec<ToolSpec>, Fault> {
    if tools.len() > MOST_TOOLS {
        let count = tools.len();
        return Err(Fault::invalid("tools", format!("{count} tools; at most {MOST_TOOLS}")));
    }
    let mut names = std::collections::BTreeSet::new();
    for (at, tool) in tools.iter().enumerate() {
        if !names.insert(&tool.name) {
            let detail = format!("{:?} stands twice", tool.name);
            return Err(Fault::invalid(format!("tools[{at}]"), detail));
        }
    }
    Ok(tools)
}

/// Which tools may be called: a word, or the name of a function in either of OpenAI's forms.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "\"none\", \"auto\", \"required\" or a function")]
pub(crate) enum Choice {
    Word(String),
    Chosen(Chosen),
}

/// A function that must be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chosen {
    #[serde(rename = "type")]
    kind: String,
    /// As responses name it.
    #[serde(default)]
    name: Option<String>,
    /// As chats name it.
    #[serde(default)]
    function: Option<ChosenName>,
}

/// Its name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChosenName {
    name: String,
}

/// The choice, checked against the tools.
pub(crate) fn tool_choice(choice: Option<Choice>, tools: &[&str]) -> Result<ToolChoice, Fault> {
    const FIELD: &str = "tool_choice";
    let choice = match choice {
        None => return Ok(ToolChoice::Auto),
        Some(Choice::Word(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            other => {
                let detail = format!("{other:?} was given; expected none, auto or required");
                return Err(Fault::invalid(FIELD, detail));
            }
        },
        Some(Choice::Chosen(chosen)) => {
            let name = chosen.name.or(chosen.function.map(|function| function.name));
            match (chosen.kind.as_str(), name) {
                ("function", Some(name)) => ToolChoice::Named(name),
                ("function", None) => return Err(Fault::invalid(FIELD, "which function?")),
                (other, _) => {
                    let detail = format!("type {other:?} was given; expected function");
                    return Err(Fault::invalid(FIELD, detail));
                }
            }
        }
    };
    match &choice {
        ToolChoice::Required if tools.is_empty() => {
            Err(Fault::invalid(FIELD, "a call is required, but there are no tools"))
        }
        ToolChoice::Named(name) if !tools.contains(&name.as_str()) => {
            Err(Fault::invalid(FIELD, format!("there is no tool {name:?}")))
        }
        _ => Ok(choice),
    }
}

/// How soon: OpenAI's `flex` is our batch.
pub(crate) fn class(service_tier: Option<&str>) -> Result<Class, Fault> {
    match service_tier {
        None | Some("auto" | "default" | "priority" | "standard") => Ok(Class::Interactive),
        Some("flex") => Ok(Class::Batch),
        Some(other) => Err(Fault::invalid(
            "service_tier",
            format!("{other:?} was given; expected auto, default, priority or flex"),
        )),
    }
}

/// Our extension: what to do with a conversation that is too long.
pub(crate) fn overflow(word: Option<&str>) -> Result<Overflow, Fault> {
    match word {
        None | Some("refuse") => Ok(Overflow::Refuse),
        Some("truncate_oldest") => Ok(Overflow::TruncateOldest),
        Some("summarize") => Ok(Overflow::Summarize),
        Some(other) => Err(Fault::invalid(
            "overflow",
            format!("{other:?} was given; expected refuse, truncate_oldest or summarize"),
        )),
    }
}

/// Text, or a list of things; unlike an untagged enum, errors within the list keep their path.
#[derive(Clone, Debug)]
pub(crate) enum OneOrList<T> {
    One(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}

struct Either<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
    type Value = OneOrList<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a text or a list of parts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(OneOrList::One(text.to_string()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(OneOrList::One(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = list.next_element()? {
            parts.push(part);
        }
        Ok(OneOrList::List(parts))
    }
}
