//! Gradients added up while backward still computes others.
//!
//! The key decision: a bucket is what backward ends at once, a block of the model, which comes in the same
//! order on every rank; larger ranges are cut, so that the second half of a sum's first piece travels with
//! the first half of the next (buckets: Li et al. 2020, arXiv 2006.15704, section 3.2).

use std::ops::Range;

use crate::{Collective, Error, Result};

/// Most floats of a bucket: 16 MiB, or 256 KiB for every rank where that is more, so that the pieces that
/// ranks exchange take longer than a latency.
fn most(ranks: usize) -> usize {
    (1 << 22).max(ranks << 16)
}

/// The buckets of one step. Use: [`Overlap::ready`] for every range that is final, then
/// [`Overlap::finish`].
#[derive(Debug, Default)]
pub struct Overlap {
    begun: Vec<Range<usize>>,
    failed: Option<Error>,
}

impl Overlap {
    /// No range is ready yet.
    pub fn new() -> Overlap {
        Overlap::default()
    }

    /// `values`, which lie at `range` of the whole vector, will not change before [`Overlap::finish`],
    /// which also returns what goes wrong here.
    pub fn ready(&mut self, ranks: &mut dyn Collective, values: &[f32], range: Range<usize>) {
        if ranks.ranks() == 1 {
            return;
        }
        let mut start = range.start;
        for bucket in values.chunks(most(ranks.ranks())) {
            if self.failed.is_some() {
                return;
            }
            match ranks.begin_all_reduce(bucket) {
                Ok(()) => self.begun.push(start..start + bucket.len()),
                Err(error) => self.failed = Some(error),
            }
            start += bucket.len();
        }
    }

    /// Waits, and writes the sums over all ranges that were ready to their places in `whole`.
    ///
    /// # Errors
    /// The first error of the step; the values are then not to be used.
    pub fn finish(&mut self, ranks: &mut dyn Collective, whole: &mut [f32]) -> Result<()> {
        let begun = std::mem::take(&mut self.begun);
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        begun.into_iter().try_for_each(|range| ranks.finish_all_reduce(&mut whole[range]))
    }
}
