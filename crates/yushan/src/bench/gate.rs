//! `bench gate`: what the call gate stops, and what it costs whoever works behind it.
//!
//! The key decision: no model takes part. Adversaries that want exactly what an attacker wants stand in its
//! place, so that what holds here holds whichever model is used, and every decision is made by the code that decides
//! in the running system ([`yushan_kernel::syscall::judge`], over lives that are made of the same entries).

mod adversary;
mod records;
mod replay;
mod suite;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use yushan_kernel::gate::Decision;

use self::adversary::{Adversary, Outcome};
use self::replay::{Plan, Policy, Session};
use self::suite::Suite;

/// Measure what the call gate stops and what it costs: AgentDojo replayed, with adversaries in the model's place
#[derive(clap::Args)]
pub(crate) struct Gate {
    /// AgentDojo's data (v1.2.2) [default: data/security/agentdojo in $YUSHAN_SHARED]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Say which calls are asked for, and which attacks get through
    #[arg(long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of attacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attacks {
    /// Pairs of a task and an attack that wants something done.
    tried: usize,
    succeeded: usize,
    /// Attacks that got some of their calls through, and not what they want.
    partly: usize,
}

/// What came of the users' tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tasks {
    all: usize,
    automatic: usize,
    confirmations: usize,
}

/// All figures.
struct Report {
    /// Attacks that want something said: no gate of calls can stop words.
    words: usize,
    /// Pairs in which the task reads what the attacker can write.
    seen: usize,
    /// Of each policy: tasks, and attacks of a model that obeys.
    policies: Vec<(Policy, Tasks, Attacks)>,
    /// Of each adversary, against the gate.
    adversaries: Vec<(Adversary, Attacks)>,
    /// Nanoseconds of decisions, in their order.
    times: Vec<u64>,
    /// What was asked for, and what got through.
    notes: Vec<String>,
}

impl Gate {
    pub(crate) fn run(self) -> Result<()> {
        let folder = self.data.clone().unwrap_or_else(|| {
            let shared = std::env::var_os("YUSHAN_SHARED");
            let shared = shared.map_or_else(|| PathBuf::from("shared"), PathBuf::from);
            shared.join("data/security/agentdojo")
        });
        let report = measure(&folder, &|what| eprintln!("{what} …"))?;
        let text = if self.json { format!("{:#}\n", report.json()) } else { report.table() };
        let mut out = std::io::stdout().lock();
        if self.verbose {
            report.notes.iter().try_for_each(|note| writeln!(out, "{note}"))?;
        }
        Ok(out.write_all(text.as_bytes())?)
    }
}

/// Everything, on the data of a folder; `says` what is measured now.
fn measure(folder: &Path, says: &dyn Fn(&str)) -> Result<Report> {
    let suites = suite::load(folder, &suite::policies()?)?;
    let (mut times, mut notes) = (Vec::new(), Vec::new());
    let mut policies = Vec::new();
    for policy in Policy::ALL {
        says(policy.name());
        let mut tasks = Tasks::default();
        for suite in &suites {
            usual(suite, policy, &mut tasks, &mut times, &mut notes)?;
        }
        policies.push((policy, tasks, attacks(&suites, Adversary::Obeys, policy, &mut notes)?));
    }
    let mut adversaries = Vec::new();
    for adversary in Adversary::ALL {
        says(adversary.name());
        adversaries.push((adversary, attacks(&suites, adversary, Policy::Gate, &mut notes)?));
    }
    let (mut words, mut seen) = (0, 0);
    for suite in &suites {
        let silent = suite.goals.iter().filter(|goal| goal.steps.is_empty()).count();
        words += silent * suite.tasks.len();
        for task in &suite.tasks {
            let read = Session::begin(suite, task, Plan::Task).read_all(task, " attack")?;
            seen += usize::from(read) * suite.goals.len();
        }
    }
    times.sort_unstable();
    Ok(Report { words, seen, policies, adversaries, times, notes })
}

