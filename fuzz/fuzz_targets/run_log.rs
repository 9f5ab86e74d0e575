//! A run's log, and after a zero byte its `run.json`: read, drawn in the terminal and as a report.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_train::report::{Log, Run, RunFile, card, watch};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let log = Log::of(parts.next().unwrap_or_default()).unwrap();
    let file: RunFile =
        serde_json::from_slice(parts.next().unwrap_or_default()).unwrap_or_default();
    let run = Run { file, log };
    assert!(watch::screen(&run, 100, 30).lines().count() <= 30);
    let card = card(&[run]).unwrap();
    assert!(!card.html.contains("<script"));
});
