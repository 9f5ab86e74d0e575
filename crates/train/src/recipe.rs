//! A pretraining recipe: what is said in TOML, and what follows from one dial where nothing is said.
//!
//! The key decision: a recipe says only what differs. [`Recipe::settle`] fills in the rest from `depth`, and the
//! result, [`Settings`], has no gaps: it is what a run records, what ranks agree on, and what repeats the run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::decoder::{Keep, Shape};
use crate::optimizer;
use crate::plan::dial;
use crate::schedule::{Form, Schedule};
use crate::{Error, Result};

/// A recipe as it is written. Everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run; its folder is `runs/NAME`.
    pub name: Option<String>,
    /// Seed of the first weights, of the order of the data, and of the samples.
    pub seed: Option<u64>,
    /// The one dial: transformer blocks, from which the rest follows.
    pub depth: Option<usize>,
    /// What is read.
    pub data: DataPart,
    /// The decoder.
    pub model: ModelPart,
    /// How it learns.
    pub train: TrainPart,
    /// Measuring on the texts that were held out.
    pub evaluate: EvaluatePart,
    /// Texts continued while the run goes on.
    pub sample: SamplePart,
    /// How often the run is saved.
    pub checkpoint: CheckpointPart,
    /// What an hour costs.
    pub cost: CostPart,
}

/// Section `[data]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataPart {
    /// The folder that `yushan data build` wrote; relative to the working folder.
    pub folder: Option<PathBuf>,
}

/// Section `[model]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelPart {
    /// Width of the residual stream.
    pub dim: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    /// Key and value heads.
    pub kv_heads: Option<usize>,
    /// Width of one head.
    pub head_dim: Option<usize>,
    /// Width of the MLP.
    pub ffn: Option<usize>,
    /// Tokens of a row.
    pub context: Option<usize>,
    /// Whether the head is the embedding.
    pub tied: Option<bool>,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: Option<f32>,
    /// Base of the rotary frequencies.
    pub rope_base: Option<f32>,
}

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// All that is needed, as f32.
    #[default]
    F32,
    /// The same as bf16: half the memory.
    Bf16,
    /// The input of every block alone (activation checkpointing): least memory, a third more arithmetic.
    Recompute,
}

impl Activations {
    /// In the decoder's words.
    pub fn keep(self) -> Keep {
        match self {
            Activations::F32 => Keep::Everything,
            Activations::Bf16 => Keep::Halves,
            Activations::Recompute => Keep::Inputs,
        }
    }
}

/// Section `[train]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainPart {
    /// Tokens in all.
    pub tokens: Option<u64>,
    /// Tokens of one step, over all ranks.
    pub batch_tokens: Option<usize>,
    /// `muon` (for the matrices of the blocks, AdamW for the rest) or `adamw`.
    pub optimizer: Option<optimizer::Algorithm>,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay of matrices.
    pub weight_decay: Option<f64>,
    /// Decay of AdamW's first moment.
    pub beta1: Option<f64>,
    /// Decay of AdamW's second moment.
    pub beta2: Option<f64>,
    /// Decay of Muon's momentum.
    pub momentum: Option<f64>,
    /// Greatest norm of the gradient.
    pub clip: Option<f64>,
    /// `wsd` or `cosine`.
    pub schedule: Option<Form>,
    /// Steps of the warm-up.
    pub warmup: Option<u64>,
    /// Share of the steps in which the rate falls at the end (`wsd`).
    pub decay: Option<f64>,
    /// Last learning rate, as a share of the peak.
    pub floor: Option<f64>,
    /// What the forward pass keeps: `f32`, `bf16` or `recompute`.
    pub activations: Option<Activations>,
}

/// Section `[evaluate]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluatePart {
    /// Steps between two.
    pub every: Option<u64>,
    /// Tokens of each hold-out, at most.
    pub tokens: Option<u64>,
}

/// Section `[sample]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplePart {
    /// Steps between two.
    pub every: Option<u64>,
    /// Beginnings.
    pub prompts: Option<Vec<String>>,
    /// Tokens of a sample.
    pub tokens: Option<usize>,
    /// 0: always the likeliest token.
    pub temperature: Option<f32>,
}

/// Section `[checkpoint]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointPart {
    /// Steps between two.
    pub every: Option<u64>,
    /// How many are kept; at least two.
    pub keep: Option<usize>,
}

/// Section `[cost]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostPart {
    /// Of this machine.
    pub per_hour: Option<f64>,
    /// How it is named.
    pub currency: Option<String>,
}

