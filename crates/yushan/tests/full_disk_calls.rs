//! The operating system refuses while a process calls tools and has a child: whichever write of such a
//! session fails, once or from then on, the session ends well or with the disk's words; after the next start
//! it goes on or is over; no call was made twice.
//!
//! The parent starts this test binary again as the system, with the library of `faults/` preloaded and a tool
//! that writes down every call, outside of the folder that fails. What the built binary serves over HTTP
//! is in `full_disk.rs`; it has no tools yet, and its tiny model calls none.

#![cfg(target_os = "linux")]

mod faults;
#[path = "../../kernel/tests/scripted/mod.rs"]
mod scripted;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use faults::{Error, How, Plan};
use yushan_abi::*;
use yushan_disk::Sqlite;
use yushan_kernel::gate::Capability;
use yushan_kernel::{Entry, Exit, Kernel, Options, Program, World};

/// Tells the test binary that it is the system, in which folder, and where calls are written down.
const FOLDER: &str = "YUSHAN_TEST_FOLDER";
const CALLS: &str = "YUSHAN_TEST_CALLS";

/// How long anything may take: longer is a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls a tool, starts a child that calls it too, waits for it, remembers, recalls, says what came of it.
fn part(messages: &[Message]) -> String {
    let task = messages.iter().find(|message| message.role == Role::User).unwrap().text();
    let turns = messages.iter().filter(|message| message.role == Role::Assistant).count();
    let last = messages.last().unwrap().text();
    match (task.as_str(), turns) {
        ("go", 0) => "|write {\"to\":\"a\"}".into(),
        ("go", 1) => "|spawn {\"task\":\"child\",\"tools\":[\"write\"]}".into(),
        ("go", 2) => format!("|wait {{\"pid\":{}}}", last.rsplit(' ').next().unwrap()),
        ("go", 3) => "|remember {\"text\":\"tea is hot\"}".into(),
        ("go", 4) => "|recall {\"query\":\"tea\"}".into(),
        ("child", 0) => "|write {\"to\":\"c\"}".into(),
        ("go", _) => {
            let answers = messages.iter().filter(|message| message.role == Role::Tool);
            answers.map(|answer| format!("<{}>", answer.text())).collect()
        }
        _ => last,
    }
}

/// Writes every call down.
struct Writes {
    spec: ToolSpec,
    path: PathBuf,
}

impl Tool for Writes {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }
    fn call(&self, Invocation { arguments, key, .. }: &Invocation<'_>) -> ToolResult {
        let mut file = std::fs::File::options().create(true).append(true).open(&self.path).unwrap();
        file.write_all(format!("{key} {}\n", arguments["to"]).as_bytes()).unwrap();
        let label = Label::of(Sources::CODE);
        ToolResult::new(format!("wrote {}", arguments["to"]), label)
    }
}

