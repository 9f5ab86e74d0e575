//! `bench`: how fast a model runs, beside what this machine could do at most.
//!
//! The key decision: the limits are measured right before and right after every timed run, by plain
//! loops over memory and over registers, since a shared machine's bandwidth can double within seconds;
//! a share is the median of the runs' own shares. Decoding reads every weight once a step, so it is
//! held against read bandwidth; prefill does arithmetic on weights it has already, so it is held against
//! peak arithmetic of the kind it uses (bytes for quantized weights, floats for others).
//!
//! The tests are llama.cpp's: a prompt of random tokens in a window that was empty (`pp512`), single
//! tokens from an empty window (`tg128`), and several sequences that continue prompts of 128 tokens
//! together (`llama-batched-bench -npp 128 -ntg 128`). Figures are medians.

mod gate;

use std::fmt::Write as _;
use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value, json};
use yushan_abi::{Chunk, Executor, Logits, SequenceId, TokenId};
use yushan_model::engine::{Engine, Options};
use yushan_tensor::{Isa, limits};

use crate::exit::BadUsage;
use crate::figures::median;
use crate::{flags, open, progress};

/// Length of the prompts before several sequences decode together.
const PROMPT: usize = 128;

/// Measure prefill and decode, beside this machine's limits
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    /// The model
    #[arg(required = true, value_name = "FILE")]
    file: Option<String>,
    /// Numbers of threads, for example 1,2 or 1-8 [default: 1 to all processors]
    #[arg(long, value_name = "LIST", value_parser = flags::thread_list)]
    threads: Option<List>,
    /// Tokens of the prompt; 0 leaves the test out
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = flags::count)]
    prefill: usize,
    /// Tokens to decode; 0 leaves the test out
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = flags::count)]
    decode: usize,
    /// Numbers of sequences that decode together
    #[arg(long, value_name = "LIST", value_parser = flags::list, default_value = "1,2,4,8")]
    sequences: List,
    /// How often each test runs; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = flags::positive)]
    repeat: usize,
    /// How keys and values are stored
    #[arg(long, value_enum, default_value_t = flags::Kv::F16)]
    kv: flags::Kv,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What else can be measured.
#[derive(clap::Subcommand)]
enum What {
    Gate(gate::Gate),
}

/// Clap reads a `Vec` as an option that may stand several times; behind a name of its own it is one value.
type List = std::vec::Vec<usize>;

/// One line of the table.
struct Row {
    test: &'static str,
    tokens: usize,
    threads: usize,
    sequences: usize,
    tokens_per_second: f64,
    /// Decode: bytes of weights read in a second.
    bytes_per_second: Option<f64>,
    /// Of the bandwidth (decode) or of the peak arithmetic (prefill).
    percent: f64,
}

/// What the machine can do with some number of threads, a second.
struct Limits {
    threads: usize,
    bytes: f64,
    operations: f64,
}

impl Bench {
    pub(crate) fn run(mut self) -> Result<()> {
        if let Some(What::Gate(gate)) = self.what.take() {
            return gate.run();
        }
        let file = open::model(self.file())?;
        if self.cases().next().is_none() {
            let why = "--prefill 0 --decode 0 leaves nothing to measure: leave one of them out";
            return Err(BadUsage(why.into()).into());
        }
        let all = Options::for_file(&file).threads;
        let threads = self.threads.clone().unwrap_or_else(|| (1..=all).collect());
        let most = self.sequences.iter().copied().max().unwrap_or(1);
        let batched = if most > 1 { PROMPT + self.decode } else { 0 };
        let flags = flags::Engine {
            threads: threads.iter().copied().max(),
            context: Some(self.prefill.max(self.decode).max(batched).max(PROMPT)),
            kv: self.kv,
        };
        let mut options = flags.options(&file);
        options.sequences = most;
        let mut engine = open::engine(&file, &options)?;
        let cases: Vec<usize> = self.cases().collect();
        let bar = progress::of_steps((threads.len() * cases.len() * self.repeat) as u64);
        let (mut rows, mut limits) = (Vec::new(), Vec::new());
        for &threads in &threads {
            engine.set_threads(threads);
            let mut around = Around::new(threads, engine.is_dense());
            for &sequences in &cases {
                let mut samples = Vec::new();
                for repeat in 0..self.repeat {
                    bar.set_message(name(sequences));
                    let before = around.limit(sequences);
                    let seconds = self.time(&mut engine, sequences, repeat)?;
                    samples.push((seconds, (before + around.limit(sequences)) / 2.0));
                    bar.inc(1);
                }
                rows.push(self.row(&engine, threads, sequences, &samples));
            }
            limits.push(around.limits());
        }
        bar.finish_and_clear();
        let text = if self.json {
            format!("{:#}\n", self.report(&engine, &limits, &rows))
        } else {
            self.table(&engine, &limits, &rows)
        };
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }

