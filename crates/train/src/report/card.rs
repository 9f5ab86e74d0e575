//! The report card of a run, or of several runs that differ in their seed.
//!
//! The key decision: the card says what a reader needs to believe a figure and to get it again: predicted beside
//! actual, intervals where there are several runs or documents, what went wrong, the machine, the data's hashes, the
//! recipe, the commands. What is not known is said to be so, not left out.

use std::path::Path;

use super::block::{Block, html, markdown};
use super::plots;
use super::run::{Compared, Facts, Run};
use super::run_file::{DataFile, Expected, RunFile, replace};
use super::terminal::figure;
use super::watch::{clock, name};
use crate::evaluate::Interval;
use crate::{Error, Result};

/// Points in a run at which samples are shown.
const MOMENTS: usize = 6;
/// Events that are listed; all are counted.
const EVENTS: usize = 60;

/// A report, ready to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// `report.html`, self-contained.
    pub html: String,
    /// `report.md`, with the plots beside it.
    pub markdown: String,
    /// File name (under `plots/`) and SVG of each plot.
    pub plots: Vec<(String, String)>,
}

impl Card {
    /// Writes `report.html`, `report.md` and `plots/` into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let plots = folder.join("plots");
        std::fs::create_dir_all(&plots).map_err(|e| Error::io("making", &plots, e))?;
        for (name, svg) in &self.plots {
            replace(&plots.join(name), svg.as_bytes())?;
        }
        replace(&folder.join("report.md"), self.markdown.as_bytes())?;
        replace(&folder.join("report.html"), self.html.as_bytes())
    }
}

/// The card of `runs`: of one, or of several of the same recipe with other seeds.
///
/// # Errors
/// If there is no run.
pub fn card(runs: &[Run]) -> Result<Card> {
    let first =
        runs.first().ok_or_else(|| Error::bad("a report", "no run; expected at least one"))?;
    let facts: Vec<Facts> = runs.iter().map(Run::facts).collect();
    let more = if runs.len() > 1 { format!(" and {} more", runs.len() - 1) } else { String::new() };
    let title = format!("Report card 成績單: {}{more}", first.file.name);
    let mut blocks = summary(runs, &facts);
    blocks.extend(warnings(runs, &facts));
    blocks.extend(predictions(runs, &facts)?);
    blocks.push(Block::Heading("Curves", "曲線"));
    blocks.extend(plots::curves(runs)?);
    blocks.extend(hold_outs(runs));
    blocks.extend(questions(runs));
    if runs.len() > 1 {
        blocks.extend(seeds(runs, &facts));
    }
    blocks.extend(samples(first));
    blocks.extend(events(runs));
    blocks.extend(spent(runs, &facts));
    blocks.extend(repeat(runs));
    let of_plot = |block: &Block| match block {
        Block::Plot { name, svg, .. } => Some((format!("{name}.svg"), svg.clone())),
        _ => None,
    };
    let plots = blocks.iter().filter_map(of_plot).collect();
    Ok(Card { html: html(&title, &blocks), markdown: markdown(&title, &blocks), plots })
}

fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// 1 step, 2 steps.
fn some(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn within(interval: &Interval, show: impl Fn(f64) -> String) -> String {
    format!("{} ({} to {})", show(interval.value), show(interval.low), show(interval.high))
}

fn strings(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn summary(runs: &[Run], facts: &[Facts]) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("Summary", "摘要")];
    for (run, facts) in runs.iter().zip(facts) {
        let file = &run.file;
        let parameters = file.parameters.map(|all| match file.embedding_parameters {
            Some(embeddings) => {
                format!("{} (with {} of embeddings)", count(all), count(embeddings))
            }
            None => format!("{} (with embeddings)", count(all)),
        });
        let of = facts.steps.map_or(String::new(), |steps| format!(" of {}", count(steps)));
        let state = if facts.finished { ", finished" } else { ", not finished" };
        let mut rows = vec![
            ("Run", Some(file.name.clone())),
            ("Started", file.started.clone()),
            ("Parameters", parameters),
            ("Steps", Some(format!("{}{of}{state}", count(facts.step)))),
            ("Tokens", Some(count(facts.tokens))),
            (
                "Training loss",
                facts.loss.map(|loss| {
                    format!("{loss:.4} nats a token (mean of the last {} steps)", facts.averaged)
                }),
            ),
        ];
        let scores: Vec<String> = run
            .last_eval()
            .iter()
            .map(|(name, (_, score))| match score.bpb {
                Some(bpb) => format!("{bpb:.4} on {name}"),
                None => format!("{name} is empty"),
            })
            .collect();
        rows.push(("Bits per byte", (!scores.is_empty()).then(|| scores.join(", "))));
        let rate =
            facts.tokens_per_s.map(|rate| format!("{} tokens/s (median)", count(rate as u64)));
        let share =
            facts.peak_share.map(|share| format!(", {} of the measured peak", percent(share)));
        rows.push(("Speed", rate.map(|rate| rate + &share.unwrap_or_default())));
        rows.push(("Time", facts.seconds.map(clock)));
        rows.push(("Cost", cost(run, facts)));
        rows.push(("Seed", file.seed.map(|seed| seed.to_string())));
        blocks.push(Block::facts(rows));
    }
    blocks
}

fn cost(run: &Run, facts: &Facts) -> Option<String> {
    let price = run.file.price.as_ref()?;
    Some(format!("{:.2} {}", facts.cost?, price.currency))
}

fn warnings(runs: &[Run], facts: &[Facts]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (run, facts) in runs.iter().zip(facts) {
        let name = &run.file.name;
        let mut warn = |text: String| blocks.push(Block::Warning(text));
        if facts.step == 0 {
            warn(format!("{name}: the log has no step."));
        }
        if facts.lost_count > 0 {
            let list: Vec<String> = facts.lost.iter().map(u64::to_string).collect();
            let more = if facts.lost_count > facts.lost.len() { ", …" } else { "" };
            warn(format!(
                "{name}: the loss is no number at {} and a gap in the curves. Steps: {}{more}.",
                some(facts.lost_count, "step"),
                list.join(", ")
            ));
        }
        if run.log.problem_count > 0 {
            let named: Vec<String> = run
                .log
                .problems
                .iter()
                .take(5)
                .map(|(line, why)| format!("line {line}: {why}"))
                .collect();
            warn(format!(
                "{name}: {} of the log cannot be read and left out ({}).",
                some(run.log.problem_count, "line"),
                named.join("; ")
            ));
        }
        for (source, (_, score)) in run.last_eval() {
            if score.tokens == 0 {
                warn(format!("{name}: the hold-out {source} is empty; it has no figure."));
            }
        }
    }
    blocks
}

fn predictions(runs: &[Run], facts: &[Facts]) -> Result<Vec<Block>> {
    let mut blocks = vec![Block::Heading("Predicted and actual", "預測與實際")];
    let mut rows = Vec::new();
    let mut compared: Vec<(String, Compared)> = Vec::new();
    for (run, facts) in runs.iter().zip(facts) {
        for row in run.compared(facts) {
            let Expected { value, low, high } = row.expected;
            let interval =
                low.zip(high).map(|(low, high)| format!(" ({} to {})", figure(low), figure(high)));
            let error = row.actual.map(|actual| (actual / value - 1.0) * 100.0);
            let inside = row.actual.zip(low.zip(high)).map(|(actual, (low, high))| {
                if (low..=high).contains(&actual) { "yes" } else { "no" }
            });
            rows.push(vec![
                run.file.name.clone(),
                row.what.clone(),
                figure(value) + &interval.unwrap_or_default(),
                row.actual.map_or("not known".into(), figure),
                error
                    .filter(|e| e.is_finite())
                    .map_or(String::new(), |error| format!("{error:+.2} %")),
                inside.unwrap_or("").to_owned(),
            ]);
            compared.push((run.file.name.clone(), row));
        }
    }
    if rows.is_empty() {
        blocks.push(Block::text("Nothing was predicted before this run."));
        return Ok(blocks);
    }
    let head = strings(&["Run", "What", "Predicted", "Actual", "Error", "Within"]);
    blocks.push(Block::Table { head, rows });
    let by = runs.iter().filter_map(|run| run.file.predicted.as_ref()).map(|p| p.by.trim());
    if let Some(by) = by.clone().find(|by| !by.is_empty()) {
        blocks.push(Block::text(format!("Predicted by: {by}.")));
    }
    blocks.extend(plots::predicted(&compared, runs.len() > 1)?);
    Ok(blocks)
}

