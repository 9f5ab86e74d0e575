//! Overload, measured at the client: what those who are let in notice of ten times more requests than can be served.
//!
//! `cargo run --release -p yushan --example holds -- MODEL.gguf [SECONDS]`
//!
//! The whole system in this process, 8 slots, at most 12 alive. First the capacity: eight clients that ask again
//! as soon as they are answered. Then Poisson arrivals for SECONDS (60) each, at 0.8 of the capacity and at ten times
//! the capacity; a request reads 32 tokens and writes 32. Printed: time to the first token of those that were let
//! in, time until 429 of the others, the most that were alive, and memory at the end of each.

#[path = "beside/client.rs"]
mod client;
#[path = "beside/host.rs"]
mod host;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use client::{Answer, Random, ask, completion, quantile};
use host::Host;
use yushan_abi::{Executor, ModelInfo};
use yushan_kernel::{Loaded, Options};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options as EngineOptions};
use yushan_model::language::ModelLanguage;

const SLOTS: usize = 8;
const MOST: usize = 12;
const PROMPT: usize = 32;
const TOKENS: usize = 32;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: holds MODEL.gguf [SECONDS]")?;
    let seconds: f64 = arguments.next().map_or(Ok(60.0), |text| text.parse())?;
    let host = start(Path::new(&path))?;
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let capacity = clients.block_on(capacity(&host, (seconds / 6.0).min(10.0)));
    println!("capacity {capacity:.1} requests/s; {MOST} may be alive, {SLOTS} of them write");
    println!(
        "{:>9} {:>7} {:>20} {:>7} {:>20} {:>6} {:>9}",
        "requests",
        "let in",
        "first token p50 p95",
        "refused",
        "429 after p50 p99",
        "alive",
        "memory"
    );
    for rate in [0.8 * capacity, 10.0 * capacity] {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let watch = {
            let (stop, most, kernel) = (stop.clone(), most.clone(), host.kernel.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let alive = kernel.processes().iter().filter(|p| p.exit.is_none()).count();
                    most.fetch_max(alive, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        };
        let answers = clients.block_on(arrivals(&host, rate, seconds))?;
        stop.store(true, Ordering::Relaxed);
        let _ = watch.join();
        let (mut firsts, mut refusals) = (Vec::new(), Vec::new());
        for answer in &answers {
            match (answer.status(), answer.header("retry-after")) {
                (200, _) if answer.read().is_some_and(|read| read.2 == TOKENS as u64) => {
                    firsts.push(1e3 * answer.times.1.as_secs_f64());
                }
                (429, Some(_)) => refusals.push(1e3 * answer.times.2.as_secs_f64()),
                (status, _) => return Err(format!("{status}: {}", answer.body()).into()),
            }
        }
        println!(
            "{:>9} {:>7} {:>8.0} {:>8.0} ms {:>7} {:>8.1} {:>8.1} ms {:>6} {:>6.1} MB",
            answers.len(),
            firsts.len(),
            quantile(&mut firsts, 0.5),
            quantile(&mut firsts, 0.95),
            refusals.len(),
            quantile(&mut refusals, 0.5),
            quantile(&mut refusals, 0.99),
            most.load(Ordering::Relaxed),
            resident(),
        );
    }
    Ok(())
}

fn start(path: &Path) -> Result<Host, Failure> {
    let file = ModelFile::open(path)?;
    let language = ModelLanguage::new(&file, Arc::new(file.tokenizer(None)?))?;
    let options = EngineOptions { sequences: MOST, context: 512, ..EngineOptions::for_file(&file) };
    let engine = Engine::load(&file, &options)?;
    let info =
        ModelInfo { name: "model".into(), context: engine.context(), ..ModelInfo::default() };
    let loaded = Loaded { info, language: Arc::new(language), executor: Box::new(engine) };
    let options = Options { slots: SLOTS, most: MOST, ..Options::default() };
    Ok(Host::start(vec![loaded], options)?)
}

/// Requests a second when as many as there are slots ask again and again.
async fn capacity(host: &Host, seconds: f64) -> f64 {
    let (address, begun) = (host.address, Instant::now());
    let clients: Vec<_> = (0..SLOTS)
        .map(|at| {
            tokio::spawn(async move {
                let (mut random, mut answered) = (Random(at as u64), 0);
                while begun.elapsed().as_secs_f64() < seconds {
                    let body = completion("model", PROMPT, TOKENS, &mut random);
                    answered += usize::from(ask(address, &body, None).await.is_ok());
                }
                answered
            })
        })
        .collect();
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap_or(0);
    }
    answered as f64 / begun.elapsed().as_secs_f64()
}

/// Requests that come whether or not others are answered.
async fn arrivals(host: &Host, rate: f64, seconds: f64) -> Result<Vec<Answer>, Failure> {
    let (address, begun) = (host.address, Instant::now());
    let (mut random, mut next, mut asked) = (Random(3), 0.0, Vec::new());
    while next < seconds {
        next += random.wait(1.0 / rate);
        let until = begun + Duration::from_secs_f64(next);
        tokio::time::sleep_until(until.into()).await;
        let body = completion("model", PROMPT, TOKENS, &mut random);
        asked.push(tokio::spawn(async move { ask(address, &body, None).await }));
    }
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await??);
    }
    Ok(answers)
}

/// Megabytes that this process has in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}
