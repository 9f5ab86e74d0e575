//! Conversations through the whole system: HTTP server, kernel, gate, drivers, sandbox, a web server on this machine.
//!
//! The model alone is not real: it is a script that calls tools as a good model would. What it says in each turn
//! stands in `conversations/`, beside what must come of it. The `main` begins as a program must that builds
//! sandboxes, so it runs its tests itself, as the usual harness would.

mod conversations;
mod ledger;
mod picture;
#[path = "../../../kernel/tests/scripted/mod.rs"]
mod scripted;
mod site;
mod stage;

use std::panic::catch_unwind;
use std::process::ExitCode;

use conversations::all;
use stage::Stage;

fn main() -> ExitCode {
    yushan_sandbox::enter();
    if std::env::args().nth(1).as_deref() == Some(ledger::SERVE) {
        return ledger::serve();
    }
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let wanted: Vec<_> = all().filter(|one| is_wanted(one.name)).collect();
    if wanted.is_empty() {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        return ExitCode::SUCCESS;
    }
    let stage = Stage::build();
    let (mut passed, mut failed) = (0, 0);
    for conversation in &wanted {
        let play = std::panic::AssertUnwindSafe(|| stage.play(conversation));
        let is_ok = catch_unwind(play).is_ok();
        println!("test {} ... {}", conversation.name, if is_ok { "ok" } else { "FAILED" });
        if is_ok { passed += 1 } else { failed += 1 }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = all().count() - wanted.len();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
