//! Processes with programs: system calls, the gate, and the journal that they go on from.

mod bills;
mod calls;
mod family;
mod journal;
mod paper;
#[path = "../scripted/mod.rs"]
mod scripted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use paper::{Paper, Tally, Till};
use scripted::{Part, model};
use yushan_abi::*;
use yushan_kernel::gate::Capability;
use yushan_kernel::journal::Logged;
use yushan_kernel::life::Mode;
use yushan_kernel::syscall::SystemCall;
use yushan_kernel::{
    Budget, Entry, Exit, Kernel, Options, Payer, Pid, Program, Says, State, World,
};

/// A session with everything in it: children, calls, memory.
const SESSION: &str = "look {\"to\":1};write {\"to\":\"x\"};spawn {\"task\":\"look {\\\"to\\\":2}\",\
    \"tools\":[\"look\"]};wait {\"pid\":2};remember {\"text\":\"x\"};recall {\"query\":\"x\"};";

struct System {
    kernel: Kernel,
    paper: Paper,
    till: Arc<Till>,
    read: Arc<Tally>,
    write: Arc<Tally>,
}

fn system(part: Part, paper: Paper) -> System {
    let read = Tally::new("look", Effect::Read, Sources::WEB);
    let write = Tally::new("write", Effect::Write, Sources::CODE);
    let till = Arc::new(Till::default());
    let world = World {
        billing: Some(till.clone()),
        disk: Some(Arc::new(paper.clone())),
        index: Some(Arc::new(paper.clone())),
        tools: vec![read.clone(), write.clone()],
        ..World::default()
    };
    let kernel = Kernel::start_in(world, vec![model(part)], Options::default());
    System { kernel, paper, till, read, write }
}

fn payer(tenant: &str) -> Payer {
    Payer { tenant: tenant.into(), account: "k".into() }
}

fn program(task: &str) -> Program {
    let label = Label::of(Sources::USER).for_reader("ann");
    let prompt = Prompt::Chat(vec![Message::new(Role::User, task, label)]);
    let request = Request::new("m", prompt);
    let mut program =
        Program::new(Request { tenant: "ann".into(), account: "k".into(), ..request });
    let all = SystemCall::NAMES.into_iter().chain(["look", "write"]);
    program.capabilities = all.map(|name| (name.into(), Capability::default())).collect();
    program.attended = true;
    program
}

fn start(kernel: &Kernel, program: Program) -> (Pid, Receiver<Event>) {
    let (sender, receiver) = channel();
    (kernel.spawn(program, Box::new(sender)).expect("begins"), receiver)
}

/// What it said, and how it ended.
fn end(events: &Receiver<Event>) -> (String, Event) {
    let mut text = String::new();
    loop {
        match events.recv_timeout(Duration::from_secs(20)).expect("it ends") {
            Event::Text { text: more, .. } => text += &more,
            last @ (Event::Done { .. } | Event::Failed(_)) => return (text, last),
            _ => {}
        }
    }
}

fn said(kernel: &Kernel, program: Program) -> String {
    let (text, last) = end(&start(kernel, program).1);
    assert!(matches!(last, Event::Done { finish: Finish::End, .. }), "{last:?}");
    text
}

fn last(messages: &[Message]) -> String {
    messages.last().map(Message::text).unwrap_or_default()
}

fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it never happens");
        std::thread::yield_now();
    }
}

/// Makes the calls of the task one turn after the other, then says the last answer.
fn caller(messages: &[Message]) -> String {
    let task = messages.iter().find(|message| message.role == Role::User).unwrap().text();
    let turns = messages.iter().filter(|message| message.role == Role::Assistant).count();
    match task.split(';').nth(turns) {
        Some(call) if !call.is_empty() => format!("hm|{call}"),
        _ => last(messages),
    }
}

/// Tokens read and written, in all turns that the records tell of.
fn spent(records: &[Record]) -> (usize, usize) {
    let entries = records.iter().map(|record| serde_json::from_str(&record.body).unwrap());
    entries.fold((0, 0), |(read, written), entry| match entry {
        Entry::Said { counts, .. } => (read + counts.prompt, written + counts.generated),
        _ => (read, written),
    })
}

fn figures(counts: Counts) -> [usize; 3] {
    [counts.prompt, counts.cached, counts.generated]
}
