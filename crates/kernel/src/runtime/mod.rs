//! The runtime: one thread that owns the engines and lets the core decide.
//!
//! A request is brought into tokens on the thread that asks; then everything that belongs to it lives
//! on the engine's thread: its tokens, its sequence, its writer, its sink. A turn of the loop takes
//! what others ask for, asks the core for a plan, runs the plan as one step of each engine, lets every
//! writer choose a token, and pushes what can be shown.
//!
//! The key decision: this is the only folder of the crate that has threads and a clock, and it decides
//! nothing: who runs, who waits and who ends is the core's to say.

mod begin;
mod bills;
mod calls;
mod children;
mod clerk;
mod engine;
mod invoke;
mod places;
mod programs;
pub mod replay;
mod seats;
mod shelf;
mod spoken;
mod step;
mod swap;
mod words;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use yushan_abi::{
    Complete, Disk, DiskError, Event as Shown, Executor, Finish, Index, Keep, Language, ModelInfo,
    Refusal, Request, Sink, Tool, ToolResult, ToolSpec,
};

use self::begin::Beginner;
use self::calls::Drivers;
use self::clerk::Clerk;
use self::engine::Runtime;
pub(crate) use self::places::Place;
use self::places::Places;
pub use self::seats::Seats;
pub(crate) use self::shelf::Lease;
use self::shelf::Models;
pub use self::shelf::{Shelf, Stock};
use self::spoken::Spoken;
use self::swap::Swap;
pub use self::swap::{SwapFile, Swapped};
use crate::billing::Billing;
use crate::card::Card;
use crate::core::{Core, Event};
use crate::job::{Fresh, Job};
use crate::journal::{self, Logged, Mark, Told};
use crate::life::{Entry, Life, Program};
use crate::process::{Exit, Pid, Price, Process, Signal, Spawn, Spent};
use crate::scheduler::{Limits, Order, Scheduler};
use crate::syscall::SystemCall;

/// Commands on their way to the engine's thread.
const COMMANDS: usize = 4096;

/// How often sinks that were full are asked again while nothing else happens.
const POLL: Duration = Duration::from_millis(2);

/// How often time passes for the core, and readers are looked for of those that hold no place in an engine.
const TICK: Duration = Duration::from_millis(10);

/// How the kernel runs.
pub struct Options {
    /// In which order processes are served.
    pub order: Order,
    /// Processes that decode at once.
    pub slots: usize,
    /// Rows of prefill beside decoding.
    pub prefill_beside: usize,
    /// Processes that may be alive; more are refused.
    pub most: usize,
    /// Bytes of memory for keys and values of processes that have no place in an engine.
    pub swap_bytes: u64,
    /// Where they go beyond that; without it they are computed again.
    pub swap_file: Option<SwapFile>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            order: Order::Fair,
            slots: 8,
            prefill_beside: 64,
            most: 1024,
            swap_bytes: 256 << 20,
            swap_file: None,
        }
    }
}

/// A model that is in memory.
pub struct Loaded {
    /// What it is.
    pub info: ModelInfo,
    /// Its text side.
    pub language: Arc<dyn Language>,
    /// Its engine.
    pub executor: Box<dyn Executor>,
}

/// What a system has beside its models.
#[derive(Clone, Default)]
pub struct World {
    /// Where the journal is kept; without it, nothing outlives the system.
    pub disk: Option<Arc<dyn Disk>>,
    /// Where `remember` and `recall` keep and look; without it they are refused.
    pub index: Option<Arc<dyn Index>>,
    /// What processes can be allowed to call.
    pub tools: Vec<Arc<dyn Tool>>,
    /// What tokens cost.
    pub price: Price,
    /// Who is charged for what programs use; without it, nobody is.
    pub billing: Option<Arc<dyn Billing>>,
}

/// What a user says to a process that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// The answer to a question.
    Text(String),
    /// Whether the call of this key may be made.
    Allow(String, bool),
}