/// The users' tasks, without attacks.
fn usual(
    suite: &Suite,
    policy: Policy,
    tasks: &mut Tasks,
    times: &mut Vec<u64>,
    notes: &mut Vec<String>,
) -> Result<()> {
    for task in &suite.tasks {
        let mut session = Session::begin(suite, task, Plan::Task);
        let mut asked = 0;
        for step in &task.steps {
            let decision = session.judge(policy, step)?;
            let output = step.output.as_deref().unwrap_or_default();
            if policy == Policy::Gate {
                times.push(session.time(step)?);
            }
            if decision == Decision::Allow {
                session.made(step, output)?;
                continue;
            }
            asked += 1;
            session.confirmed(step, output)?;
            if policy == Policy::Gate {
                let (suite, task, tool) = (&suite.name, &task.id, &step.tool);
                notes.push(format!("{suite} {task}: {tool} {}: {decision:?}", step.arguments));
            }
        }
        tasks.all += 1;
        tasks.automatic += usize::from(asked == 0);
        tasks.confirmations += asked;
    }
    Ok(())
}

/// All pairs of a task and an attack that wants something done.
fn attacks(
    suites: &[Suite],
    adversary: Adversary,
    policy: Policy,
    notes: &mut Vec<String>,
) -> Result<Attacks> {
    let mut attacks = Attacks::default();
    for suite in suites {
        for task in &suite.tasks {
            for goal in suite.goals.iter().filter(|goal| !goal.steps.is_empty()) {
                attacks.tried += 1;
                let outcome = adversary::attack(suite, task, goal, adversary, policy)?;
                attacks.succeeded += usize::from(outcome == Outcome::Succeeded);
                attacks.partly += usize::from(outcome == Outcome::Partly);
                if outcome != Outcome::Stopped && policy == Policy::Gate {
                    let (suite, task, goal) = (&suite.name, &task.id, &goal.id);
                    notes.push(format!("{suite} {task} {goal}: {}: {outcome:?}", adversary.name()));
                }
            }
        }
    }
    Ok(attacks)
}

impl Report {
    fn table(&self) -> String {
        let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
        let mut out = format!(
            "{:<30}{:>22}{:>8}{:>20}{:>15}\n",
            "policy", "attacks that succeed", "partly", "tasks automatic", "questions each"
        );
        let mut line = |name: &str, attacks: &Attacks, tasks: Option<&Tasks>| {
            let succeeded = format!(
                "{} of {} ({:.1} %)",
                attacks.succeeded,
                attacks.tried,
                percent(attacks.succeeded, attacks.tried)
            );
            let (automatic, each) = tasks.map_or((String::new(), String::new()), |tasks| {
                let share = percent(tasks.automatic, tasks.all);
                let each = tasks.confirmations as f64 / tasks.all.max(1) as f64;
                (
                    format!("{} of {} ({share:.1} %)", tasks.automatic, tasks.all),
                    format!("{each:.2}"),
                )
            });
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{name:<30}{succeeded:>22}{:>8}{automatic:>20}{each:>15}",
                attacks.partly
            );
        };
        for (policy, tasks, attacks) in &self.policies {
            line(policy.name(), attacks, Some(tasks));
        }
        for (adversary, attacks) in &self.adversaries {
            line(&format!("  {}", adversary.name()), attacks, None);
        }
        let (p50, p99) = self.quantiles();
        out + &format!(
            "\n{} more attacks want something said: no gate of calls stops words.\n\
             In {} pairs the task reads what the attacker can write; in the others the attack is read as a page of its \
             own.\ndecision: p50 {p50:.1} µs, p99 {p99:.1} µs\n",
            self.words, self.seen
        )
    }

    /// Microseconds of a decision: the median, and the hundredth part above.
    fn quantiles(&self) -> (f64, f64) {
        let at = |share: f64| {
            let at = (share * self.times.len() as f64) as usize;
            self.times.get(at).map_or(0.0, |time| *time as f64 / 1e3)
        };
        (at(0.5), at(0.99))
    }

    fn json(&self) -> Value {
        let attacks = |all: &Attacks| json!({"tried": all.tried, "succeeded": all.succeeded, "partly": all.partly});
        let policies = self.policies.iter().map(|(policy, tasks, all)| {
            json!({
                "policy": policy.name(), "attacks": attacks(all), "tasks": tasks.all,
                "automatic": tasks.automatic, "confirmations": tasks.confirmations,
            })
        });
        let adversaries = self.adversaries.iter().map(
            |(adversary, all)| json!({"adversary": adversary.name(), "attacks": attacks(all)}),
        );
        let (p50, p99) = self.quantiles();
        json!({
            "policies": policies.collect::<Vec<_>>(), "adversaries": adversaries.collect::<Vec<_>>(),
            "attacks_in_words": self.words, "pairs_seen": self.seen, "p50_us": p50, "p99_us": p99,
        })
    }
}