/// A recipe without gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the run.
    pub name: String,
    /// Seed of the first weights, of the order of the data, and of the samples.
    pub seed: u64,
    /// The folder that `yushan data build` wrote.
    pub data: PathBuf,
    /// The decoder.
    pub shape: Shape,
    /// Tokens of one step, over all ranks; a multiple of the context.
    pub batch_tokens: usize,
    /// The optimizer.
    pub optimizer: optimizer::Config,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// What the forward pass keeps.
    pub activations: Activations,
    /// Steps between two evaluations, 0 for the end alone.
    pub evaluate_every: u64,
    /// Tokens of each hold-out, at most.
    pub evaluate_tokens: u64,
    /// Steps between two samples, 0 for the end alone.
    pub sample_every: u64,
    /// Beginnings that are continued.
    pub prompts: Vec<String>,
    /// Tokens of a sample.
    pub sample_tokens: usize,
    /// 0: always the likeliest token.
    pub temperature: f32,
    /// Steps between two checkpoints, 0 for the end alone.
    pub checkpoint_every: u64,
    /// How many checkpoints are kept.
    pub keep: usize,
    /// What this machine costs an hour.
    pub per_hour: f64,
    /// The currency of it.
    pub currency: String,
}

/// The depth of a recipe that says none: minutes on two cores.
const DEPTH: usize = 4;

/// The share of a run in which the rate falls: nanochat's speedruns end with 0.4 to 0.65 of it.
const DECAY: f64 = 0.4;

impl Recipe {
    /// A recipe from its text; `name` goes into errors.
    ///
    /// # Errors
    /// An unknown key, with the nearest known one, or a value of another kind.
    pub fn parse(text: &str, name: &str) -> Result<Recipe> {
        crate::keys::parse(name, text)
    }

    /// A recipe with some keys set over it: `("train.tokens", "1000000")`. A value that is no TOML is taken as a text.
    ///
    /// # Errors
    /// As [`Recipe::parse`].
    pub fn parse_with(text: &str, name: &str, set: &[(String, String)]) -> Result<Recipe> {
        // Alone first, so that errors name its lines.
        let recipe = Recipe::parse(text, name)?;
        if set.is_empty() {
            return Ok(recipe);
        }
        let mut table: toml::Table = crate::keys::parse(name, text)?;
        for (key, value) in set {
            let parsed = format!("v = {value}").parse::<toml::Table>().ok();
            let parsed = parsed.and_then(|mut table| table.remove("v"));
            let value = parsed.unwrap_or_else(|| toml::Value::String(value.clone()));
            let mut place = &mut table;
            let mut parts = key.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    place.insert(part.to_owned(), value);
                    break;
                }
                let inner = place
                    .entry(part)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut();
                let Some(inner) = inner else {
                    return Err(Error::bad(key.as_str(), format!("`{part}` is not a section")));
                };
                place = inner;
            }
        }
        Recipe::parse(&table.to_string(), "the values that were set")
    }

    /// The recipe of a run whose sizes and rates are all settled.
    pub fn of_dial(dial: &dial::Defaults) -> Recipe {
        Recipe {
            depth: Some(dial.depth),
            model: ModelPart {
                dim: Some(dial.dim),
                heads: Some(dial.heads),
                kv_heads: Some(dial.kv_heads),
                head_dim: Some(dial.head_dim),
                ffn: Some(dial.ffn),
                context: Some(dial.context),
                tied: Some(dial.tied),
                ..ModelPart::default()
            },
            train: TrainPart {
                tokens: Some(dial.tokens),
                batch_tokens: Some(dial.batch_tokens),
                learning_rate: Some(dial.learning_rate),
                warmup: Some(dial.warmup),
                ..TrainPart::default()
            },
            ..Recipe::default()
        }
    }

    /// Fills every gap from the depth; `vocabulary` is the tokenizer's.
    ///
    /// # Errors
    /// Values that do not fit together, by their key.
    pub fn settle(&self, vocabulary: usize) -> Result<Settings> {
        let (model, train) = (&self.model, &self.train);
        let head_dim = model.dim.zip(model.heads).map(|(dim, heads)| dim / heads.max(1));
        let overrides = dial::Overrides {
            dim: model.dim,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim.or(head_dim),
            ffn: model.ffn,
            context: model.context,
            tied: model.tied,
            tokens: train.tokens,
            batch_tokens: train.batch_tokens,
            learning_rate: train.learning_rate,
            warmup: train.warmup,
        };
        let dial = dial::with(self.depth.unwrap_or(DEPTH), vocabulary, &overrides)?;
        let schedule = Schedule {
            form: train.schedule.unwrap_or_default(),
            steps: dial.steps,
            warmup: dial.warmup,
            decay: (dial.steps as f64 * train.decay.unwrap_or(DECAY)).round() as u64,
            floor: train.floor.unwrap_or(0.0),
        };
        let usual = optimizer::Config::default();
        let optimizer = optimizer::Config {
            algorithm: train.optimizer.unwrap_or(optimizer::Algorithm::Muon),
            beta1: train.beta1.unwrap_or(usual.beta1),
            beta2: train.beta2.unwrap_or(usual.beta2),
            weight_decay: train.weight_decay.unwrap_or(usual.weight_decay),
            clip: train.clip.unwrap_or(usual.clip),
            momentum: train.momentum.unwrap_or(usual.momentum),
            ..usual
        };
        let settings = Settings {
            name: self.name.clone().unwrap_or_else(|| format!("d{}", dial.depth)),
            seed: self.seed.unwrap_or(1337),
            data: self.data.folder.clone().unwrap_or_else(|| PathBuf::from("data/english")),
            shape: self.shape(&dial)?,
            batch_tokens: dial.batch_tokens,
            optimizer,
            learning_rate: dial.learning_rate,
            schedule,
            activations: train.activations.unwrap_or_default(),
            evaluate_every: self.evaluate.every.unwrap_or(dial.steps.div_ceil(20)),
            evaluate_tokens: self.evaluate.tokens.unwrap_or(131_072),
            sample_every: self.sample.every.unwrap_or(dial.steps.div_ceil(5)),
            prompts: self.sample.prompts.clone().unwrap_or_else(|| vec!["Once upon a time".into()]),
            sample_tokens: self.sample.tokens.unwrap_or(64).min(dial.context),
            temperature: self.sample.temperature.unwrap_or(0.0),
            checkpoint_every: self.checkpoint.every.unwrap_or(dial.steps.div_ceil(20)),
            keep: self.checkpoint.keep.unwrap_or(2).max(2),
            per_hour: self.cost.per_hour.unwrap_or(0.0),
            currency: self.cost.currency.clone().unwrap_or_else(|| "USD".into()),
        };
        settings.check()?;
        Ok(settings)
    }

    fn shape(&self, dial: &dial::Defaults) -> Result<Shape> {
        let shape = Shape {
            vocabulary: dial.vocabulary,
            context: dial.context,
            dim: dial.dim,
            layers: dial.depth,
            heads: dial.heads,
            kv_heads: dial.kv_heads,
            head_dim: dial.head_dim,
            ffn: dial.ffn,
            tied: dial.tied,
            norm_eps: self.model.norm_eps.unwrap_or(1e-5),
            rope_base: self.model.rope_base.unwrap_or(10_000.0),
        };
        shape.check()?;
        Ok(shape)
    }
}