fn hold_outs(runs: &[Run]) -> Vec<Block> {
    let mut rows = Vec::new();
    for run in runs {
        for (name, (step, score)) in run.last_eval() {
            let interval = score.interval.map(|i| format!("{:.4} to {:.4}", i.low, i.high));
            rows.push(vec![
                run.file.name.clone(),
                name.to_owned(),
                count(step),
                score.bpb.map_or("none".into(), |bpb| format!("{bpb:.4}")),
                interval.unwrap_or_default(),
                score.loss.map_or(String::new(), |loss| format!("{loss:.4}")),
                count(score.tokens),
                count(score.bytes),
                count(score.documents),
            ]);
        }
    }
    let mut blocks = vec![Block::Heading("Hold-outs", "留出集")];
    if rows.is_empty() {
        blocks.push(Block::text("No hold-out was scored."));
        return blocks;
    }
    let head =
        ["Run", "Hold-out", "Step", "Bits/byte", "95 %", "Nats/token", "Tokens", "Bytes", "Texts"];
    blocks.push(Block::Table { head: strings(&head), rows });
    blocks.push(Block::text(
        "Each text is scored by itself, its first token from the start token alone; every token is \
         predicted once. The interval is bootstrapped over texts.",
    ));
    blocks
}

fn questions(runs: &[Run]) -> Vec<Block> {
    let mut rows = Vec::new();
    let share = |share: &Option<Interval>| share.map_or(String::new(), |i| within(&i, percent));
    for run in runs {
        for (name, (step, task)) in run.last_tasks() {
            rows.push(vec![
                run.file.name.clone(),
                name.to_owned(),
                count(step),
                share(&task.accuracy),
                share(&task.normalised),
                percent(task.chance),
                count(task.items),
                count(task.skipped),
            ]);
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let head = ["Run", "Task", "Step", "Right", "Right by length", "Chance", "Items", "Left out"];
    let how = "The likeliest ending, and the likeliest for its length in bytes; with 95 % \
               intervals (Wilson).";
    vec![
        Block::Heading("Questions", "測驗"),
        Block::Table { head: strings(&head), rows },
        Block::text(how),
    ]
}

/// Means over runs that differ in nothing but their seed.
fn seeds(runs: &[Run], facts: &[Facts]) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("Several runs", "多次執行")];
    let first = &runs[0].file;
    let alike = runs.iter().all(|run| {
        run.file.shape == first.shape
            && run.file.steps == first.steps
            && run.file.parameters == first.parameters
    });
    let same = |run: &Run| same_but_seed(&run.file, first) && run.file.data == first.data;
    let why = match () {
        () if !alike => "are not of one shape and length",
        () if !runs.iter().all(same) => "differ in more than their seed",
        () if !facts.iter().all(|facts| facts.finished) => "have not all finished",
        () => "",
    };
    if !why.is_empty() {
        blocks.push(Block::text(format!("The runs {why}: no mean is taken over them.")));
        return blocks;
    }
    let mut rows = Vec::new();
    let mut row = |what: String, values: Vec<Option<f64>>| {
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        let interval = Interval::of_mean(&known).filter(|_| known.len() == values.len());
        let shown = known.iter().map(|&value| figure(value)).collect::<Vec<_>>().join(", ");
        let mean = interval.map_or("not all known".into(), |interval| within(&interval, figure));
        rows.push(vec![what, mean, shown]);
    };
    row("training loss".into(), facts.iter().map(|facts| facts.loss).collect());
    for name in runs[0].last_eval().keys() {
        let of = |run: &Run| run.last_eval().get(name).and_then(|(_, score)| score.bpb);
        row(format!("bits per byte on {name}"), runs.iter().map(of).collect());
    }
    for name in runs[0].last_tasks().keys() {
        let of =
            |run: &Run| run.last_tasks().get(name).and_then(|(_, task)| Some(task.accuracy?.value));
        row(format!("share right of {name}"), runs.iter().map(of).collect());
    }
    row("tokens/s".into(), facts.iter().map(|facts| facts.tokens_per_s).collect());
    let head = strings(&["What", "Mean (95 % interval)", "Each"]);
    blocks.push(Block::Table { head, rows });
    blocks.push(Block::text(format!(
        "Over {} runs with the seeds {}; the intervals are Student's.",
        runs.len(),
        runs.iter()
            .map(|run| run.file.seed.map_or("?".into(), |seed| seed.to_string()))
            .collect::<Vec<_>>()
            .join(", ")
    )));
    blocks
}

