//! Whole runs in a small world: it learns, the bits repeat, ranks agree, and what goes wrong is said.

mod small;

use std::path::Path;

use small::{data, job, settings};
use yushan_collective::{Alone, Threads};
use yushan_train::checkpoint;
use yushan_train::pretrain::Job;
use yushan_train::pretrain::{Outcome, Unwatched, Watch, pretrain};
use yushan_train::recipe::Settings;
use yushan_train::report::{
    ALL_HOLD_OUTS, Event, EventKind, Expected, Line, Log, Predicted, Run, card,
};

fn run(settings: &Settings, folder: &Path, resume: bool) -> Outcome {
    pretrain(&job(settings, folder, resume), &mut Alone, &mut Unwatched).unwrap()
}

/// Steps and losses of a run.
fn curve(folder: &Path) -> Vec<(u64, f64)> {
    let log = Log::read(folder).unwrap();
    assert_eq!(log.problem_count, 0, "{:?}", log.problems);
    log.lines.iter().filter_map(|line| Some((line.step, line.loss?))).collect()
}

/// Says stop after some steps.
struct StopAfter(u64);

impl Watch for StopAfter {
    fn began(&mut self, _: &Settings, _: u64) {}
    fn line(&mut self, line: &Line) {
        if line.loss.is_some() {
            self.0 = self.0.saturating_sub(1);
        }
    }
    fn stop(&mut self) -> bool {
        self.0 <= 1
    }
}

#[test]
fn a_run_learns_and_says_what_it_did() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let (settings, folder) = (settings(place.path(), &[]), place.path().join("run"));
    let outcome = run(&settings, &folder, false);
    assert!(outcome.finished);
    // Training puts it before every text, so whoever serves the model has to.
    assert!(yushan_train::pretrain::tokenizer(place.path()).unwrap().adds_bos());
    let losses = curve(&folder);
    assert_eq!(losses.len(), 40);
    let (first, last) = (losses[0].1, losses[39].1);
    assert!((first - 320f64.ln()).abs() < 0.2, "the first loss is {first}");
    assert!(last < 3.0, "the last loss is {last}");
    let log = Log::read(&folder).unwrap();
    let looks: Vec<&Line> = log.lines.iter().filter(|line| !line.eval.is_empty()).collect();
    assert_eq!(looks.len(), 2);
    let figures = &looks[1].eval["holdout-stories"];
    assert!(figures.bpb.unwrap() < looks[0].eval["holdout-stories"].bpb.unwrap());
    assert!(figures.bytes > 1000 && (figures.loss.unwrap() - last).abs() < 1.0);
    let sample = log.lines.iter().find(|line| !line.sample.is_empty()).unwrap();
    assert_eq!(sample.sample[0].prompt, "Anna saw");
    // Two checkpoints stay, and the last one is the run's end.
    let kept = checkpoint::list(&folder.join("checkpoints")).unwrap();
    assert_eq!(kept.iter().map(|one| one.0).collect::<Vec<_>>(), [40, 35]);
}

#[test]
fn stopped_anywhere_and_resumed_the_bits_are_the_same() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    for optimizer in ["muon", "adamw"] {
        let settings = settings(place.path(), &[("train.optimizer", optimizer)]);
        let whole = place.path().join(format!("whole-{optimizer}"));
        run(&settings, &whole, false);
        let parts = place.path().join(format!("parts-{optimizer}"));
        for steps in [1, 7, 3, 12] {
            let mut watch = StopAfter(steps);
            let outcome = pretrain(&job(&settings, &parts, true), &mut Alone, &mut watch).unwrap();
            assert!(!outcome.finished);
        }
        assert!(run(&settings, &parts, true).finished);
        assert_eq!(curve(&whole), curve(&parts), "{optimizer}");
        let weights =
            |run: &Path| std::fs::read(run.join("checkpoints/step-000040/model.safetensors"));
        assert!(weights(&whole).unwrap() == weights(&parts).unwrap());
    }
}

/// A machine whose counter goes on by some millijoules at each step, and runs over at 10 J. It says stop after some steps.
struct Counter<'a> {
    folder: &'a Path,
    millijoules: u64,
    left: u64,
}

const STEP: u64 = 700;

