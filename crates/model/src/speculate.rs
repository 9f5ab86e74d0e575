//! Guessing several tokens ahead, without changing what comes out.
