//! The executor on the processor: sequences, pages, steps.