impl Counter<'_> {
    fn write(&self) {
        let package = self.folder.join("intel-rapl:0");
        std::fs::create_dir_all(&package).unwrap();
        for (file, value) in [
            ("name", "package-0".to_owned()),
            ("max_energy_range_uj", "10000000".to_owned()),
            ("energy_uj", (self.millijoules % 10_000 * 1000).to_string()),
        ] {
            std::fs::write(package.join(file), value).unwrap();
        }
    }
}

impl Watch for Counter<'_> {
    fn began(&mut self, _: &Settings, _: u64) {}
    fn line(&mut self, line: &Line) {
        if line.loss.is_some() {
            self.left = self.left.saturating_sub(1);
            self.millijoules += STEP;
            self.write();
        }
    }
    fn stop(&mut self) -> bool {
        self.left <= 1
    }
}

#[test]
fn joules_add_up_over_a_resume_or_a_reason_stands_in_their_place() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let settings = settings(place.path(), &[]);
    let counters = place.path().join("powercap");
    let mut counter = Counter { folder: &counters, millijoules: 9_000, left: 0 };
    counter.write();
    let run = |name: &str, counter: &mut Counter<'_>, left: u64, there: bool| {
        let folder = place.path().join(name);
        let nowhere = place.path().join("nowhere");
        let energy = if there { counters.as_path() } else { nowhere.as_path() };
        let job = Job { energy, ..job(&settings, &folder, true) };
        counter.left = left;
        pretrain(&job, &mut Alone, counter).unwrap();
        Run::read(&folder).unwrap()
    };
    let joules = |run: &Run| -> Vec<Option<f64>> {
        let steps = run.log.lines.iter().filter(|line| line.loss.is_some());
        steps.map(|line| line.joules.map(|joules| (joules * 1e3).round() / 1e3)).collect()
    };
    let told = |run: &Run, words: &str| {
        let card = card(std::slice::from_ref(run)).unwrap();
        assert!(card.markdown.contains(words) && card.html.contains(words), "{words}");
    };
    // Stopped after 13 and 17 more steps; what is used between two starts is nobody's.
    run("whole", &mut counter, 13, true);
    counter.millijoules += 5_000;
    counter.write();
    run("whole", &mut counter, 17, true);
    let whole = run("whole", &mut counter, 1000, true);
    // The counter is read before a step's line is written, and written after it.
    let (mut sum, mut expected) = (0, Vec::new());
    for step in 0..40 {
        sum += if [0, 13, 30].contains(&step) { 0 } else { STEP };
        expected.push(Some(sum as f64 / 1e3));
    }
    assert_eq!(joules(&whole), expected);
    told(&whole, "25.900 J (7.19e-3 Wh, ");
    // Read from the beginning but not to the end, and the other way round.
    run("early", &mut counter, 13, true);
    let early = run("early", &mut counter, 1000, false);
    assert_eq!(joules(&early).iter().flatten().count(), 13);
    run("late", &mut counter, 13, false);
    let late = run("late", &mut counter, 1000, true);
    assert_eq!(joules(&late), [None; 40]);
    for run in [&early, &late] {
        let reasons = run.log.lines.iter().filter_map(|line| line.event.as_ref());
        let reasons: Vec<&Event> =
            reasons.filter(|event| event.kind == EventKind::EnergyNotCounted).collect();
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].detail.starts_with("not readable here: no "), "{reasons:?}");
        told(run, "not readable here: no ");
    }
}

#[test]
fn what_was_predicted_stands_beside_what_came() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let (settings, folder) = (settings(place.path(), &[]), place.path().join("run"));
    let loss = Some(Expected { value: 2.5, low: Some(2.4), high: Some(2.6) });
    let predicted = Predicted {
        loss,
        hold_out: Some(ALL_HOLD_OUTS.into()),
        by: "a guess".into(),
        ..Predicted::default()
    };
    let job = Job { predicted: Some(predicted), ..job(&settings, &folder, true) };
    let mut watch = StopAfter(7);
    assert!(!pretrain(&job, &mut Alone, &mut watch).unwrap().finished);
    assert!(pretrain(&job, &mut Alone, &mut Unwatched).unwrap().finished);
    let run = Run::read(&folder).unwrap();
    let actual = run.log.lines.iter().rev().find_map(Line::held_out).unwrap();
    let card = card(&[run]).unwrap();
    let row = format!("| loss on all hold-outs | 2.500 (2.400 to 2.600) | {actual:.3} |");
    assert!(card.markdown.contains(&row), "{row}\n{}", card.markdown);
    assert!(card.markdown.contains("Predicted by: a guess."));
    let plot = |name: &str| &card.plots.iter().find(|plot| plot.0 == name).unwrap().1;
    assert!(plot("loss.svg").contains("all hold-outs") && plot("loss.svg").contains("predicted"));
    assert!(plot("predicted.svg").contains("loss on all hold-outs"));
}

