//! The runtime: one thread that owns the engines and lets the core decide.
//!
//! A request is brought into tokens on the thread that asks; then everything that belongs to it lives
//! on the engine's thread: its tokens, its sequence, its writer, its sink. A turn of the loop takes
//! what others ask for, asks the core for a plan, runs the plan as one step of each engine, lets every
//! writer choose a token, and pushes what can be shown.
//!
//! The key decision: this is the only file of the crate that has threads and a clock, and it decides
//! nothing: who runs, who waits and who ends is the core's to say.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use yushan_abi::{
    Chunk, Complete, Counts, Event as Shown, Executor, ExecutorError, Finish, Flow, Label,
    Language, Logits, ModelInfo, Refusal, Request, Sink, Sources,
};

use crate::context::window;
use crate::core::{Action, Core, Event};
use crate::job::{Job, Turn};
use crate::process::{Budget, Exit, Pid, Process, Signal, Spawn};
use crate::scheduler::{Limits, Order, Scheduler};

/// Commands on their way to the engine's thread.
const COMMANDS: usize = 4096;

/// How often sinks that were full are asked again while nothing else happens.
const POLL: Duration = Duration::from_millis(2);

/// Rows of a chunk whose every position needs logits.
const SCORED_ROWS: usize = 32;

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

/// The engine's thread.
struct Runtime {
    core: Core,
    engines: BTreeMap<String, Box<dyn Executor>>,
    jobs: BTreeMap<Pid, Job>,
    most: usize,
    started: Instant,
}

