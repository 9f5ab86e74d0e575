//! A session of writing calls, made by a child process and by a disk in memory, and whether two
//! disks hold the same.
//!
//! The child is this test binary, told by the environment to run [`child`] alone. It says on its
//! output what it was told is durable.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use yushan_abi::DiskError;
use yushan_disk::{Memory, Sqlite};

use crate::calls::{Answer, Both, Call, call, document, item, record};

const FOLDER: &str = "YUSHAN_TEST_FOLDER";
const FROM: &str = "YUSHAN_TEST_FROM";
const UNTIL: &str = "YUSHAN_TEST_UNTIL";

/// The `number`-th call of the session: the same whoever asks.
pub(crate) fn nth(number: u64) -> Call {
    let text = format!("第{number}次登玉山 {}", "walk ".repeat(number as usize % 7 * 9));
    let key = format!("k{}", number % 13);
    match number % 8 {
        0 | 4 => Call::Append((0..number % 5 + 1).map(|i| record(number + i, &text)).collect()),
        1 => Call::Put(document("file", &key, "ann", &text)),
        2 => Call::PutBytes(text.repeat(number as usize % 3 * 40 + 1).into_bytes()),
        3 => Call::Insert(item("ann", &key, &text)),
        5 => Call::Put(document("file", "same", "bob", &text)),
        6 => Call::Delete { kind: "file".into(), key },
        _ => Call::Remove { owner: "ann".into(), id: format!("k{}", (number + 9) % 13) },
    }
}

/// A disk in memory after these calls.
pub(crate) fn reference(numbers: impl IntoIterator<Item = u64>) -> Memory {
    let memory = Memory::new();
    for number in numbers {
        call(&memory, &nth(number)).unwrap();
    }
    memory
}

/// All that a disk holds after at most `until` calls of the session.
pub(crate) fn holds(disk: &dyn Both, until: u64) -> Vec<Result<Answer, DiskError>> {
    let list = Call::List { kind: "file".into(), owner: None, after: String::new(), limit: 99 };
    let search = |query: &str| Call::Search { owner: "ann".into(), query: query.into(), limit: 99 };
    let mut calls = vec![Call::Verify, Call::Replay { from: 1, most: usize::MAX }, list];
    calls.extend(["玉山", "walk", "12", "第"].map(search));
    for number in 0..until {
        if let Call::PutBytes(bytes) = nth(number) {
            let name = yushan_abi::Disk::put_bytes(&Memory::new(), &bytes).unwrap();
            calls.push(Call::GetBytes(name));
        }
    }
    calls.iter().map(|one| call(disk, one)).collect()
}

/// This binary, about to make calls on the disk in `folder`. `shell` is run before it in its process.
pub(crate) fn command(shell: &str, folder: &Path, from: u64, until: u64) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]);
    command.arg(env::current_exe().unwrap());
    command.args(["session::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).env(FROM, from.to_string()).env(UNTIL, until.to_string());
    command
}

/// What a line of the child's says: which call, and whether it was made.
pub(crate) fn said(line: &str) -> Option<(u64, bool)> {
    let (what, number) = line.split_once(' ')?;
    let made = match what {
        "made" => true,
        "refused" => false,
        _ => return None,
    };
    Some((number.parse().ok()?, made))
}

#[test]
#[ignore = "the child that other tests start"]
fn child() {
    let Some(folder) = env::var_os(FOLDER) else {
        eprintln!("skipped: not started by another test");
        return;
    };
    let number = |name| env::var(name).unwrap().parse::<u64>().unwrap();
    let say = |what: std::fmt::Arguments<'_>| {
        let mut out = std::io::stdout().lock();
        out.write_fmt(what).and_then(|()| out.flush()).unwrap();
    };
    let disk = match Sqlite::open(Path::new(&folder)) {
        Ok(disk) => disk,
        Err(error @ (DiskError::Failed(_) | DiskError::Full(_))) => {
            return say(format_args!("\nnot opened: {error}\n"));
        }
        Err(error) => panic!("{error}"),
    };
    say(format_args!("\nopened\n"));
    for one in number(FROM)..number(UNTIL) {
        match call(&disk, &nth(one)) {
            Ok(_) => say(format_args!("made {one}\n")),
            Err(DiskError::Damaged(why)) => panic!("call {one}: {why}"),
            Err(_) => say(format_args!("refused {one}\n")),
        }
    }
}
