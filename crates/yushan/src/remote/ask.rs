//! A request as another server reads it.
//!
//! The key decision: a field is sent only where it says something, so that servers that know few fields
//! can still be asked; what cannot be said is refused by name and never left out.

use serde_json::{Map, Value, json};
use yushan_abi::{
    Call, Class, Form, Message, Overflow, Prompt, Refusal, Request, Role, Sampling, ToolChoice,
};

/// What a server calls the fields that OpenAI has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Ours, and llama.cpp's.
    Yushan,
    /// vLLM's, and of all others.
    Vllm,
}

impl Dialect {
    /// By what a list of models says of their owner.
    pub(super) fn of(owner: &str) -> Dialect {
        match owner {
            "yushan" | "llamacpp" => Dialect::Yushan,
            _ => Dialect::Vllm,
        }
    }
}

/// A request, and where it goes.
pub(super) struct Ask {
    pub(super) path: &'static str,
    pub(super) body: Value,
}

fn refuse<T>(field: &str, detail: &str) -> Result<T, Refusal> {
    Err(Refusal::Invalid { field: field.into(), detail: detail.into() })
}

impl Ask {
    /// Refused if it asks for what cannot be asked of a model elsewhere.
    pub(super) fn of(request: &Request, dialect: Dialect) -> Result<Ask, Refusal> {
        if request.overflow != Overflow::Refuse {
            return refuse("overflow", "a model on another server is asked for all or nothing");
        }
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.into(), value);
        set("model", json!(request.model));
        set("stream", json!(true));
        set("stream_options", json!({ "include_usage": true }));
        if !request.stops.is_empty() {
            set("stop", json!(request.stops));
        }
        let path = match &request.prompt {
            Prompt::Chat(messages) => {
                set("messages", messages.iter().map(message).collect());
                if let Some(most) = request.max_tokens {
                    set("max_completion_tokens", json!(most));
                }
                if let Some(top) = request.logprobs {
                    set("logprobs", json!(true));
                    set("top_logprobs", json!(top));
                }
                "/chat/completions"
            }
            prompt => {
                text(request, prompt, &mut body)?;
                "/completions"
            }
        };
        form(request, dialect, &mut body)?;
        tools(request, &mut body);
        sampling(&request.sampling, dialect, &mut body)?;
        if dialect == Dialect::Yushan && request.class == Class::Batch {
            body.insert("service_tier".into(), json!("flex"));
        }
        Ok(Ask { path, body: Value::Object(body) })
    }
}

fn text(request: &Request, prompt: &Prompt, body: &mut Map<String, Value>) -> Result<(), Refusal> {
    let prompt = match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Tokens(tokens) => json!(tokens),
        Prompt::Infill { prefix, suffix } => {
            body.insert("suffix".into(), json!(suffix));
            json!(prefix)
        }
        Prompt::Chat(_) => Value::Null,
    };
    if request.echo {
        return refuse(
            "echo",
            "the prompt's tokens of a model on another server are not known here",
        );
    }
    let Some(most) = request.max_tokens else {
        return refuse("max_tokens", "a model on another server needs it for a text");
    };
    body.insert("prompt".into(), prompt);
    body.insert("max_tokens".into(), json!(most));
    if let Some(top) = request.logprobs {
        body.insert("logprobs".into(), json!(top));
    }
    Ok(())
}

fn form(request: &Request, dialect: Dialect, body: &mut Map<String, Value>) -> Result<(), Refusal> {
    let format = match &request.form {
        Form::Text => return Ok(()),
        Form::Embedding => {
            return refuse("model", "it is on another server: ask that for embeddings");
        }
        _ if !matches!(request.prompt, Prompt::Chat(_)) => {
            return refuse("response_format", "another server takes it for conversations alone");
        }
        Form::Json => json!({ "type": "json_object" }),
        Form::Schema(schema) => {
            let schema = json!({ "name": "answer", "schema": schema, "strict": true });
            json!({ "type": "json_schema", "json_schema": schema })
        }
        Form::Grammar(grammar) if dialect == Dialect::Yushan => {
            json!({ "type": "grammar", "grammar": grammar })
        }
        Form::Regex(regex) if dialect == Dialect::Yushan => {
            json!({ "type": "regex", "regex": regex })
        }
        _ => {
            let why = "a model on another server takes text, json_object and json_schema";
            return refuse("response_format", why);
        }
    };
    body.insert("response_format".into(), format);
    Ok(())
}