/// What others ask of the engine's thread.
enum Command {
    /// Whoever waits is told when the process is durable.
    Start(Box<Job>, Box<Spawn>, Option<SyncSender<Result<Pid, Refusal>>>),
    /// All that go on after the system stopped, how many milliseconds each has lived, and its reader.
    Resume(Vec<(Life, u64, Box<dyn Sink>)>),
    Behind(Pid),
    /// A child that was over before the system stopped.
    Ended(Box<Life>),
    Tell(Event, SyncSender<Result<bool, Refusal>>),
    /// By whom, and what.
    Says(Pid, String, Says, SyncSender<Result<(), Refusal>>),
    Mail(Pid, String, String, SyncSender<Result<(), Refusal>>),
    /// Of whom.
    Cards(String, SyncSender<Vec<Card>>),
    /// By whom, which, and whether.
    Decide(String, String, bool, SyncSender<Result<(), Refusal>>),
    Look(Pid, SyncSender<Option<Life>>),
    /// A model was loaded.
    Add(String, Box<dyn Executor>),
    /// A model that no process uses is given up.
    Remove(String, SyncSender<Option<Box<dyn Executor>>>),
    List(SyncSender<Vec<Process>>),
    /// What was noted last of a process is durable.
    GoOn(Pid),
    /// It could not be noted.
    Unnoted(Pid, DiskError),
    /// A turn can begin.
    Fresh(Pid, Result<Box<Fresh>, Refusal>),
    /// The spaces of its tools were copied for the fork that this key names.
    Forked(Pid, String),
    /// A tool has answered the call of this key.
    Answered(Pid, String, ToolResult),
    /// The swap file has done something.
    Swapped(swap::Answer),
    Stop,
}

/// The running system.
pub struct Kernel {
    commands: SyncSender<Command>,
    seats: Arc<Mutex<Seats>>,
    spoken: Arc<Mutex<Spoken>>,
    beginner: Beginner,
    clerk: Clerk,
    world: World,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Kernel {
    /// Starts the engine's thread with these models and no others, and nothing beside them.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub fn start(loaded: Vec<Loaded>, options: Options) -> Kernel {
        Kernel::start_in(World::default(), loaded, options)
    }

