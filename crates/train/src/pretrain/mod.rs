//! The pretraining loop: rows → forward and backward → sum over ranks → clip → update → log, and now and then an
//! evaluation, a sample and a checkpoint.
//!
//! The key decision: everything that decides what comes next lies in a checkpoint (weights, optimizer, step, place in
//! the data, spike window), and nothing else is read: not a clock, not a thread, not the log. So a run that is
//! killed anywhere and resumed gives the same bits as one that was not.

pub mod memory;
mod spikes;
mod voice;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use yushan_collective::Collective;
use yushan_tensor::Pool;
