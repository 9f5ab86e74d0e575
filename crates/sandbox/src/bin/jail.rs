//! Runs a command in the sandbox: `yushan-jail [--narrow SCRATCH] PROGRAM ARGUMENT…`, or makes all attempts to get out:
//! `yushan-jail --probe full|narrow`; or measures what the walls cost: `yushan-jail --time COUNT`. For tests and for looking around.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use yushan_sandbox::{End, Jail, Tier, probes};

fn main() -> ExitCode {
    yushan_sandbox::enter();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--probe", "full"] => probe(Tier::Full),
        ["--probe", "narrow"] => probe(Tier::Narrow),
        ["--time", count] => time(count.parse().unwrap_or(100)),
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

/// A plain process and one in the sandbox, in turn: from start to end, and from start until the walls stand.
fn time(count: usize) -> Result<bool, yushan_sandbox::Error> {
    let jail = Jail::new("/bin/true", Tier::Full);
    let (mut plain, mut walls, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count.max(1) {
        let begun = Instant::now();
        Command::new("/bin/true").env_clear().status()?;
        plain.push(begun.elapsed());
        let begun = Instant::now();
        let prisoner = jail.start()?;
        walls.push(begun.elapsed());
        prisoner.finish(b"", jail.limits.output)?;
        whole.push(begun.elapsed());
    }
    for (name, times) in [("plain", plain), ("until the walls stand", walls), ("sandboxed", whole)]
    {
        let [least, median, most] = quantiles(times).map(|time| time.as_secs_f64() * 1e3);
        println!("{name:<22} min {least:6.2} ms  median {median:6.2} ms  p95 {most:6.2} ms");
    }
    Ok(true)
}

/// The least, the middle one, and the one that 95 of 100 do not exceed.
fn quantiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [0, times.len() / 2, (times.len() * 95 / 100).min(times.len() - 1)].map(|at| times[at])
}
