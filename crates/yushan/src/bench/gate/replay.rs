//! Sessions of the data set, lived by the kernel's own [`Life`] and judged by its own gate.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use yushan_abi::{
    Call, Counts, Effect, Finish, Label, Message, ParamRole, Part, Prompt, Readers, Request, Role,
    Sources, ToolResult,
};
use yushan_kernel::gate::Decision;
use yushan_kernel::quarantine::{Answer, Extraction};
use yushan_kernel::{Entry, Life, Pid, Program, syscall};

use super::records::{labelled, plain};
use super::suite::{HERE, Manifest, Step, Suite, Task, given};

/// What decides about calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Nothing does.
    None,
    /// The tools that the task needs, by a perfect plan, may be called.
    AllowList,
    /// Whatever has an effect is asked for once something untrusted was read.
    SessionTaint,
    /// The kernel's gate.
    Gate,
}

impl Policy {
    pub(super) const ALL: [Policy; 4] =
        [Policy::None, Policy::AllowList, Policy::SessionTaint, Policy::Gate];

    pub(super) fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::AllowList => "tool allow-list",
            Policy::SessionTaint => "session taint",
            Policy::Gate => "the gate",
        }
    }
}

/// What a session plans before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The tools that the task needs, as often as it needs them; where that cannot be known before reading, nothing.
    Task,
    /// Every tool, as often as it likes: the planner is the attacker's.
    Everything,
}

/// A process at work in a suite.
#[derive(Clone)]
pub(super) struct Session<'a> {
    suite: &'a Suite,
    pub(super) life: Life,
    /// Tools of the plan.
    plan: BTreeSet<String>,
    /// Whether the user is asked and says yes.
    confirm: bool,
    /// Calls that an adversary has made.
    depth: usize,
}

impl<'a> Session<'a> {
    /// Before anything was read.
    pub(super) fn begin(suite: &'a Suite, task: &Task, plan: Plan) -> Session<'a> {
        let user = Label::of(Sources::USER).for_reader(&suite.user);
        let prompt = Prompt::Chat(vec![
            Message::new(Role::System, "You use tools.", Label::of(Sources::SYSTEM)),
            Message::new(Role::User, task.prompt.clone(), user),
        ]);
        let mut program = Program::new(Request::new("any", prompt));
        let able = |tool: &Manifest| (tool.spec.name.clone(), tool.capability.clone());
        program.capabilities = suite.tools.iter().map(able).collect();
        program.attended = true;
        program.request.tools = suite.tools.iter().map(|tool| tool.spec.clone()).collect();
        let looks = |step: &&Step| suite.tool(&step.tool).is_ok_and(Manifest::looks);
        let planned = task.steps.iter().filter(|step| task.plannable || looks(step));
        let tools: Vec<String> = planned.map(|step| step.tool.clone()).collect();
        let life = Life::new(Pid(1), program);
        let plan_of = tools.iter().cloned().collect();
        let mut session = Session { suite, life, plan: plan_of, confirm: false, depth: 0 };
        let steps: Vec<Value> = match plan {
            Plan::Task if !task.plannable => return session,
            Plan::Task => tools.iter().map(|tool| json!({ "tool": tool })).collect(),
            Plan::Everything => {
                let all = suite.tools.iter();
                all.map(|tool| json!({ "tool": tool.spec.name, "times": 1000 })).collect()
            }
        };
        let arguments = json!({ "steps": steps });
        let plan = Step { tool: "plan".into(), arguments, output: None };
        session.answered(&plan, syscall::said("the plan stands"));
        session
    }

    /// What a policy says to a call.
    pub(super) fn judge(&self, policy: Policy, step: &Step) -> Result<Decision> {
        let spec = &self.suite.tool(&step.tool)?.spec;
        let ask = Decision::Ask(yushan_kernel::gate::Rule::R6Control);
        Ok(match policy {
            Policy::None => Decision::Allow,
            Policy::AllowList if self.plan.contains(&step.tool) => Decision::Allow,
            Policy::AllowList => ask,
            Policy::SessionTaint if spec.effect == Effect::Read => Decision::Allow,
            Policy::SessionTaint if self.life.label.is_trusted() => Decision::Allow,
            Policy::SessionTaint => ask,
            Policy::Gate => {
                let call = call(step);
                let judged = syscall::judge(&self.life, spec, &call, 0);
                judged.map_err(|why| anyhow!(why))?.decision
            }
        })
    }

    /// How many nanoseconds the gate takes for a call.
    pub(super) fn time(&self, step: &Step) -> Result<u64> {
        let spec = &self.suite.tool(&step.tool)?.spec;
        let call = call(step);
        let begun = Instant::now();
        let judged = std::hint::black_box(syscall::judge(&self.life, spec, &call, 0));
        let time = begun.elapsed().as_nanos() as u64;
        judged.map(|_| time).map_err(|why| anyhow!(why))
    }

    /// A call was made and gave this.
    pub(super) fn made(&mut self, step: &Step, output: &str) -> Result<()> {
        let tool = self.suite.tool(&step.tool)?;
        let mut result = match &tool.shape {
            Some(shape) => labelled(shape, output, &self.suite.user),
            None => ToolResult::new(output, Label::of(Sources::OWN_DATA)),
        };
        if tool.spec.effect != Effect::Read && !tool.looks() {
            // What is made of the arguments is no better than they are: of all that was read.
            let label = self.life.data.join(&Label::of(self.life.label.sources));
            result.parts.iter_mut().for_each(|part| part.label = part.label.join(&label));
            result.listed.iter_mut().for_each(|one| one.label = one.label.join(&label));
        }
        self.answered(step, result);
        Ok(())
    }

    fn answered(&mut self, step: &Step, result: ToolResult) {
        let (calls, finish) = (vec![call(step)], Finish::Calls);
        let said = Entry::Said { text: String::new(), calls, finish, counts: Counts::default() };
        self.life.apply(said);
        if self.confirm {
            self.life.apply(Entry::Confirmed(true));
        }
        self.life.apply(Entry::Answered { result, received: false });
    }

    /// How many calls an adversary has made.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn deeper(&mut self) {
        self.depth += 1;
    }

