//! Sessions that are killed over and over: `kill -9` at random moments, also inside calls of tools.
//!
//! The parent starts this test binary again as the system, with a disk in a folder and a tool that writes
//! down every call, kills it after a random time, and starts it again until the session is over. Two
//! hundred kills in all.

#[path = "../../kernel/tests/scripted/mod.rs"]
mod scripted;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use yushan_abi::*;
use yushan_disk::Sqlite;
use yushan_kernel::gate::Capability;
use yushan_kernel::{Entry, Kernel, Options, Pid, Program, World};

/// Tells the test binary that it is the system, and in which folder.
const FOLDER: &str = "YUSHAN_TEST_SURVIVE";

/// Kills in all.
const KILLS: usize = 200;

/// Calls of a session.
const CALLS: usize = 12;

/// Calls the tool so often, then says what came of it.
fn part(messages: &[Message]) -> String {
    let turns = messages.iter().filter(|message| message.role == Role::Assistant).count();
    match turns {
        CALLS => messages
            .iter()
            .filter(|message| message.role == Role::Tool)
            .map(|message| message.text() + "\n")
            .collect(),
        turns => format!("some words that take a while to write|write {{\"to\":\"{turns}\"}}"),
    }
}

/// Writes every call down, durably, and takes a little time before and after.
struct Writes {
    spec: ToolSpec,
    path: std::path::PathBuf,
}

impl Tool for Writes {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }
    fn call(&self, Invocation { arguments, key, .. }: &Invocation<'_>) -> ToolResult {
        std::thread::sleep(Duration::from_micros(700));
        let mut file = std::fs::File::options().create(true).append(true).open(&self.path).unwrap();
        file.write_all(format!("{key} {}\n", arguments["to"]).as_bytes()).unwrap();
        file.sync_all().unwrap();
        std::thread::sleep(Duration::from_micros(700));
        let label = Label::of(Sources::CODE);
        ToolResult::new(format!("wrote {}", arguments["to"]), label)
    }
}

/// The system: goes on with what there is, or begins; says so, and says the end.
fn serve(folder: &Path) {
    let disk = Arc::new(Sqlite::open(folder).unwrap());
    let spec = serde_json::json!({"name": "write", "effect": "write", "schema": {}});
    let spec = serde_json::from_value(spec).unwrap();
    let tool = Writes { spec, path: folder.join("calls") };
    let world = World { disk: Some(disk.clone()), tools: vec![Arc::new(tool)], ..World::default() };
    let kernel = Kernel::start_in(world, vec![scripted::model(part)], Options::default());
    let (sender, events) = channel();
    let back = kernel.resume(|_| Ok(Some(Box::new(sender.clone())))).unwrap();
    let begun = folder.join("begun").exists();
    if back == 0 && !begun {
        let label = Label::of(Sources::USER);
        let prompt = Prompt::Chat(vec![Message::new(Role::User, "go", label)]);
        let mut program = Program::new(Request::new("m", prompt));
        program.capabilities.insert("write".into(), Capability::default());
        kernel.spawn(program, Box::new(sender)).unwrap();
        // From here on it is acknowledged.
        std::fs::write(folder.join("begun"), "").unwrap();
    } else if back == 0 {
        // It was over before the last kill.
        println!("over");
        return;
    }
    loop {
        match events.recv_timeout(Duration::from_secs(60)).unwrap() {
            Event::Done { finish: Finish::End, .. } => break,
            end @ (Event::Done { .. } | Event::Failed(_)) => panic!("{end:?}"),
            _ => {}
        }
    }
    println!("over");
}

/// SplitMix64 (Steele et al. 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Runs the system until it is over or killed; whether it was killed.
fn life(folder: &Path, patience: Duration) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "two_hundred_kills", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (over, is_over) = channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok).filter(|line| line.ends_with("over")) {
            let _ = over.send(line);
        }
    });
    let killed = is_over.recv_timeout(patience).is_err();
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    killed
}

/// The session is whole: every call was answered, none was made twice, and what is not known says so.
fn check(folder: &Path) -> usize {
    let disk = Sqlite::open(folder).unwrap();
    disk.verify().unwrap();
    let log = yushan_kernel::journal::log(&disk, Pid(1), 0).unwrap();
    let calls = std::fs::read_to_string(folder.join("calls")).unwrap();
    let mut unknown = 0;
    let answers = log.iter().filter_map(|logged| match &logged.entry {
        Entry::Answered { result, .. } => Some(result),
        _ => None,
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers.len(), CALLS, "{log:#?}");
    for (turn, answer) in answers.iter().enumerate() {
        let made = calls.lines().filter(|call| call.ends_with(&format!(" \"{turn}\""))).count();
        match answer.failed {
            false => assert_eq!(made, 1, "call {turn}: {calls}"),
            true => {
                assert!(answer.text().starts_with("unknown"), "{answer:?}");
                assert!(made <= 1, "call {turn}: {calls}");
                unknown += 1;
            }
        }
    }
    unknown
}

#[test]
fn two_hundred_kills() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return serve(Path::new(&folder));
    }
    let (mut state, mut kills, mut sessions, mut unknown) = (7, 0, 0, 0);
    let begun = Instant::now();
    while kills < KILLS {
        let folder = tempfile::tempdir().unwrap();
        // A session that is killed too early again and again would not end: patience grows.
        let mut patience = 60_000;
        loop {
            let after = Duration::from_micros(random(&mut state) % patience);
            if !life(folder.path(), after) {
                break;
            }
            kills += 1;
            patience += 6_000;
        }
        sessions += 1;
        unknown += check(folder.path());
    }
    eprintln!(
        "{kills} kills in {sessions} sessions, {unknown} calls unknown, {} s",
        begun.elapsed().as_secs()
    );
}
