//! From texts to a base model, as a person types it: a corpus, a tokenizer, a run, a ladder; and what is said of bad
//! input. The texts are made here, so that nothing is needed beside the binary.

mod folder;
mod texts;

use std::fs;
use std::path::Path;

use folder::{finish, yushan};
use serde_json::Value;
use texts::CORPUS;
use yushan_train::plan::Convention;
use yushan_train::scaling::Law;
use yushan_train::scaling::ladder::{Ladder, Run};
use yushan_train::scaling::runner::{Outcome, Record};

/// A run of a minute in the development profile, at most; continued greedily, so that its words can be asked again.
const RUN: &str = r#"
depth = 1
[data]
folder = "data"
[model]
dim = 32
heads = 2
ffn = 64
context = 64
[train]
tokens = 40960
batch_tokens = 1024
[evaluate]
every = 20
[sample]
every = 0
prompts = ["The"]
tokens = 12
temperature = 0.0
[checkpoint]
every = 10
"#;

/// The stdout of a command that works.
fn works(folder: &Path, arguments: &str) -> String {
    let (code, stdout, stderr) = finish(yushan(folder, arguments));
    assert_eq!(code, Some(0), "{arguments}: {stderr}");
    stdout
}

/// The last line of error of a command that ends with a code.
fn fails(folder: &Path, arguments: &str, expected: i32) -> String {
    let (code, _, stderr) = finish(yushan(folder, arguments));
    assert_eq!(code, Some(expected), "{arguments}: {stderr}");
    let line = stderr.lines().rfind(|line| line.starts_with("error: "));
    line.unwrap_or_else(|| panic!("{arguments}: {stderr}")).to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder with texts and both recipes.
fn place() -> tempfile::TempDir {
    let place = texts::place();
    fs::write(place.path().join("run.toml"), RUN).unwrap();
    place
}

#[test]
fn from_texts_to_a_model_that_speaks() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    assert_eq!(works(place.path(), "data build corpus.toml --out data"), "data\n");
    let report = read(&at("data/corpus/report.md"));
    assert!(report.contains("stories") && report.contains("CC0-1.0"), "{report}");
    let row: Value =
        serde_json::from_str(read(&at("data/corpus/train-00000.jsonl")).lines().next().unwrap())
            .unwrap();
    for key in ["source", "licence", "label"] {
        assert!(row.get(key).is_some(), "{row}");
    }
    // What is done is not done again.
    let before = fs::metadata(at("data/tokenizer.json")).unwrap().modified().unwrap();
    works(place.path(), "data build corpus.toml --out data");
    assert_eq!(fs::metadata(at("data/tokenizer.json")).unwrap().modified().unwrap(), before);
    let table = works(place.path(), "tokenizer eval --tokenizer data/tokenizer.json stories.txt");
    assert!(table.contains("| 320 | stories.txt |"), "{table}");
    works(place.path(), "tokenizer train stories.txt --vocabulary 300 --out own");
    assert!(at("own/tokenizer.json").exists());

    let file = works(place.path(), "train pretrain run.toml --run run --threads 1");
    let file = file.trim_end();
    let log = read(&at("run/log.jsonl"));
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> = lines.iter().filter_map(|line| line["loss"].as_f64()).collect();
    assert_eq!(losses.len(), 40);
    assert!(losses[0] > 5.5 && losses[39] < losses[0] - 0.5, "{losses:?}");
    let eval = lines.iter().rev().find(|line| line["eval"].is_object()).unwrap();
    for source in ["holdout-stories", "holdout-notes"] {
        assert!(eval["eval"][source]["bpb"].as_f64().unwrap() > 0.5, "{eval}");
    }
    let card = read(&at("run/report.html"));
    assert!(card.matches("<svg").count() >= 5, "the card has its plots");
    let (card, run) = (read(&at("run/report.md")), read(&at("run/run.json")));
    assert!(card.contains("yushan train pretrain run.toml"), "{card}");
    assert!(run.contains("\"CC0-1.0\"") && run.contains("\"code\""), "{run}");
    let watched = works(place.path(), "train watch run --once");
    assert!(watched.contains("step 40/40") && watched.contains("gradient norm"), "{watched}");

    // What the run said of itself is what whoever runs its file hears.
    let sample = lines.iter().rev().find_map(|line| line["sample"][0]["text"].as_str()).unwrap();
    assert_eq!(works(place.path(), &format!("run {file} The -t 0 -n 12")).trim(), sample.trim());

    // The same command again would overwrite it; --resume has nothing left to do.
    let error = fails(place.path(), "train pretrain run.toml --run run --threads 1", 1);
    assert!(error.contains("--resume"), "{error}");
    works(place.path(), "train pretrain run.toml --run run --threads 1 --resume");
    let again = read(&at("run/log.jsonl"));
    assert_eq!(again.lines().filter(|line| line.contains("\"loss\"")).count(), {
        log.lines().filter(|line| line.contains("\"loss\"")).count()
    });
    let other = "train pretrain run.toml --run run --threads 1 --resume --set train.tokens=81920";
    let error = fails(place.path(), other, 1);
    assert!(error.contains("tokens") || error.contains("steps"), "{error}");
}

