//! The runtime: one thread that owns the engines and lets the core decide.
//!
//! A request is brought into tokens on the thread that asks; then everything that belongs to it lives
//! on the engine's thread: its tokens, its sequence, its writer, its sink. A turn of the loop takes
//! what others ask for, asks the core for a plan, runs the plan as one step of each engine, lets every
//! writer choose a token, and pushes what can be shown.
//!
//! The key decision: this is the only folder of the crate that has threads and a clock, and it decides
//! nothing: who runs, who waits and who ends is the core's to say.

mod engine;
mod seats;
mod step;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use yushan_abi::{
    Complete, Counts, Executor, Label, Language, ModelInfo, Refusal, Request, Sink, Sources,
};

use self::engine::Runtime;
use crate::context::window;
use crate::core::{Core, Event};
use crate::job::Job;
use crate::process::{Budget, Pid, Price, Process, Signal, Spawn, Spent};
use crate::scheduler::{Limits, Order, Scheduler};

/// Commands on their way to the engine's thread.
const COMMANDS: usize = 4096;

/// How often sinks that were full are asked again while nothing else happens.
const POLL: Duration = Duration::from_millis(2);

/// How the kernel runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// In which order processes are served.
    pub order: Order,
    /// Processes that decode at once.
    pub slots: usize,
    /// Rows of prefill beside decoding.
    pub prefill_beside: usize,
    /// Processes that may be alive; more are refused.
    pub most: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { order: Order::Fair, slots: 8, prefill_beside: 64, most: 1024 }
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

/// What others ask of the engine's thread.
enum Command {
    Start(Box<Job>, Box<Spawn>, SyncSender<Option<Pid>>),
    Tell(Event),
    List(SyncSender<Vec<Process>>),
    Stop,
}

/// The running system.
pub struct Kernel {
    commands: SyncSender<Command>,
    models: BTreeMap<String, (ModelInfo, Arc<dyn Language>)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Kernel {
    /// Starts the engine's thread with these models.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub fn start(loaded: Vec<Loaded>, options: Options) -> Kernel {
        let models = loaded
            .iter()
            .map(|model| (model.info.name.clone(), (model.info.clone(), model.language.clone())))
            .collect();
        let rows = loaded.iter().map(|model| model.executor.max_rows()).min().unwrap_or(1);
        let limits = Limits {
            slots: options.slots.clamp(1, rows),
            rows,
            prefill_beside: options.prefill_beside,
        };
        let (commands, receiver) = mpsc::sync_channel(COMMANDS);
        let engines = loaded.into_iter().map(|model| (model.info.name, model.executor)).collect();
        let runtime = Runtime {
            core: Core::new(Scheduler::new(options.order, limits)),
            engines,
            jobs: BTreeMap::new(),
            most: options.most,
            started: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || runtime.run(&receiver))
            .expect("a thread for the engine");
        Kernel { commands, models, thread: Mutex::new(Some(thread)) }
    }

    /// All processes, those that ended lately too.
    pub fn processes(&self) -> Vec<Process> {
        let (reply, answer) = mpsc::sync_channel(1);
        match self.commands.send(Command::List(reply)) {
            Ok(()) => answer.recv().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Sends a signal to a process; whether there is one that could take it.
    pub fn signal(&self, pid: Pid, signal: Signal) -> bool {
        self.tell(pid, Event::Signal(pid, signal))
    }

    /// Gives a process another weight.
    pub fn nice(&self, pid: Pid, class: yushan_abi::Class, weight: u32) -> bool {
        self.tell(pid, Event::Nice(pid, class, weight))
    }

    fn tell(&self, pid: Pid, event: Event) -> bool {
        let alive =
            self.processes().iter().any(|process| process.pid == pid && process.exit.is_none());
        alive && self.commands.send(Command::Tell(event)).is_ok()
    }

    fn model(&self, name: &str) -> Result<&(ModelInfo, Arc<dyn Language>), Refusal> {
        self.models.get(name).ok_or_else(|| Refusal::NoModel(name.into()))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Complete for Kernel {
    fn complete(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refusal> {
        let (info, language) = self.model(&request.model)?;
        let limit = info.context;
        let window = window(language.as_ref(), &request, limit)?;
        let writer = language.begin(&request, &window.tokens)?;
        let prompt = window.tokens.len();
        let scored = request.echo && request.logprobs.is_some();
        let job = Job {
            model: request.model.clone(),
            prompt,
            history: window.tokens,
            fed: 0,
            sequence: None,
            writer,
            sink,
            counts: Counts { limit, prompt, dropped: window.dropped, ..Counts::default() },
            most: request.max_tokens.unwrap_or(usize::MAX),
            echo: request.echo,
            scored,
            calls: 0,
            blocked: false,
        };
        let user = request.tenant.clone();
        let spawn = Spawn {
            parent: None,
            title: title(&request),
            model: request.model,
            label: Label::of(Sources::USER).for_reader(user.clone()),
            tenant: user,
            class: request.class,
            weight: request.weight,
            budget: Budget::default(),
            price: Price::default(),
            spent: Spent::default(),
            prompt,
        };
        let (reply, answer) = mpsc::sync_channel(1);
        let stopped = || Refusal::Internal("the kernel has stopped".into());
        let start = Command::Start(Box::new(job), Box::new(spawn), reply);
        self.commands.send(start).map_err(|_| stopped())?;
        match answer.recv().map_err(|_| stopped())? {
            Some(_) => Ok(()),
            None => Err(Refusal::Busy { after_ms: 1000 }),
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.models.values().map(|(info, _)| info.clone()).collect()
    }

    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal> {
        Ok(self.model(model)?.1.clone())
    }
}

/// The beginning of what was asked, for lists.
fn title(request: &Request) -> String {
    let text = match &request.prompt {
        yushan_abi::Prompt::Chat(messages) => messages.last().map(|m| m.text()).unwrap_or_default(),
        yushan_abi::Prompt::Text(text) => text.clone(),
        yushan_abi::Prompt::Tokens(tokens) => format!("{} tokens", tokens.len()),
    };
    let plain = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    plain.take(60).collect()
}

/// Milliseconds since 1970.
pub fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
