//! Fairness, measured: four long agents and a Poisson stream of short requests, under three orders.
//!
//! `cargo run --release -p yushan --example fairness -- MODEL.gguf [SECONDS]`
//!
//! Each order gets the same arrivals (seeded). Printed: the time to the first token of the short requests
//! (median and 95th percentile), Jain's index of the agents' tokens, and all tokens a second. Agents that end
//! begin anew, so that there are always four.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use yushan_abi::{Class, Complete, Event, Executor, ModelInfo, Prompt, Request, Sampling};
use yushan_kernel::{Kernel, Loaded, Options, Order};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options as EngineOptions};
use yushan_model::language::ModelLanguage;

const AGENTS: usize = 4;
const AGENT_TOKENS: usize = 400;
const SHORT_TOKENS: usize = 16;
const SHORT_PROMPT: u64 = 32;
/// Seconds between short requests, on average.
const BETWEEN: f64 = 0.6;

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Exponentially distributed with this mean.
    fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - (self.next() >> 11) as f64 / (1_u64 << 53) as f64).ln()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: fairness MODEL.gguf [SECONDS]")?;
    let seconds: f64 = arguments.next().map_or(Ok(20.0), |text| text.parse())?;
    println!(
        "{:<12} {:>9} {:>9} {:>8} {:>7} {:>9}",
        "order", "TTFT p50", "TTFT p95", "shorts", "Jain", "tokens/s"
    );
    for order in [Order::Fair, Order::Fifo, Order::RoundRobin] {
        let kernel = start(Path::new(&path), order)?;
        let (mut waits, agents, tokens) = live(&kernel, seconds)?;
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| {
            waits.get((share * waits.len() as f64) as usize).map_or(f64::NAN, |w| 1e3 * w)
        };
        let (sum, squares) = agents.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        println!(
            "{:<12} {:>6.0} ms {:>6.0} ms {:>8} {:>7.3} {:>9.1}",
            format!("{order:?}"),
            at(0.5),
            at(0.95),
            waits.len(),
            sum * sum / (agents.len() as f64 * squares),
            tokens as f64 / seconds,
        );
    }
    Ok(())
}

fn start(path: &Path, order: Order) -> Result<Kernel, Box<dyn std::error::Error>> {
    let file = ModelFile::open(path)?;
    let tokenizer = Arc::new(file.tokenizer(None)?);
    let options = EngineOptions { sequences: 64, context: 640, ..EngineOptions::for_file(&file) };
    let engine = Engine::load(&file, &options)?;
    let info =
        ModelInfo { name: "model".into(), context: engine.context(), ..ModelInfo::default() };
    let language = Arc::new(ModelLanguage::new(&file, tokenizer)?);
    let loaded = Loaded { info, language, executor: Box::new(engine) };
    Ok(Kernel::start(vec![loaded], Options { order, slots: AGENTS, ..Options::default() }))
}

fn ask(
    kernel: &Kernel,
    random: &mut Random,
    class: Class,
    tokens: usize,
) -> Result<Receiver<Event>, yushan_abi::Refusal> {
    let prompt = (0..SHORT_PROMPT).map(|_| 3 + (random.next() % 2000) as u32).collect();
    let (sender, receiver) = channel();
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request {
        class,
        max_tokens: Some(tokens),
        sampling,
        ..Request::new("model", Prompt::Tokens(prompt))
    };
    kernel.complete(request, Box::new(sender))?;
    Ok(receiver)
}

/// Seconds to the first token of every short request, tokens of every agent, and tokens in all.
fn live(kernel: &Kernel, seconds: f64) -> Result<(Vec<f64>, Vec<f64>, usize), yushan_abi::Refusal> {
    let mut random = Random(7);
    let mut agents = Vec::new();
    for _ in 0..AGENTS {
        agents.push(ask(kernel, &mut random, Class::Agent, AGENT_TOKENS)?);
    }
    let (start, mut next) = (Instant::now(), random.wait(BETWEEN));
    let mut shorts: Vec<(Instant, Receiver<Event>, bool)> = Vec::new();
    let (mut waits, mut written, mut tokens) = (Vec::new(), vec![0.0; AGENTS], 0);
    while start.elapsed().as_secs_f64() < seconds {
        if start.elapsed().as_secs_f64() >= next {
            next += random.wait(BETWEEN);
            shorts.push((
                Instant::now(),
                ask(kernel, &mut random, Class::Interactive, SHORT_TOKENS)?,
                false,
            ));
        }
        for (at, agent) in agents.iter_mut().enumerate() {
            while let Ok(event) = agent.try_recv() {
                match event {
                    Event::Text { .. } => (written[at], tokens) = (written[at] + 1.0, tokens + 1),
                    Event::Done { .. } => {
                        *agent = ask(kernel, &mut random, Class::Agent, AGENT_TOKENS)?;
                        break;
                    }
                    _ => {}
                }
            }
        }
        for (asked, short, seen) in &mut shorts {
            while let Ok(event) = short.try_recv() {
                if matches!(event, Event::Text { .. }) {
                    tokens += 1;
                    if !std::mem::replace(seen, true) {
                        waits.push(asked.elapsed().as_secs_f64());
                    }
                }
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    // Those that never saw a token waited at least so long.
    waits.extend(
        shorts.iter().filter(|short| !short.2).map(|short| short.0.elapsed().as_secs_f64()),
    );
    Ok((waits, written, tokens))
}
