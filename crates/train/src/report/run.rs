//! A run as its folder tells it, and the figures that are read off it.
//!
//! The key decision: a figure that stands for a run is a middle or a mean over its last part, never the last step's alone;
//! how it is taken is written beside it.

use std::collections::BTreeMap;
use std::path::Path;

use super::curve::{Points, median};
use super::log::{Event, EventKind, Line, Log};
use super::run_file::{ALL_HOLD_OUTS, Expected, Predicted, RunFile};
use crate::Result;
use crate::evaluate::{Accuracy, BitsPerByte};

/// Steps whose loss was no number that are named.
const NAMED: usize = 20;

/// A run: its folder's two files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// What it is.
    pub file: RunFile,
    /// What it did.
    pub log: Log,
}

/// What is said of a run.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The last step, of as many.
    pub(crate) step: u64,
    pub(crate) steps: Option<u64>,
    pub(crate) tokens: u64,
    /// Training loss, mean over the last fiftieth of the steps, at least ten.
    pub(crate) loss: Option<f64>,
    pub(crate) averaged: usize,
    pub(crate) seconds: Option<f64>,
    pub(crate) cost: Option<f64>,
    /// Joules, or why they are not told.
    pub(crate) energy: std::result::Result<f64, String>,
    /// Medians over all steps.
    pub(crate) tokens_per_s: Option<f64>,
    pub(crate) peak_share: Option<f64>,
    /// Steps whose loss is no number: the first ones, and how many.
    pub(crate) lost: Vec<u64>,
    pub(crate) lost_count: usize,
    pub(crate) finished: bool,
}

/// A predicted value beside what came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compared {
    pub(crate) what: String,
    pub(crate) expected: Expected,
    pub(crate) actual: Option<f64>,
}

impl Run {
    /// Of a folder.
    ///
    /// # Errors
    /// If it has no log, or a run file that is none.
    pub fn read(folder: &Path) -> Result<Run> {
        Ok(Run { log: Log::read(folder)?, file: RunFile::read(folder)? })
    }

    /// A figure over the steps.
    pub(crate) fn curve(&self, figure: impl Fn(&Line) -> Option<f64>) -> Points {
        let point = |line: &Line| Some((line.step as f64, figure(line)?));
        self.log.lines.iter().filter_map(point).collect()
    }

    /// A figure of each hold-out over the steps.
    pub(crate) fn hold_outs(
        &self,
        figure: impl Fn(&BitsPerByte) -> Option<f64>,
    ) -> BTreeMap<String, Points> {
        let mut curves = BTreeMap::<String, Points>::new();
        for line in &self.log.lines {
            for (name, score) in &line.eval {
                if let Some(value) = figure(score) {
                    curves.entry(name.clone()).or_default().push((line.step as f64, value));
                }
            }
        }
        curves
    }

    /// The last figures of each hold-out.
    pub(crate) fn last_eval(&self) -> BTreeMap<&str, (u64, &BitsPerByte)> {
        let each =
            self.log.lines.iter().flat_map(|line| line.eval.iter().map(move |e| (line.step, e)));
        each.map(|(step, (name, score))| (name.as_str(), (step, score))).collect()
    }

    /// The last figures of each task.
    pub(crate) fn last_tasks(&self) -> BTreeMap<&str, (u64, &Accuracy)> {
        let each =
            self.log.lines.iter().flat_map(|line| line.tasks.iter().map(move |e| (line.step, e)));
        each.map(|(step, (name, score))| (name.as_str(), (step, score))).collect()
    }

    /// Events in order; one that a resumed run told again stands once.
    pub(crate) fn events(&self) -> Vec<(u64, &Event)> {
        let mut events: Vec<(u64, &Event)> = Vec::new();
        for line in &self.log.lines {
            if let Some(event) = &line.event
                && !events.contains(&(line.step, event))
            {
                events.push((line.step, event));
            }
        }
        events
    }

    /// Joules up to the last step. One that is told for a part of the steps alone is not the run's.
    fn energy(&self) -> std::result::Result<f64, String> {
        let last = self.log.lines.iter().rev().find(|line| line.loss.is_some());
        last.and_then(|line| line.joules).filter(|joules| joules.is_finite()).ok_or_else(|| {
            let mut reasons = self.events().into_iter().rev().map(|(_, event)| event);
            let reason = reasons.find(|event| event.kind == EventKind::EnergyNotCounted);
            reason.map_or("not counted".into(), |event| event.detail.clone())
        })
    }

    pub(crate) fn facts(&self) -> Facts {
        let lines = &self.log.lines;
        let losses: Vec<(u64, f64)> =
            lines.iter().filter_map(|l| Some((l.step, l.loss?))).collect();
        let finite: Vec<f64> = losses.iter().map(|l| l.1).filter(|loss| loss.is_finite()).collect();
        let averaged = (finite.len() / 50).max(10).min(finite.len());
        let late = &finite[finite.len() - averaged..];
        let last = |figure: fn(&Line) -> Option<f64>| {
            lines.iter().rev().find_map(figure).filter(|value| value.is_finite())
        };
        let lost: Vec<u64> = losses.iter().filter(|l| !l.1.is_finite()).map(|l| l.0).collect();
        let seconds = last(|line| line.seconds);
        let price = self.file.price.as_ref().map(|price| price.per_hour);
        let step = lines.iter().rev().find(|line| line.loss.is_some()).map_or(0, |line| line.step);
        let ended =
            |line: &Line| line.event.as_ref().is_some_and(|e| e.kind == EventKind::Finished);
        Facts {
            step,
            steps: self.file.steps,
            tokens: lines.iter().map(|line| line.tokens).max().unwrap_or(0),
            loss: (averaged > 0).then(|| late.iter().sum::<f64>() / averaged as f64),
            averaged,
            seconds,
            cost: seconds.zip(price).map(|(seconds, price)| seconds / 3600.0 * price),
            energy: self.energy(),
            tokens_per_s: median(lines.iter().filter_map(|line| line.tokens_per_s)),
            peak_share: median(lines.iter().filter_map(|line| line.peak_share)),
            lost_count: lost.len(),
            lost: lost.into_iter().take(NAMED).collect(),
            finished: lines.iter().any(ended) || self.file.steps.is_some_and(|steps| step >= steps),
        }
    }

    /// What was predicted beside what came.
    pub(crate) fn compared(&self, facts: &Facts) -> Vec<Compared> {
        let Some(predicted) = &self.file.predicted else { return Vec::new() };
        let Predicted { loss, hold_out, seconds, cost, .. } = predicted;
        let (what, actual_loss) = match hold_out {
            Some(name) if name == ALL_HOLD_OUTS => {
                let score = self.log.lines.iter().rev().find_map(Line::held_out);
                ("loss on all hold-outs".to_owned(), score)
            }
            Some(name) => {
                let score = self.last_eval().get(name.as_str()).and_then(|(_, score)| score.loss);
                (format!("loss on {name}"), score)
            }
            None => ("training loss".to_owned(), facts.loss),
        };
        let row = |what: &str, expected: &Option<Expected>, actual| {
            expected.map(|expected| Compared { what: what.to_owned(), expected, actual })
        };
        [
            row(&what, loss, actual_loss),
            row("seconds", seconds, facts.seconds),
            row("cost", cost, facts.cost),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
