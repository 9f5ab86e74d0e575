//! What a call of a tool costs without the tool's own work.
//!
//! `cargo run --release -p yushan --example calls [CALLS]`
//!
//! The real kernel and the real disk around a model that is a script and a tool that does nothing. Timed is each way
//! alone: from the end of the model's turn (its last token is chosen) to the tool's first instruction, and from its last
//! to the model's next step: parsing, schema, loop guard, gate, the intent and the result in the journal, threads. A
//! process whose budget bounds its calls is a durable one; it writes to the disk twice in each call. Printed are quantiles of
//! the sum, with the journal on a disk and without one.

#[path = "../../kernel/tests/scripted/mod.rs"]
mod scripted;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use yushan_abi::{
    Admitted, Chunk, Disk, Effect, Event, Executor, ExecutorError, Invocation, Label, Message,
    Prompt, Request, Role, SequenceId, Sources, StepOutput, TokenId, Tool, ToolResult, ToolSpec,
    Usage,
};
use yushan_disk::Sqlite;
use yushan_kernel::gate::Capability;
use yushan_kernel::{Budget, Kernel, Options, Program, World};

/// Calls of one process: it is told of all that were made before, so many of them would time the script.
const TOGETHER: usize = 20;

/// What happened, in order.
static MARKS: Mutex<Vec<(Mark, Instant)>> = Mutex::new(Vec::new());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The model is asked for a token.
    Step,
    /// It gave one.
    Turn,
    /// The tool begins.
    Entered,
    /// It is done.
    Left,
}

fn mark(mark: Mark) {
    let now = Instant::now();
    MARKS.lock().unwrap_or_else(PoisonError::into_inner).push((mark, now));
}

/// Does nothing.
struct Nothing(ToolSpec);

impl Tool for Nothing {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn call(&self, _: &Invocation<'_>) -> ToolResult {
        mark(Mark::Entered);
        let result = ToolResult::new("done", Label::of(Sources::CODE));
        mark(Mark::Left);
        result
    }
}

/// An executor whose steps are seen.
struct Watched(Box<dyn Executor>);

impl Executor for Watched {
    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }
    fn context(&self) -> usize {
        self.0.context()
    }
    fn max_rows(&self) -> usize {
        self.0.max_rows()
    }
    fn admit(&mut self, tenant: &str, prompt: &[TokenId]) -> Result<Admitted, ExecutorError> {
        self.0.admit(tenant, prompt)
    }
    fn fork(&mut self, parent: SequenceId) -> Result<SequenceId, ExecutorError> {
        self.0.fork(parent)
    }
    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<StepOutput<'_>, ExecutorError> {
        mark(Mark::Step);
        let output = self.0.step(batch);
        mark(Mark::Turn);
        output
    }
    fn pooled(&self, sequence: SequenceId) -> Result<Vec<f32>, ExecutorError> {
        self.0.pooled(sequence)
    }
    fn truncate(&mut self, sequence: SequenceId, length: usize) -> Result<(), ExecutorError> {
        self.0.truncate(sequence, length)
    }
    fn length(&self, sequence: SequenceId) -> Result<usize, ExecutorError> {
        self.0.length(sequence)
    }
    fn release(&mut self, sequence: SequenceId) -> Result<(), ExecutorError> {
        self.0.release(sequence)
    }
    fn save(&self, sequence: SequenceId) -> Result<Vec<u8>, ExecutorError> {
        self.0.save(sequence)
    }
    fn restore(&mut self, tenant: &str, saved: &[u8]) -> Result<SequenceId, ExecutorError> {
        self.0.restore(tenant, saved)
    }
    fn usage(&self) -> Usage {
        self.0.usage()
    }
}

/// Calls until it was answered often enough.
fn part(messages: &[Message]) -> String {
    let answered = messages.iter().filter(|message| message.role == Role::Tool).count();
    match answered {
        TOGETHER => "over".into(),
        _ => format!("|nothing {{\"number\": {answered}}}"),
    }
}

fn main() -> Result<()> {
    let calls = match std::env::args().nth(1) {
        Some(calls) => calls.parse().context("expected the number of calls")?,
        None => 2000,
    };
    let folder = tempfile::tempdir()?;
    println!("{:<10} {:>8} {:>8} {:>8} {:>8}  µs", "journal", "p50", "p90", "p99", "most");
    for (name, disk) in
        [("none", None), ("disk", Some(Arc::new(Sqlite::open(folder.path())?) as Arc<dyn Disk>))]
    {
        let mut costs = measured(disk, calls)?;
        costs.sort();
        let at = |per_mille: usize| {
            costs[(costs.len() * per_mille / 1000).min(costs.len() - 1)].as_secs_f64() * 1e6
        };
        let (half, tenth, hundredth, most) = (at(500), at(900), at(990), at(1000));
        println!("{name:<10} {half:>8.0} {tenth:>8.0} {hundredth:>8.0} {most:>8.0}");
    }
    Ok(())
}

fn measured(disk: Option<Arc<dyn Disk>>, calls: usize) -> Result<Vec<Duration>> {
    let properties = json!({"number": {"type": "integer", "minimum": 0}});
    let schema = json!({"type": "object", "properties": properties, "required": ["number"], "additionalProperties": false});
    let tool = Nothing(ToolSpec {
        name: "nothing".into(),
        description: String::new(),
        schema,
        effect: Effect::Read,
        roles: [("number".into(), yushan_abi::ParamRole::Opaque)].into(),
    });
    let world = World { disk, tools: vec![Arc::new(tool)], ..World::default() };
    let mut model = scripted::model(part);
    model.executor = Box::new(Watched(model.executor));
    let kernel = Kernel::start_in(world, vec![model], Options::default());
    let mut costs = Vec::with_capacity(calls);
    while costs.len() < calls {
        MARKS.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let label = Label::of(Sources::USER).for_reader("ann");
        let prompt = Prompt::Chat(vec![Message::new(Role::User, "go on", label)]);
        let request = Request { tenant: "ann".into(), ..Request::new("m", prompt) };
        let mut program = Program::new(request);
        program.capabilities.insert("nothing".into(), Capability::default());
        program.budget = Budget { calls: Some(1000), ..Budget::default() };
        let (sender, receiver) = channel();
        kernel.spawn(program, Box::new(sender))?;
        for event in receiver {
            match event {
                Event::Failed(refusal) => return Err(refusal.into()),
                Event::Done { .. } => break,
                _ => {}
            }
        }
        let marks = MARKS.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, _) in marks.iter().enumerate().filter(|(_, (mark, _))| *mark == Mark::Entered) {
            let (Some(turn), Some(left), Some(step)) =
                (marks[..at].last(), marks.get(at + 1), marks.get(at + 2))
            else {
                bail!("a call without an end");
            };
            if (turn.0, left.0, step.0) != (Mark::Turn, Mark::Left, Mark::Step) {
                bail!("a call in another order: {:?}", [turn.0, left.0, step.0]);
            }
            costs.push((marks[at].1 - turn.1) + (step.1 - left.1));
        }
    }
    Ok(costs)
}