fn tools(request: &Request, body: &mut Map<String, Value>) {
    if request.tools.is_empty() {
        return;
    }
    let tools = request.tools.iter().map(|tool| {
        let function = json!({
            "name": tool.name, "description": tool.description, "parameters": tool.schema,
        });
        json!({ "type": "function", "function": function })
    });
    body.insert("tools".into(), tools.collect());
    let choice = match &request.tool_choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
    };
    body.insert("tool_choice".into(), choice);
    if !request.parallel_calls {
        body.insert("parallel_tool_calls".into(), json!(false));
    }
}

fn sampling(
    sampling: &Sampling,
    dialect: Dialect,
    body: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    let usual = Sampling::default();
    // JSON has no minus infinity.
    let mut set = |name: &str, value: f32, usual: f32| {
        if value != usual {
            body.insert(name.into(), json!(f64::from(value).clamp(-1e9, 1e9)));
        }
    };
    set("temperature", sampling.temperature, f32::NAN);
    set("top_p", sampling.top_p, usual.top_p);
    set("frequency_penalty", sampling.frequency_penalty, usual.frequency_penalty);
    set("presence_penalty", sampling.presence_penalty, usual.presence_penalty);
    set("min_p", sampling.min_p, usual.min_p);
    let penalty = match dialect {
        Dialect::Yushan => "repeat_penalty",
        Dialect::Vllm => "repetition_penalty",
    };
    set(penalty, sampling.repeat_penalty, usual.repeat_penalty);
    if dialect == Dialect::Yushan {
        set("typical_p", sampling.typical_p, usual.typical_p);
    } else if sampling.typical_p != usual.typical_p {
        return refuse("typical_p", "the server of this model does not know it");
    }
    if sampling.repeat_last_n != usual.repeat_last_n {
        match dialect {
            Dialect::Yushan => {
                drop(body.insert("repeat_last_n".into(), json!(sampling.repeat_last_n)))
            }
            Dialect::Vllm if sampling.repeat_penalty == usual.repeat_penalty => {}
            Dialect::Vllm => return refuse("repeat_last_n", "this model's server looks at all"),
        }
    }
    if sampling.top_k > 0 {
        body.insert("top_k".into(), json!(sampling.top_k));
    }
    if !sampling.logit_bias.is_empty() {
        let biases = sampling.logit_bias.iter();
        let biases: Map<String, Value> =
            biases.map(|(id, bias)| (id.to_string(), json!(bias.max(-100.0)))).collect();
        body.insert("logit_bias".into(), Value::Object(biases));
    }
    // Seeds are signed there.
    body.insert("seed".into(), json!(sampling.seed >> 1));
    Ok(())
}

fn message(message: &Message) -> Value {
    let text = message.text();
    let mut out = json!({ "role": message.role.name(), "content": text });
    if !message.calls.is_empty() {
        out["tool_calls"] = message.calls.iter().map(call).collect();
        if text.is_empty() {
            out["content"] = Value::Null;
        }
    }
    if let Some(answers) = &message.answers {
        out["tool_call_id"] = json!(answers);
    }
    // A tool's name is found again from the call.
    if let (Some(name), true) = (&message.name, message.role != Role::Tool) {
        out["name"] = json!(name);
    }
    out
}

fn call(call: &Call) -> Value {
    let function = json!({ "name": call.name, "arguments": call.arguments });
    json!({ "id": call.id, "type": "function", "function": function })
}
