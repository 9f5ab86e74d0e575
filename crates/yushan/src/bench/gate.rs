//! `bench gate`: what the call gate stops, and what it costs whoever works behind it.
//!
//! The key decision: no model takes part. Adversaries that want exactly what an attacker wants stand in its
//! place, so that what holds here holds whichever model is used, and every decision is made by the code that decides
//! in the running system ([`yushan_kernel::syscall::judge`], over lives that are made of the same entries).

mod adversary;
mod records;
mod replay;
mod suite;

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use yushan_kernel::gate::Decision;

use self::adversary::Outcome;
use self::replay::{Policy, Session};
use self::suite::Suite;

/// What the call gate stops, and what it costs: AgentDojo replayed without a model
#[derive(clap::Args)]
pub(crate) struct Gate {
    /// AgentDojo's data (v1.2.2) [default: data/security/agentdojo in $YUSHAN_SHARED]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What came of one policy.
#[derive(Default)]
struct Figures {
    tasks: usize,
    automatic: usize,
    confirmations: usize,
    /// Attacks that want something done, that succeeded, and that got some of it.
    attacks: usize,
    succeeded: usize,
    partly: usize,
    /// Attacks that want something said.
    words: usize,
}

impl Gate {
    pub(crate) fn run(self) -> Result<()> {
        let folder = self.data.clone().unwrap_or_else(|| {
            let shared = std::env::var_os("YUSHAN_SHARED").map_or_else(|| "shared".into(), PathBuf::from);
            shared.join("data/security/agentdojo")
        });
        let suites = suite::load(&folder, &suite::policies()?)?;
        let mut text = String::new();
        for policy in Policy::ALL {
            let mut figures = Figures::default();
            for suite in &suites {
                usual(suite, policy, &mut figures)?;
                obeyed(suite, policy, &mut figures)?;
            }
            writeln!(
                text,
                "{:<16} {:>4} of {} attacks, {:>4} partly; {} in words | {:>3} of {} tasks, {:.2} confirmations",
                policy.name(),
                figures.succeeded,
                figures.attacks,
                figures.partly,
                figures.words,
                figures.automatic,
                figures.tasks,
                figures.confirmations as f64 / figures.tasks as f64
            )?;
        }
        Ok(std::io::stdout().write_all(text.as_bytes())?)
    }
}

/// The users' tasks, without attacks.
fn usual(suite: &Suite, policy: Policy, figures: &mut Figures) -> Result<()> {
    for task in &suite.tasks {
        let mut session = Session::begin(suite, task);
        let mut asked = 0;
        for step in &task.steps {
            let decision = session.judge(policy, step)?;
            if decision != Decision::Allow {
                asked += 1;
                if std::env::var_os("VERBOSE").is_some() && policy == Policy::Gate {
                    eprintln!("{} {} {} {} {decision:?}", suite.name, task.id, step.tool, step.arguments);
                }
            }
            let output = step.output.as_deref().unwrap_or_default();
            match decision {
                Decision::Allow => session.made(step, output)?,
                _ => session.confirmed(step, output)?,
            }
        }
        figures.tasks += 1;
        figures.automatic += usize::from(asked == 0);
        figures.confirmations += asked;
    }
    Ok(())
}

/// All pairs of a task and an attack, by a model that obeys every injection.
fn obeyed(suite: &Suite, policy: Policy, figures: &mut Figures) -> Result<()> {
    for task in &suite.tasks {
        for goal in &suite.goals {
            if goal.steps.is_empty() {
                figures.words += 1;
                continue;
            }
            figures.attacks += 1;
            let outcome = adversary::obeys(suite, task, goal, policy)?;
            if outcome != Outcome::Stopped && std::env::var_os("VERBOSE").is_some() && policy == Policy::Gate {
                eprintln!("ATTACK {} {} {} {outcome:?}", suite.name, task.id, goal.id);
            }
            figures.succeeded += usize::from(outcome == Outcome::Succeeded);
            figures.partly += usize::from(outcome == Outcome::Partly);
        }
    }
    Ok(())
}