/// The system: goes on with what there is, or begins; says how it ended.
fn serve(folder: &Path) -> Result<String, String> {
    let disk = Sqlite::open(folder).map_err(|error| error.to_string())?;
    let disk = Arc::new(disk);
    let spec = serde_json::json!({"name": "write", "effect": "write", "schema": {}});
    let spec = serde_json::from_value(spec).unwrap();
    let tool = Writes { spec, path: std::env::var_os(CALLS).unwrap().into() };
    let world = World {
        disk: Some(disk.clone()),
        index: Some(disk.clone()),
        tools: vec![Arc::new(tool)],
        ..World::default()
    };
    let kernel = Kernel::start_in(world, vec![scripted::model(part)], Options::default());
    let (sender, events) = channel();
    let back = kernel.resume(|life| match life.program.parent {
        None => Ok(Some(Box::new(sender.clone()))),
        Some(_) => Ok(Some(Box::new(Nobody))),
    });
    if back.map_err(|error| error.to_string())? == 0 {
        let began = yushan_kernel::journal::lives(disk.as_ref(), 0);
        if !began.map_err(|error| error.to_string())?.is_empty() {
            return Ok("it was over".into());
        }
        let label = Label::of(Sources::USER);
        let prompt = Prompt::Chat(vec![Message::new(Role::User, "go", label)]);
        let mut program = Program::new(Request::new("m", prompt));
        for name in ["write", "spawn", "wait", "remember", "recall"] {
            program.capabilities.insert(name.into(), Capability::default());
        }
        let begun = kernel.spawn(program, Box::new(sender.clone()));
        begun.map_err(|refusal| refusal.to_string())?;
    }
    let mut text = String::new();
    let end = loop {
        match events.recv_timeout(PATIENCE).map_err(|_| "it hangs")? {
            Event::Done { finish: Finish::End, .. } => break Ok(text),
            Event::Failed(refusal) => break Err(refusal.to_string()),
            end @ Event::Done { .. } => break Err(format!("{end:?}")),
            Event::Text { text: more, .. } => text += &more,
            _ => {}
        }
    };
    // A child may outlive its parent's end by a moment.
    let begun = Instant::now();
    while kernel.processes().iter().any(|process| process.exit.is_none()) {
        if begun.elapsed() > PATIENCE {
            return Err("a child hangs".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    end
}

/// A folder, what fails in it, and the calls of its session.
struct Place {
    folder: tempfile::TempDir,
    calls: PathBuf,
}

impl Place {
    /// The session lies in `aside/fails`, what it calls in `aside`.
    fn new(aside: &Path) -> Place {
        let folder = tempfile::tempdir_in(aside.join("fails")).unwrap();
        let calls = aside.join("calls").with_extension(folder.path().file_name().unwrap());
        Place { folder, calls }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Runs the system to its end: what it said.
    fn life(&self, plan: &Plan) -> Result<String, String> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "whichever_write_fails_no_call_is_made_twice", "--nocapture"]);
        command.env(FOLDER, self.disk()).env(CALLS, &self.calls);
        plan.over(&mut command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        child.wait().unwrap();
        let said = |what: &str| Some(out.split_once(what)?.1.lines().next()?.to_string());
        match (said("it said: "), said("it failed: ")) {
            (Some(text), None) => Ok(text),
            (None, Some(why)) => Err(why),
            _ => panic!("{out}{err}"),
        }
    }

    /// Each call was made once at most, and what the journal tells of each process is whole; how many
    /// calls are said to be unknown.
    fn check(&self, context: &str) -> usize {
        let calls = std::fs::read_to_string(&self.calls).unwrap_or_default();
        let different: BTreeSet<&str> =
            calls.lines().map(|call| call.split(' ').next().unwrap()).collect();
        assert_eq!(calls.lines().count(), different.len(), "{context}: {calls}");
        assert!(different.len() <= 2, "{context}: {calls}");
        let disk = Sqlite::open(&self.disk()).unwrap();
        disk.verify().unwrap();
        let lives = yushan_kernel::journal::lives(&disk, 0).unwrap();
        let mut unknown = 0;
        for (pid, told) in &lives {
            let log = yushan_kernel::journal::log(&disk, *pid, 0).unwrap();
            let count = |is: fn(&Entry) -> bool| log.iter().filter(|one| is(&one.entry)).count();
            let said = count(|entry| matches!(entry, Entry::Said { .. }));
            let answered = count(|entry| matches!(entry, Entry::Answered { .. }));
            let context = format!("{context}: process {pid}: {log:#?}");
            assert!(told.life.exit.is_some(), "{context}");
            // Every answer follows from what was said before it, and the other way round.
            assert!(said.abs_diff(answered) <= 1, "{context}");
            if told.life.exit == Some(Exit::Done) {
                assert_eq!(said, answered + 1, "{context}");
            }
            let begun = count(|entry| matches!(entry, Entry::Began(_)));
            let over = count(|entry| matches!(entry, Entry::Exited(_)));
            assert_eq!((begun, over), (1, 1), "{context}");
            unknown += count(|entry| match entry {
                Entry::Answered { result, .. } => result.text().starts_with("unknown"),
                _ => false,
            });
        }
        unknown
    }
}

fn names_it(said: &str) -> bool {
    ["full", "disk I/O error", "nput/output error", "room"].iter().any(|word| said.contains(word))
}

/// What was remembered is recalled, or the process was told that it could not be kept.
fn is_right(text: &str) -> bool {
    text.contains("<- tea is hot") || (names_it(text) && text.contains("<nothing was found>"))
}

#[test]
fn whichever_write_fails_no_call_is_made_twice() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return match serve(Path::new(&folder)) {
            Ok(said) => println!("\nit said: {said}"),
            Err(why) => println!("\nit failed: {}", why.replace('\n', " ")),
        };
    }
    let begun = Instant::now();
    let ways =
        [How::Once, How::From].map(|how| [Error::NoSpace, Error::InputOutput].map(|e| (how, e)));
    std::thread::scope(|scope| {
        for &(how, error) in ways.as_flattened() {
            scope.spawn(move || {
                let aside = tempfile::tempdir().unwrap();
                let fails = aside.path().join("fails");
                std::fs::create_dir(&fails).unwrap();
                let plan = Plan::new(aside.path(), &fails);
                let (mut failed, mut unknown) = (0, 0);
                for k in 1.. {
                    let context = format!("{error:?} {how:?} at {k}");
                    let place = Place::new(aside.path());
                    // An empty one is there: that making one may fail is tested in `full_disk.rs`.
                    drop(Sqlite::open(&place.disk()).unwrap());
                    plan.arm(k, how, error);
                    let first = place.life(&plan);
                    let count = plan.count();
                    plan.disarm();
                    match &first {
                        Ok(text) => assert!(is_right(text), "{context}: {text}"),
                        Err(why) => assert!(names_it(why), "{context}: {why}"),
                    }
                    let again = place.life(&plan).unwrap_or_else(|why| panic!("{context}: {why}"));
                    assert!(again == "it was over" || is_right(&again), "{context}: {again}");
                    unknown += place.check(&context);
                    failed += usize::from(first.is_err());
                    if count < k {
                        assert!(first.is_ok() && failed > 0, "{context}: {first:?}");
                        eprintln!(
                            "{error:?} {how:?}: each of {} writes, {failed} sessions failed, \
                             {unknown} calls unknown, {} s",
                            k - 1,
                            begun.elapsed().as_secs()
                        );
                        break;
                    }
                }
            });
        }
    });
}
