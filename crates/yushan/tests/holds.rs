//! What the system holds: a thousand streams with slow readers among them, a thousand readers that go away, and far
//! more requests than it takes. A tiny model with real pages, the real kernel, and the real server over
//! loopback; nothing here is about speed.

mod folder;

#[path = "../examples/beside/client.rs"]
mod client;
#[path = "../examples/beside/host.rs"]
mod host;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{Answer, Random, ask, post};
use host::Host;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use yushan_abi::*;
use yushan_kernel::{Kernel, Loaded, Options};
use yushan_model::ModelFile;
use yushan_model::engine::Engine;
use yushan_model::language::ModelLanguage;

/// What can be seen of an engine from outside.
#[derive(Clone, Default)]
struct Seen {
    usage: Arc<Mutex<Usage>>,
    steps: Arc<AtomicU64>,
}

impl Seen {
    fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// Waits until nothing is held.
    fn wait_until_free(&self) {
        let begun = Instant::now();
        loop {
            let usage = *self.usage.lock().unwrap();
            if (usage.sequences, usage.pages_live) == (0, 0) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "still held: {usage:?}");
            std::thread::yield_now();
        }
    }
}

/// An engine that tells.
struct Watched(Engine, Seen);

impl Watched {
    fn tell(&self) {
        *self.1.usage.lock().unwrap() = self.0.usage();
    }
}

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
        let admitted = self.0.admit(tenant, prompt);
        self.tell();
        admitted
    }
    fn fork(&mut self, parent: SequenceId) -> Result<SequenceId, ExecutorError> {
        self.0.fork(parent)
    }
    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<StepOutput<'_>, ExecutorError> {
        self.1.steps.fetch_add(1, Ordering::SeqCst);
        self.0.step(batch)
    }
    fn pooled(&self, sequence: SequenceId) -> Result<Vec<f32>, ExecutorError> {
        self.0.pooled(sequence)
    }
    fn save(&self, sequence: SequenceId) -> Result<Vec<u8>, ExecutorError> {
        self.0.save(sequence)
    }
    fn restore(&mut self, tenant: &str, saved: &[u8]) -> Result<SequenceId, ExecutorError> {
        let restored = self.0.restore(tenant, saved);
        self.tell();
        restored
    }
    fn truncate(&mut self, sequence: SequenceId, length: usize) -> Result<(), ExecutorError> {
        self.0.truncate(sequence, length)
    }
    fn length(&self, sequence: SequenceId) -> Result<usize, ExecutorError> {
        self.0.length(sequence)
    }
    fn release(&mut self, sequence: SequenceId) -> Result<(), ExecutorError> {
        let released = self.0.release(sequence);
        self.tell();
        released
    }
    fn usage(&self) -> Usage {
        self.0.usage()
    }
}

/// The tiny model, ready for a kernel, with room for `slots` conversations.
fn loaded(slots: usize) -> (Loaded, Seen) {
    let folder = folder::folder();
    let file = ModelFile::open(&folder.path().join("model.gguf")).unwrap();
    let language = ModelLanguage::new(&file, Arc::new(file.tokenizer(None).unwrap())).unwrap();
    let options = yushan_model::engine::Options {
        threads: 1,
        sequences: slots,
        rows: 64,
        ..yushan_model::engine::Options::for_file(&file)
    };
    let engine = Engine::load(&file, &options).unwrap();
    let seen = Seen::default();
    let info =
        ModelInfo { name: "model".into(), context: engine.context(), ..ModelInfo::default() };
    let executor = Box::new(Watched(engine, seen.clone()));
    (Loaded { info, language: Arc::new(language), executor }, seen)
}

fn host(slots: usize, most: usize) -> (Host, Seen) {
    let (loaded, seen) = loaded(slots * 2);
    (Host::start(vec![loaded], Options { slots, most, ..Options::default() }).unwrap(), seen)
}

fn clients() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn body(prompt: &str, tokens: usize) -> Value {
    json!({
        "model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": true,
        "stream_options": {"include_usage": true}, "logit_bias": {"2": -100},
    })
}

