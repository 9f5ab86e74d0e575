//! Training as a person meets it: a tiny corpus becomes shards, runs with several seeds and a ladder; cards tell of them.

mod folder;
mod texts;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use folder::{finish, yushan};
use tempfile::TempDir;
use yushan_train::checkpoint;
use yushan_train::evaluate::Interval;
use yushan_train::plan::dial::{self, Overrides};
use yushan_train::report::{EventKind, Line, Log};
use yushan_train::scaling::ladder::{self, Ladder, Request};
use yushan_train::scaling::runner::{self, Prediction};

const RECIPE: &str = r#"
name = "tiny"
depth = 2
[model]
dim = 32
heads = 2
kv_heads = 1
ffn = 64
context = 64
[train]
tokens = 20480
batch_tokens = 512
learning_rate = 0.01
[evaluate]
every = 20
[sample]
every = 0
tokens = 8
[checkpoint]
every = 10
"#;

/// A folder with `data`, made by `data build`, and `tiny.toml`.
fn place() -> TempDir {
    let place = texts::place();
    std::fs::write(place.path().join("tiny.toml"), RECIPE).unwrap();
    done(place.path(), "data build corpus.toml --out data --threads 2");
    place
}

/// What a command that works writes: stdout and stderr.
fn done(folder: &Path, arguments: &str) -> (String, String) {
    let (code, stdout, stderr) = finish(yushan(folder, arguments));
    assert_eq!(code, Some(0), "{arguments}: {stderr}");
    (stdout, stderr)
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The last loss over the hold-outs.
fn held_out(run: &Path) -> f64 {
    Log::read(run).unwrap().lines.iter().rev().find_map(Line::held_out).unwrap()
}

#[test]
fn runs_with_several_seeds_have_one_card() {
    let place = place();
    let folder = place.path();
    let train = "train pretrain tiny.toml --data data --seeds 1-3 --predicted 2.5+-0.1 --threads 1";
    let (files, _) = done(folder, train);
    let runs = folder.join("runs/tiny");
    let seeds = [1, 2, 3].map(|seed| runs.join(format!("seed-{seed}")));
    for seed in 1..=3 {
        let name = format!("runs/tiny/seed-{seed}/tiny-seed-{seed}.gguf");
        assert!(files.contains(&name) && folder.join(&name).exists(), "{files}");
    }
    let card = read(runs.join("report.md"));
    let bits = |run: &Path| {
        let log = Log::read(run).unwrap();
        let last = log.lines.iter().rev().find(|line| !line.eval.is_empty()).unwrap();
        last.eval["holdout-stories"].bpb.unwrap()
    };
    let bits: Vec<f64> = seeds.iter().map(|run| bits(run)).collect();
    assert!(bits[0] != bits[1] && bits[1] != bits[2], "{bits:?}");
    let Interval { value, low, high } = Interval::of_mean(&bits).unwrap();
    let row = format!("| bits per byte on holdout-stories | {value:.3} ({low:.3} to {high:.3}) |");
    assert!(card.contains(&row), "{row}\n{card}");
    assert!(card.contains("Over 3 runs with the seeds 1, 2, 3") && !card.contains("differs from"));
    let actual = held_out(&seeds[1]);
    let row =
        format!("| tiny-seed-2 | loss on all hold-outs | 2.500 (2.400 to 2.600) | {actual:.3} |");
    assert!(card.contains(&row), "{row}\n{card}");
    assert!(runs.join("plots/predicted.svg").exists() && runs.join("report.html").exists());

    // What is done is left alone, what is not is done.
    std::fs::remove_dir_all(&seeds[2]).unwrap();
    let before = read(seeds[0].join("log.jsonl"));
    let again = finish(yushan(folder, train)).2;
    assert!(again.contains("--resume"), "{again}");
    done(folder, &format!("{train} --resume"));
    assert_eq!(read(seeds[0].join("log.jsonl")), before);
    assert!(held_out(&seeds[2]).is_finite());
    let recorded = read(seeds[2].join("report.md"));
    assert!(recorded.contains("tiny-seed-3"), "{recorded}");

    // Some of the runs, elsewhere.
    done(folder, "train card runs/tiny/seed-1 runs/tiny/seed-2 --out two");
    assert!(read(folder.join("two/report.md")).contains("Over 2 runs with the seeds 1, 2"));
    done(folder, "train card runs/tiny/seed-1");
    let scattered = finish(yushan(folder, "train card runs/tiny/seed-1 runs/tiny"));
    assert!(scattered.0 != Some(0), "{}", scattered.2);

    // Questions to the last checkpoint, kept in the log and the card; the file that is run gets the same.
    let rows = ["ball", "book", "cat"].map(|thing| {
        format!("{{\"ctx\": \"Anna saw a {thing}. Anna took the\", \"endings\": [\"{thing}\", \"song\"], \"label\": 0}}\n")
    });
    std::fs::write(folder.join("swag.jsonl"), rows.concat()).unwrap();
    let asked = "--questions swag.jsonl --texts stories.txt --tokens 2000 --threads 1 --json";
    let (run, _) = done(folder, &format!("evaluate runs/tiny/seed-1 {asked} --record"));
    assert!(read(seeds[0].join("report.md")).contains("| tiny-seed-1 | swag.jsonl | 40 |"));
    let (file, _) = done(folder, &format!("evaluate runs/tiny/seed-1/tiny-seed-1.gguf {asked}"));
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (run, file) = (parse(&run), parse(&file));
    assert_eq!(run["questions"], file["questions"]);
    let bits = |figures: &serde_json::Value| figures["texts"][0]["bpb"].as_f64().unwrap();
    assert!((bits(&run) / bits(&file) - 1.0).abs() < 0.01, "{} {}", bits(&run), bits(&file));
}

#[test]
fn a_held_back_run_shows_what_was_predicted_beside_what_came() {
    let place = place();
    let folder = place.path();
    let mut runs = Vec::new();
    let run = |dim: usize, tokens: u64, held_back: bool| {
        let set = Overrides {
            dim: Some(dim),
            heads: Some(2),
            kv_heads: Some(2),
            head_dim: Some(dim / 2),
            ffn: Some(2 * dim),
            context: Some(32),
            tokens: Some(tokens),
            batch_tokens: Some(512),
            learning_rate: Some(0.01),
            warmup: Some(2),
            tied: Some(true),
        };
        let settings = dial::with(2, 320, &set).unwrap();
        let name = format!("d{dim}-{tokens}");
        let mut run = ladder::Run { name, budget: 1.0, held_back, settings };
        run.budget = run.flops();
        run
    };
    for dim in [8, 16, 32] {
        runs.extend([4096, 8192, 16384].map(|tokens| run(dim, tokens, false)));
    }
    runs.push(run(48, 32768, true));
    let ladder = Ladder { request: Request::default(), runs };
    ladder.save(&folder.join("ladder.toml")).unwrap();
    done(folder, "scale run ladder.toml --data data --threads 1");
    let out = folder.join("runs/ladder");
    let file = out.join("prediction-d48-32768.json");
    let prediction = Prediction::read(&file).unwrap();
    let held = out.join("d48-32768");
    let card = read(held.join("report.md"));
    let (low, high) = (prediction.interval.low, prediction.interval.high);
    let row = format!(
        "| d48-32768 | loss on all hold-outs | {:.3} ({low:.3} to {high:.3}) | {:.3} |",
        prediction.loss,
        held_out(&held)
    );
    assert!(card.contains(&row), "{row}\n{card}");
    assert!(
        card.contains("Predicted by: yushan scale, L = ")
            && card.contains(&prediction.results_sha256)
    );
    for plot in ["predicted.svg", "loss.svg"] {
        let svg = read(held.join("plots").join(plot));
        assert!(svg.contains("predicted"), "{plot}: {svg}");
    }
    assert!(read(held.join("report.html")).contains("Actual over predicted"));
    let other = read(out.join("d8-4096/report.md"));
    assert!(other.contains("Nothing was predicted before this run."), "{other}");
    let record = runner::load(&out).unwrap().pop().unwrap();
    assert!((record.outcome.loss - held_out(&held)).abs() < 1e-9);
    // A prediction is of one size and one number of tokens.
    let wrong = format!("train pretrain tiny.toml --data data --predicted {}", file.display());
    let (code, _, stderr) = finish(yushan(folder, &wrong));
    assert!(code == Some(1) && stderr.contains("and 32768 tokens, not for"), "{stderr}");
    let (code, _, stderr) =
        finish(yushan(folder, "train pretrain tiny.toml --data data --predicted x"));
    assert!(code == Some(2) && stderr.contains("3.21+-0.05"), "{stderr}");
}

/// A run that is under way: its log has a step.
fn under_way(folder: &Path, arguments: &str, run: &Path) -> Child {
    let mut child =
        yushan(folder, arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let has_step =
        || Log::read(run).is_ok_and(|log| log.lines.iter().any(|line| line.loss.is_some()));
    while !has_step() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        std::thread::yield_now();
    }
    child
}

/// Sends `SIGTERM` so many times at once.
fn terminate(child: &Child, times: usize) {
    let all = format!("kill -TERM {}; ", child.id()).repeat(times);
    assert!(Command::new("sh").args(["-c", &all]).status().unwrap().success());
}

#[test]
fn two_signals_at_once_are_one_wish_and_the_run_is_saved() {
    let place = place();
    let folder = place.path();
    let run = folder.join("run");
    let long = "train pretrain tiny.toml --data data --run run --threads 1 --set train.tokens=50000000 \
                --set checkpoint.every=0 --set evaluate.every=0";
    let mut child = under_way(folder, long, &run);
    terminate(&child, 2);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let log = Log::read(&run).unwrap();
    let last = log.lines.last().unwrap();
    assert_eq!(last.event.as_ref().unwrap().kind, EventKind::Stopped);
    let saved = checkpoint::list(&run.join("checkpoints")).unwrap();
    assert_eq!(saved.iter().map(|one| one.0).collect::<Vec<_>>(), [last.step]);
    assert!(checkpoint::load(&saved[0].1).is_ok());
}

#[test]
fn whoever_insists_gets_out_of_a_long_step() {
    let place = place();
    let folder = place.path();
    let run = folder.join("run");
    // The first step is over before the signals; the second takes seconds.
    let slow = "train pretrain tiny.toml --data data --run run --threads 1 --depth 8 --set model.dim=64 \
                --set model.ffn=256 --set train.activations=recompute --set train.batch_tokens=32768 \
                --set train.tokens=1000000 --set checkpoint.every=0 --set evaluate.every=0";
    let mut child = under_way(folder, slow, &run);
    while child.try_wait().unwrap().is_none() {
        terminate(&child, 1);
        std::thread::yield_now();
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(checkpoint::list(&run.join("checkpoints")).unwrap().is_empty());
}
