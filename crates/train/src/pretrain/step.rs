//! One rank's part of a run, and its steps.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use yushan_collective::{Collective, Combine, Overlap};
use yushan_tensor::Pool;

use super::begin::Data;
use super::spikes::{Spikes, Verdict};
use super::{Job, Outcome, Watch, event};
use crate::checkpoint::{self, Snapshot};
use crate::decoder::{Decoder, Loss};
use crate::optimizer::Optimizer;
use crate::order::{Batch, Options, Order};
use crate::report::{Energy, Event, EventKind, Line, Writer};
use crate::shard::Shards;
use crate::{Error, Result};

/// Times that a run goes back from a spike before it gives up.
const MOST_ROLLBACKS: u32 = 10;

/// One rank of a run.
pub struct Trainer<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) ranks: &'a mut dyn Collective,
    pub(super) pool: Pool,
    pub(super) data: Data,
    pub(super) train: Arc<Shards>,
    pub(super) options: Options,
    pub(super) decoder: Decoder,
    pub(super) optimizer: Optimizer,
    pub(super) order: Order<Arc<Shards>>,
    pub(super) spikes: Spikes,
    /// Steps done.
    pub(super) step: u64,
    /// Times that the run went back from a spike since this start.
    pub(super) rollbacks: u32,
    /// The last checkpoint.
    pub(super) saved: Option<PathBuf>,
    /// On rank 0.
    pub(super) log: Option<Writer>,
    /// Seconds of training before this start.
    pub(super) before: f64,
    pub(super) started: Instant,
    /// On rank 0, where it can be read and was from the first step on.
    pub(super) energy: Option<Energy>,
    pub(super) evaluation: Option<Line>,
    pub(super) inputs: Vec<u32>,
    pub(super) targets: Vec<u32>,
}

/// What a step came to, on every rank the same.
struct Done {
    loss: f64,
    norm: f64,
    stop: bool,
}