/// Whether two recipes are one but for seed and name.
fn same_but_seed(one: &RunFile, other: &RunFile) -> bool {
    let plain = |file: &RunFile| {
        let mut table = file.recipe.parse::<toml::Table>().ok()?;
        table.retain(|key, _| key != "name" && key != "seed");
        Some(table)
    };
    one.recipe == other.recipe || plain(one).is_some_and(|one| Some(one) == plain(other))
}

/// From the first step to the last.
fn samples(run: &Run) -> Vec<Block> {
    let wrote: Vec<_> = run.log.lines.iter().filter(|line| !line.sample.is_empty()).collect();
    let mut blocks = vec![Block::Heading("Samples", "樣本")];
    if wrote.is_empty() {
        blocks.push(Block::text("No samples were written."));
    }
    let moments = wrote.len().min(MOMENTS);
    for moment in 0..moments {
        // The last one is always shown.
        let line = wrote[(moment + 1) * wrote.len() / moments - 1];
        let all = if moment + 1 == moments { line.sample.len() } else { 1 };
        for sample in line.sample.iter().take(all) {
            let about = format!(
                "Step {}, seed {}, temperature {}",
                count(line.step),
                sample.seed,
                sample.temperature
            );
            blocks.push(Block::Sample {
                about,
                prompt: sample.prompt.clone(),
                text: sample.text.clone(),
            });
        }
    }
    blocks
}

fn events(runs: &[Run]) -> Vec<Block> {
    let mut rows = Vec::new();
    let (mut all, mut checkpoints) = (0, 0);
    for run in runs {
        for (step, event) in run.events() {
            if event.kind == super::log::EventKind::Checkpoint {
                checkpoints += 1;
                continue;
            }
            all += 1;
            let at = event.at.map_or(String::new(), |at| format!(" (seen at step {})", count(at)));
            let loss = event.loss.map_or(String::new(), |loss| format!(" loss {}", figure(loss)));
            if rows.len() < EVENTS {
                rows.push(vec![
                    run.file.name.clone(),
                    count(step) + &at,
                    name(&event.kind).to_owned(),
                    (event.detail.clone() + &loss).trim().to_owned(),
                ]);
            }
        }
    }
    let mut blocks = vec![Block::Heading("Events", "事件")];
    match rows.is_empty() {
        true => blocks.push(Block::text("Nothing but steps.")),
        false => {
            let head = strings(&["Run", "Step", "What", "Detail"]);
            blocks.push(Block::Table { head, rows });
        }
    }
    if all > EVENTS {
        blocks.push(Block::text(format!("{all} events; the first {EVENTS} are listed.")));
    }
    if checkpoints > 0 {
        blocks.push(Block::text(format!("Written: {}.", some(checkpoints, "checkpoint"))));
    }
    blocks
}