#[test]
fn a_ladder_predicts_before_it_runs() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    works(place.path(), "data build corpus.toml --out data");
    let plan = "scale plan --data data --flops 9e11 --budgets 3 --held-back 1 --context 32";
    let table = works(place.path(), &format!("{plan} --threads 1"));
    assert!(table.contains("13 runs") && table.contains("held back"), "{table}");
    // As if all but the one that is held back had been run: their losses follow a law.
    let ladder = Ladder::load(&at("ladder.toml")).unwrap();
    let law = Law { e: 1.5, a: 40.0, b: 300.0, alpha: 0.3, beta: 0.45 };
    let follows = |run: &Run| law.loss(run.parameters(Convention::All), run.settings.tokens as f64);
    let mut lines = String::new();
    for run in ladder.runs.iter().filter(|run| !run.held_back) {
        let outcome =
            Outcome { loss: follows(run), tokens: run.settings.tokens, ..Outcome::default() };
        let record = Record { run: run.clone(), outcome, finished: 1, prediction: None };
        lines += &(serde_json::to_string(&record).unwrap() + "\n");
    }
    fs::create_dir_all(at("runs/ladder")).unwrap();
    fs::write(at("runs/ladder/results.jsonl"), lines).unwrap();
    works(place.path(), "scale run ladder.toml --data data --threads 1");
    let runs = at("runs/ladder");
    let results = read(&runs.join("results.jsonl"));
    assert_eq!(results.lines().count(), 13);
    let held: Record = serde_json::from_str(results.lines().last().unwrap()).unwrap();
    let name = &held.run.name;
    assert!(held.run.held_back && held.outcome.loss > 0.0);
    let path = runs.join(format!("prediction-{name}.json"));
    let prediction: Value = serde_json::from_str(&read(&path)).unwrap();
    let (loss, expected) = (prediction["loss"].as_f64().unwrap(), follows(&held.run));
    assert!((loss / expected - 1.0).abs() < 0.01, "{loss} where the law says {expected}");
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    assert!(
        modified(&path) <= modified(&runs.join(name).join("run.json")),
        "it was written before the run began"
    );
    let fit = works(place.path(), "scale fit runs/ladder --resamples 20");
    assert!(fit.contains(name.as_str()), "{fit}");
    assert!(fs::read_dir(&runs).unwrap().any(|entry| {
        entry.unwrap().path().extension().is_some_and(|extension| extension == "svg")
    }));
    // Its law says what to train in a time; published ones were measured too far away.
    let hours = "plan --hours 0.02 --data data --threads 1";
    let refused = fails(place.path(), hours, 2);
    assert!(
        refused.contains("the limit is 100 times") && refused.contains("--ladder"),
        "{refused}"
    );
    let chosen = works(place.path(), &format!("{hours} --ladder runs/ladder --factor 10000"));
    assert_eq!(chosen.matches("  best").count(), 1, "{chosen}");
    assert!(chosen.contains("yushan train pretrain --data data --depth "), "{chosen}");
    // Nothing is left to do.
    let before = results;
    works(place.path(), "scale run ladder.toml --data data --threads 1");
    assert_eq!(read(&runs.join("results.jsonl")), before);
}

