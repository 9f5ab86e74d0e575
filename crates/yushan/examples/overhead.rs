//! What a token costs above the engine: processor time of everything that is not the model.
//!
//! `cargo run --release -p yushan --example overhead -- MODEL.gguf [STREAMS…]`
//!
//! The real kernel, text side, server and sockets around an executor that only waits: a step takes 3 ms and answers
//! with logits that were made before, so that every token is chosen, decoded, written as an event and sent by itself,
//! as beside a real engine. Meanwhile two processes of the lowest priority keep both processors awake, as an engine's
//! threads would. Counted is the processor time of the kernel's thread and of the server's, as the operating system
//! tells it, while all streams write. What waiting itself costs a thread is measured first, and left out; so is
//! the clients' own time.
//!
//! How much of it the operating system takes is measured too: two bare threads of which one wakes the other every 3 ms, which
//! then writes 200 bytes to a socket. Nothing that has a thread for the engine and one for sockets can cost less.

#[path = "beside/client.rs"]
mod client;
#[path = "beside/host.rs"]
mod host;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use client::{Random, ask, completion};
use host::Host;
use yushan_abi::{
    Admitted, Chunk, Executor, ExecutorError, Logits, ModelInfo, SequenceId, StepOutput, TokenId,
    Usage,
};
use yushan_kernel::{Loaded, Options};
use yushan_model::ModelFile;
use yushan_model::language::ModelLanguage;

const STEP: Duration = Duration::from_millis(3);
const CONTEXT: usize = 1024;
const PROMPT: usize = 16;
const TOKENS: usize = 512;
/// Different rows of logits: few enough to lie in a cache, as rows do that were computed just before.
const ROWS: usize = 36;
/// Bytes of an event with a token.
const EVENT: [u8; 200] = [b'x'; 200];

/// Waits, and answers with the next of its rows.
struct Waits {
    logits: Vec<f32>,
    vocabulary: usize,
    next: u64,
    lengths: BTreeMap<SequenceId, usize>,
}

impl Waits {
    fn new(vocabulary: usize) -> Waits {
        let mut random = Random(1);
        let mut logits: Vec<f32> =
            (0..ROWS * vocabulary).map(|_| (random.next() >> 40) as f32 / 1e6).collect();
        for row in 0..ROWS {
            logits[row * vocabulary + 1000 + random.next() as usize % 20_000] = 100.0;
        }
        Waits { logits, vocabulary, next: 0, lengths: BTreeMap::new() }
    }
}

impl Executor for Waits {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn context(&self) -> usize {
        CONTEXT
    }

    fn max_rows(&self) -> usize {
        512
    }

    fn admit(&mut self, _: &str, _: &[TokenId]) -> Result<Admitted, ExecutorError> {
        self.next += 1;
        self.lengths.insert(SequenceId(self.next), 0);
        Ok(Admitted { sequence: SequenceId(self.next), cached: 0 })
    }

    fn fork(&mut self, parent: SequenceId) -> Result<SequenceId, ExecutorError> {
        Err(ExecutorError::UnknownSequence(parent))
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<StepOutput<'_>, ExecutorError> {
        std::thread::sleep(STEP);
        let mut rows = 0;
        for chunk in batch {
            *self.lengths.entry(chunk.sequence).or_default() += chunk.tokens.len();
            rows += usize::from(chunk.logits == Logits::Last);
        }
        self.next += 1;
        let first = self.next as usize % (ROWS - rows) * self.vocabulary;
        Ok(StepOutput::new(&self.logits[first..first + rows * self.vocabulary], self.vocabulary))
    }

    fn pooled(&self, sequence: SequenceId) -> Result<Vec<f32>, ExecutorError> {
        Err(ExecutorError::UnknownSequence(sequence))
    }

    fn save(&self, sequence: SequenceId) -> Result<Vec<u8>, ExecutorError> {
        Err(ExecutorError::UnknownSequence(sequence))
    }

    fn restore(&mut self, _: &str, _: &[u8]) -> Result<SequenceId, ExecutorError> {
        Err(ExecutorError::UnknownSequence(SequenceId(0)))
    }

    fn truncate(&mut self, sequence: SequenceId, length: usize) -> Result<(), ExecutorError> {
        self.lengths.insert(sequence, length);
        Ok(())
    }

    fn length(&self, sequence: SequenceId) -> Result<usize, ExecutorError> {
        self.lengths.get(&sequence).copied().ok_or(ExecutorError::UnknownSequence(sequence))
    }

    fn release(&mut self, sequence: SequenceId) -> Result<(), ExecutorError> {
        self.lengths.remove(&sequence);
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage { sequences: self.lengths.len(), ..Usage::default() }
    }
}

