//! Times the tokenizer; `bench/tokenizer-vs-hf` runs it beside Hugging Face's.
//!
//!     tokenizer train VOCABULARY PRE_TOKENIZER THREADS FOLDER TEXT...   lines of the texts are the documents
//!     tokenizer encode TOKENIZER THREADS ROUNDS IDS TEXT...             ids to the file IDS, u32, little endian
//!     tokenizer eval THREADS TOKENIZER... -- TEXT...                    a table
//!
//! TOKENIZER is a folder or file that `bpe::open` reads.

use std::time::Instant;

use yushan_model::tokenizer::PreTokenizer;
use yushan_train::bpe::{self, Options, Words};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["train", vocabulary, pre_tokenizer, threads, folder, ref texts @ ..] => {
            train(vocabulary.parse()?, pre_tokenizer, threads.parse()?, folder, texts)
        }
        ["encode", tokenizer, threads, rounds, ids, ref texts @ ..] => {
            encode(tokenizer, threads.parse()?, rounds.parse()?, ids, texts)
        }
        ["eval", threads, ref rest @ ..] => evaluate(threads.parse()?, rest),
        _ => Err("usage: tokenizer train|encode|eval ..., see the head of its source".into()),
    }
}

/// Seconds of processor time of all threads so far, in steps of 1/100 s; 0 where there is no `/proc`.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program is in brackets and may hold spaces; user and system time are 12 and 13 after it.
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The lines of all texts.
fn lines(texts: &[&str]) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for path in texts {
        let text = std::fs::read_to_string(path)?;
        lines.extend(text.split_inclusive('\n').map(str::to_string));
    }
    Ok(lines)
}

fn train(
    vocabulary: usize,
    pre_tokenizer: &str,
    threads: usize,
    folder: &str,
    texts: &[&str],
) -> Outcome {
    let pre_tokenizer = PreTokenizer::new(pre_tokenizer)?;
    let options = Options { vocabulary, pre_tokenizer, ..Options::default() };
    let lines = lines(texts)?;
    let (start, before) = (Instant::now(), processor());
    let words = Words::count(lines.iter(), pre_tokenizer, 1 << 30, threads);
    let counted = start.elapsed().as_secs_f64();
    let trained = bpe::train(&words, &options)?;
    let done = start.elapsed().as_secs_f64();
    println!(
        "{{\"seconds\": {done:.4}, \"processor\": {:.2}, \"counting\": {counted:.4}, \"bytes\": {}, \"words\": {}, \"merges\": {}}}",
        processor() - before,
        words.text_bytes(),
        words.len(),
        trained.merges().len(),
    );
    std::fs::create_dir_all(folder)?;
    Ok(trained.write(folder.as_ref(), 2048)?)
}

fn encode(tokenizer: &str, threads: usize, rounds: usize, ids: &str, texts: &[&str]) -> Outcome {
    let tokenizer = bpe::open(tokenizer.as_ref())?;
    let lines = lines(texts)?;
    let mut best = f64::INFINITY;
    let before = processor();
    let mut all = Vec::new();
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        all = bpe::encode_batch(&tokenizer, &lines, threads);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let processor = (processor() - before) / rounds.max(1) as f64;
    let bytes: usize = lines.iter().map(String::len).sum();
    let all: Vec<u8> = all.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
    println!(
        "{{\"seconds\": {best:.5}, \"processor\": {processor:.4}, \"bytes\": {bytes}, \"tokens\": {}}}",
        all.len() / 4
    );
    Ok(std::fs::write(ids, all)?)
}

fn evaluate(threads: usize, arguments: &[&str]) -> Outcome {
    let at = arguments.iter().position(|argument| *argument == "--").ok_or("expected --")?;
    let mut rows = Vec::new();
    for path in &arguments[..at] {
        let tokenizer = bpe::open(path.as_ref())?;
        for text in &arguments[at + 1..] {
            let row = bpe::evaluate(&tokenizer, lines(&[text])?.iter(), threads)?;
            rows.push((path.to_string(), text.to_string(), row));
        }
    }
    print!("{}", bpe::table(&rows));
    Ok(())
}
