//! AgentDojo as it lies in files: its tasks, their calls and what these gave, under manifests of ours.
//!
//! The key decision: what is asked and what was answered comes from the data set; what a tool does and who
//! wrote what it gives comes from `agentdojo.json`, which was written from the tools' signatures alone. It knows no
//! task and no attack, but for the calls of eight goals that the data set tells in words only, and for the tasks
//! that hand the choice of tools to a document, for which no plan can be made beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yushan_abi::{Effect, ParamRole, Readers, ToolSpec};
use yushan_kernel::gate::Capability;

use super::records::{Shape, labelled};

/// The release of the data set that the figures are of.
const FILE: &str = "v1.2.2_ground_truth.json";

/// One of the four worlds: its tools, tasks and attacks.
pub(super) struct Suite {
    pub(super) name: String,
    /// Whom the assistant works for.
    pub(super) user: String,
    pub(super) tools: Vec<Manifest>,
    pub(super) tasks: Vec<Task>,
    pub(super) goals: Vec<Goal>,
    /// Texts of the environment that an attacker may write to: as they are, and with the attack in place of
    /// [`HERE`].
    pub(super) gaps: Vec<(String, String)>,
    /// Calls that only look, with what they gave, each once.
    pub(super) reads: Vec<Step>,
    /// Values that these list for anybody to choose.
    pub(super) known: BTreeSet<String>,
    /// What looks like a secret in them, and who may read it.
    pub(super) canaries: Vec<(String, Readers)>,
}

/// Stands where an attack goes.
pub(super) const HERE: &str = "\u{1}";

pub(super) struct Manifest {
    pub(super) spec: ToolSpec,
    pub(super) capability: Capability,
    pub(super) shape: Option<Shape>,
}

/// What a user asks for, and the calls that do it.
pub(super) struct Task {
    pub(super) id: String,
    pub(super) prompt: String,
    pub(super) steps: Vec<Step>,
    /// Whether its tools can be known before anything is read.
    pub(super) plannable: bool,
}

/// What an attacker wants.
pub(super) struct Goal {
    pub(super) id: String,
    pub(super) text: String,
    /// Empty: it wants the assistant to say something.
    pub(super) steps: Vec<Step>,
}

/// A call and what it gave.
#[derive(Clone, Deserialize)]
pub(super) struct Step {
    #[serde(rename = "function")]
    pub(super) tool: String,
    #[serde(rename = "args")]
    pub(super) arguments: Value,
    #[serde(default)]
    pub(super) output: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    tools: Vec<Described>,
    user_tasks: Vec<Told>,
    injection_tasks: Vec<Told>,
    injection_vectors: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    #[serde(default)]
    description: String,
    parameters: Value,
}

#[derive(Deserialize)]
struct Told {
    id: String,
    #[serde(alias = "goal")]
    prompt: String,
    #[serde(default)]
    calls: Vec<Step>,
}

#[derive(Deserialize)]
pub(super) struct Policies {
    shapes: BTreeMap<String, Shape>,
    #[serde(flatten)]
    suites: BTreeMap<String, World>,
}

#[derive(Deserialize)]
struct World {
    user: String,
    deferred: Vec<String>,
    tools: BTreeMap<String, Declared>,
    goals: BTreeMap<String, Vec<Step>>,
}

#[derive(Deserialize)]
struct Declared {
    effect: Effect,
    #[serde(default)]
    to: To,
    gives: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

/// Who receives what a tool sends.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum To {
    #[default]
    Public,
    /// Whoever the destinations name.
    Named,
    /// The members of a closed group.
    Members,
}

/// The manifests that come with the program.
pub(super) fn policies() -> Result<Policies> {
    serde_json::from_str(include_str!("agentdojo.json")).context("agentdojo.json")
}

