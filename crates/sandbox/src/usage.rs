//! What a process and all that it started use, as `/proc` tells it.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

/// Bytes in memory of a process and all that it started.
pub(crate) fn memory(pid: Pid) -> u64 {
    let statm = text(pid, "statm");
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    let below: u64 = children(pid).map(memory).sum();
    pages * rustix::param::page_size() as u64 + below
}

/// Processor time of a process and all that it started, those that have ended and were waited for too.
pub(crate) fn cpu(pid: Pid) -> Duration {
    ticks(pid) * 1000 / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100).max(1)
}

/// Its ticks, as milliseconds.
fn ticks(pid: Pid) -> Duration {
    let stat = text(pid, "stat");
    // Behind the name, which may hold anything: the twelfth to fifteenth are its own times and its children's.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    let own: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    let below: Duration = children(pid).map(ticks).sum();
    Duration::from_millis(own) + below
}

fn children(pid: Pid) -> impl Iterator<Item = Pid> {
    let file = format!("task/{}/children", pid.as_raw_nonzero());
    let children = text(pid, &file);
    let children: Vec<i32> =
        children.split_whitespace().filter_map(|child| child.parse().ok()).collect();
    children.into_iter().filter_map(Pid::from_raw)
}

fn text(pid: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default()
}
