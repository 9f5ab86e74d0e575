//! Options that Ollama's requests share, checked.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use yushan_abi::{Form, ModelInfo, Overflow, Request, Sampling};

use crate::body::{Ignored, ignored, refuse, whole};
use crate::fault::Fault;
use crate::openai::fields::{Knobs, Texts, max_tokens, most_tokens, schema_form, stops};

/// How tokens are chosen, and how many.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Tokens the client needs: no more than the model's context holds.
    num_ctx: Option<u64>,
    /// Most tokens of the answer; -1 and -2: as many as the context holds.
    num_predict: Option<i64>,
    temperature: Option<f64>,
    top_k: Option<u64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
    repeat_penalty: Option<f64>,
    /// -1: all of the context.
    repeat_last_n: Option<i64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<Texts>,
    mirostat: Option<u64>,
    tfs_z: Option<f64>,
    num_keep: Option<Ignored>,
    num_batch: Option<Ignored>,
    num_gpu: Option<Ignored>,
    main_gpu: Option<Ignored>,
    num_thread: Option<Ignored>,
    use_mmap: Option<Ignored>,
    use_mlock: Option<Ignored>,
    numa: Option<Ignored>,
    low_vram: Option<Ignored>,
    f16_kv: Option<Ignored>,
    penalize_newline: Option<Ignored>,
    mirostat_tau: Option<Ignored>,
    mirostat_eta: Option<Ignored>,
}

impl Options {
    /// Sets what the options say; Ollama's defaults for the rest.
    pub(crate) fn apply(self, model: &ModelInfo, request: &mut Request) -> Result<(), Fault> {
        let context = most_tokens(model);
        whole("options.num_ctx", self.num_ctx, 1, context)?;
        refuse("options.mirostat", self.mirostat.is_some_and(|on| on != 0), "not there: use 0")?;
        refuse("options.tfs_z", self.tfs_z.is_some_and(|z| z != 1.0), "not there: use 1")?;
        let count = |field: &str, value: Option<i64>, all: i64, low| match value {
            Some(value) if (all..0).contains(&value) => Ok(None),
            Some(value) => {
                let value = u64::try_from(value).map_err(|_| {
                    let high = context;
                    Fault::invalid(
                        field,
                        format!("{value} was given; expected a whole number from {all} to {high}"),
                    )
                })?;
                max_tokens(field, Some(value), low, context)
            }
            None => Ok(None),
        };
        request.max_tokens = count("options.num_predict", self.num_predict, -2, 1)?;
        let look_back = count("options.repeat_last_n", self.repeat_last_n, -1, 0)?;
        // -1 was given: all of it.
        let look_back = self.repeat_last_n.map(|_| look_back.unwrap_or(context) as u64);
        let knobs = Knobs {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: look_back,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: None,
            seed: self.seed,
        };
        let usual = Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            repeat_penalty: 1.1,
            ..Sampling::default()
        };
        request.sampling = knobs.sampling("options.", usual)?;
        request.stops = stops("options.stop", self.stop)?;
        Ok(())
    }

    /// Names of options that were given and are not used.
    pub(crate) fn ignored(&self) -> Vec<&'static str> {
        ignored(&[
            ("options.num_keep", self.num_keep.is_some()),
            ("options.num_batch", self.num_batch.is_some()),
            ("options.num_gpu", self.num_gpu.is_some()),
            ("options.main_gpu", self.main_gpu.is_some()),
            ("options.num_thread", self.num_thread.is_some()),
            ("options.use_mmap", self.use_mmap.is_some()),
            ("options.use_mlock", self.use_mlock.is_some()),
            ("options.numa", self.numa.is_some()),
            ("options.low_vram", self.low_vram.is_some()),
            ("options.f16_kv", self.f16_kv.is_some()),
            ("options.penalize_newline", self.penalize_newline.is_some()),
            ("options.mirostat_tau", self.mirostat_tau.is_some()),
            ("options.mirostat_eta", self.mirostat_eta.is_some()),
        ])
    }
}

/// The form of an answer: `"json"`, or a schema.
pub(crate) fn form(format: Option<Value>) -> Result<Form, Fault> {
    match format {
        None | Some(Value::Null) => Ok(Form::Text),
        Some(Value::String(word)) if word.is_empty() => Ok(Form::Text),
        Some(Value::String(word)) if word == "json" => Ok(Form::Json),
        Some(Value::String(word)) => {
            Err(Fault::invalid("format", format!("{word:?} was given; expected json or a schema")))
        }
        Some(schema) => schema_form("format", schema),
    }
}

/// What to do with a conversation that is too long.
pub(crate) fn overflow(truncate: Option<bool>) -> Overflow {
    match truncate {
        Some(true) => Overflow::TruncateOldest,
        None | Some(false) => Overflow::Refuse,
    }
}

/// How many likeliest tokens to name, if any.
pub(crate) fn logprobs(on: Option<bool>, top: Option<u64>) -> Result<Option<usize>, Fault> {
    let top = whole("top_logprobs", top, 0, 20)?;
    match (on.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(Fault::invalid("top_logprobs", "needs logprobs: true")),
    }
}