/// Nanoseconds that a thread has run.
fn ran(path: impl AsRef<Path>) -> u64 {
    let times = std::fs::read_to_string(path).unwrap_or_default();
    times.split(' ').next().and_then(|ran| ran.parse().ok()).unwrap_or(0)
}

/// Nanoseconds that threads of each name have run.
fn spent() -> std::io::Result<BTreeMap<String, u64>> {
    let mut spent = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        let name = std::fs::read_to_string(path.join("comm"))?;
        *spent.entry(name.trim().to_string()).or_default() += ran(path.join("schedstat"));
    }
    Ok(spent)
}

/// Nanoseconds that it costs a thread to wait for a step.
fn waiting() -> std::io::Result<f64> {
    const STEPS: u32 = 500;
    let waits = || (0..STEPS).for_each(|_| std::thread::sleep(STEP));
    let thread = std::thread::Builder::new().name("waiting".into()).spawn(move || {
        waits();
        // A thread that has just slept is told its time so far.
        ran("/proc/thread-self/schedstat")
    })?;
    Ok(thread.join().unwrap_or(0) as f64 / f64::from(STEPS))
}

/// Nanoseconds that two bare threads take for a token: one that steps and wakes, one that writes.
fn floor(waiting: f64) -> std::io::Result<f64> {
    const STEPS: u32 = 500;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut socket = std::net::TcpStream::connect(listener.local_addr()?)?;
    socket.set_nodelay(true)?;
    let (mut reader, _) = listener.accept()?;
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let (send, receive) = std::sync::mpsc::channel();
    let steps = std::thread::spawn(move || {
        for _ in 0..STEPS {
            std::thread::sleep(STEP);
            let _ = send.send(()); // the other ends when this does
        }
        ran("/proc/thread-self/schedstat")
    });
    let writes = std::thread::spawn(move || {
        while receive.recv().is_ok() && socket.write_all(&EVENT).is_ok() {}
        ran("/proc/thread-self/schedstat")
    });
    let both = steps.join().unwrap_or(0) + writes.join().unwrap_or(0);
    Ok(both as f64 / f64::from(STEPS) - waiting)
}

/// A process that never sleeps and makes way for every other.
struct Awake(Child);

impl Awake {
    fn start() -> std::io::Result<Awake> {
        let mut command = Command::new("nice");
        Ok(Awake(command.args(["-n", "19", "sh", "-c", "while :; do :; done"]).spawn()?))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: overhead MODEL.gguf [STREAMS…]")?;
    let mut streams: Vec<usize> = arguments.map(|n| n.parse()).collect::<Result<_, _>>()?;
    if streams.is_empty() {
        streams = vec![1, 4, 8, 32];
    }
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("client")
        .enable_all()
        .build()?;
    let _awake = [Awake::start()?, Awake::start()?];
    let waiting = waiting()?;
    println!("a wait costs {:.1} µs", waiting / 1e3);
    println!("two bare threads cost {:.1} µs a token", floor(waiting)? / 1e3);
    println!("{:>7} {:>15} {:>15} {:>15}", "streams", "kernel µs/token", "server µs/token", "both");
    for streams in streams {
        let file = ModelFile::open(Path::new(&path))?;
        let language = Arc::new(ModelLanguage::new(&file, Arc::new(file.tokenizer(None)?))?);
        let executor = Box::new(Waits::new(file.config().vocabulary));
        let info = ModelInfo { name: "model".into(), context: CONTEXT, ..ModelInfo::default() };
        let options = Options { slots: streams, ..Options::default() };
        let host = Host::start(vec![Loaded { info, language, executor }], options)?;
        let mut random = Random(7);
        let before = spent()?;
        let asked: Vec<_> = (0..streams)
            .map(|_| {
                let mut body = completion("model", PROMPT, TOKENS, &mut random);
                // What is chosen here ends nothing.
                body["logit_bias"] = serde_json::json!({});
                let address = host.address;
                clients.spawn(async move { ask(address, &body, None).await })
            })
            .collect();
        let mut tokens = 0;
        for answer in asked {
            let answer = clients.block_on(answer)??;
            let (.., written) = answer.read().ok_or_else(|| answer.body())?;
            tokens += written;
        }
        let after = spent()?;
        let each = |name: &str| {
            let of = |times: &BTreeMap<String, u64>| times.get(name).copied().unwrap_or(0);
            (of(&after) - of(&before)) as f64 / 1e3 / tokens as f64
        };
        let steps = (TOKENS + 1) as f64;
        let (kernel, server) =
            (each("kernel") - waiting * steps / 1e3 / tokens as f64, each("server"));
        println!("{streams:>7} {kernel:>15.1} {server:>15.1} {:>15.1}", kernel + server);
    }
    Ok(())
}
