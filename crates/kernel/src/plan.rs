//! Plans: what a process means to do, said before it has read anything that others wrote.
//!
//! The key decision: a plan is a list of tools with the arguments that are settled, and nothing that computes. A weak
//! model can write one, and whoever reads it sees what can happen. A plan only narrows: what stands in it is judged
//! like any other argument when the call is made, so that a planner who is the attacker's gains nothing by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Steps that a plan may have, and calls that it may foresee.
const STEPS: usize = 64;
const TIMES: u32 = 1000;

/// A plan, as far as it is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// In any order.
    pub steps: Vec<Step>,
}

/// Calls of one tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which.
    pub tool: String,
    /// Arguments that are settled; the others are left open.
    #[serde(default)]
    pub arguments: BTreeMap<String, Value>,
    /// How often at most.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

impl Plan {
    /// Whether it can be taken.
    pub fn check(&self) -> Result<(), String> {
        if self.steps.len() > STEPS {
            return Err(format!("a plan of {} steps; expected at most {STEPS}", self.steps.len()));
        }
        match self.steps.iter().find(|step| !(1..=TIMES).contains(&step.times)) {
            Some(step) => Err(format!(
                "{} is to be called {} times; expected 1 to {TIMES}",
                step.tool, step.times
            )),
            None => Ok(()),
        }
    }

    /// The step that a call carries out.
    pub(crate) fn step(&self, tool: &str, arguments: &Value) -> Option<usize> {
        self.steps.iter().position(|step| {
            let settled = |(name, value): (&String, &Value)| arguments.get(name) == Some(value);
            step.tool == tool && step.times > 0 && step.arguments.iter().all(settled)
        })
    }

    /// A call that carries out a step was made.
    pub(crate) fn carried_out(&mut self, tool: &str, arguments: &Value) {
        if let Some(at) = self.step(tool, arguments) {
            self.steps[at].times -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_are_carried_out_as_often_as_was_said() {
        let mut plan: Plan = serde_json::from_value(json!({"steps": [
            {"tool": "mail", "arguments": {"to": ["ann", "bob"]}, "times": 2},
            {"tool": "look"},
        ]}))
        .unwrap();
        assert_eq!(plan.check(), Ok(()));
        let (right, wrong) = (json!({"to": ["ann", "bob"], "text": "x"}), json!({"to": ["eve"]}));
        assert!(plan.step("mail", &wrong).is_none() && plan.step("post", &right).is_none());
        for _ in 0..2 {
            assert!(plan.step("mail", &right).is_some());
            plan.carried_out("mail", &wrong);
            plan.carried_out("mail", &right);
        }
        assert!(plan.step("mail", &right).is_none() && plan.step("look", &json!({})).is_some());
    }

    #[test]
    fn a_plan_is_bounded() {
        let step = |times| Step { tool: "x".into(), arguments: BTreeMap::new(), times };
        for (steps, times) in [(STEPS + 1, 1), (1, 0), (1, TIMES + 1)] {
            assert!(Plan { steps: vec![step(times); steps] }.check().is_err());
        }
    }
}