#[test]
fn threads_and_kept_activations_do_not_change_a_bit() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let plain = settings(place.path(), &[]);
    let folder = place.path().join("one");
    run(&plain, &folder, false);
    let expected = curve(&folder);
    let recompute = settings(place.path(), &[("train.activations", "recompute")]);
    for (name, settings, threads) in [("three", &plain, 3), ("recompute", &recompute, 1)] {
        let folder = place.path().join(name);
        let job = Job { threads, ..job(settings, &folder, false) };
        pretrain(&job, &mut Alone, &mut Unwatched).unwrap();
        assert_eq!(curve(&folder), expected, "{name}");
    }
}

#[test]
fn ranks_learn_what_one_learns() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let settings = settings(place.path(), &[]);
    let alone = place.path().join("alone");
    run(&settings, &alone, false);
    let expected = curve(&alone);
    for ranks in [2, 3, 4] {
        let folder = place.path().join(format!("ranks-{ranks}"));
        std::thread::scope(|scope| {
            for mut one in Threads::group(ranks) {
                let (settings, folder) = (&settings, &folder);
                scope.spawn(move || {
                    pretrain(&job(settings, folder, false), &mut one, &mut Unwatched).unwrap();
                });
            }
        });
        for ((step, expected), (_, loss)) in expected.iter().zip(curve(&folder)) {
            let apart = (loss - expected).abs();
            assert!(apart < 1e-4, "{ranks} ranks, step {step}: {loss} instead of {expected}");
        }
        // What several ranks saved, one goes on from.
        let more = small::settings(place.path(), &[]);
        assert!(run(&more, &folder, true).finished);
    }
}

#[test]
fn ranks_that_disagree_do_not_begin() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let all = [settings(place.path(), &[]), settings(place.path(), &[("seed", "2")])];
    std::thread::scope(|scope| {
        for (at, mut one) in Threads::group(2).into_iter().enumerate() {
            let (settings, folder) = (&all[at], place.path().join("run"));
            scope.spawn(move || {
                let error = pretrain(&job(settings, &folder, false), &mut one, &mut Unwatched);
                let error = error.unwrap_err().to_string();
                assert!(error.contains("recipe"), "{error}");
            });
        }
    });
    assert!(!place.path().join("run").exists());
}

#[test]
fn a_run_that_explodes_goes_back_and_then_gives_up() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let settings = settings(
        place.path(),
        &[
            ("train.tokens", "204800"),
            ("train.learning_rate", "30000.0"),
            ("train.optimizer", "adamw"),
            ("train.warmup", "100"),
            ("train.clip", "0.0"),
        ],
    );
    let folder = place.path().join("run");
    let error = pretrain(&job(&settings, &folder, false), &mut Alone, &mut Unwatched);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("learning_rate"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let folder = place.path().join("run");
    let settings = settings(place.path(), &[]);
    run(&settings, &folder, false);
    let changed = small::settings(place.path(), &[("train.learning_rate", "0.02")]);
    let elsewhere = Settings { data: place.path().join("nowhere"), ..settings.clone() };
    for (settings, resume, expected) in [
        (&settings, false, "--resume"),
        (&changed, true, "learning_rate"),
        (&elsewhere, true, "nowhere"),
    ] {
        let error = pretrain(&job(settings, &folder, resume), &mut Alone, &mut Unwatched);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A shard with one bit changed.
    let shard = place.path().join("shards/train-00000.tokens");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let other = place.path().join("other");
    let error = pretrain(&job(&settings, &other, false), &mut Alone, &mut Unwatched);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("train-00000.tokens"), "{error}");
}
