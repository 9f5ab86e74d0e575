//! The live view of a run: curves, figures, events and samples on one screen of a terminal.
//!
//! The key decision: a screen is a pure function of the run and a size; the command that shows it only
//! reads the files again and writes the text. Every line fits, and nothing that a model wrote can
//! steer the terminal.

use super::curve::smooth;
use super::log::{EventKind, Line};
use super::plot::short;
use super::run::{Facts, Run};
use super::terminal::{clip, figure, plot};

/// The curve without noise.
const RATE: &str = "learning rate";

/// A figure of a step.
type Field = fn(&Line) -> Option<f64>;

/// Lines of a plot.
const HIGH: std::ops::RangeInclusive<usize> = 6..=14;
/// Steps that the time left is taken from.
const RECENT: usize = 50;

/// What is seen of `run` on `width` by `height` cells; at most `height` lines.
pub fn screen(run: &Run, width: usize, height: usize) -> String {
    let facts = run.facts();
    let mut lines = head(run, &facts, width);
    let columns = if width >= 90 { 2 } else { 1 };
    let tail = foot(run, width, (height / 4).max(3));
    let room = height.saturating_sub(lines.len() + tail.len());
    let curves: [(&str, Field); 4] = [
        ("loss 損失", |line| line.loss),
        (RATE, |line| line.lr),
        ("gradient norm", |line| line.grad_norm),
        ("tokens/s", |line| line.tokens_per_s),
    ];
    let high = (room / curves.len().div_ceil(columns)).clamp(*HIGH.start(), *HIGH.end());
    let cell = (width + 1) / columns - 1;
    let plots: Vec<Vec<String>> = curves
        .iter()
        .map(|(title, field)| {
            let points = run.curve(field);
            let last = points.iter().rev().find(|point| point.1.is_finite());
            let title =
                last.map_or((*title).to_owned(), |last| format!("{title}  {}", figure(last.1)));
            // Noise of more steps than there are dots would fill the whole plot.
            let dense = points.len() > 4 * cell && !title.starts_with(RATE);
            let points = if dense { smooth(&points) } else { points };
            let plot = plot(&title, &points, cell, high);
            plot.lines().map(str::to_owned).collect()
        })
        .collect();
    for row in plots.chunks(columns) {
        let deep = row.iter().map(Vec::len).max().unwrap_or(0);
        if lines.len() + deep + tail.len() > height {
            break;
        }
        for at in 0..deep {
            let beside = row.iter().map(|plot| padded(plot.get(at).map_or("", |l| l), cell));
            lines.push(beside.collect::<Vec<_>>().join(" ").trim_end().to_owned());
        }
    }
    lines.extend(tail);
    lines.truncate(height);
    lines.join("\n")
}

fn padded(text: &str, width: usize) -> String {
    let used: usize = text.chars().map(super::terminal::cells).sum();
    text.to_owned() + &" ".repeat(width.saturating_sub(used))
}

fn head(run: &Run, facts: &Facts, width: usize) -> Vec<String> {
    let of = facts.steps.filter(|&steps| steps > 0);
    let share = of.map_or(String::new(), |steps| {
        format!("/{steps} ({:.0} %)", 100.0 * facts.step as f64 / steps as f64)
    });
    let mut first = vec![run.file.name.clone(), format!("step {}{share}", facts.step)];
    first.push(format!("{} tokens", short(facts.tokens as f64)));
    let last = |value: Field| run.log.lines.iter().rev().find_map(value);
    first.extend(last(|line| line.loss).map(|loss| format!("loss {}", figure(loss))));
    first.extend(last(|line| line.bpb).map(|bpb| format!("{} bits/byte", figure(bpb))));
    for (name, (_, score)) in run.last_eval().iter().take(3) {
        first.extend(score.bpb.map(|bpb| format!("{name} {} bits/byte", figure(bpb))));
    }
    let mut second = Vec::new();
    second.extend(
        last(|line| line.tokens_per_s).map(|rate| format!("{} tokens/s", short(rate.round()))),
    );
    second.extend(
        last(|line| line.peak_share).map(|share| format!("{:.0} % of peak", share * 100.0)),
    );
    second.extend(facts.seconds.map(|seconds| format!("{} so far", clock(seconds))));
    second.extend(left(run, facts).map(|seconds| format!("{} left", clock(seconds))));
    let currency = run.file.price.as_ref().map_or("", |price| &price.currency);
    second.extend(facts.cost.map(|cost| format!("{cost:.2} {currency}")));
    second.extend(facts.energy.as_ref().ok().map(|joules| format!("{:.1} Wh", joules / 3600.0)));
    let mut lines = vec![clip(&first.join(" · "), width), clip(&second.join(" · "), width)];
    lines.retain(|line| !line.is_empty());
    if facts.lost_count > 0 {
        let text = format!(
            "! the loss is no number at {} steps, the first: {}",
            facts.lost_count, facts.lost[0]
        );
        lines.push(clip(&text, width));
    }
    if run.log.problem_count > 0 {
        lines.push(clip(
            &format!("! {} lines of the log cannot be read", run.log.problem_count),
            width,
        ));
    }
    lines
}

/// At the pace of the last steps.
fn left(run: &Run, facts: &Facts) -> Option<f64> {
    let still = facts.steps?.checked_sub(facts.step).filter(|&still| still > 0)?;
    let mut timed = run.log.lines.iter().rev().filter_map(|line| Some((line.step, line.seconds?)));
    let (step, now) = timed.next()?;
    let (before, then) = timed.take(RECENT).last()?;
    let pace = (now - then) / step.checked_sub(before).filter(|&steps| steps > 0)? as f64;
    (pace > 0.0).then_some(pace * still as f64)
}

/// Events and what the model wrote last.
fn foot(run: &Run, width: usize, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let events = run.events();
    let telling = events.iter().filter(|(_, event)| event.kind != EventKind::Checkpoint);
    for (step, event) in telling.rev().take(most / 3) {
        lines.push(clip(&format!("· step {step}: {} {}", name(&event.kind), event.detail), width));
    }
    lines.reverse();
    let wrote = run.log.lines.iter().rev().find(|line| !line.sample.is_empty());
    for (line, sample) in wrote.iter().flat_map(|line| line.sample.iter().map(move |s| (line, s))) {
        if lines.len() < most {
            let text = format!("» step {}: {}⏵{}", line.step, sample.prompt, sample.text);
            lines.push(clip(&text, width));
        }
    }
    lines
}

/// Of an event, for people.
pub(crate) fn name(kind: &EventKind) -> &str {
    match kind {
        EventKind::Started => "started",
        EventKind::Resumed => "resumed",
        EventKind::FellBack => "fell back to an older checkpoint",
        EventKind::SpikeRolledBack => "loss spike rolled back",
        EventKind::NanSkipped => "not a number: step skipped",
        EventKind::Checkpoint => "checkpoint",
        EventKind::EnergyNotCounted => "energy not counted",
        EventKind::Stopped => "stopped",
        EventKind::Finished => "finished",
        EventKind::Other(kind) => kind,
    }
}

/// 3725 s is 1:02:05; from a hundred hours on, days.
pub(crate) fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..360_000 => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}
