//! Cutting a vector into one part for each rank.

use std::ops::Range;

use crate::{Error, Result};

/// Cuts `0..length` into `ranks` parts whose bounds are multiples of 16 (a cache line of f32), as even as
/// that allows; late parts may be empty.
pub fn even_parts(length: usize, ranks: usize) -> Vec<Range<usize>> {
    let lines = length.div_ceil(16);
    let bound = |rank: usize| (lines * rank / ranks * 16).min(length);
    (0..ranks).map(|rank| bound(rank)..bound(rank + 1)).collect()
}

/// One part for each rank, ascending, without overlap, inside the vector.
pub(crate) fn check_parts(
    operation: &'static str,
    parts: &[Range<usize>],
    ranks: usize,
    length: usize,
) -> Result<()> {
    let mut end = 0;
    let ordered = parts.iter().all(|part| {
        let fits = end <= part.start && part.start <= part.end && part.end <= length;
        end = part.end;
        fits
    });
    if ordered && parts.len() == ranks {
        return Ok(());
    }
    let detail = format!(
        "parts {parts:?} do not cut a vector of {length} values for {ranks} ranks; expected one ascending range for each rank"
    );
    Err(Error::Argument { operation, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_parts_cover_the_vector_in_order() {
        for length in [0, 1, 15, 16, 17, 1000, 4096] {
            for ranks in 1..9 {
                let parts = even_parts(length, ranks);
                assert!(check_parts("test", &parts, ranks, length).is_ok());
                assert_eq!(parts.iter().map(Range::len).sum::<usize>(), length, "{parts:?}");
            }
        }
        assert_eq!(even_parts(100, 3), [0..32, 32..64, 64..100]);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        for parts in [[0..5, 4..10], [0..5, 5..11], [5..10, 0..5]] {
            assert!(check_parts("test", &parts, 2, 10).is_err(), "{parts:?}");
        }
        assert!(check_parts("test", &[0..5, 5..10], 3, 10).is_err());
    }
}
