//! A hundred times `kill -9` at random moments of runs, inside saves too: every run, resumed until it is done, gives the
//! curve and the weights of the unbroken one, bit for bit.
//!
//! The program starts itself as the process that is killed.

mod small;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use small::{Random, data, job, settings};
use yushan_collective::Alone;
use yushan_train::pretrain::{Unwatched, pretrain};
use yushan_train::report::Log;

const KILLS: usize = 100;
const CHILD: &str = "YUSHAN_TRAINS_HERE";

fn main() -> ExitCode {
    if let Some(place) = std::env::var_os(CHILD) {
        let place = PathBuf::from(place);
        train(&place, &place.join("run"));
        return ExitCode::SUCCESS;
    }
    let seed = 20_261_128;
    println!("running 1 test, seed {seed}");
    let place = tempfile::tempdir().unwrap();
    data(place.path());
    let whole = place.path().join("whole");
    train(place.path(), &whole);
    let expected = result(&whole);
    let mut random = Random(seed);
    let (mut kills, mut in_saves, mut runs) = (0, 0, 0);
    while kills < KILLS {
        let run = place.path().join("run");
        let before = kills;
        while !finishes(place.path(), &mut random) {
            kills += 1;
            in_saves += usize::from(partial(&run));
            assert!(kills - before < 1000, "a run that never ends");
        }
        assert!(result(&run) == expected, "after {kills} kills the curve is another");
        std::fs::remove_dir_all(&run).unwrap();
        runs += 1;
    }
    println!(
        "{kills} kills, {in_saves} of them inside a save, {runs} runs: all like the unbroken one"
    );
    assert!(in_saves > 0, "no kill hit a save");
    println!("test result: ok. 1 passed; 0 failed");
    ExitCode::SUCCESS
}

fn train(place: &Path, run: &Path) {
    let more = [("checkpoint.every", "2"), ("train.tokens", "15360"), ("evaluate.every", "0")];
    let settings = settings(place, &more);
    pretrain(&job(&settings, run, true), &mut Alone, &mut Unwatched).unwrap();
}

/// Whether the process ended before it was killed.
fn finishes(place: &Path, random: &mut Random) -> bool {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program).env(CHILD, place).stdout(Stdio::null()).spawn().unwrap();
    for _ in 0..random.below(300) {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the run failed: {status}");
            return true;
        }
        std::thread::sleep(Duration::from_micros(700));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    status.success()
}

/// Whether a save was under way.
fn partial(run: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".partial-"))
}

/// Losses, and the bytes of the last weights.
fn result(run: &Path) -> (Vec<(u64, u64)>, Vec<u8>) {
    let log = Log::read(run).unwrap();
    let losses = log.lines.iter().filter_map(|line| Some((line.step, line.loss?.to_bits())));
    let weights = std::fs::read(run.join("checkpoints/step-000030/model.safetensors")).unwrap();
    (losses.collect(), weights)
}