#[test]
fn a_plan_says_what_it_assumes() {
    let place = tempfile::tempdir().unwrap();
    let llama = works(place.path(), "plan --params 70B --tokens 2T --gpu a100 --ranks 6000");
    for part in ["13.5 days", "9.0 TB of text", "$2,328,280", "assumptions", "Besiroglu"] {
        assert!(llama.contains(part), "{part} is not in {llama}");
    }
    let refused =
        llama.lines().find(|line| line.contains("refused")).expect("a law that is asked too much");
    assert!(refused.contains("the limit is 100 times"), "{refused}");
}

#[test]
fn bad_input_is_named() {
    let place = place();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    works(place.path(), "data build corpus.toml --out data");
    write("empty.txt", "");
    write("giant.txt", &"word of the people and that ".repeat(300_000));
    fs::write(
        place.path().join("bytes.txt"),
        [&b"The caf\xe9 of the people was good and that is what they have with us. "[..]; 400]
            .concat(),
    )
    .unwrap();
    let with =
        |path: &str, more: &str| CORPUS.replace("\"stories.txt\"", &format!("\"{path}\"")) + more;
    write("empty.toml", &with("empty.txt", "").replace("\"notes.jsonl\"", "\"empty.txt\""));
    write("absent.toml", &with("absent.txt", ""));
    write("giant.toml", &with("giant.txt", ""));
    write("bytes.toml", &with("bytes.txt", ""));
    write("misspelt.toml", &with("stories.txt", "vocabularry = 300\n"));
    write("key.toml", "[train]\nlearning_rat = 0.1\n");
    write("kind.toml", "depth = \"four\"\n");
    // In turn: the command, its code, and parts of the line.
    for (arguments, code, parts) in [
        ("data build nothing.toml", 3, &["nothing.toml"][..]),
        ("data build absent.toml --out x", 1, &["stories", "absent.txt", "correct `path`"]),
        ("data build empty.toml --out x", 1, &["small", "hold no documents"]),
        ("data build misspelt.toml --out x", 1, &["vocabularry", "did you mean `vocabulary`"]),
        ("train pretrain", 2, &["--data DIR", "data build"]),
        ("train pretrain --data nowhere", 3, &["nowhere"]),
        ("train pretrain key.toml --data data", 1, &["line 2", "learning_rat", "`learning_rate`"]),
        (
            "train pretrain kind.toml --data data",
            1,
            &["line 1, `depth = \"four\"`", "a whole number"],
        ),
        ("train pretrain --data data --depth 0", 1, &["depth"]),
        ("train pretrain --data data --depth 100", 4, &["MiB needed", "recompute"]),
        (
            "train pretrain --data data --depth 1 --set train.learning_rate=-1",
            1,
            &["learning_rate"],
        ),
        ("train watch data", 3, &["log.jsonl"]),
        ("scale plan --data data --flops 1e3", 1, &["a total of 1000"]),
        ("scale fit data", 3, &["no finished runs"]),
        ("plan --params 7B --gpu a101", 1, &["a101", "a100"]),
        ("tokenizer train empty.txt", 1, &["no text to train a tokenizer on"]),
    ] {
        let line = fails(place.path(), arguments, code);
        for part in parts {
            assert!(line.contains(part), "{arguments}: {part} is not in {line}");
        }
    }
    // These are recorded, and nothing is lost.
    for (recipe, counted) in [("giant", "cut"), ("bytes", "UTF-8")] {
        works(place.path(), &format!("data build {recipe}.toml --out {recipe}"));
        let report = read(&place.path().join(format!("{recipe}/corpus/report.md")));
        assert!(report.contains(counted), "{recipe}: {report}");
    }
    // A shard of which a bit is wrong.
    let shard = place.path().join("data/shards/train-00000.tokens");
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let line = fails(place.path(), "train pretrain run.toml --run harmed", 1);
    assert!(
        line.contains("train-00000.tokens") && line.contains("build the shards again"),
        "{line}"
    );
}