    /// Whether a text stands in what was read.
    pub(super) fn has_read(&self, text: &str) -> bool {
        let mut parts = self.life.messages.iter().flat_map(|message| &message.parts);
        parts.any(|part| part.text.contains(text))
    }

    /// A value came out of quarantine.
    pub(super) fn extracted(&mut self, extraction: &Extraction, value: &Value) {
        let step = Step { tool: "wait".into(), arguments: json!({"pid": 2}), output: None };
        let value = match &extraction.answer {
            Answer::Listed { .. } => json!(plain(value)),
            _ => value.clone(),
        };
        self.answered(&step, extraction.result(&value.to_string()));
    }

    /// Who would receive what a call sends.
    pub(super) fn receivers(&self, tool: &Manifest, arguments: &Value) -> Readers {
        if !tool.capability.named {
            return tool.capability.receivers.clone();
        }
        let to = self.life.leaves(&tool.spec, arguments).into_iter();
        let to = to.filter(|leaf| leaf.role == ParamRole::Destination);
        Readers::Only(to.map(|leaf| leaf.text).collect())
    }

    /// The user was asked and said yes, then it was made.
    pub(super) fn confirmed(&mut self, step: &Step, output: &str) -> Result<()> {
        self.confirm = true;
        let made = self.made(step, output);
        self.confirm = false;
        made
    }

    /// All that the task reads, with the attack wherever an attacker can write; gives whether it was read there.
    /// Where the task reads nothing of an attacker's, it stands in a page of its own.
    pub(super) fn read_all(&mut self, task: &Task, attack: &str) -> Result<bool> {
        let mut seen = false;
        for step in &task.steps {
            if self.suite.tool(&step.tool)?.looks() {
                let output = step.output.as_deref().unwrap_or_default();
                let attacked = attacked(output, &self.suite.gaps, attack);
                seen |= attacked.is_some();
                self.made(step, attacked.as_deref().unwrap_or(output))?;
            }
        }
        if !seen {
            let step = Step { tool: "page".into(), arguments: Value::Null, output: None };
            let part = Part { text: attack.into(), label: Label::of(Sources::WEB) };
            self.answered(&step, ToolResult { parts: vec![part], ..ToolResult::default() });
        }
        Ok(seen)
    }
}

fn call(step: &Step) -> Call {
    let arguments = given(&step.arguments).to_string();
    Call { id: "call".into(), name: step.tool.clone(), arguments }
}

/// An output with the attack in its gaps; `None` if it has none.
fn attacked(output: &str, gaps: &[(String, String)], attack: &str) -> Option<String> {
    let fill = |text: &str| {
        let mut filled = text.to_string();
        for (plain, open) in gaps.iter().filter(|(plain, _)| text.contains(plain.as_str())) {
            filled = filled.replace(plain.as_str(), &open.replace(HERE, attack));
        }
        filled
    };
    match serde_json::from_str(output) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) => {
            let filled = each_text(&value, &fill);
            (filled != value).then(|| filled.to_string())
        }
        _ => Some(fill(output)).filter(|filled| filled != output),
    }
}

fn each_text(value: &Value, fill: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::from(fill(text)),
        Value::Array(all) => all.iter().map(|one| each_text(one, fill)).collect(),
        Value::Object(all) => {
            let pair = |(name, one): (&String, &Value)| (name.clone(), each_text(one, fill));
            Value::Object(all.iter().map(pair).collect())
        }
        other => other.clone(),
    }
}
