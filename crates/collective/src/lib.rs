//! Ranks that add vectors together: threads in one process, MPI across machines.
