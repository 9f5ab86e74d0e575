//! Which plots a report has.
//!
//! The key decision: one plot for one question, every run in it; the unsmoothed loss stands pale behind the
//! smoothed one, so that neither noise nor a spike is hidden.

use super::block::Block;
use super::curve::smooth;
use super::log::{EventKind, Line};
use super::plot::{Bar, GREY, Look, PINK, Plot, RED, Ratio, Series, ratios};
use super::run::{Compared, Run};
use super::run_file::ALL_HOLD_OUTS;
use crate::Result;

/// Runs that are drawn.
const MOST: usize = 6;
/// Colours of hold-outs in a report of one run; the first is the training loss.
const HOLD_OUTS: usize = 5;

type Field = fn(&Line) -> Option<f64>;

/// Loss, bits per byte, learning rate, gradient norm, tokens/s.
pub(crate) fn curves(runs: &[Run]) -> Result<Vec<Block>> {
    let runs = &runs[..runs.len().min(MOST)];
    let mut blocks = Vec::new();
    let mut add = |name, caption: &str, plot: Plot| -> Result<()> {
        if let Some(svg) = plot.svg()? {
            blocks.push(Block::Plot { name, caption: caption.to_owned(), svg });
        }
        Ok(())
    };
    add("loss", "Loss over steps; pale: each step, strong: smoothed, dots: hold-outs", loss(runs))?;
    add("bits-per-byte", "Bits per byte on the hold-outs, over steps", bits(runs))?;
    let rest: [(&str, &str, &str, Field); 3] = [
        ("learning-rate", "Learning rate 學習率", "learning rate", |line| line.lr),
        ("gradient-norm", "Gradient norm 梯度範數", "norm before clipping", |line| {
            line.grad_norm
        }),
        ("tokens-per-second", "Speed 速度", "tokens/s", |line| line.tokens_per_s),
    ];
    for (name, title, label, field) in rest {
        let noisy = name != "learning-rate";
        let plot = of_field(runs, title, label, field, noisy);
        add(name, &format!("{title} over steps"), plot)?;
    }
    if blocks.is_empty() {
        blocks.push(Block::text("The log holds nothing to draw."));
    }
    Ok(blocks)
}

fn empty(title: &str, label: &str) -> Plot {
    Plot { title: title.into(), x_label: "step".into(), y_label: label.into(), ..Plot::default() }
}

fn of_field(runs: &[Run], title: &str, label: &str, field: Field, noisy: bool) -> Plot {
    let mut plot = empty(title, label);
    for (colour, run) in runs.iter().enumerate() {
        let points = run.curve(field);
        let name = if runs.len() > 1 { run.file.name.clone() } else { String::new() };
        if noisy {
            let (look, name) = (Look::Pale, String::new());
            plot.series.push(Series { name, points: points.clone(), look, colour });
        }
        let points = if noisy { smooth(&points) } else { points };
        plot.series.push(Series { name, points, look: Look::Line, colour });
    }
    plot
}

fn loss(runs: &[Run]) -> Plot {
    let mut plot = of_field(runs, "Loss 損失", "nats a token", |line| line.loss, true);
    let (mut lost, mut back, mut resumed) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let no_number =
            run.curve(|line| line.loss).into_iter().filter(|point| !point.1.is_finite());
        lost.extend(no_number.map(|point| point.0));
        for (step, event) in run.events() {
            match event.kind {
                EventKind::SpikeRolledBack => back.push(step as f64),
                EventKind::NanSkipped => lost.push(step as f64),
                EventKind::Resumed => resumed.push(step as f64),
                _ => {}
            }
        }
    }
    plot.marks = vec![
        ("not a number".into(), RED, lost),
        ("rolled back".into(), PINK, back),
        ("resumed".into(), GREY, resumed),
    ];
    let [run] = runs else { return plot };
    for series in &mut plot.series {
        if series.look == Look::Line {
            series.name = "training".into();
        }
    }
    for (at, (name, points)) in run.hold_outs(|score| score.loss).into_iter().enumerate() {
        let colour = hold_out_colour(at);
        plot.series.push(Series { name, points, look: Look::Dots, colour });
    }
    let Some(predicted) = &run.file.predicted else { return plot };
    if predicted.hold_out.as_deref() == Some(ALL_HOLD_OUTS) {
        let points = run.curve(Line::held_out);
        let (name, look) = ("all hold-outs".into(), Look::Line);
        plot.series.push(Series { name, points, look, colour: 1 });
    }
    if !predicted.curve.is_empty() {
        let points = predicted.curve.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        plot.series.push(Series {
            name: "predicted".into(),
            points,
            look: Look::Dashed,
            colour: 1,
        });
    }
    if let (Some(loss), Some(steps)) = (&predicted.loss, run.file.steps) {
        plot.bars.push(Bar {
            name: "predicted".into(),
            x: steps as f64,
            low: loss.low.unwrap_or(loss.value),
            value: loss.value,
            high: loss.high.unwrap_or(loss.value),
            colour: 1,
        });
    }
    plot
}

/// Not the training loss's, nor the prediction's.
fn hold_out_colour(at: usize) -> usize {
    [2, 3, 5, 4, 0][at % HOLD_OUTS]
}

fn bits(runs: &[Run]) -> Plot {
    let mut plot = empty("Bits per byte 每位元組位元數", "bits a byte");
    for (colour, run) in runs.iter().enumerate() {
        for (at, (name, points)) in run.hold_outs(|score| score.bpb).into_iter().enumerate() {
            let (name, colour) = match runs.len() {
                1 => (name, hold_out_colour(at)),
                _ => (format!("{name}, {}", run.file.name), colour),
            };
            plot.series.push(Series { name, points, look: Look::Dots, colour });
        }
    }
    plot
}

/// Actual over predicted.
pub(crate) fn predicted(compared: &[(String, Compared)], named: bool) -> Result<Option<Block>> {
    let row = |(run, compared): &(String, Compared)| {
        let Compared { what, expected, actual } = compared;
        let interval = expected.low.zip(expected.high);
        Some(Ratio {
            name: if named { format!("{run}: {what}") } else { what.clone() },
            value: (*actual)? / expected.value,
            expected: interval.map(|(low, high)| (low / expected.value, high / expected.value)),
        })
    };
    let rows: Vec<Ratio> = compared.iter().filter_map(row).collect();
    let svg = ratios("Actual over predicted 實際／預測", &rows)?;
    let caption =
        "What came over what was predicted; red lies outside the predicted interval".to_owned();
    Ok(svg.map(|svg| Block::Plot { name: "predicted", caption, svg }))
}
