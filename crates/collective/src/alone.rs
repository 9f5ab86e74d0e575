//! One rank: every sum is what it was.

use std::ops::Range;

use crate::parts::check_parts;
use crate::{Collective, Error, Result};

/// The only rank of a run on one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn reduce_scatter(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        check_parts("reduce_scatter", parts, 1, values.len())
    }

    fn all_gather(&mut self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        check_parts("all_gather", parts, 1, values.len())
    }

    fn broadcast(&mut self, _: &mut [f32], root: usize) -> Result<()> {
        check_root(root, 1)
    }

    fn barrier(&mut self) -> Result<()> {
        Ok(())
    }

    fn gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn begin_all_reduce(&mut self, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish_all_reduce(&mut self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A broadcast comes from one of the ranks.
pub(crate) fn check_root(root: usize, ranks: usize) -> Result<()> {
    if root < ranks {
        return Ok(());
    }
    let detail = format!("rank {root} is to send, but there are ranks 0 to {}", ranks - 1);
    Err(Error::Argument { operation: "broadcast", detail })
}
