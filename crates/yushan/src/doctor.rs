//! `doctor`: what tools need of this machine, what is missing, and the command that installs it; `doctor sandbox`: whether anybody
//! gets out.
//!
//! The key decision: nothing is guessed. The interpreter is started and asked, the sandbox is run against, and what was found is
//! kept, so that a server believes it without doing it again.

use std::path::PathBuf;

use anyhow::{Result, bail};
use yushan_sandbox::Tier;
use yushan_tools::python::{discover, walls};

use crate::accounts::open_disk;

/// Programs that show pages with scripts, by the names they go under.
const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// Width of the first column.
const NAME: usize = 12;

/// Show what the tools need, what is missing, and the command that installs it
#[derive(clap::Args)]
pub(crate) struct Doctor {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Try to get out of the sandbox in every way that is known, on each tier, and show what came of it
    Sandbox,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            None => look(),
            Some(What::Sandbox) => sandbox(),
        }
    }
}

fn say(name: &str, text: &str) {
    println!("{name:<NAME$} {text}");
}

/// What is missing, what it is for, and how to get it.
fn missing(name: &str, purpose: &str, install: Option<String>) {
    let install = install.unwrap_or_else(|| "no package manager is known here".into());
    say(name, &format!("missing ({purpose})   install: {install}"));
}

fn look() -> Result<()> {
    match discover::find(None) {
        Ok(found) => {
            say("python", &format!("{} {}", found.program.display(), found.version));
            for (name, version) in &found.packages {
                say(name, version);
            }
            let install = found.install();
            for name in found.missing() {
                missing(name, "numbers, tables and plots in Python", install.clone());
            }
        }
        Err(_) => missing("python", "the tool that runs Python", discover::install(&["python3"])),
    }
    match program(&BROWSERS) {
        Some(path) => say("chromium", &path.display().to_string()),
        None => {
            missing("chromium", "pages that need scripts", discover::install(&["chromium"]));
        }
    }
    say("bwrap", "not needed: the sandbox builds its own walls");
    let verdicts = walls::known(&open_disk()?);
    for tier in [Tier::Full, Tier::Narrow] {
        let text = match verdicts.iter().find(|verdict| verdict.tier == tier) {
            None => "not tried yet: `yushan doctor sandbox` does".into(),
            Some(verdict) => summary(verdict),
        };
        say("sandbox", &format!("{:<7} {text}", name(tier)));
    }
    Ok(())
}

fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let paths = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    paths.into_iter().find(|path| path.is_file())
}

fn name(tier: Tier) -> &'static str {
    match tier {
        Tier::Full => "full",
        Tier::Narrow => "narrow",
    }
}

fn summary(verdict: &walls::Verdict) -> String {
    let failed = verdict.failed.join("; ");
    match (verdict.made, verdict.failed.len()) {
        (0, _) => format!("cannot be built here: {failed}"),
        (made, 0) => format!("holds: {made} of {made} attempts contained"),
        (made, out) => format!("FAILED: {out} of {made} attempts got out: {failed}"),
    }
}

fn sandbox() -> Result<()> {
    let mut verdicts = Vec::new();
    for tier in [Tier::Full, Tier::Narrow] {
        println!("tier {}", name(tier));
        verdicts.push(walls::examine(tier, |finding| {
            let word = if finding.contained { "pass" } else { "FAIL" };
            println!("  {word}  {:<22} {:<55} {}", finding.name, finding.what, finding.why);
        }));
    }
    walls::keep(&open_disk()?, &verdicts);
    for verdict in &verdicts {
        say("sandbox", &format!("{:<7} {}", name(verdict.tier), summary(verdict)));
    }
    match verdicts.iter().find(|verdict| verdict.holds()) {
        Some(verdict) => say("python", &format!("runs on tier {}", name(verdict.tier))),
        None => bail!("no sandbox holds on this machine, so Python does not run here"),
    }
    Ok(())
}