    /// Starts the engine's thread with these models and no others. [`Kernel::resume`] brings back the
    /// processes of the journal.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub fn start_in(world: World, loaded: Vec<Loaded>, options: Options) -> Kernel {
        Kernel::with_stock(world, loaded, Stock::none(), options)
    }

    /// As [`Kernel::start_in`]; these models stay until their memory is needed, and others are loaded
    /// from a shelf when they are asked for.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub fn with_stock(world: World, loaded: Vec<Loaded>, stock: Stock, options: Options) -> Kernel {
        let held =
            loaded.iter().map(|model| (model.info.clone(), model.language.clone())).collect();
        let rows = loaded.iter().map(|model| model.executor.max_rows()).min().unwrap_or(1);
        let Options { slots, prefill_beside, .. } = options;
        let limits = Limits { slots: slots.max(1), rows, prefill_beside };
        let (commands, receiver) = mpsc::sync_channel(COMMANDS);
        let seats = Arc::<Mutex<Seats>>::default();
        let spoken = Arc::<Mutex<Spoken>>::default();
        let engines = loaded.into_iter().map(|model| (model.info.name, model.executor)).collect();
        let models = Models::new(held, stock, commands.clone());
        let clerk = Clerk::start(world.disk.clone(), commands.clone());
        let beginner = Beginner {
            commands: commands.clone(),
            models,
            places: Places::new(options.most),
            price: world.price,
            parent: None,
            billing: world.billing.clone(),
        };
        let runtime = Runtime {
            core: Core::new(Scheduler::new(options.order, limits)),
            engines,
            jobs: BTreeMap::new(),
            swap: Swap::new(options.swap_bytes, options.swap_file, commands.clone()),
            seats: seats.clone(),
            spoken: spoken.clone(),
            most: options.most,
            started: Instant::now(),
            beginner: beginner.clone(),
            drivers: Drivers::new(&world.tools),
            world: world.clone(),
            clerk: clerk.clone(),
            commands: commands.clone(),
            outcomes: BTreeMap::new(),
            later: Vec::new(),
            soon: std::collections::VecDeque::new(),
            issued: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || runtime.run(&receiver))
            .expect("a thread for the engine");
        Kernel { commands, seats, spoken, beginner, clerk, world, thread: Mutex::new(Some(thread)) }
    }

    /// All processes, those that ended lately too.
    pub fn processes(&self) -> Vec<Process> {
        self.ask(Command::List).unwrap_or_default()
    }

    /// What the engines hold and what was swapped out, as of the last step; waits for nobody.
    pub fn seats(&self) -> Seats {
        *self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine's thread runs.
    pub fn is_alive(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Sends a signal to a process; whether there is one that could take it. On return it is durable;
    /// if it cannot be, the process has ended.
    pub fn signal(&self, pid: Pid, signal: Signal) -> Result<bool, Refusal> {
        self.told(Event::Signal(pid, signal))
    }

    /// Gives a process another weight, as durably as [`Kernel::signal`].
    pub fn nice(&self, pid: Pid, class: yushan_abi::Class, weight: u32) -> Result<bool, Refusal> {
        self.told(Event::Nice(pid, class, weight))
    }

    fn told(&self, event: Event) -> Result<bool, Refusal> {
        self.ask(|reply| Command::Tell(event, reply)).unwrap_or_else(|| Err(stopped()))
    }

    /// Brings back the processes that the journal tells of and that are not over; how many. `sinks`
    /// gives each a reader, and `None` to one that nobody wants any more: it ends. Those that have a
    /// key and ended before their reader can have heard of it are shown to it, too. If it cannot say who wants one,
    /// none comes back, and all do at the next start.
    pub fn resume(
        &self,
        sinks: impl FnMut(&Life) -> Result<Option<Box<dyn Sink>>, DiskError>,
    ) -> Result<usize, DiskError> {
        let Some(disk) = self.world.disk.as_deref() else { return Ok(0) };
        let mark = Mark::read(disk)?;
        let lives = journal::lives(disk, mark.from)?;
        let last = lives.keys().last().map_or(mark.last, |pid| pid.0.max(mark.last));
        self.send(Command::Behind(Pid(last)));
        let mut back = Vec::new();
        let from = self.ask_for_readers(&lives, sinks, &mut back).inspect_err(|_| {
            for (_, sink) in &mut back {
                sink.push(Shown::Failed(stopped()));
            }
        })?;
        let count = back.len();
        let back = back.into_iter().map(|(told, sink)| {
            let lived = told.times.1.saturating_sub(told.times.0);
            (told.life.clone(), lived, sink)
        });
        self.send(Command::Resume(back.collect()));
        let next = lives.values().map(|told| told.first).max().map_or(mark.from, |first| first + 1);
        // Without it the next start only reads more.
        let _ = Mark { from: from.min(next), last }.write(disk, clock());
        Ok(count)
    }

    /// Finds those that go on, with their readers, shows the others their ends; from where on the journal is needed.
    fn ask_for_readers<'a>(
        &self,
        lives: &'a BTreeMap<Pid, Told>,
        mut sinks: impl FnMut(&Life) -> Result<Option<Box<dyn Sink>>, DiskError>,
        back: &mut Vec<(&'a Told, Box<dyn Sink>)>,
    ) -> Result<u64, DiskError> {
        let orphan = |life: &Life| {
            let parent = life.program.parent.and_then(|parent| lives.get(&parent));
            life.program.parent.is_some() && parent.is_none_or(|told| told.life.exit.is_some())
        };
        let mut from = u64::MAX;
        for told in lives.values() {
            let life = &told.life;
            if life.exit.is_some() {
                if life.program.parent.is_some() {
                    self.send(Command::Ended(Box::new(life.clone())));
                } else if !life.program.key.is_empty()
                    && let Some(sink) = sinks(life)?
                {
                    // Shown at the next start too, if it was not kept by then.
                    from = from.min(told.first);
                    show_end(life, sink);
                }
                continue;
            }
            if !self.beginner.models.knows(&life.program.request.model) {
                // It waits in the journal for a start with its model.
                from = from.min(told.first);
                continue;
            }
            match if orphan(life) { None } else { sinks(life)? } {
                Some(sink) => {
                    from = from.min(told.first);
                    back.push((told, sink));
                }
                // What cannot be noted now is at the next start.
                None => {
                    if self.clerk.wait(vec![(life.pid, Entry::Exited(Exit::Killed))]).is_err() {
                        from = from.min(told.first);
                    }
                }
            }
        }
        Ok(from)
    }

    /// The journal of a process behind the record of number `after`; 0: from its beginning.
    pub fn log(&self, pid: Pid, after: u64) -> Result<Vec<Logged>, DiskError> {
        match self.world.disk.as_deref() {
            Some(disk) => journal::log(disk, pid, after),
            None => Ok(Vec::new()),
        }
    }

    /// A user answers a process that asked.
    pub fn says(&self, pid: Pid, user: &str, says: Says) -> Result<(), Refusal> {
        let user = user.to_string();
        self.ask(|reply| Command::Says(pid, user, says, reply)).unwrap_or_else(|| Err(stopped()))
    }

    /// The cards of a user's processes that wait for a word of the user's. Each can be answered once, while it is
    /// not stale; a stale one is made out anew here.
    pub fn cards(&self, user: &str) -> Vec<Card> {
        self.ask(|reply| Command::Cards(user.to_string(), reply)).unwrap_or_default()
    }

    /// A user allows or forbids the call of one card, named by its hash. On return it is durable.
    pub fn decide(&self, user: &str, hash: &str, allow: bool) -> Result<(), Refusal> {
        let (user, hash) = (user.to_string(), hash.to_string());
        self.ask(|reply| Command::Decide(user, hash, allow, reply))
            .unwrap_or_else(|| Err(stopped()))
    }

    /// Sends a message of a user to a process.
    pub fn mail(&self, pid: Pid, user: &str, text: String) -> Result<(), Refusal> {
        let user = user.to_string();
        self.ask(|reply| Command::Mail(pid, user, text, reply)).unwrap_or_else(|| Err(stopped()))
    }

    /// Whether there is such a model, in memory or on the shelf. May read a disk.
    pub fn knows(&self, model: &str) -> bool {
        self.beginner.models.knows(model)
    }

    /// Whether what a program uses of this model is charged here, so that nobody else needs to. May
    /// read a disk.
    pub fn bills(&self, model: &str) -> bool {
        self.world.billing.is_some() && self.knows(model)
    }

    /// What a process with a program that is alive has been told and has said.
    pub fn look(&self, pid: Pid) -> Option<Life> {
        self.ask(|reply| Command::Look(pid, reply)).flatten()
    }

    /// Starts a process with a program. On return it is durable.
    pub fn spawn(&self, mut program: Program, sink: Box<dyn Sink>) -> Result<Pid, Refusal> {
        for name in program.capabilities.keys() {
            let tool = self.world.tools.iter().find(|tool| tool.spec().name == *name);
            let spec = SystemCall::spec(name).or_else(|| tool.map(|tool| tool.spec().clone()));
            let spec = spec.ok_or_else(|| Refusal::Invalid {
                field: "tools".into(),
                detail: format!("there is no tool {name:?}; expected one of {}", self.tools()),
            })?;
            program.request.tools.retain(|other| other.name != *name);
            program.request.tools.push(spec);
        }
        if let Some(check) = &program.check
            && !program.capabilities.contains_key(&check.tool)
        {
            let detail = format!("needs the tool {:?} among those that may be called", check.tool);
            return Err(Refusal::Invalid { field: "check".into(), detail });
        }
        if program.title.is_empty() {
            program.title = title(&program.request);
        }
        let life = Life::new(Pid(0), program);
        let (job, spawn) = self.beginner.prepared(&life.request(), sink, Some(life), None)?;
        self.ask(|reply| Command::Start(job, spawn, Some(reply))).unwrap_or_else(|| Err(stopped()))
    }

    /// Tells all tools that the space `to` begins as a copy of `from`. May block.
    ///
    /// # Errors
    /// What the first tool says that could not copy its part.
    pub fn fork_space(&self, from: &str, to: &str) -> Result<(), String> {
        self.world.tools.iter().try_for_each(|tool| tool.forked(from, to))
    }

    /// All that a process can be allowed to call, the system's own first.
    pub fn tool_specs(&self) -> Vec<ToolSpec> {
        let own = SystemCall::NAMES.into_iter().filter_map(SystemCall::spec);
        own.chain(self.world.tools.iter().map(|tool| tool.spec().clone())).collect()
    }

    /// The names of all tools that a process can be allowed to call, the system's own first.
    pub fn tools(&self) -> String {
        let own = SystemCall::NAMES.into_iter().map(String::from);
        let others = self.world.tools.iter().map(|tool| tool.spec().name.clone());
        own.chain(others).collect::<Vec<_>>().join(", ")
    }

    /// Asks the engine's thread; `None` if it has ended.
    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.commands.send(command(reply)).ok()?;
        answer.recv().ok()
    }

    fn send(&self, command: Command) {
        // The thread ends with the kernel alone.
        let _ = self.commands.send(command);
    }
}

