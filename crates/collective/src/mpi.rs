//! Ranks across processes and machines, over MPI.
