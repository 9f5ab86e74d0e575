//! Questions answered by likelihood.
//!
//! The key decision: `acc` and `acc_norm` as lm-evaluation-harness has them: the likeliest ending by the sum of
//! its tokens' log-probabilities, and by that sum over the ending's length (here in bytes of UTF-8; the
//! harness takes characters, which is the same for English). Context and ending are encoded together and
//! cut where the encoded context ends, so that an ending's first token is the one that the model learned. A
//! question that does not fit into the window is left out and counted, never cut.

use super::items::Item;
use super::likelihood::{Likelihood, ask};
use super::{Accuracy, Interval};
use crate::Result;

/// How questions become rows.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Text to ids, without start or end.
    pub encode: &'a dyn Fn(&str) -> Vec<u32>,
    /// The token that every row begins with, if the model wants one.
    pub start: Option<u32>,
    /// Tokens of a row at most: the model's context.
    pub window: usize,
    /// Questions whose rows are handed over together.
    pub batch: usize,
}

/// How a question was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Its place in the list.
    pub item: usize,
    /// Σ ln p of each ending.
    pub scores: Vec<f64>,
    /// The likeliest.
    pub chosen: usize,
    /// The likeliest for its length.
    pub chosen_normalised: usize,
}

/// Rows of a question, and the first token of each ending.
type Rows = Vec<(Vec<u32>, usize)>;

/// Scores all `items`; `each` is told of every answer.
pub fn multiple_choice(
    model: &mut dyn Likelihood,
    items: &[Item],
    reading: &Reading<'_>,
    each: &mut dyn FnMut(&Answered),
) -> Result<Accuracy> {
    let (mut count, mut right, mut right_normalised, mut chance) = (0, 0, 0, 0.0);
    for (group, first) in
        items.chunks(reading.batch.max(1)).zip((0..).step_by(reading.batch.max(1)))
    {
        let asked: Vec<Option<Rows>> = group.iter().map(|item| rows(item, reading)).collect();
        let all: Vec<_> = asked.iter().flatten().flatten().map(|(row, _)| row.clone()).collect();
        let mut answers = ask(model, &all)?.into_iter();
        for ((item, rows), at) in group.iter().zip(asked).zip(first..) {
            let Some(rows) = rows else { continue };
            let of_ending = |(answer, (_, from)): (Vec<f32>, &(Vec<u32>, usize))| {
                answer[from - 1..].iter().map(|&value| f64::from(value)).sum::<f64>()
            };
            let scores: Vec<f64> = answers.by_ref().zip(&rows).map(of_ending).collect();
            let lengths = item.choices.iter().map(|choice| choice.len().max(1) as f64);
            let normalised: Vec<_> = scores.iter().zip(lengths).map(|(s, n)| s / n).collect();
            let answered = Answered {
                item: at,
                chosen: likeliest(&scores),
                chosen_normalised: likeliest(&normalised),
                scores,
            };
            count += 1;
            right += u64::from(answered.chosen == item.answer);
            right_normalised += u64::from(answered.chosen_normalised == item.answer);
            chance += 1.0 / item.choices.len() as f64;
            each(&answered);
        }
    }
    Ok(Accuracy {
        items: count,
        skipped: items.len() as u64 - count,
        accuracy: Interval::of_share(right, count),
        normalised: Interval::of_share(right_normalised, count),
        chance: if count > 0 { chance / count as f64 } else { 0.0 },
    })
}

/// The first of the largest; NaN is none.
fn likeliest(scores: &[f64]) -> usize {
    let mut best = 0;
    for (at, &score) in scores.iter().enumerate() {
        if score > scores[best] || (scores[best].is_nan() && !score.is_nan()) {
            best = at;
        }
    }
    best
}

/// `None` if an ending has no token, or a row does not fit.
fn rows(item: &Item, reading: &Reading<'_>) -> Option<Rows> {
    let context = item.context.trim_end();
    let alone = (reading.encode)(context);
    let row = |choice: &String| {
        let whole = (reading.encode)(&format!("{context}{}{choice}", item.delimiter));
        // Where the seam falls inside a token, the ending has that token.
        let alike = whole.iter().zip(&alone).take_while(|(a, b)| a == b).count();
        let row: Vec<u32> = reading.start.into_iter().chain(whole).collect();
        let from = alike + usize::from(reading.start.is_some());
        (from > 0 && from < row.len() && row.len() <= reading.window).then_some((row, from))
    };
    item.choices.iter().map(row).collect()
}