impl Settings {
    /// Refuses numbers that no run can have.
    fn check(&self) -> Result<()> {
        let fail = |key: &str, detail: String| Err(Error::bad(format!("recipe, {key}"), detail));
        self.optimizer.check()?;
        if !(0.0..=1.0).contains(&self.schedule.floor) {
            return fail("train.floor", format!("{} is not from 0 to 1", self.schedule.floor));
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return fail("sample.temperature", format!("{} is not 0 or more", self.temperature));
        }
        let name_ok = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(name_ok) {
            let detail = format!("{:?}: use letters, digits, `-`, `_` and `.`", self.name);
            return fail("name", detail);
        }
        Ok(())
    }

    /// Rows of one step, over all ranks.
    pub fn rows(&self) -> usize {
        self.batch_tokens / self.shape.context
    }

    /// Tokens of the whole run.
    pub fn tokens(&self) -> u64 {
        self.schedule.steps * self.batch_tokens as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_says_what_differs_and_the_dial_the_rest() {
        let text = "depth = 3\n[train]\ntokens = 1_000_000\noptimizer = \"adamw\"\n[model]\ncontext = 128\n";
        let settings = Recipe::parse(text, "r.toml").unwrap().settle(1000).unwrap();
        assert_eq!((settings.shape.layers, settings.shape.dim), (3, 192));
        assert_eq!((settings.shape.context, settings.name.as_str()), (128, "d3"));
        assert_eq!(settings.optimizer.algorithm, optimizer::Algorithm::AdamW);
        assert!(settings.tokens() <= 1_000_000 && settings.tokens() > 900_000);
        let again = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&again).unwrap(), settings);
    }

    #[test]
    fn values_are_set_over_a_recipe() {
        let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let list = [set("train.tokens", "5000"), set("name", "x-1"), set("model.tied", "false")];
        let recipe =
            Recipe::parse_with("depth = 2\n[train]\ntokens = 9\n", "r.toml", &list).unwrap();
        assert_eq!((recipe.depth, recipe.train.tokens), (Some(2), Some(5000)));
        assert_eq!((recipe.name.as_deref(), recipe.model.tied), (Some("x-1"), Some(false)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, set, expected) in [
            ("dept = 3", None, "did you mean `depth`"),
            ("[train]\nlearing_rate = 1.0", None, "did you mean `learning_rate`"),
            ("[train]\nlearning_rate = -1.0", None, "learning_rate"),
            ("[train]\noptimizer = \"sgd\"", None, "unknown word `sgd`"),
            ("depth = \"deep\"", None, "line 1"),
            ("name = \"../out\"", None, "name"),
            ("[train]\nclip = -1.0", None, "clip"),
            ("[train]\nbeta2 = 1.5", None, "beta2"),
            ("[sample]\ntemperature = -0.5", None, "temperature"),
            ("depth = 3", Some(("train.token", "5")), "did you mean `tokens`"),
            ("depth = 3", Some(("depth.x", "5")), "not a section"),
            ("", Some(("depth", "0")), "0 layers"),
        ] {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(key, value): &(&str, &str)| (key.to_string(), value.to_string()))
                .collect();
            let settled =
                Recipe::parse_with(text, "r.toml", &set).and_then(|recipe| recipe.settle(100));
            let error = settled.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} {set:?}: {error}");
        }
    }
}