    fn file(&self) -> &str {
        self.file.as_deref().unwrap_or_default()
    }

    /// The tests: 0 stands for prefill, others for that many sequences that decode.
    fn cases(&self) -> impl Iterator<Item = usize> {
        let prefill = (self.prefill > 0).then_some(0);
        let decode = if self.decode > 0 { self.sequences.as_slice() } else { &[] };
        prefill.into_iter().chain(decode.iter().copied())
    }

    /// Runs one test once; seconds.
    fn time(&self, engine: &mut Engine, sequences: usize, repeat: usize) -> Result<f64> {
        engine.clear_cache();
        let mut random = Random::new(repeat as u64, engine.vocabulary());
        if sequences == 0 {
            let prompt = random.tokens(self.prefill);
            let sequence = engine.admit("", &prompt)?.sequence;
            let start = Instant::now();
            feed(engine, sequence, &prompt)?;
            let seconds = start.elapsed().as_secs_f64();
            engine.release(sequence)?;
            return Ok(seconds);
        }
        let mut ids = Vec::new();
        for _ in 0..sequences {
            let prompt = random.tokens(PROMPT);
            let sequence = engine.admit("", &prompt)?.sequence;
            if sequences > 1 {
                feed(engine, sequence, &prompt)?;
            }
            ids.push(sequence);
        }
        let tokens = random.tokens(self.decode * sequences);
        let start = Instant::now();
        for step in tokens.chunks(sequences) {
            let chunks = ids.iter().zip(step.chunks(1));
            let batch: Vec<Chunk<'_>> = chunks
                .map(|(&sequence, tokens)| Chunk { sequence, tokens, logits: Logits::Last })
                .collect();
            engine.step(&batch)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        ids.into_iter().try_for_each(|sequence| engine.release(sequence))?;
        Ok(seconds)
    }

    /// `samples`: seconds of each run, and the limit around it.
    fn row(
        &self,
        engine: &Engine,
        threads: usize,
        sequences: usize,
        samples: &[(f64, f64)],
    ) -> Row {
        let seconds = median(&mut samples.iter().map(|sample| sample.0).collect::<Vec<_>>());
        let percent = |work: f64| {
            let share = |(seconds, limit): &(f64, f64)| 100.0 * work / seconds / limit;
            median(&mut samples.iter().map(share).collect::<Vec<_>>())
        };
        if sequences == 0 {
            let operations = self.prefill as f64 * engine.operations_per_token() as f64;
            return Row {
                test: "prefill",
                tokens: self.prefill,
                threads,
                sequences: 1,
                tokens_per_second: self.prefill as f64 / seconds,
                bytes_per_second: None,
                percent: percent(operations),
            };
        }
        let bytes = self.decode as f64 * engine.weight_bytes_per_token() as f64;
        Row {
            test: "decode",
            tokens: self.decode,
            threads,
            sequences,
            tokens_per_second: (self.decode * sequences) as f64 / seconds,
            bytes_per_second: Some(bytes / seconds),
            percent: percent(bytes),
        }
    }

    fn report(&self, engine: &Engine, limits: &[Limits], rows: &[Row]) -> Value {
        let by_threads = |figure: fn(&Limits) -> f64| -> Map<String, Value> {
            limits.iter().map(|l| (l.threads.to_string(), (figure(l) / 1e9).into())).collect()
        };
        let mut peak = by_threads(|limits| limits.operations);
        peak.insert("arithmetic".into(), arithmetic(engine).into());
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut line = json!({
                    "test": row.test,
                    "tokens": row.tokens,
                    "threads": row.threads,
                    "sequences": row.sequences,
                    "tokens_per_second": row.tokens_per_second,
                });
                match row.bytes_per_second {
                    Some(bytes) => {
                        line["gb_per_second"] = (bytes / 1e9).into();
                        line["percent_of_bandwidth"] = row.percent.into();
                    }
                    None => line["percent_of_peak"] = row.percent.into(),
                }
                line
            })
            .collect();
        json!({
            "model": self.file(),
            "isa": Isa::best().name(),
            "read_bandwidth": by_threads(|limits| limits.bytes),
            "peak": peak,
            "rows": rows,
        })
    }

    fn table(&self, engine: &Engine, limits: &[Limits], rows: &[Row]) -> String {
        let arithmetic = arithmetic(engine);
        let mut out = format!("{}, {}\n\n", self.file(), Isa::best().name());
        for limit in limits {
            let (bytes, operations) = (limit.bytes / 1e9, limit.operations / 1e9);
            let _ = writeln!(
                out,
                "{:>2} threads: read bandwidth {bytes:6.1} GB/s, {arithmetic} peak {operations:7.0} Gop/s",
                limit.threads,
            );
        }
        out += "\ntest     tokens  threads  sequences   tokens/s     GB/s  of limit\n";
        for row in rows {
            let bytes = row.bytes_per_second.map_or("-".into(), |b| format!("{:.1}", b / 1e9));
            let _ = writeln!(
                out,
                "{:<8} {:>6} {:>8} {:>10} {:>10.1} {bytes:>8} {:>7.1} %",
                row.test,
                row.tokens,
                row.threads,
                row.sequences,
                row.tokens_per_second,
                row.percent,
            );
        }
        out += "\nThe limit of prefill is peak arithmetic, that of decode is read bandwidth.\n";
        out
    }
}

