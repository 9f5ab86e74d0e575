//! Attempts to get out, made from inside.
pub(crate) const ARGUMENT: &str = "sandbox-probe";
/// Makes an attempt; the code to exit with.
pub(crate) fn attempt(_name: &str) -> i32 { 0 }
