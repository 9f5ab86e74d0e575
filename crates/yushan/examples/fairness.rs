//! Fairness, measured: four long agents and a Poisson stream of short requests, under three orders.
//!
//! `cargo run --release -p yushan --example fairness -- MODEL.gguf [SECONDS] [ROUNDS]`
//!
//! Each order gets the same arrivals and prompts (seeded), one order after the other in each round. Printed: the time to the first token of the short requests
//! (median and 95th percentile), how many were begun, Jain's index of the agents' tokens, tokens written a
//! second, tokens read and written a second (an order that makes short requests wait reads fewer prompts in
//! the same time), and how many processes lost their places. Agents that end begin anew, so that there are
//! always four.

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
    let path = arguments.next().ok_or("usage: fairness MODEL.gguf [SECONDS] [ROUNDS]")?;
    let seconds: f64 = arguments.next().map_or(Ok(20.0), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    println!(
        "{:<12} {:>9} {:>9} {:>7} {:>6} {:>9} {:>13} {:>7}",
        "order", "TTFT p50", "TTFT p95", "shorts", "Jain", "written/s", "read+written", "swaps"
    );
    let orders = [Order::Fair, Order::Fifo, Order::RoundRobin];
    let mut all = vec![Vec::new(); orders.len()];
    for _ in 0..rounds.max(1) {
        for (order, figures) in orders.iter().zip(&mut all) {
            let kernel = start(Path::new(&path), *order)?;
            let mut seen = live(&kernel, seconds)?;
            seen.waits.sort_by(f64::total_cmp);
            let (sum, squares) =
                seen.agents.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
            let figure = Figures {
                p95: seen.wait(0.95),
                written: seen.written as f64 / seconds,
                both: (seen.read + seen.written) as f64 / seconds,
            };
            println!(
                "{:<12} {:>6.0} ms {:>6.0} ms {:>3}/{:>3} {:>6.3} {:>9.1} {:>13.1} {:>7}",
                format!("{order:?}"),
                seen.wait(0.5),
                figure.p95,
                seen.begun,
                seen.waits.len(),
                sum * sum / (seen.agents.len() as f64 * squares),
                figure.written,
                figure.both,
                kernel.seats().swapped.out,
            );
            figures.push(figure);
        }
    }
    let [fair, fifo, turns] = [0, 1, 2].map(|at| Figures::median(&all[at]));
    println!(
        "medians: p95 {:.1} x better than FIFO and {:.1} x than round robin; tokens written {:+.1} %, \
         read and written {:+.1} % against FIFO",
        fifo.p95 / fair.p95,
        turns.p95 / fair.p95,
        100.0 * (fair.written / fifo.written - 1.0),
        100.0 * (fair.both / fifo.both - 1.0),
    );
    Ok(())
}

/// What one order reached in one round: milliseconds, and tokens a second.
#[derive(Clone, Copy)]
struct Figures {
    p95: f64,
    written: f64,
    both: f64,
}

impl Figures {
    /// The median of each, over the rounds.
    fn median(all: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = all.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Figures { p95: of(|f| f.p95), written: of(|f| f.written), both: of(|f| f.both) }
    }
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

/// What was seen of one order.
#[derive(Default)]
struct Seen {
    /// Seconds to the first token of each short request.
    waits: Vec<f64>,
    /// Tokens that each agent wrote.
    agents: Vec<f64>,
    /// Short requests whose first token came.
    begun: usize,
    /// Tokens that all wrote.
    written: usize,
    /// Tokens of the prompts of those that wrote.
    read: usize,
}

impl Seen {
    /// Milliseconds that this share of the short requests waited at most, once they are sorted.
    fn wait(&self, share: f64) -> f64 {
        let at = (share * self.waits.len() as f64) as usize;
        self.waits.get(at).map_or(f64::NAN, |wait| 1e3 * wait)
    }
}

/// One request, and what came of it.
struct Asked {
    at: Instant,
    events: Receiver<Event>,
    written: usize,
}

impl Asked {
    fn new(events: Receiver<Event>) -> Asked {
        Asked { at: Instant::now(), events, written: 0 }
    }

    /// Counts what has come; whether it is over.
    fn look(&mut self, seen: &mut Seen) -> bool {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Text { .. } => {
                    if self.written == 0 {
                        seen.read += SHORT_PROMPT as usize;
                    }
                    (self.written, seen.written) = (self.written + 1, seen.written + 1);
                }
                Event::Done { .. } | Event::Failed(_) => return true,
                _ => {}
            }
        }
        false
    }
}

/// Lets agents and short requests live for so many seconds.
fn live(kernel: &Kernel, seconds: f64) -> Result<Seen, yushan_abi::Refusal> {
    // Agents that begin anew take nothing from what decides when short requests come.
    let (mut random, mut others) = (Random(7), Random(8));
    let mut agent = || ask(kernel, &mut others, Class::Agent, AGENT_TOKENS).map(Asked::new);
    let mut agents = (0..AGENTS).map(|_| agent()).collect::<Result<Vec<_>, _>>()?;
    let mut seen = Seen { agents: vec![0.0; AGENTS], ..Seen::default() };
    let (start, mut next) = (Instant::now(), random.wait(BETWEEN));
    let mut shorts = Vec::new();
    while start.elapsed().as_secs_f64() < seconds {
        if start.elapsed().as_secs_f64() >= next {
            next += random.wait(BETWEEN);
            shorts.push(Asked::new(ask(kernel, &mut random, Class::Interactive, SHORT_TOKENS)?));
        }
        for (at, asked) in agents.iter_mut().enumerate() {
            let before = asked.written;
            let over = asked.look(&mut seen);
            seen.agents[at] += (asked.written - before) as f64;
            if over {
                *asked = agent()?;
            }
        }
        for asked in &mut shorts {
            let waits = asked.written == 0;
            asked.look(&mut seen);
            if waits && asked.written > 0 {
                seen.waits.push(asked.at.elapsed().as_secs_f64());
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    seen.begun = seen.waits.len();
    // Those that never saw a token waited at least so long.
    let waiting = shorts.iter().filter(|asked| asked.written == 0);
    seen.waits.extend(waiting.map(|asked| asked.at.elapsed().as_secs_f64()));
    Ok(seen)
}
