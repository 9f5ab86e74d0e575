//! Every attempt to get out fails, on each tier that this machine has.

use std::process::Command;

fn probes(arguments: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_yushan-jail")).args(arguments).output().unwrap();
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if err.contains("cannot be built here") {
        eprintln!("skipped: {err}");
        return None;
    }
    assert!(output.status.success(), "{out}{err}");
    Some(out)
}

/// Whether so many were made, if this machine has the tier.
fn all_are_contained(tier: &str) {
    let Some(said) = probes(&["--probe", tier]) else { return };
    assert!(said.lines().filter(|line| line.starts_with("contained")).count() >= 60, "{said}");
}

#[test]
fn nobody_gets_out_of_namespaces() {
    all_are_contained("full");
}

#[test]
fn nobody_gets_out_without_namespaces() {
    all_are_contained("narrow");
}
