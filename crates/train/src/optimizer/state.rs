//! What an optimizer remembers, whole and by name, for checkpoints.
//!
//! The key decision: the saved state does not know how many ranks there were. Ranks gather it to save
//! it, and each takes its part of it to go on.

use std::ops::Range;

use yushan_collective::Collective;

use super::Optimizer;
use crate::{Error, Result};

/// The whole state of an optimizer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Steps that moved the parameters.
    pub updates: u64,
    /// `first_moment`: `(parameters)`, in the order of the flat buffer; under Muon the momenta of its
    /// matrices. `second_moment`: `(parameters that AdamW moves)`, in the same order.
    pub vectors: Vec<(String, Vec<f32>)>,
}

const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";

impl Optimizer {
    /// The whole state, on every rank; all must call it.
    ///
    /// # Errors
    /// Ranks that are lost.
    pub fn state(&self, ranks: &mut dyn Collective) -> Result<State> {
        let mut first = vec![0.0; self.elements()];
        first[self.parts[self.rank].clone()].copy_from_slice(&self.first);
        ranks.all_gather(&mut first, &self.parts)?;
        let parts = self.second_parts(ranks)?;
        let mut second = vec![0.0; parts.last().map_or(0, |part| part.end)];
        second[parts[self.rank].clone()].copy_from_slice(&self.second);
        ranks.all_gather(&mut second, &parts)?;
        let vectors = vec![(FIRST.to_string(), first), (SECOND.to_string(), second)];
        Ok(State { updates: self.updates, vectors })
    }

    /// Goes on from a whole state, saved by any number of ranks; all must call it.
    ///
    /// # Errors
    /// A state of another model or another algorithm; ranks that are lost. Nothing is changed then.
    pub fn restore(&mut self, ranks: &mut dyn Collective, state: &State) -> Result<()> {
        let parts = self.second_parts(ranks)?;
        let seconds = parts.last().map_or(0, |part| part.end);
        let first = vector(state, FIRST, self.elements())?;
        let second = vector(state, SECOND, seconds)?;
        self.first.copy_from_slice(&first[self.parts[self.rank].clone()]);
        self.second.copy_from_slice(&second[parts[self.rank].clone()]);
        self.updates = state.updates;
        Ok(())
    }

    /// Where the second moments of every rank lie in the whole vector.
    fn second_parts(&self, ranks: &mut dyn Collective) -> Result<Vec<Range<usize>>> {
        let mut lengths = vec![0.0; ranks.ranks()];
        lengths[self.rank] = self.second.len() as f64;
        ranks.combine(&mut lengths, yushan_collective::Combine::Sum)?;
        let mut end = 0;
        let part = |length: f64| {
            let start = end;
            end += length as usize;
            start..end
        };
        Ok(lengths.into_iter().map(part).collect())
    }
}

fn vector<'a>(state: &'a State, name: &str, length: usize) -> Result<&'a [f32]> {
    let found = state.vectors.iter().find(|(key, _)| key == name);
    let Some((_, vector)) = found.filter(|(_, vector)| vector.len() == length) else {
        let have =
            found.map_or("is missing".to_string(), |(_, v)| format!("has {} values", v.len()));
        let detail = format!(
            "{name} {have}; expected {length}: the state is of another model or algorithm; start without it or use its recipe"
        );
        return Err(Error::bad("optimizer state", detail));
    };
    Ok(vector)
}
