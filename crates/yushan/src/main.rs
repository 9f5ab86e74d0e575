//! The binary: it only wires the parts together and turns errors into exit codes.
//!
//! The key decision: one file a command, each with its flags, its help and one function that does
//! it. Results go to stdout and nothing else does; errors, warnings, progress and statistics go to
//! stderr. What a command finds out about a model it asks the library; no rule of the engine is
//! written here a second time.

mod accounts;
mod bench;
mod boot;
mod branches;
mod chat;
mod convert;
mod data;
mod doctor;
mod drivers;
mod evaluate;
mod exit;
mod figures;
mod flags;
mod form;
mod hub;
mod inspect;
mod interrupt;
mod kept;
mod library;
mod logs;
mod mcp;
mod models;
mod offer;
mod open;
mod own;
mod plan;
mod processes;
mod progress;
mod quantize;
mod remote;
mod replace;
mod reply;
mod run;
mod scale;
mod score;
mod serve;
mod shelf;
mod spans;
mod steps;
mod system;
mod talk;
mod tokenizer;
mod top;
mod train;
mod wire;

use std::sync::LazyLock;

use clap::{Parser, Subcommand};

/// What `--version` prints: the release, and the instruction set the kernels will use here.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        format!("{} ({})", env!("CARGO_PKG_VERSION"), yushan_tensor::Isa::best().name())
    });
    &VERSION
}

/// Run, look into, convert, shrink and measure language models on this machine's processor.
#[derive(Parser)]
#[command(
    name = "yushan",
    version = version(),
    propagate_version = true,
    arg_required_else_help = true,
    after_help = exit::CODES,
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Inspect(inspect::Inspect),
    Convert(convert::Convert),
    Quantize(quantize::Quantize),
    Score(score::Score),
    Evaluate(Box<evaluate::Evaluate>),
    Bench(bench::Bench),
    Pull(models::Pull),
    Models(models::Models),
    Rm(models::Rm),
    Serve(serve::Serve),
    Keys(accounts::KeysCommand),
    Users(accounts::Users),
    Chat(talk::Chat),
    Export(kept::Export),
    Import(kept::Import),
    Top(top::Top),
    Ps(system::Ps),
    Kill(system::Kill),
    Nice(system::Nice),
    Stop(system::Stop),
    Cont(system::Cont),
    Spawn(Box<processes::Spawn>),
    Logs(processes::Logs),
    Replay(processes::ReplayOf),
    Answer(processes::Answer),
    Mail(processes::Mail),
    Library(Box<library::Library>),
    Mcp(mcp::Mcp),
    Doctor(doctor::Doctor),
    Data(data::Data),
    Tokenizer(tokenizer::Tokenizer),
    Train(train::Train),
    Scale(scale::Scale),
    Plan(Box<plan::Plan>),
}

fn main() -> std::process::ExitCode {
    // Before anything else: this program may have been started to build a sandbox.
    yushan_sandbox::enter();
    let done = match Arguments::parse().command {
        Command::Run(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Quantize(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Evaluate(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Pull(command) => command.run(),
        Command::Models(command) => command.run(),
        Command::Rm(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Keys(command) => command.run(),
        Command::Users(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Ps(command) => command.run(),
        Command::Kill(command) => command.run(),
        Command::Nice(command) => command.run(),
        Command::Stop(command) => command.run(),
        Command::Cont(command) => command.run(),
        Command::Spawn(command) => command.run(),
        Command::Logs(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Answer(command) => command.run(),
        Command::Mail(command) => command.run(),
        Command::Library(command) => command.run(),
        Command::Mcp(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Data(command) => command.run(),
        Command::Tokenizer(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Scale(command) => command.run(),
        Command::Plan(command) => command.run(),
    };
    exit::code(done)
}
