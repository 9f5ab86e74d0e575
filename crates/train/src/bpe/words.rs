//! The words of a corpus and how often each occurs.
//!
//! The key decision: the corpus is a stream. Documents go to the threads in batches, each thread counts into
//! a map of its own, and the maps are added up: sums do not depend on who counted what. Memory is bounded by
//! a limit on the distinct words; past it the rarest are forgotten, how many is told, and only then the
//! counts of rare words depend on how the documents fell to the threads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use foldhash::fast::RandomState;
use yushan_model::tokenizer::PreTokenizer;

/// Bytes of text that a thread is handed at once.
const BATCH: usize = 1 << 20;

/// Bytes of a word past which it is cut. Real words stay far below; a long run without a boundary must not
/// become one allocation.
const LONGEST: usize = 1 << 16;

/// What a distinct word costs in memory besides its bytes, about.
const OVERHEAD: usize = 64;

type Counts = HashMap<Box<str>, u64, RandomState>;

/// Distinct words and their counts.
pub struct Words {
    pre_tokenizer: PreTokenizer,
    counts: Counts,
    /// Memory that the distinct words may take, in bytes, about.
    limit: usize,
    memory: usize,
    /// Bytes of text that were counted.
    text: u64,
    forgotten: u64,
}

impl Words {
    /// None yet. `limit`: bytes of memory that the distinct words may take, about; past it those that
    /// occurred least are forgotten.
    pub fn new(pre_tokenizer: PreTokenizer, limit: usize) -> Self {
        Self { pre_tokenizer, counts: Counts::default(), limit, memory: 0, text: 0, forgotten: 0 }
    }

    /// Counts the words of all `documents` on `threads` threads; see [`Words::new`].
    pub fn count<T: AsRef<str> + Send>(
        documents: impl Iterator<Item = T>,
        pre_tokenizer: PreTokenizer,
        limit: usize,
        threads: usize,
    ) -> Self {
        let threads = threads.max(1);
        let share = limit / threads;
        if threads == 1 {
            let mut words = Words::new(pre_tokenizer, share);
            documents.for_each(|document| words.add(document.as_ref()));
            return words;
        }
        let mut parts = std::thread::scope(|scope| {
            let (send, receive) = sync_channel::<Vec<T>>(2 * threads);
            let receive = std::sync::Arc::new(Mutex::new(receive));
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let receive = std::sync::Arc::clone(&receive);
                    scope.spawn(move || count_batches(&receive, pre_tokenizer, share))
                })
                .collect();
            drop(receive);
            let (mut batch, mut bytes) = (Vec::new(), 0);
            for document in documents {
                bytes += document.as_ref().len();
                batch.push(document);
                if bytes >= BATCH {
                    // A worker that is gone has panicked; joining it says so.
                    let _ = send.send(std::mem::take(&mut batch));
                    bytes = 0;
                }
            }
            let _ = send.send(batch);
            drop(send);
            let joined = workers.into_iter().map(|worker| worker.join());
            joined
                .map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Vec<_>>()
        });
        let mut all = parts.swap_remove(0);
        all.limit = limit;
        parts.into_iter().for_each(|part| all.absorb(part));
        all
    }

    /// Counts the words of one document.
    pub fn add(&mut self, text: &str) {
        let Self { counts, memory, limit, .. } = self;
        self.text += text.len() as u64;
        let forgotten = &mut self.forgotten;
        self.pre_tokenizer.words(text, |mut word| {
            while word.len() > LONGEST {
                let (head, rest) = word.split_at(word.floor_char_boundary(LONGEST));
                bump(counts, memory, head, 1);
                word = rest;
            }
            bump(counts, memory, word, 1);
            if *memory > *limit {
                *forgotten += forget(counts, memory, *limit / 2);
            }
        });
    }

    /// Adds another count of the same pre-tokenizer.
    fn absorb(&mut self, other: Words) {
        for (word, count) in other.counts {
            bump(&mut self.counts, &mut self.memory, &word, count);
        }
        self.text += other.text;
        self.forgotten += other.forgotten;
        if self.memory > self.limit {
            self.forgotten += forget(&mut self.counts, &mut self.memory, self.limit);
        }
    }

    /// How the text was cut.
    pub fn pre_tokenizer(&self) -> PreTokenizer {
        self.pre_tokenizer
    }

    /// Bytes of text that were counted.
    pub fn text_bytes(&self) -> u64 {
        self.text
    }

    /// How many distinct words there are.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often a distinct word was forgotten, for want of memory.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The words with their counts: most frequent first, then by their bytes.
    pub(super) fn sorted(&self) -> Vec<(&str, u64)> {
        let mut words: Vec<(&str, u64)> =
            self.counts.iter().map(|(word, count)| (word.as_ref(), *count)).collect();
        words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        words
    }
}

fn count_batches<T: AsRef<str>>(
    receive: &Mutex<Receiver<Vec<T>>>,
    pre_tokenizer: PreTokenizer,
    limit: usize,
) -> Words {
    let mut words = Words::new(pre_tokenizer, limit);
    loop {
        let batch = match receive.lock() {
            Ok(receive) => receive.recv(),
            Err(_) => break,
        };
        let Ok(batch) = batch else { break };
        batch.iter().for_each(|document| words.add(document.as_ref()));
    }
    words
}

#[inline]
fn bump(counts: &mut Counts, memory: &mut usize, word: &str, by: u64) {
    match counts.get_mut(word) {
        Some(count) => *count += by,
        None => {
            *memory += word.len() + OVERHEAD;
            counts.insert(word.into(), by);
        }
    }
}

/// Drops the words of the lowest counts until the rest fits `wanted` bytes of memory.
fn forget(counts: &mut Counts, memory: &mut usize, wanted: usize) -> u64 {
    let before = counts.len();
    let mut least = 1;
    while *memory > wanted && !counts.is_empty() {
        counts.retain(|word, count| {
            let keep = *count > least;
            if !keep {
                *memory -= word.len() + OVERHEAD;
            }
            keep
        });
        least *= 2;
    }
    (before - counts.len()) as u64
}
