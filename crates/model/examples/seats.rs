//! What a place in the engine costs, measured: forks, and copying keys and values out and back beside
//! reading the tokens again.
//!
//! `cargo run --release -p yushan-model --example seats -- MODEL.gguf [TOKENS]`
//!
//! Checked on the way: a fork takes no page, and whoever was forked, saved or restored goes on with the
//! same tokens.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use yushan_abi::{Chunk, Executor, ExecutorError, Logits, SequenceId, TokenId};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};

/// Measurements of which the median is shown.
const ROUNDS: usize = 7;

/// Tokens that are written to compare with.
const ANSWER: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: seats MODEL.gguf [TOKENS]")?;
    let tokens: usize = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let mut engine = load(Path::new(&path), tokens)?;
    let vocabulary = engine.vocabulary() as u64;
    let prompt: Vec<TokenId> =
        (0..tokens as u64).map(|i| (i * i * 7919 % vocabulary) as u32).collect();

    let (parent, read) = timed(|| feed(&mut engine, &prompt))?;
    let expected = answer(&mut engine, parent)?;
    engine.truncate(parent, tokens)?;
    let before = engine.usage();
    let mut children = Vec::new();
    let fork = median(|| Ok(timed(|| engine.fork(parent).map(|child| children.push(child)))?.1))?;
    let pages = engine.usage().pages_live - before.pages_live;
    for sequence in children.into_iter().take(2).chain([parent]) {
        assert_eq!(answer(&mut engine, sequence)?, expected, "a fork goes on with other tokens");
    }
    engine.truncate(parent, tokens)?;

    let mut saved = Vec::new();
    let out = median(|| {
        let (copy, seconds) = timed(|| engine.save(parent))?;
        saved = copy;
        Ok(seconds)
    })?;
    let mut disk = tempfile::tempfile()?;
    let (_, write) = timed(|| disk.write_all(&saved))?;
    disk.seek(SeekFrom::Start(0))?;
    let (_, read_back) = timed(|| disk.read_exact(&mut saved))?;
    engine.release(parent)?;
    let mut restored = parent;
    let back = median(|| {
        // Nothing is shared with whoever was there before.
        let _ = engine.release(restored);
        engine.clear_cache();
        let (sequence, seconds) = timed(|| engine.restore("", &saved))?;
        restored = sequence;
        Ok(seconds)
    })?;
    assert_eq!(answer(&mut engine, restored)?, expected, "a copy goes on with other tokens");

    println!("fork of {tokens} tokens     {:8.1} µs, {pages} pages", 1e6 * fork);
    println!(
        "a copy                  {:8.1} MB, {} bytes/token",
        saved.len() as f64 / 1e6,
        saved.len() / tokens
    );
    for (what, seconds) in [
        ("read the tokens", read),
        ("copy out", out),
        ("copy back", back),
        ("write to a file", write),
        ("read from it", read_back),
    ] {
        show(what, seconds, tokens, saved.len());
    }
    Ok(())
}

fn load(path: &Path, tokens: usize) -> yushan_model::Result<Engine> {
    let file = ModelFile::open(path)?;
    let options =
        Options { context: tokens + 2 * ANSWER, sequences: 4, ..Options::for_file(&file) };
    Engine::load(&file, &options)
}

fn show(what: &str, seconds: f64, tokens: usize, bytes: usize) {
    let speed = bytes as f64 / seconds / 1e9;
    let each = 1e6 * seconds / tokens as f64;
    println!("{what:<16} {:8.1} ms, {each:7.1} µs/token, {speed:6.2} GB/s", 1e3 * seconds);
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed().as_secs_f64()))
}

fn median(mut measure: impl FnMut() -> Result<f64, ExecutorError>) -> Result<f64, ExecutorError> {
    let mut seconds = (0..ROUNDS).map(|_| measure()).collect::<Result<Vec<f64>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[ROUNDS / 2])
}

fn feed(engine: &mut Engine, prompt: &[TokenId]) -> Result<SequenceId, ExecutorError> {
    let sequence = engine.admit("", prompt)?.sequence;
    for tokens in prompt.chunks(engine.max_rows()) {
        engine.step(&[Chunk { sequence, tokens, logits: Logits::None }])?;
    }
    Ok(sequence)
}

/// What is written greedily after token 1.
fn answer(engine: &mut Engine, sequence: SequenceId) -> Result<Vec<TokenId>, ExecutorError> {
    let mut answer = vec![1];
    for at in 0..ANSWER {
        let tokens = &answer[at..];
        let output = engine.step(&[Chunk { sequence, tokens, logits: Logits::Last }])?;
        let row = output.row(0);
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        answer.push(best.unwrap_or(0) as TokenId);
    }
    Ok(answer)
}