fn stopped() -> Refusal {
    Refusal::Stopping
}

/// Tells a reader that was not there what became of a process.
fn show_end(life: &Life, mut sink: Box<dyn Sink>) {
    let (counts, calls) = (life.counts, life.open.iter().cloned().collect());
    let finish = match life.exit.clone() {
        Some(Exit::Budget(of) | Exit::Quota(of)) => Finish::Budget(of),
        Some(Exit::Killed) => Finish::Cancelled,
        _ => life.finish.clone().unwrap_or(Finish::End),
    };
    sink.push(Shown::Started(counts));
    sink.push(Shown::Text { text: life.text.clone(), logprob: None });
    sink.push(match life.exit.clone() {
        Some(Exit::Failed(why)) => Shown::Failed(Refusal::Internal(why)),
        _ => Shown::Done { finish, counts, calls },
    });
}

/// A life as the process table has it.
fn spawn_of(life: &Life, price: Price) -> Spawn {
    let Program { parent, title, request, budget, .. } = &life.program;
    Spawn {
        parent: *parent,
        title: title.clone(),
        model: request.model.clone(),
        tenant: request.tenant.clone(),
        class: request.class,
        weight: request.weight,
        budget: *budget,
        price,
        spent: Spent::default(),
        label: life.label.clone(),
        prompt: 0,
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Kernel {
    /// Ends the engine's thread. Processes with a journal go on after the next start; their readers hear
    /// that the system stops.
    pub fn stop(&self) {
        self.beginner.models.stop();
        let _ = self.commands.send(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        // Everything that was noted before is durable then.
        let _ = self.clerk.wait(Vec::new());
    }
}

impl Complete for Kernel {
    fn complete(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refusal> {
        match &request.durable {
            // Its thread is not held until the engine's next turn.
            None => {
                let (job, spawn) = self.beginner.prepared(&request, sink, None, None)?;
                self.commands.send(Command::Start(job, spawn, None)).map_err(|_| stopped())
            }
            Some(key) => {
                let key = key.clone();
                self.spawn(Program { key, ..Program::new(request) }, sink).map(|_| ())
            }
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.beginner.models.list()
    }

    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal> {
        Ok(self.beginner.models.lease(model)?.language.clone())
    }

    fn ready(&self, model: &str) -> Result<(), Refusal> {
        self.beginner.models.lease(model).map(drop)
    }

    fn keep(&self, model: &str, keep: Keep) -> bool {
        self.beginner.models.keep(model, keep)
    }
}

/// The beginning of what was asked, for lists.
fn title(request: &Request) -> String {
    let text = match &request.prompt {
        yushan_abi::Prompt::Chat(messages) => messages.last().map(|m| m.text()).unwrap_or_default(),
        yushan_abi::Prompt::Text(text) => text.clone(),
        yushan_abi::Prompt::Tokens(tokens) => format!("{} tokens", tokens.len()),
        yushan_abi::Prompt::Infill { prefix, .. } => prefix.clone(),
    };
    let plain = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    plain.take(60).collect()
}

/// Milliseconds since 1970.
pub fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
