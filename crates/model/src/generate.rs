//! From a prompt to an answer: the loop around an executor.
