//! The same run on any number of ranks: `mpirun -n R same_loss FOLDER`, first with one rank, which makes the data. Fifty steps;
//! more ranks than one compare their losses with those of the one, and fail where they differ by 1e-4.
//! `tests/mpi/run` starts it.

#[path = "../tests/small/mod.rs"]
mod small;

use std::path::PathBuf;

use yushan_train::Error;
use yushan_train::pretrain::{Unwatched, pretrain};
use yushan_train::report::Log;

/// How far the losses of two numbers of ranks may lie apart, in nats.
const APART: f64 = 1e-4;

fn main() -> yushan_train::Result<()> {
    let place = std::env::args_os().nth(1).map(PathBuf::from);
    let place = place.ok_or_else(|| Error::bad("same_loss", "give a folder"))?;
    let mut ranks = yushan_collective::connect()?;
    let (rank, of) = (ranks.rank(), ranks.ranks());
    if of == 1 {
        small::data(&place);
    }
    let settings = small::settings(&place, &[("train.tokens", "25600")]);
    let folder = |ranks: usize| place.join(format!("ranks-{ranks}"));
    let job_folder = folder(of);
    pretrain(&small::job(&settings, &job_folder, false), ranks.as_mut(), &mut Unwatched)?;
    ranks.leave()?;
    if rank > 0 || of == 1 {
        return Ok(());
    }
    let losses = |ranks| -> yushan_train::Result<Vec<f64>> {
        Ok(Log::read(&folder(ranks))?.lines.iter().filter_map(|line| line.loss).collect())
    };
    let (one, all) = (losses(1)?, losses(of)?);
    let apart = one.iter().zip(&all).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{of} ranks, {} steps: losses at most {apart:.1e} from those of one rank", all.len());
    if one.len() != all.len() || one.len() != 50 || apart.is_nan() || apart > APART {
        return Err(Error::bad(format!("{of} ranks"), format!("expected 50 steps within {APART}")));
    }
    Ok(())
}
