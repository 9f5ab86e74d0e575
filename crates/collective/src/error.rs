//! The one error type of the crate.

/// What went wrong between ranks: what happened, what was expected, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A rank stopped or failed while others still needed it.
    #[error(
        "rank {rank} is gone: it stopped or failed while rank {by} waited for it in `{operation}`; look for the first error of rank {rank}, then resume from the last checkpoint"
    )]
    Lost {
        /// The rank that is gone.
        rank: usize,
        /// The rank that says so.
        by: usize,
        /// What was being done.
        operation: &'static str,
    },
    /// Ranks called different operations, or the same with different lengths.
    #[error(
        "ranks do not do the same: one called `{first}` with {first_length} values, rank {rank} called `{second}` with {second_length}; all ranks must run the same recipe"
    )]
    OutOfStep {
        /// What the first to arrive called.
        first: &'static str,
        /// How many values it gave.
        first_length: usize,
        /// A rank that differs.
        rank: usize,
        /// What that rank called.
        second: &'static str,
        /// How many values it gave.
        second_length: usize,
    },
    /// Ranks were to agree on something and do not.
    #[error(
        "ranks disagree on {what}: rank(s) {} differ from rank 0; start every rank with the same one",
        list(ranks)
    )]
    Disagree {
        /// On what.
        what: String,
        /// Those that differ from rank 0, ascending.
        ranks: Vec<usize>,
    },
    /// An argument that no rank could use.
    #[error("{operation}: {detail}")]
    Argument {
        /// The operation.
        operation: &'static str,
        /// What was given, and what was expected.
        detail: String,
    },
    /// The MPI library reports an error.
    #[error("MPI, {operation}: {message}")]
    Mpi {
        /// The operation.
        operation: &'static str,
        /// What the library said.
        message: String,
    },
    /// Started by `mpirun` or `srun`, but this program cannot speak MPI.
    #[error(
        "started as one of {ranks} ranks ({variable} is set), but this program was built without MPI: each rank would train alone. Build with `--features mpi` (needs Open MPI's headers and libclang), or start it without mpirun/srun"
    )]
    NoMpi {
        /// The variable of the environment that says so.
        variable: &'static str,
        /// How many ranks were started.
        ranks: usize,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// `1, 4, 7`; at most a dozen.
fn list(ranks: &[usize]) -> String {
    let shown: Vec<String> = ranks.iter().take(12).map(usize::to_string).collect();
    let more =
        if ranks.len() > 12 { format!(" and {} more", ranks.len() - 12) } else { String::new() };
    shown.join(", ") + &more
}
