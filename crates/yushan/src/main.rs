//! The binary: it only wires the parts together and turns errors into exit codes.

fn main() {}
