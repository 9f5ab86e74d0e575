//! Builds a corpus from a recipe, prints megabytes a second and the memory it took.
//!
//!     cargo run -p yushan-train --example corpus -- RECIPE OUT [THREADS] [--bytes-as-tokens]
//!
//! With `--bytes-as-tokens` the second stage follows, with a tokenizer whose tokens are bytes, into `OUT-shards`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use yushan_train::Result;
use yushan_train::corpus::{Encode, Recipe, clean, tokenize};

struct Bytes;

impl Encode for Bytes {
    fn vocabulary(&self) -> u32 {
        256
    }

    fn sha256(&self) -> [u8; 32] {
        [0; 32]
    }

    fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        out.extend(text.bytes().map(u32::from));
        Ok(())
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (recipe, out) = (Path::new(&arguments[0]), PathBuf::from(&arguments[1]));
    let threads = arguments.get(2).and_then(|threads| threads.parse().ok()).unwrap_or(0);
    let recipe = Recipe::read(recipe)?;
    let start = Instant::now();
    let mut stage = ("", start);
    let built = clean(&recipe, &out, threads, &mut |progress| {
        if progress.stage != stage.0 {
            eprintln!("{} after {:.2} s", progress.stage, start.elapsed().as_secs_f64());
            stage = (progress.stage, Instant::now());
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = built.text as f64 / 1e6;
    println!("{megabytes:.1} MB of raw text in {seconds:.2} s: {:.1} MB/s", megabytes / seconds);
    for one in &built.counts {
        let dropped: u64 = one.dropped.values().map(|count| count.documents).sum();
        println!(
            "{}: read {}, dropped {dropped}, train {} ({} bytes), hold-out {}",
            one.source,
            one.read.documents,
            one.train.documents,
            one.train.bytes,
            one.holdout.documents
        );
        for (reason, count) in &one.dropped {
            println!("    {}: {}", reason.name(), count.documents);
        }
    }
    if arguments.iter().any(|argument| argument == "--bytes-as-tokens") {
        let start = Instant::now();
        let shards = PathBuf::from(format!("{}-shards", arguments[1]));
        let manifest = tokenize(&built.corpus, &Bytes, &shards, &mut |_| {})?;
        let tokens: u64 = manifest.splits.iter().map(|split| split.totals().1).sum();
        println!("{tokens} tokens in {:.2} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.len() < 2 {
        eprintln!("usage: corpus RECIPE OUT [THREADS] [--bytes-as-tokens]");
        std::process::exit(2);
    }
    if let Err(error) = run(&arguments) {
        eprintln!("{error}");
        std::process::exit(1);
    }
    // Linux says how much memory the process had at most.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(line) = status.lines().find(|line| line.starts_with("VmHWM"))
    {
        println!("{line}");
    }
}