impl Trainer<'_> {
    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Seconds of training, those before a resume included.
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Steps until the last one, or until somebody says stop.
    pub(super) fn run(&mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        let steps = self.job.settings.schedule.steps;
        let mut stopped = false;
        while self.step < steps && !stopped {
            let began = Instant::now();
            let rate =
                self.job.settings.learning_rate * self.job.settings.schedule.factor(self.step);
            let done = self.one(rate, watch.stop())?;
            let verdict = self.spikes.judge(self.step, done.loss as f32, done.norm as f32);
            self.step += 1;
            let line = self.line(&done, rate, began.elapsed().as_secs_f64());
            self.write(line, watch)?;
            match verdict {
                Verdict::Update => {}
                Verdict::Skip(why) => self.skipped(why, watch)?,
                Verdict::RollBack { before, why } => {
                    self.roll_back(before, why, watch)?;
                    continue;
                }
            }
            stopped = done.stop;
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every);
            let settings = self.job.settings;
            let last = self.step == steps;
            let (look, sample) = (due(settings.evaluate_every), due(settings.sample_every));
            let save = due(settings.checkpoint_every) || last || stopped;
            if look || last {
                self.evaluate(watch)?;
            }
            if sample || last {
                self.samples(watch)?;
            }
            if save {
                self.save(watch)?;
            }
        }
        let finished = self.step == steps;
        let (kind, detail) = match finished {
            true => (EventKind::Finished, String::new()),
            false => (EventKind::Stopped, "go on with --resume".to_owned()),
        };
        self.write(event(self.step, Event::new(kind, detail)), watch)?;
        self.ranks.barrier()?;
        Ok(Outcome {
            step: self.step,
            finished,
            evaluation: self.evaluation.take(),
            checkpoint: self.saved.take(),
        })
    }

    /// Forward, backward, sum, update.
    fn one(&mut self, rate: f64, stop: bool) -> Result<Done> {
        let (rank, ranks) = (self.ranks.rank(), self.ranks.ranks());
        let batch = self.order.next(self.job.settings.rows(), rank, ranks)?;
        let loss = self.gradients(&batch)?;
        let mut sums = [loss.sum, loss.count as f64, f64::from(u8::from(stop))];
        self.ranks.combine(&mut sums, Combine::Sum)?;
        let (params, grads) = self.decoder.params_and_grads();
        let step = self.optimizer.step(&mut self.pool, self.ranks, params, grads, rate)?;
        Ok(Done { loss: sums[0] / sums[1], norm: step.norm, stop: sums[2] > 0.0 })
    }

    /// The gradient of the mean loss of all ranks' rows, added up over the ranks while the backward pass goes on.
    fn gradients(&mut self, batch: &Batch) -> Result<Loss> {
        let Trainer { decoder, pool, ranks, inputs, targets, job, .. } = self;
        batch.pairs(0..batch.rows, inputs, targets);
        decoder.grads_mut().fill(0.0);
        let scale = 1.0 / job.settings.batch_tokens as f32;
        let mut overlap = Overlap::new();
        let mut ready = |grads: &mut [f32], range| overlap.ready(*ranks, grads, range);
        let loss = decoder.forward_backward(pool, inputs, targets, batch.rows, scale, &mut ready);
        overlap.finish(*ranks, decoder.grads_mut())?;
        Ok(loss)
    }

    /// What the log says of a step.
    fn line(&mut self, done: &Done, rate: f64, seconds: f64) -> Line {
        let settings = self.job.settings;
        let tokens_per_s = settings.batch_tokens as f64 / seconds;
        let operations = settings.shape.flops_per_token();
        let peak = self.job.peak * self.ranks.ranks() as f64;
        Line {
            step: self.step,
            tokens: self.step * settings.batch_tokens as u64,
            loss: Some(done.loss),
            bpb: Some(done.loss / std::f64::consts::LN_2 / self.data.bytes_per_token),
            lr: Some(rate),
            grad_norm: Some(done.norm),
            tokens_per_s: Some(tokens_per_s),
            peak_share: (peak > 0.0).then(|| tokens_per_s * operations / peak),
            seconds: Some(self.seconds()),
            joules: self.energy.as_mut().map(Energy::joules),
            ..Line::default()
        }
    }

    /// Writes to the log, and tells who looks on.
    pub(super) fn write(&mut self, line: Line, watch: &mut dyn Watch) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.append(&line)?;
            watch.line(&line);
        }
        Ok(())
    }

    fn skipped(&mut self, why: String, watch: &mut dyn Watch) -> Result<()> {
        let detail = format!("{why}; the weights stay as they were");
        self.write(event(self.step, Event::new(EventKind::NanSkipped, detail)), watch)
    }

    /// Weights and optimizer go back to a checkpoint from before; the data goes on, so that what led here is left out.
    fn roll_back(&mut self, before: u64, why: String, watch: &mut dyn Watch) -> Result<()> {
        let seen = self.step;
        self.rollbacks += 1;
        let advice = "lower train.learning_rate, or make train.warmup longer";
        if self.rollbacks > MOST_ROLLBACKS {
            let detail =
                format!("{why}; the run went back {MOST_ROLLBACKS} times already: {advice}");
            return Err(Error::bad(format!("step {seen}"), detail));
        }
        let snapshot = self.checkpoint_before(before)?.ok_or_else(|| {
            let detail =
                format!("{why}, and there is no checkpoint from before step {before}: {advice}");
            Error::bad(format!("step {seen}"), detail)
        })?;
        self.restore(&snapshot, false)?;
        self.ranks.barrier()?;
        if let Some(log) = &mut self.log {
            log.rewind(self.step)?;
        }
        let detail =
            format!("{why}; back to step {}, and on with the rows after step {seen}", self.step);
        let event_ = Event { at: Some(seen), ..Event::new(EventKind::SpikeRolledBack, detail) };
        self.write(event(self.step, event_), watch)
    }

    /// The newest whole checkpoint of a step up to `before`.
    fn checkpoint_before(&self, before: u64) -> Result<Option<Snapshot<'static>>> {
        for (step, path) in checkpoint::list(&self.checkpoints())? {
            if step <= before
                && let Ok(snapshot) = checkpoint::load(&path)
            {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }
}
