//! Whether a run fits this machine, said before it starts.

use crate::Result;
use crate::decoder::Memory;
use crate::recipe::Settings;

/// Bytes that a rank of the run takes: parameters and gradients, activations, buffers, and the optimizer's two
/// moments, of which each rank keeps its share.
pub fn needed(settings: &Settings, ranks: usize, threads: usize) -> u64 {
    let rows = settings.rows().div_ceil(ranks);
    let batch = (rows, settings.shape.context);
    let decoder = Memory::of(&settings.shape, batch, settings.activations.keep(), threads);
    let moments = 8 * settings.shape.parameters() as u64;
    decoder.total() + moments.div_ceil(ranks as u64)
}

/// Refuses a run that needs more than `available` bytes.
///
/// # Errors
/// What is needed, what there is, and what takes less.
pub fn check(settings: &Settings, ranks: usize, threads: usize, available: u64) -> Result<()> {
    let needed = needed(settings, ranks, threads);
    if needed <= available {
        return Ok(());
    }
    Err(yushan_model::Error::Memory {
        what: "the run, on each rank".into(),
        asked: needed,
        limit: available,
        hint: "take a smaller depth, a shorter model.context, or train.activations = \"recompute\""
            .into(),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn a_run_that_does_not_fit_is_refused_before_it_starts() {
        let settings = Recipe::parse("depth = 2", "test").unwrap().settle(4096).unwrap();
        let needed = needed(&settings, 1, 2);
        check(&settings, 1, 2, needed).unwrap();
        let error = check(&settings, 1, 2, needed - 1).unwrap_err().to_string();
        assert!(error.contains("recompute"), "{error}");
        let deep = Recipe::parse("depth = 64", "test").unwrap().settle(65_536).unwrap();
        assert!(check(&deep, 1, 2, 24 << 30).is_err());
    }
}