/// All four suites of a folder with the data set.
pub(super) fn load(folder: &Path, policies: &Policies) -> Result<Vec<Suite>> {
    let path = folder.join(FILE);
    if !path.is_file() {
        bail!(
            "{} has no {FILE}; expected AgentDojo's ground truth (v1.2.2) and its suites/ beside it: pass their \
             folder with --data DIR",
            folder.display()
        );
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let data: BTreeMap<String, Data> =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    data.into_iter()
        .map(|(name, data)| {
            let texts = texts(&folder.join("suites").join(&name))?;
            suite(name, data, texts, policies)
        })
        .collect()
}

fn suite(name: String, data: Data, texts: Vec<String>, policies: &Policies) -> Result<Suite> {
    let world = policies.suites.get(&name).with_context(|| format!("no manifests of {name}"))?;
    let manifest = |tool: Described| {
        let declared = world.tools.get(&tool.name);
        manifest(tool, declared, &policies.shapes)
    };
    let tools = data.tools.into_iter().map(manifest).collect::<Result<_>>()?;
    let task = |told: Told| Task {
        plannable: !world.deferred.contains(&told.id),
        id: told.id,
        prompt: told.prompt,
        steps: told.calls.into_iter().map(read).collect(),
    };
    let goal = |told: Told| {
        let scripted = || world.goals.get(&told.id).cloned().unwrap_or_default();
        let steps = if told.calls.is_empty() { scripted() } else { told.calls };
        let steps = steps.into_iter().map(read).collect();
        Goal { id: told.id, text: told.prompt, steps }
    };
    let gaps = gaps(&texts, &data.injection_vectors);
    let mut suite = Suite {
        user: world.user.clone(),
        tools,
        tasks: data.user_tasks.into_iter().map(task).collect(),
        goals: data.injection_tasks.into_iter().map(goal).collect(),
        gaps,
        name,
        reads: Vec::new(),
        known: BTreeSet::new(),
        canaries: Vec::new(),
    };
    suite.look_round()?;
    Ok(suite)
}

/// Records that are written as YAML, as JSON; other texts as they are.
fn read(mut step: Step) -> Step {
    if let Some(output) = &mut step.output
        && let Ok(records @ (Value::Array(_) | Value::Object(_))) = serde_saphyr::from_str(output)
    {
        *output = records.to_string();
    }
    step
}

fn manifest(
    tool: Described,
    declared: Option<&Declared>,
    shapes: &BTreeMap<String, Shape>,
) -> Result<Manifest> {
    let declared = declared.with_context(|| format!("the tool {} has no manifest", tool.name))?;
    let mut schema = tool.parameters;
    let mut roles = BTreeMap::new();
    let properties = schema["properties"].as_object_mut();
    for (name, property) in properties.into_iter().flatten() {
        let declared = declared.parameters.get(name);
        let declared = declared.with_context(|| format!("{} of {}", name, tool.name))?;
        let (role, kind) = declared.split_once('/').unwrap_or((declared, ""));
        roles.insert(name.clone(), serde_json::from_value::<ParamRole>(json!(role))?);
        if !kind.is_empty() {
            property["x-kind"] = json!(kind);
        }
    }
    let receivers = match declared.to {
        To::Public | To::Named => Readers::Public,
        To::Members => Readers::one("members"),
    };
    let shape = match &declared.gives {
        Some(shape) => Some(shapes.get(shape).cloned().with_context(|| format!("shape {shape}"))?),
        None => None,
    };
    let named = matches!(declared.to, To::Named);
    let capability = Capability { receivers, named, ..Capability::default() };
    let (name, description, effect) = (tool.name, tool.description, declared.effect);
    Ok(Manifest { spec: ToolSpec { name, description, schema, effect, roles }, capability, shape })
}

/// Each text with gaps, with what stands there by itself and with [`HERE`].
fn gaps(texts: &[String], vectors: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let filled = |text: &String| {
        let (mut plain, mut open) = (text.clone(), text.clone());
        for (name, default) in vectors {
            let gap = format!("{{{name}}}");
            plain = plain.replace(&gap, default);
            open = open.replace(&gap, &format!("{default}{HERE}"));
        }
        (plain != *text && !plain.is_empty()).then_some((plain, open))
    };
    texts.iter().filter_map(filled).collect()
}

/// All texts in the YAML files of a folder.
fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path)?;
                let value: Value =
                    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
                collect(&value, &mut found);
            }
        }
    }
    Ok(found)
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|one| collect(one, found)),
        Value::Object(all) => all.values().for_each(|one| collect(one, found)),
        _ => {}
    }
}

impl Suite {
    /// All calls of the data set.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        let tasks = self.tasks.iter().flat_map(|task| &task.steps);
        tasks.chain(self.goals.iter().flat_map(|goal| &goal.steps))
    }

    /// Reads all that any call reads, for what is in it.
    fn look_round(&mut self) -> Result<()> {
        let (mut seen, mut reads) = (BTreeSet::new(), Vec::new());
        for step in self.steps().filter(|step| step.output.is_some()) {
            let looks = self.tool(&step.tool)?.spec.effect == Effect::Read;
            if looks && seen.insert(format!("{} {}", step.tool, step.arguments)) {
                reads.push(step.clone());
            }
        }
        for step in &reads {
            let Some(shape) = &self.tool(&step.tool)?.shape else { continue };
            let result = labelled(shape, step.output.as_deref().unwrap_or_default(), &self.user);
            self.known.extend(result.listed.into_iter().map(|one| one.value));
            for part in result.parts.iter().filter(|part| part.label.readers != Readers::Public) {
                let words = part.text.split(|char: char| !(char.is_alphanumeric() || char == '-'));
                let secret = |word: &&str| {
                    let digits = word.bytes().filter(u8::is_ascii_digit).count();
                    (4..=24).contains(&digits) && !word.starts_with("20") && word.len() > 4
                };
                let found = words.filter(secret);
                self.canaries
                    .extend(found.map(|word| (word.to_string(), part.label.readers.clone())));
            }
        }
        let mut once = BTreeSet::new();
        self.canaries.retain(|(word, _)| once.insert(word.clone()));
        self.reads = reads;
        Ok(())
    }

    pub(super) fn tool(&self, name: &str) -> Result<&Manifest> {
        let tool = self.tools.iter().find(|tool| tool.spec.name == name);
        tool.with_context(|| format!("{} has no tool {name}", self.name))
    }
}

impl Manifest {
    /// Whether a call brings something in and changes nothing.
    pub(super) fn looks(&self) -> bool {
        let changes = ["payload", "amount", "target"]
            .iter()
            .any(|role| self.spec.roles.values().any(|one| json!(one) == json!(role)));
        self.spec.effect == Effect::Read
            || self.spec.effect == Effect::Egress && self.shape.is_some() && !changes
    }
}

/// An object's arguments without what was left open.
pub(super) fn given(arguments: &Value) -> Value {
    let all = arguments.as_object().cloned().unwrap_or_default();
    let kept: Map<String, Value> = all.into_iter().filter(|(_, value)| !value.is_null()).collect();
    Value::Object(kept)
}
