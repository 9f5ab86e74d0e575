//! Gradients added up while backward still computes others.
//!
//! The key decision: buckets follow the order in which backward ends ranges, which is the same on every
//! rank; a bucket is sent when it has a few megabytes, so that latency is paid a few times a step and
//! the first bucket leaves early (Li et al. 2020, arXiv 2006.15704, section 3.2).

use std::ops::Range;

use crate::{Collective, Error, Result};

/// Floats a bucket holds before it is sent: 4 MiB, and 64 KiB for every rank, so that the pieces that
/// ranks exchange stay longer than a latency.
fn bucket(ranks: usize) -> usize {
    (1 << 20).max(ranks << 14)
}

/// The buckets of one step. Use: [`Overlap::ready`] for every range that is final, then
/// [`Overlap::finish`].
#[derive(Debug, Default)]
pub struct Overlap {
    /// Ranges that lie side by side and were not sent yet.
    open: Option<Range<usize>>,
    begun: Vec<Range<usize>>,
    failed: Option<Error>,
}

impl Overlap {
    /// No range is ready yet.
    pub fn new() -> Overlap {
        Overlap::default()
    }

    /// `values[range]` will not change any more. Errors are kept for [`Overlap::finish`].
    pub fn ready(&mut self, ranks: &mut dyn Collective, values: &[f32], range: Range<usize>) {
        if ranks.ranks() == 1 || self.failed.is_some() || range.is_empty() {
            return;
        }
        let joined = match self.open.take() {
            Some(open) if range.end == open.start => range.start..open.end,
            Some(open) if open.end == range.start => open.start..range.end,
            Some(open) => {
                self.begin(ranks, values, open);
                range
            }
            None => range,
        };
        if joined.len() >= bucket(ranks.ranks()) {
            self.begin(ranks, values, joined);
        } else {
            self.open = Some(joined);
        }
        if let Err(error) = ranks.progress() {
            self.failed.get_or_insert(error);
        }
    }

    /// Sends what is left, waits, and writes the sums over all ranges that were ready.
    ///
    /// # Errors
    /// The first error of the step; the values are then not to be used.
    pub fn finish(&mut self, ranks: &mut dyn Collective, values: &mut [f32]) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.begin(ranks, values, open);
        }
        let begun = std::mem::take(&mut self.begun);
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        begun.into_iter().try_for_each(|range| ranks.finish_all_reduce(&mut values[range]))
    }

    fn begin(&mut self, ranks: &mut dyn Collective, values: &[f32], range: Range<usize>) {
        if self.failed.is_some() {
            return;
        }
        match ranks.begin_all_reduce(&values[range.clone()]) {
            Ok(()) => self.begun.push(range),
            Err(error) => self.failed = Some(error),
        }
    }
}
