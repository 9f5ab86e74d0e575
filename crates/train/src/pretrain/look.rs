//! Looks at a run: hold-outs, samples, checkpoints.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::voice::Voice;
use super::{Trainer, Watch, event};
use crate::checkpoint::{self, Ends, Snapshot};
use crate::evaluate::{Document, Losses, Windows, bits_per_byte};
use crate::optimizer;
use crate::order::Order;
use crate::recipe::Settings;
use crate::report::{Event, EventKind, Line};
use crate::shard::Documents;
use crate::{Error, Result};

/// What a checkpoint keeps of the run besides its state: another recipe or other data is another run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// What is trained and how.
    pub(super) settings: Settings,
    /// SHA-256 of the data.
    pub(super) data: String,
}

impl Trainer<'_> {
    /// Bits per byte of every hold-out, on rank 0.
    pub(super) fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<()> {
        if self.log.is_none() {
            return Ok(());
        }
        let settings = self.job.settings;
        let mut line = Line { step: self.step, ..Line::default() };
        let Trainer { decoder, pool, data, .. } = self;
        for (name, shards) in &data.hold_outs {
            let windows = Windows {
                limit: Some(settings.evaluate_tokens),
                token_bytes: Some(&data.token_bytes),
                ..Windows::new(data.bos, settings.shape.context)
            };
            let mut documents = (0..shards.count()).map(|at| {
                let mut tokens = Vec::new();
                shards.tokens_of(at, &mut tokens)?;
                Ok(Document { tokens, bytes: shards.bytes(at) })
            });
            let mut reader = Losses {
                context: settings.shape.context,
                vocabulary: settings.shape.vocabulary,
                batch: windows.batch,
                losses: |tokens: &[u32], targets: &[u32], batch, out: &mut Vec<f32>| {
                    decoder.losses(pool, tokens, targets, batch, out);
                },
            };
            let figures = bits_per_byte(&mut reader, &mut documents, &windows)?;
            line.eval.insert(name.clone(), figures);
        }
        self.evaluation = Some(line.clone());
        self.write(line, watch)
    }

    /// The prompts, continued, on rank 0.
    pub(super) fn samples(&mut self, watch: &mut dyn Watch) -> Result<()> {
        if self.log.is_none() {
            return Ok(());
        }
        let settings = self.job.settings;
        let mut line = Line { step: self.step, ..Line::default() };
        for (at, prompt) in settings.prompts.iter().enumerate() {
            let voice = Voice {
                tokenizer: &self.data.tokenizer,
                bos: self.data.bos,
                tokens: settings.sample_tokens,
                temperature: settings.temperature,
                seed: settings.seed.wrapping_add(at as u64),
            };
            line.sample.push(voice.sample(&mut self.decoder, &mut self.pool, prompt)?);
        }
        self.write(line, watch)
    }

    /// Saves all that decides what comes next. A disk that is full does not end the run.
    pub(super) fn save(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let optimizer = self.optimizer.state(self.ranks)?;
        let Some(log) = &mut self.log else { return Ok(()) };
        log.sync()?;
        let value = |json: serde_json::Result<serde_json::Value>| {
            json.map_err(|error| Error::bad("the state of the run", error.to_string()))
        };
        let settings = self.job.settings;
        let identity = Identity { settings: settings.clone(), data: self.data.hash.clone() };
        let vectors = optimizer.vectors.iter();
        let snapshot = Snapshot {
            shape: settings.shape,
            params: Cow::Borrowed(self.decoder.params()),
            optimizer: vectors.map(|(name, v)| (name.clone(), Cow::Borrowed(&v[..]))).collect(),
            tokenizer: Cow::Borrowed(&self.data.tokenizer_json),
            ends: Ends { bos: self.data.bos, eos: self.data.bos },
            state: checkpoint::State {
                step: self.step,
                cursor: self.order.cursor().clone(),
                updates: optimizer.updates,
                rng: vec![settings.seed],
                schedule: serde_json::Value::Null,
                spikes: value(serde_json::to_value(&self.spikes))?,
                recipe: self.job.recipe.to_owned(),
                metadata: value(serde_json::to_value(&identity))?,
            },
        };
        let keep = checkpoint::Keep { newest: settings.keep, every: 0 };
        match checkpoint::save(&self.checkpoints(), &snapshot, keep) {
            Ok(saved) => {
                self.saved = Some(saved.path);
                saved.warnings.into_iter().try_for_each(|warning| {
                    self.write(event(self.step, Event::new(EventKind::Checkpoint, warning)), watch)
                })
            }
            Err(error) => {
                let detail = format!("not saved, the run goes on: {error}");
                self.write(event(self.step, Event::new(EventKind::Checkpoint, detail)), watch)
            }
        }
    }

    /// Takes weights, optimizer, step and spike window from a checkpoint, and the place in the data if the run was
    /// interrupted there; a run that goes back from a spike goes on with later rows.
    pub(super) fn restore(&mut self, snapshot: &Snapshot<'_>, place: bool) -> Result<()> {
        let bad = |detail: String| Error::bad("checkpoint", detail);
        let state = &snapshot.state;
        let identity: Identity = serde_json::from_value(state.metadata.clone())
            .map_err(|error| bad(format!("its recipe cannot be read: {error}")))?;
        if identity.settings != *self.job.settings {
            let detail = "it is of another recipe; go on with the run's own, or start a new run";
            return Err(bad(format!(
                "{detail}{}",
                difference(&identity.settings, self.job.settings)
            )));
        }
        if identity.data != self.data.hash {
            let detail = "the run began with other data; go on with the same, or start a new run";
            return Err(bad(detail.into()));
        }
        self.decoder.params_mut().copy_from_slice(&snapshot.params);
        let vectors = snapshot.optimizer.iter();
        let optimizer = optimizer::State {
            updates: state.updates,
            vectors: vectors.map(|(name, v)| (name.clone(), v.to_vec())).collect(),
        };
        self.optimizer.restore(self.ranks, &optimizer)?;
        self.spikes = serde_json::from_value(state.spikes.clone())
            .map_err(|error| bad(format!("its spike window cannot be read: {error}")))?;
        self.step = state.step;
        if place {
            self.order = Order::resume(self.train.clone(), self.options, state.cursor.clone())?;
        }
        Ok(())
    }
}

/// `: train.tokens was 5, is 6` for the first value that differs.
fn difference(before: &Settings, now: &Settings) -> String {
    let both = (serde_json::to_value(before), serde_json::to_value(now));
    let (Ok(serde_json::Value::Object(before)), Ok(serde_json::Value::Object(now))) = both else {
        return String::new();
    };
    let differs = before.iter().find(|(key, value)| now.get(*key) != Some(value));
    differs.map_or(String::new(), |(key, value)| {
        let now = now.get(key).map_or("absent".to_owned(), |now| now.to_string());
        format!(" (its {key} is {value}, not {now})")
    })
}