/// Asks for all at once.
fn ask_all(host: &Host, asked: Vec<(Value, Option<Duration>)>) -> Vec<Answer> {
    let (clients, address) = (clients(), host.address);
    let asked: Vec<_> = asked
        .into_iter()
        .map(|(body, slow)| clients.spawn(async move { ask(address, &body, slow).await }))
        .collect();
    let answers = asked.into_iter().map(|answer| clients.block_on(answer).unwrap().unwrap());
    answers.collect()
}

/// Megabytes that this process has in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

/// One test at a time: they look at the memory of the process that they share.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn a_thousand_streams_get_what_each_would_alone_and_memory_stays() {
    let _alone = alone();
    let (host, seen) = host(8, 1024);
    let prompts: Vec<String> = (0..20).map(|at| format!("tale {at}: once")).collect();
    let alone: BTreeMap<&str, String> = prompts
        .iter()
        .map(|prompt| {
            let (text, ..) = ask_all(&host, vec![(body(prompt, 120), None)])[0].read().unwrap();
            (prompt.as_str(), text)
        })
        .collect();
    let mut memory = Vec::new();
    for _ in 0..5 {
        let asked = (0..1000).map(|at| {
            let slow = (at % 10 == 0).then_some(Duration::from_millis(3));
            (body(&prompts[at % 20], if slow.is_some() { 120 } else { 8 }), slow)
        });
        for (at, answer) in ask_all(&host, asked.collect()).into_iter().enumerate() {
            let tokens = if at % 10 == 0 { 120 } else { 8 };
            let (text, _, written) = answer.read().unwrap_or_else(|| panic!("{}", answer.body()));
            let whole = &alone[prompts[at % 20].as_str()];
            assert_eq!(written, tokens, "{text:?}");
            assert!(whole.starts_with(&text), "{text:?} is not how {whole:?} begins");
        }
        seen.wait_until_free();
        memory.push(resident());
    }
    // Until the third wave buffers and the allocator's arenas find their size.
    eprintln!("memory after each wave: {memory:?} MB");
    assert!(memory[4] < memory[2] + 24.0, "memory grows: {memory:?} MB");
}

/// What a reader that can go away has seen.
#[derive(Default)]
struct Reader {
    gone: AtomicBool,
    /// The step in which it went, and whether the process had its place then.
    went: AtomicU64,
    seated: AtomicBool,
    /// The step in which its process let go of it, plus one.
    let_go: AtomicU64,
}

struct Leaves(Arc<Reader>, Seen);

impl Leaves {
    fn flow(&self) -> Flow {
        if self.0.gone.load(Ordering::SeqCst) { Flow::Gone } else { Flow::More }
    }
}

impl Sink for Leaves {
    fn push(&mut self, _: Event) -> Flow {
        if !self.0.gone.load(Ordering::SeqCst) {
            self.0.seated.store(true, Ordering::SeqCst);
        }
        self.flow()
    }

    fn is_ready(&mut self) -> Flow {
        self.flow()
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.let_go.store(self.1.steps() + 1, Ordering::SeqCst);
    }
}