fn name(sequences: usize) -> String {
    match sequences {
        0 => "prefill".into(),
        1 => "decode".into(),
        n => format!("decode, {n} sequences"),
    }
}

fn arithmetic(engine: &Engine) -> &'static str {
    if engine.is_dense() { "f32" } else { "int8" }
}

/// Measures limits between the runs of some number of threads, and remembers them.
struct Around {
    threads: usize,
    dense: bool,
    bytes: Vec<f64>,
    operations: Vec<f64>,
}

impl Around {
    fn new(threads: usize, dense: bool) -> Around {
        Around { threads, dense, bytes: Vec::new(), operations: Vec::new() }
    }

    /// The limit now of prefill (0) or of that many sequences that decode.
    fn limit(&mut self, sequences: usize) -> f64 {
        let (found, all) = match (sequences, self.dense) {
            (0, true) => (limits::peak_f32(self.threads), &mut self.operations),
            (0, false) => (limits::peak_int8(self.threads), &mut self.operations),
            _ => (limits::read_bandwidth(self.threads), &mut self.bytes),
        };
        all.push(found);
        found
    }

    /// The medians; of a limit that no test needed, one measurement.
    fn limits(mut self) -> Limits {
        for sequences in [0, 1] {
            let known = if sequences == 0 { &self.operations } else { &self.bytes };
            if known.is_empty() {
                self.limit(sequences);
            }
        }
        let (bytes, operations) = (median(&mut self.bytes), median(&mut self.operations));
        Limits { threads: self.threads, bytes, operations }
    }
}

/// Runs a prompt in steps as large as the engine takes them, for the logits at its end.
fn feed(engine: &mut Engine, sequence: SequenceId, prompt: &[TokenId]) -> Result<()> {
    let steps = prompt.chunks(engine.max_rows());
    let last = steps.len() - 1;
    for (step, tokens) in steps.enumerate() {
        let logits = if step == last { Logits::Last } else { Logits::None };
        engine.step(&[Chunk { sequence, tokens, logits }])?;
    }
    Ok(())
}

/// Tokens that are the same in every run of the benchmark (SplitMix64, Steele et al. 2014).
struct Random {
    state: u64,
    vocabulary: u64,
}

impl Random {
    fn new(seed: u64, vocabulary: usize) -> Random {
        Random { state: seed, vocabulary: vocabulary.max(1) as u64 }
    }

    fn tokens(&mut self, count: usize) -> Vec<TokenId> {
        (0..count).map(|_| (self.next() % self.vocabulary) as TokenId).collect()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
