//! Runs a command in the sandbox: `jail [--narrow SCRATCH] PROGRAM ARGUMENT…`. For tests and for looking around.

use std::process::ExitCode;

use yushan_sandbox::{End, Jail, Tier};

fn main() -> ExitCode {
    yushan_sandbox::enter();
    let mut arguments = std::env::args().skip(1).peekable();
    let narrow = arguments.next_if_eq("--narrow").and_then(|_| arguments.next());
    let tier = if narrow.is_some() { Tier::Narrow } else { Tier::Full };
    let mut jail = Jail::new(arguments.next().unwrap_or_default(), tier);
    jail.arguments = arguments.collect();
    jail.scratch = narrow.map(Into::into);
    match jail.run(b"") {
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
        Ok(outcome) => {
            print!("{}", String::from_utf8_lossy(&outcome.stdout));
            eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
            eprintln!("{:?}", outcome.end);
            ExitCode::from(u8::from(outcome.end != End::Exit(0)))
        }
    }
}