impl Runtime {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut idle = true;
        loop {
            let waiting = self.jobs.values().any(|job| job.blocked);
            let first = match (idle, waiting) {
                (true, false) => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (true, true) => commands.recv_timeout(POLL),
                (false, _) => commands.try_recv().map_err(|error| match error {
                    mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
            };
            match first {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(command) => self.command(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Stop => return self.stop(),
                    command => self.command(command),
                }
            }
            self.poll_sinks();
            self.tell(Event::Tick);
            idle = !self.step();
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn stop(mut self) {
        for pid in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.tell(Event::Exit(pid, Exit::Killed));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(job, spawn, reply) => {
                let pid = self.core.next_pid();
                if self.core.alive() >= self.most {
                    let _ = reply.send(None);
                    return;
                }
                self.jobs.insert(pid, *job);
                let _ = reply.send(Some(pid));
                self.tell(Event::Spawn(spawn));
            }
            Command::Tell(event) => self.tell(event),
            Command::List(reply) => {
                let _ = reply.send(self.core.processes().cloned().collect());
            }
            Command::Stop => {}
        }
    }

    /// Tells the core what happened and does what it says.
    fn tell(&mut self, event: Event) {
        for action in self.core.apply(self.now(), event) {
            // Mail, waits and refusals are between processes that run programs of their own.
            if let Action::Release(pid, exit) = action {
                let finish = match exit {
                    Exit::Done => continue,
                    Exit::Killed => Ok(Finish::Cancelled),
                    Exit::Budget(budget) => Ok(Finish::Budget(budget)),
                    Exit::Failed(why) => Err(Refusal::Internal(why)),
                };
                self.release(pid, finish, Vec::new());
            }
        }
    }

    /// Frees what a process holds and shows its end.
    fn release(&mut self, pid: Pid, end: Result<Finish, Refusal>, calls: Vec<yushan_abi::Call>) {
        let Some(mut job) = self.jobs.remove(&pid) else { return };
        if let (Some(sequence), Some(engine)) = (job.sequence, self.engines.get_mut(&job.model)) {
            let _ = engine.release(sequence);
        }
        let counts = job.counts;
        job.show(match end {
            Ok(finish) => Shown::Done { finish, counts, calls },
            Err(refusal) => Shown::Failed(refusal),
        });
    }

    /// Lets those go on whose reader has room again, and ends those whose reader is gone.
    fn poll_sinks(&mut self) {
        let mut happened = Vec::new();
        for (&pid, job) in self.jobs.iter_mut().filter(|(_, job)| job.blocked) {
            match job.sink.is_ready() {
                Flow::More => {
                    job.blocked = false;
                    happened.push(Event::Blocked(pid, false));
                }
                Flow::Full => happened.push(Event::Blocked(pid, true)),
                Flow::Gone => happened.push(Event::Exit(pid, Exit::Killed)),
            }
        }
        happened.into_iter().for_each(|event| self.tell(event));
    }

    /// Runs one step of every engine that has rows; whether there was anything to do.
    fn step(&mut self) -> bool {
        let plan = self.core.plan(self.now());
        if plan.rows.is_empty() {
            return false;
        }
        let mut models: BTreeMap<String, Vec<(Pid, usize)>> = BTreeMap::new();
        for &(pid, rows) in &plan.rows {
            if let Some(job) = self.jobs.get(&pid) {
                models.entry(job.model.clone()).or_default().push((pid, rows));
            }
        }
        for (model, rows) in models {
            self.step_model(&model, rows);
        }
        true
    }

    fn step_model(&mut self, model: &str, planned: Vec<(Pid, usize)>) {
        let mut rows = Vec::with_capacity(planned.len());
        for (pid, count) in planned {
            match self.admit(pid, count) {
                Ok(0) => {}
                Ok(count) => rows.push((pid, count)),
                Err(error) => self.end(pid, Err(Refusal::Internal(error.to_string())), Vec::new()),
            }
        }
        while !rows.is_empty() {
            match self.run_rows(model, &rows) {
                Ok(turns) => {
                    turns.into_iter().for_each(|(pid, turn)| self.after(pid, turn));
                    return;
                }
                Err(ExecutorError::OutOfPages { .. }) => self.make_room(&mut rows),
                Err(error) => {
                    for (pid, _) in rows.drain(..) {
                        self.end(pid, Err(Refusal::Internal(error.to_string())), Vec::new());
                    }
                }
            }
        }
    }

    /// Opens a process's sequence if it has none; how many of the planned rows there are to run.
    fn admit(&mut self, pid: Pid, planned: usize) -> Result<usize, ExecutorError> {
        let Some(job) = self.jobs.get_mut(&pid) else { return Ok(0) };
        let Some(engine) = self.engines.get_mut(&job.model) else { return Ok(0) };
        let mut cached = 0;
        if job.sequence.is_none() {
            let admitted = engine.admit(&job.history)?;
            cached = admitted.cached;
            if job.scored && cached > 0 {
                // What came from the cache has no logits.
                engine.truncate(admitted.sequence, 0)?;
                cached = 0;
            }
            (job.sequence, job.fed) = (Some(admitted.sequence), cached);
            if job.counts.generated == 0 {
                job.counts.cached = cached;
                let counts = job.counts;
                job.show(Shown::Started(counts));
                if cached > 0 {
                    job.show_prompt(0, cached, None);
                }
            }
        }
        let most = if job.scored { SCORED_ROWS } else { usize::MAX };
        let rows = planned.min(job.history.len() - job.fed).min(most);
        if cached > 0 || rows < planned {
            self.tell(Event::Admitted { pid, cached, planned, run: rows });
        }
        Ok(rows)
    }

    fn run_rows(
        &mut self,
        model: &str,
        rows: &[(Pid, usize)],
    ) -> Result<Vec<(Pid, Turn)>, ExecutorError> {
        let Runtime { engines, jobs, .. } = self;
        let Some(engine) = engines.get_mut(model) else { return Ok(Vec::new()) };
        let mut batch = Vec::with_capacity(rows.len());
        for (pid, count) in rows {
            let job = &jobs[pid];
            let Some(sequence) = job.sequence else { continue };
            let tokens = &job.history[job.fed..job.fed + count];
            let last = job.fed + count == job.history.len();
            let logits = match (job.scored && job.fed < job.prompt, last) {
                (true, _) => Logits::All,
                (false, true) => Logits::Last,
                (false, false) => Logits::None,
            };
            batch.push(Chunk { sequence, tokens, logits });
        }
        let wanted: Vec<Logits> = batch.iter().map(|chunk| chunk.logits).collect();
        let output = engine.step(&batch)?;
        let (mut turns, mut row) = (Vec::new(), 0);
        for (&(pid, count), logits) in rows.iter().zip(wanted) {
            let Some(job) = jobs.get_mut(&pid) else { continue };
            let (from, to) = (job.fed, job.fed + count);
            job.fed = to;
            let scores = |at: usize| output.row(row + at).to_vec();
            match logits {
                Logits::All => job.show_prompt(from, to, Some(&scores)),
                _ if from < job.prompt => job.show_prompt(from, to, None),
                _ => {}
            }
            row += match logits {
                Logits::None => 0,
                Logits::Last => 1,
                Logits::All => count,
            };
            if to == job.history.len() {
                turns.push((pid, job.turn(output.row(row - 1))));
            }
        }
        Ok(turns)
    }

    /// After a token: goes on, or ends.
    fn after(&mut self, pid: Pid, turn: Turn) {
        match turn {
            Turn::On => self.tell(Event::Wrote(pid)),
            Turn::Over(finish, calls) => {
                // Shown first: what its last token costs cannot end it any more.
                self.release(pid, Ok(finish), calls);
                self.tell(Event::Wrote(pid));
                self.tell(Event::Exit(pid, Exit::Done));
            }
            Turn::Failed(refusal) => self.end(pid, Err(refusal), Vec::new()),
        }
    }

    fn end(&mut self, pid: Pid, end: Result<Finish, Refusal>, calls: Vec<yushan_abi::Call>) {
        let exit = match &end {
            Ok(_) => Exit::Done,
            Err(refusal) => Exit::Failed(refusal.to_string()),
        };
        self.release(pid, end, calls);
        self.tell(Event::Exit(pid, exit));
    }

    /// Takes the keys and values of the last in line: it will read its history again, from the cache
    /// as far as it is still there. One that does not fit alone ends.
    fn make_room(&mut self, rows: &mut Vec<(Pid, usize)>) {
        let holders = self.jobs.iter().filter(|(_, job)| job.sequence.is_some());
        let outside = holders.map(|(&pid, _)| pid).find(|pid| rows.iter().all(|row| row.0 != *pid));
        let victim =
            outside.or_else(|| (rows.len() > 1).then(|| rows.pop().map(|row| row.0)).flatten());
        let Some(pid) = victim else {
            if let Some((pid, _)) = rows.pop() {
                self.end(pid, Ok(Finish::ContextFull), Vec::new());
            }
            return;
        };
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        if let (Some(sequence), Some(engine)) =
            (job.sequence.take(), self.engines.get_mut(&job.model))
        {
            let _ = engine.release(sequence);
        }
        job.fed = 0;
        let pending = job.history.len();
        self.tell(Event::Evicted(pid, pending));
    }
}

/// Milliseconds since 1970.
pub fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
