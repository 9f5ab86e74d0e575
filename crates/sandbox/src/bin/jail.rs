//! Runs a command in the sandbox: `yushan-jail [--narrow SCRATCH] PROGRAM ARGUMENT…`, or makes all attempts to get out:
//! `yushan-jail --probe full|narrow`. For tests and for looking around.

use std::process::ExitCode;

use yushan_sandbox::{End, Jail, Tier, probes};

fn main() -> ExitCode {
    yushan_sandbox::enter();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--probe", "full"] => probe(Tier::Full),
        ["--probe", "narrow"] => probe(Tier::Narrow),
        ["--narrow", scratch, command @ ..] => run(Tier::Narrow, Some(scratch), command),
        command => run(Tier::Full, None, command),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all were contained.
fn probe(tier: Tier) -> Result<bool, yushan_sandbox::Error> {
    let findings = probes::run(tier, |finding| {
        let word = if finding.contained { "contained" } else { "ESCAPED" };
        println!("{word:<10} {:<22} {:<55} {}", finding.name, finding.what, finding.why);
    })?;
    Ok(findings.iter().all(|finding| finding.contained))
}

/// Whether it ended well.
fn run(tier: Tier, scratch: Option<&str>, command: &[&str]) -> Result<bool, yushan_sandbox::Error> {
    let (program, arguments) =
        command.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
    let mut jail = Jail::new(program, tier);
    jail.arguments = arguments.iter().map(ToString::to_string).collect();
    jail.scratch = scratch.map(Into::into);
    let outcome = jail.run(b"")?;
    print!("{}", String::from_utf8_lossy(&outcome.stdout));
    eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
    eprintln!("{:?}", outcome.end);
    Ok(outcome.end == End::Exit(0))
}