fn spent(runs: &[Run], facts: &[Facts]) -> Vec<Block> {
    let mut rows = Vec::new();
    for (run, facts) in runs.iter().zip(facts) {
        let hours = facts.seconds.map(|seconds| seconds / 3600.0);
        let price = run.file.price.as_ref();
        let price = price.map(|p| format!("{} {} an hour", figure(p.per_hour), p.currency));
        let energy = match &facts.energy {
            Ok(joules) => {
                let each = joules / facts.tokens.max(1) as f64;
                let many = run.file.ranks.is_some_and(|ranks| ranks > 1);
                let whose = if many { " of rank 0's machine" } else { "" };
                format!(
                    "{} J ({} Wh, {} J a token; packages and memory{whose})",
                    figure(*joules),
                    figure(joules / 3600.0),
                    figure(each)
                )
            }
            Err(why) => why.clone(),
        };
        rows.push(vec![
            run.file.name.clone(),
            hours.map_or("not known".into(), |hours| format!("{hours:.3} h")),
            price.unwrap_or("no price given".into()),
            cost(run, facts).unwrap_or("not known".into()),
            energy,
        ]);
    }
    let head = strings(&["Run", "Time", "Price", "Cost", "Energy"]);
    vec![Block::Heading("Cost and energy", "花費與能源"), Block::Table { head, rows }]
}

fn environment(file: &RunFile) -> Vec<Block> {
    let machine = &file.environment;
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let peak = machine.peak_f32.map(|peak| format!("{:.1} GFLOP/s", peak / 1e9));
    let shape = Some(file.shape.to_string()).filter(|_| !file.shape.is_null());
    let facts = Block::facts(vec![
        ("Processor", Some(machine.processor.clone().unwrap_or("not known".into()))),
        ("Cores", machine.cores.map(|cores| cores.to_string())),
        ("Threads", machine.threads.map(|threads| threads.to_string())),
        ("Ranks", file.ranks.map(|ranks| ranks.to_string())),
        ("Memory", machine.memory.map(gib)),
        ("System", machine.system.clone()),
        ("Kernel", machine.kernel.clone()),
        ("Instruction set", machine.instructions.clone()),
        ("Measured peak, f32", peak),
        ("Yushan", machine.version.clone()),
        ("Code", Some(file.code.clone().unwrap_or("not known".into()))),
        ("Shape", shape),
    ]);
    vec![Block::Heading("Environment", "環境"), facts]
}

fn data(file: &RunFile) -> Vec<Block> {
    let row = |data: &DataFile| {
        vec![
            data.name.clone(),
            data.role.clone(),
            data.tokens.map_or(String::new(), count),
            data.bytes.map_or(String::new(), count),
            data.licence.clone().unwrap_or_default(),
            data.sha256.clone(),
        ]
    };
    let head = strings(&["Name", "Role", "Tokens", "Bytes", "Licence", "SHA-256"]);
    let rows: Vec<_> = file.data.iter().map(row).collect();
    let table = match rows.is_empty() {
        true => Block::text("The run does not say what it was trained on."),
        false => Block::Table { head, rows },
    };
    vec![Block::Heading("Data", "資料"), table]
}

/// Machine, data, code, recipe, commands.
fn repeat(runs: &[Run]) -> Vec<Block> {
    let file = &runs[0].file;
    let mut blocks = environment(file);
    blocks.extend(data(file));
    blocks.push(Block::Heading("Recipe", "配方"));
    blocks.push(match file.recipe.trim().is_empty() {
        true => Block::text("The run does not hold its recipe."),
        false => Block::Code(file.recipe.clone()),
    });
    for other in runs[1..].iter().map(|run| &run.file) {
        let differs = [
            ("recipe", !same_but_seed(other, file)),
            ("data", other.data != file.data),
            ("code", other.code != file.code),
            ("machine", other.environment != file.environment),
        ];
        let differs: Vec<&str> = differs.iter().filter(|d| d.1).map(|d| d.0).collect();
        if !differs.is_empty() {
            let (name, from, what) = (&other.name, &file.name, differs.join(", "));
            blocks.push(Block::text(format!("{name}: differs from {from} in {what}.")));
        }
    }
    blocks.push(Block::Heading("How to repeat this", "重做"));
    let commands: Vec<String> = runs.iter().flat_map(|run| run.file.commands.clone()).collect();
    if commands.is_empty() {
        blocks.push(Block::text("The run does not hold its commands."));
        return blocks;
    }
    if let Some(code) = &file.code {
        blocks.push(Block::text(format!(
            "With the code at {code}, the data above (compare the hashes) and the recipe above:"
        )));
    }
    blocks.push(Block::Code(commands.join("\n")));
    blocks
}
