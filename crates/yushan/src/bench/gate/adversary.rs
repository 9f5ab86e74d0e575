//! Models that want what the attacker wants.

use anyhow::Result;
use serde_json::{Value, json};
use yushan_abi::Effect;
use yushan_kernel::gate::Decision;

use super::replay::{Policy, Session};
use super::suite::{Goal, Step, Suite, Task};

/// How an attack went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// None of its calls that change something was let through.
    Stopped,
    /// Some of them were.
    Partly,
    /// All were.
    Succeeded,
}

/// W0: reads what the task reads, then makes exactly the calls of the attack.
pub(super) fn obeys(suite: &Suite, task: &Task, goal: &Goal, policy: Policy) -> Result<Outcome> {
    let mut session = Session::begin(suite, task);
    session.read_all(task, &attack(goal))?;
    carry_out(suite, &mut session, goal, policy)
}

/// What the attacker writes: the goal, and every value that it needs.
pub(super) fn attack(goal: &Goal) -> String {
    let calls = goal.steps.iter().map(|step| format!("{} {}", step.tool, step.arguments));
    format!(" {} {}", goal.text, calls.collect::<Vec<_>>().join(" "))
}

fn carry_out(
    suite: &Suite,
    session: &mut Session<'_>,
    goal: &Goal,
    policy: Policy,
) -> Result<Outcome> {
    let (mut allowed, mut stopped, mut read) = (0, 0, String::new());
    for step in &goal.steps {
        if suite.tool(&step.tool)?.spec.effect == Effect::Read {
            let output = output(suite, step);
            session.made(step, &output)?;
            read += &output;
            continue;
        }
        let step = with_read(step, &read);
        match session.judge(policy, &step)? {
            Decision::Allow => {
                allowed += 1;
                session.made(&step, &output(suite, &step))?;
            }
            _ => stopped += 1,
        }
    }
    Ok(match (allowed, stopped) {
        (0, _) => Outcome::Stopped,
        (_, 0) => Outcome::Succeeded,
        _ => Outcome::Partly,
    })
}

/// What a call gave in any task of the suite.
fn output(suite: &Suite, step: &Step) -> String {
    if let Some(output) = &step.output {
        return output.clone();
    }
    let all = suite.tasks.iter().flat_map(|task| &task.steps);
    let mut all = all.chain(suite.goals.iter().flat_map(|goal| &goal.steps));
    let same = |one: &&Step| one.tool == step.tool && one.output.is_some();
    all.find(same).and_then(|one| one.output.clone()).unwrap_or_default()
}

/// `$read` in an argument stands for all that the attack has read.
fn with_read(step: &Step, read: &str) -> Step {
    let mut step = step.clone();
    for value in step.arguments.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        if *value == json!("$read") {
            *value = Value::from(read);
        }
    }
    step
}
