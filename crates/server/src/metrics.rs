//! `/metrics`: what the server has done and is doing, as Prometheus reads it.
//!
//! The key decision: everything is counted where events pass, once, for every face; atomic counters, and
//! histograms of atomic buckets, so that counting a token costs no lock.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use yushan_abi::Event;
use yushan_kernel::Seats;

/// Upper ends of the buckets, in microseconds.
const BUCKETS: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 60_000_000,
];

/// A histogram of times.
#[derive(Default)]
struct Histogram {
    /// As many as [`BUCKETS`], and one for what is longer.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, microseconds: u64) {
        let bucket = BUCKETS.partition_point(|&end| end < microseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP yushan:{name} {help}\n# TYPE yushan:{name} histogram");
        let mut count = 0;
        for (end, bucket) in BUCKETS.iter().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let end = *end as f64 / 1e6;
            let _ = writeln!(out, "yushan:{name}_bucket{{le=\"{end}\"}} {count}");
        }
        count += self.buckets[BUCKETS.len()].load(Ordering::Relaxed);
        let sum = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "yushan:{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "yushan:{name}_sum {sum}\nyushan:{name}_count {count}");
    }
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    predicted_tokens: AtomicU64,
    prompt_microseconds: AtomicU64,
    predicted_microseconds: AtomicU64,
    processing: AtomicI64,
    deferred: AtomicI64,
    completed: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    cancelled: AtomicU64,
    first_token: Histogram,
    between_tokens: Histogram,
}

impl Metrics {
    /// All of it, in Prometheus' text form.
    pub(crate) fn text(&self, seats: Option<Seats>) -> String {
        let mut out = String::new();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        for (name, help, value) in [
            ("prompt_tokens_total", "Tokens of prompts.", of(&self.prompt_tokens)),
            ("cached_tokens_total", "Of these, from the prefix cache.", of(&self.cached_tokens)),
            ("tokens_predicted_total", "Tokens of answers.", of(&self.predicted_tokens)),
            (
                "prompt_seconds_total",
                "From admission to first tokens.",
                of(&self.prompt_microseconds) / 1e6,
            ),
            (
                "tokens_predicted_seconds_total",
                "From first tokens to ends.",
                of(&self.predicted_microseconds) / 1e6,
            ),
            ("requests_completed_total", "Answers that ended.", of(&self.completed)),
            ("requests_failed_total", "Answers that failed.", of(&self.failed)),
            ("requests_refused_total", "Requests refused before they began.", of(&self.refused)),
            ("requests_cancelled_total", "Answers nobody waited for.", of(&self.cancelled)),
        ] {
            write_one(&mut out, name, "counter", help, value);
        }
        let gauge = |counter: &AtomicI64| counter.load(Ordering::Relaxed) as f64;
        let (processing, deferred) = (gauge(&self.processing), gauge(&self.deferred));
        write_one(&mut out, "requests_processing", "gauge", "Answers in the making.", processing);
        write_one(&mut out, "requests_deferred", "gauge", "Requests that wait.", deferred);
        if let Some(seats) = seats {
            write_seats(&mut out, seats);
        }
        let first = &self.first_token;
        first.write("time_to_first_token_seconds", "From request to first token.", &mut out);
        let between = &self.between_tokens;
        between.write("inter_token_latency_seconds", "From token to token.", &mut out);
        out
    }
}

/// What the engines hold, and what was swapped out of them.
fn write_seats(out: &mut String, Seats { usage, swapped }: Seats) {
    let total = usage.pages_total.max(1) as f64;
    let (live, kept) = (usage.pages_live as f64 / total, usage.pages_cached as f64 / total);
    let (memory, file) = (swapped.memory_bytes as f64, swapped.file_bytes as f64);
    for (name, help, value) in [
        ("kv_cache_usage_ratio", "Pages in use.", live),
        ("kv_cache_kept_ratio", "Pages of known prefixes.", kept),
        ("sequences", "Sequences alive.", usage.sequences as f64),
        ("kv_swap_memory_bytes", "Keys and values in memory for swapping.", memory),
        ("kv_swap_file_bytes", "Keys and values in the swap file.", file),
    ] {
        write_one(out, name, "gauge", help, value);
    }
    for (name, help, value) in [
        ("kv_swapped_out_total", "Processes that lost their place.", swapped.out),
        ("kv_swapped_out_bytes_total", "Their keys and values.", swapped.out_bytes),
        ("kv_swapped_in_total", "Processes that came back.", swapped.back),
        ("kv_swapped_in_bytes_total", "Their keys and values.", swapped.back_bytes),
        ("kv_swap_dropped_total", "Histories to be read again.", swapped.dropped),
    ] {
        write_one(out, name, "counter", help, value as f64);
    }
}

