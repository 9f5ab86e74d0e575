//! How long the log of one process takes in a journal of 100,000 records: all of it, and what is new.
//!
//! ```sh
//! cargo run --release -p yushan-disk --example log
//! ```

use std::ops::ControlFlow;
use std::time::Instant;

use yushan_abi::{Disk, NewRecord};
use yushan_disk::Sqlite;

const RECORDS: u64 = 100_000;
/// Processes that take turns in the journal.
const PROCESSES: u64 = 1000;
const TIMES: u32 = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let disk = Sqlite::open(folder.path())?;
    let body = format!("{{\"said\":{{\"text\":\"{}\"}}}}", "word ".repeat(60));
    let record = |seq| NewRecord { time_ms: seq, pid: seq % PROCESSES, body: body.clone() };
    for from in (0..RECORDS).step_by(1000) {
        disk.append(&(from..from + 1000).map(record).collect::<Vec<_>>())?;
    }
    let timed = |what: &str, work: &dyn Fn() -> usize| {
        let begun = Instant::now();
        let found = (0..TIMES).map(|_| work()).max().unwrap_or(0);
        let each = begun.elapsed().as_secs_f64() * 1e3 / f64::from(TIMES);
        println!("{what:<44} {found:>4} records {each:>9.3} ms");
    };
    timed("the whole journal, filtered (as before)", &|| {
        let mut found = 0;
        let _ = disk.replay(1, &mut |record| {
            found += usize::from(record.pid == 7);
            ControlFlow::Continue(())
        });
        found
    });
    let of = |after| {
        let mut found = 0;
        let _ = disk.replay_of(7, after, &mut |_| {
            found += 1;
            ControlFlow::Continue(())
        });
        found
    };
    timed("by the index", &|| of(0));
    timed("what is new, by the index", &|| of(RECORDS - PROCESSES));
    timed("nothing new, by the index", &|| of(RECORDS));
    Ok(())
}
