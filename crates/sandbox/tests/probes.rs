//! Every attempt to get out fails, on each tier that this machine has.

use std::process::Command;

fn probes(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_yushan-jail")).args(arguments).output().unwrap();
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{err}");
    out
}

#[test]
fn nobody_gets_out_of_namespaces() {
    let said = probes(&["--probe", "full"]);
    assert!(said.lines().filter(|line| line.starts_with("contained")).count() >= 60, "{said}");
}

#[test]
fn nobody_gets_out_without_namespaces() {
    let said = probes(&["--probe", "narrow"]);
    assert!(said.lines().filter(|line| line.starts_with("contained")).count() >= 60, "{said}");
}
