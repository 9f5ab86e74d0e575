//! The parameters file of llama2.c.