#[test]
fn a_thousand_readers_that_go_free_slot_and_pages_within_one_step() {
    let _alone = alone();
    let (loaded, seen) = loaded(16);
    let kernel = Kernel::start(vec![loaded], Options { slots: 8, ..Options::default() });
    let seed = 11;
    println!("seed {seed}");
    let (mut random, mut seated) = (Random(seed), 0);
    for _ in 0..20 {
        let mut readers: Vec<Arc<Reader>> = Vec::new();
        for _ in 0..50 {
            let reader = Arc::new(Reader::default());
            // Up to seven steps of prefill, then far more tokens than are waited for.
            let prompt = (0..1 + random.next() % 400).map(|_| 3 + (random.next() % 300) as u32);
            let request = Request {
                max_tokens: Some(1000),
                sampling: Sampling { logit_bias: vec![(2, -100.0)], ..Sampling::default() },
                ..Request::new("model", Prompt::Tokens(prompt.collect()))
            };
            let sink = Leaves(reader.clone(), seen.clone());
            kernel.complete(request, Box::new(sink)).unwrap();
            readers.push(reader);
        }
        while !readers.is_empty() {
            let reader = readers.swap_remove(random.next() as usize % readers.len());
            let until = seen.steps() + random.next() % 4;
            while seen.steps() < until {
                std::thread::yield_now();
            }
            // First the step, then that it is gone: what is counted can only be too much.
            reader.went.store(seen.steps(), Ordering::SeqCst);
            let had_place = reader.seated.load(Ordering::SeqCst);
            reader.gone.store(true, Ordering::SeqCst);
            let begun = Instant::now();
            while had_place && reader.let_go.load(Ordering::SeqCst) == 0 {
                assert!(begun.elapsed() < Duration::from_secs(30), "it was not let go");
                std::thread::yield_now();
            }
            if had_place {
                seated += 1;
                let steps = reader.let_go.load(Ordering::SeqCst) - 1;
                let steps = steps - reader.went.load(Ordering::SeqCst);
                // The one that was being prepared, and one that may have begun before it was marked.
                assert!(steps <= 2, "{steps} steps later");
            }
        }
        seen.wait_until_free();
    }
    assert!(seated > 100, "too few had begun: {seated}");
    let alive = || kernel.processes().iter().filter(|process| process.exit.is_none()).count();
    let begun = Instant::now();
    while alive() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} are still alive", alive());
    }
}

#[test]
fn connections_that_break_at_any_point_leave_nothing_behind() {
    let _alone = alone();
    let (host, seen) = host(4, 1024);
    let (clients, address) = (clients(), host.address);
    let mut random = Random(5);
    for _ in 0..4 {
        let broken: Vec<_> = (0..50)
            .map(|at| {
                let mut body = body(&"word ".repeat(1 + random.next() as usize % 60), 500);
                body["stream"] = (at % 2 == 0).into();
                if at % 2 == 1 {
                    body.as_object_mut().unwrap().remove("stream_options");
                }
                let pause = Duration::from_millis(random.next() % 60);
                clients.spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    stream.write_all(post(&body).as_bytes()).await.unwrap();
                    tokio::time::sleep(pause).await;
                })
            })
            .collect();
        broken.into_iter().for_each(|one| clients.block_on(one).unwrap());
        let alive =
            || host.kernel.processes().iter().filter(|process| process.exit.is_none()).count();
        let begun = Instant::now();
        while alive() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{} are still alive", alive());
        }
        seen.wait_until_free();
    }
}

#[test]
fn far_too_many_are_refused_and_those_that_were_let_in_end_as_they_should() {
    let _alone = alone();
    const MOST: usize = 12;
    let (host, seen) = host(4, MOST);
    let (alone, ..) = ask_all(&host, vec![(body("once", 40), None)])[0].read().unwrap();
    let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watch = {
        let (stop, longest, kernel) = (stop.clone(), longest.clone(), host.kernel.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let alive = kernel.processes().iter().filter(|p| p.exit.is_none()).count();
                longest.fetch_max(alive, Ordering::SeqCst);
            }
        })
    };
    let answers = ask_all(&host, (0..10 * MOST).map(|_| (body("once", 40), None)).collect());
    stop.store(true, Ordering::SeqCst);
    watch.join().unwrap();
    let (mut ended, mut refused) = (0, 0);
    for answer in answers {
        match answer.status() {
            200 => {
                assert_eq!(answer.read().map(|read| read.0), Some(alone.clone()));
                ended += 1;
            }
            429 => {
                assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.body());
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body()),
        }
    }
    assert!(ended >= MOST && refused > 0, "{ended} ended, {refused} refused");
    assert!(longest.load(Ordering::SeqCst) <= MOST, "{longest:?} were alive");
    seen.wait_until_free();
}
