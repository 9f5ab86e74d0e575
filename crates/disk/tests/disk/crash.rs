//! Processes that are killed while they write, and processes that may not write on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use yushan_disk::Sqlite;

use crate::session::{command, holds, reference, said};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % end
    }
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(3952);
    let mut done = 0;
    for kill in 0..20 {
        let mut child = command("", folder.path(), done, u64::MAX);
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut acknowledged = done;
        let mut hear = |line: String| {
            if let Some((number, made)) = said(&line) {
                assert!(made && number == acknowledged, "{line}");
                acknowledged = number + 1;
            }
        };
        // Some are killed while they open, before they have said anything.
        let hears = if kill % 5 == 0 { 0 } else { 4 + random.below(12) as usize };
        lines.by_ref().take(hears).for_each(&mut hear);
        std::thread::sleep(Duration::from_micros(random.below(if hears == 0 {
            30_000
        } else {
            8_000
        })));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(&mut hear);

        let disk = Sqlite::open(folder.path()).unwrap();
        let held = holds(&disk, acknowledged + 1);
        // The call that it was killed in was made or was not.
        let made = [acknowledged, acknowledged + 1]
            .into_iter()
            .find(|&calls| held == holds(&reference(0..calls), acknowledged + 1));
        done = made.unwrap_or_else(|| {
            panic!("kill {kill}: after {acknowledged} calls the disk holds {held:#?}")
        });
    }
    assert!(done >= 20, "the children were killed before they did anything: {done} calls");
    // Nothing half written is left either.
    drop(Sqlite::open(folder.path()).unwrap());
    assert_eq!(fs::read_dir(folder.path().join("bytes/new")).unwrap().count(), 0);
}

/// Every write of a session fails in one of the runs: no file may grow over a limit, which is set ever
/// higher. The limit falls into every frame of the log and every content.
#[test]
fn a_write_that_fails_changes_nothing() {
    const FIRST: u64 = 20;
    const UNTIL: u64 = 30;
    // In `ulimit -f`, 512 bytes; a frame of the log has 4,120.
    const STEP: u64 = 7;
    let home = tempfile::tempdir().unwrap();
    let start = home.path().join("start");
    let disk = Sqlite::open(&start).unwrap();
    for number in 0..FIRST {
        crate::calls::call(&disk, &crate::session::nth(number)).unwrap();
    }
    drop(disk);
    let (mut refusals, mut limit) = (0, 0);
    loop {
        let folder = home.path().join(limit.to_string());
        copy(&start, &folder);
        // Held open, so that the child finds the log's index made.
        let disk = Sqlite::open(&folder).unwrap();
        let shell = format!("trap '' XFSZ; ulimit -f {limit};");
        let output = command(&shell, &folder, FIRST, UNTIL).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "limit {limit}: {text}{errors}");
        let calls: Vec<(u64, bool)> = text.lines().filter_map(said).collect();
        let made = calls.iter().filter(|(_, made)| *made).map(|(number, _)| *number);
        let expected = holds(&reference((0..FIRST).chain(made)), UNTIL);
        assert!(holds(&disk, UNTIL) == expected, "limit {limit}: {text}");
        drop(disk);
        assert!(holds(&Sqlite::open(&folder).unwrap(), UNTIL) == expected, "limit {limit}: {text}");
        fs::remove_dir_all(&folder).unwrap();
        let refused = calls.iter().filter(|(_, made)| !made).count();
        if calls.len() == (UNTIL - FIRST) as usize && refused == 0 {
            break;
        }
        refusals += refused;
        limit += STEP;
    }
    assert!(refusals > 100 && limit > 100, "{refusals} refusals up to limit {limit}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
