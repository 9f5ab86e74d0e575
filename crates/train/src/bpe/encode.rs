//! Many texts to tokens over threads.
//!
//! The key decision: threads take texts in small runs from one counter, and every text's tokens go to the
//! place of that text, so the answer does not depend on the threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use yushan_abi::TokenId;
use yushan_model::tokenizer::Tokenizer;

/// Texts that a thread takes at once.
const RUN: usize = 16;

/// The tokens of each text, special tokens being text, on `threads` threads.
pub fn encode_batch<T: AsRef<str> + Sync>(
    tokenizer: &Tokenizer,
    texts: &[T],
    threads: usize,
) -> Vec<Vec<TokenId>> {
    let runs: Vec<&[T]> = texts.chunks(RUN).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut encoder = tokenizer.encoder();
        let mut done = Vec::new();
        let mut tokens = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(run) = runs.get(at) else { break done };
            for (offset, text) in run.iter().enumerate() {
                tokens.clear();
                encoder.append(text.as_ref(), &mut tokens);
                done.push((at * RUN + offset, tokens.clone()));
            }
        }
    };
    let parts = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(runs.len())).map(|_| scope.spawn(work)).collect();
        let mut parts = vec![work()];
        for other in others {
            parts.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        parts
    });
    let mut all = vec![Vec::new(); texts.len()];
    for (at, tokens) in parts.into_iter().flatten() {
        all[at] = tokens;
    }
    all
}