fn write_one(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    let _ = writeln!(
        out,
        "# HELP yushan:{name} {help}\n# TYPE yushan:{name} {kind}\nyushan:{name} {value}"
    );
}

/// Where one answer stands.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Waits,
    Reads,
    Writes,
    Ended,
}

/// Counts the answers to one request; what has not ended when it is dropped was cancelled.
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    begun: Instant,
    /// Of each answer: its stage; when it was admitted or else when its first token came; its last token.
    answers: Vec<(Stage, Instant, Instant)>,
}

impl Meter {
    /// Of `n` answers that wait.
    pub(crate) fn new(metrics: Arc<Metrics>, n: usize) -> Meter {
        let begun = Instant::now();
        metrics.deferred.fetch_add(n as i64, Ordering::Relaxed);
        Meter { metrics, begun, answers: vec![(Stage::Waits, begun, begun); n] }
    }

    /// An event of one of them passes.
    pub(crate) fn saw(&mut self, choice: usize, event: &Event) {
        let metrics = &self.metrics;
        let (stage, since, last) = &mut self.answers[choice];
        match event {
            Event::Started(counts) => {
                metrics.prompt_tokens.fetch_add(counts.prompt as u64, Ordering::Relaxed);
                metrics.cached_tokens.fetch_add(counts.cached as u64, Ordering::Relaxed);
                metrics.deferred.fetch_sub(1, Ordering::Relaxed);
                metrics.processing.fetch_add(1, Ordering::Relaxed);
                (*stage, *since) = (Stage::Reads, Instant::now());
            }
            Event::Echo { .. }
            | Event::Embedding(_)
            | Event::Answered { .. }
            | Event::Asks { .. }
            | Event::Verified(_) => {}
            Event::Text { .. } | Event::Call { .. } => {
                let now = Instant::now();
                if *stage == Stage::Writes {
                    metrics.between_tokens.add(microseconds(now - *last));
                } else {
                    metrics.first_token.add(microseconds(now - self.begun));
                    let read = microseconds(now - *since);
                    metrics.prompt_microseconds.fetch_add(read, Ordering::Relaxed);
                    (*stage, *since) = (Stage::Writes, now);
                }
                *last = now;
            }
            Event::Done { counts, .. } => {
                let generated = counts.generated as u64;
                metrics.predicted_tokens.fetch_add(generated, Ordering::Relaxed);
                if *stage == Stage::Writes {
                    let spent = microseconds(since.elapsed());
                    metrics.predicted_microseconds.fetch_add(spent, Ordering::Relaxed);
                }
                metrics.completed.fetch_add(1, Ordering::Relaxed);
                leave(metrics, stage);
            }
            Event::Failed(_) => {
                let refused = *stage == Stage::Waits;
                let counter = if refused { &metrics.refused } else { &metrics.failed };
                counter.fetch_add(1, Ordering::Relaxed);
                leave(metrics, stage);
            }
        }
    }

    /// The request was refused before its first event.
    pub(crate) fn refused(&mut self) {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        for (stage, ..) in &mut self.answers {
            leave(&self.metrics, stage);
        }
    }
}

fn leave(metrics: &Metrics, stage: &mut Stage) {
    let gauge = match stage {
        Stage::Waits => &metrics.deferred,
        Stage::Reads | Stage::Writes => &metrics.processing,
        Stage::Ended => return,
    };
    gauge.fetch_sub(1, Ordering::Relaxed);
    *stage = Stage::Ended;
}

fn microseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Meter {
    fn drop(&mut self) {
        for (stage, ..) in &mut self.answers {
            if *stage != Stage::Ended {
                self.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            leave(&self.metrics, stage);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use yushan_abi::Counts;

    use super::*;

    #[test]
    fn waiting_is_not_reading() {
        let metrics = Arc::<Metrics>::default();
        let mut meter = Meter::new(metrics.clone(), 1);
        // It waited for an hour.
        let hour = Duration::from_secs(3600);
        meter.begun = meter.begun.checked_sub(hour).expect("a clock that has run for an hour");
        meter.saw(0, &Event::Started(Counts::default()));
        meter.saw(0, &Event::Text { text: "a".into(), logprob: None });
        let waited = metrics.first_token.microseconds.load(Ordering::Relaxed);
        let read = metrics.prompt_microseconds.load(Ordering::Relaxed);
        assert!(waited >= microseconds(hour) && read < microseconds(hour), "{waited} {read}");
    }
}
