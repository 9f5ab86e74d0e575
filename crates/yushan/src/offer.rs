//! What other programs are offered over MCP: the tools of this system, and its assistant as a tool of its own.
//!
//! The key decision: everybody who comes in over HTTP has a service for himself, so that a session of one user is
//! nothing to another, and calls go through the kernel as [`yushan_kernel::Kernel::invoke`] makes them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yushan_abi::{
    Call, Cancel, Complete, Disk, Effect, Event, FileRef, Label, Message, ParamRole, Prompt, Role,
    Sources, ToolResult, ToolSpec,
};
use yushan_kernel::Signal;
use yushan_kernel::gate::Capability;
use yushan_kernel::syscall::SystemCall;
use yushan_kernel::{Budget, Kernel, Program};
use yushan_server::{Caller, Mcp, space_named};
use yushan_tools::arguments;
use yushan_tools::mcp::{HttpService, Offer};

use crate::drivers::Folders;

/// The files and running programs of those that come in over HTTP.
const SPACE: &str = "mcp";
/// Calls that an assistant may make for one task.
const CALLS: u64 = 256;
/// How often it is looked whether somebody still waits for an assistant.
const LOOK: std::time::Duration = std::time::Duration::from_millis(100);

/// What the assistant is asked to do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Task {
    pub(crate) task: String,
    pub(crate) model: Option<String>,
    #[serde(default)]
    pub(crate) tools: Vec<String>,
}

impl Task {
    /// The name of the tool.
    pub(crate) const TOOL: &str = "assistant";

    pub(crate) fn read(arguments: Value) -> Result<Task> {
        serde_json::from_value(arguments).context("the arguments do not fit")
    }

    fn spec() -> ToolSpec {
        let properties = json!({
            "task": {"type": "string", "description": "All that it needs to know: it sees nothing else"},
            "model": {"type": "string", "description": "The model that answers; the first of the system if it is left out"},
            "tools": {"type": "array", "items": {"type": "string"}, "description": "Names of tools of this server that it may call by itself; none if it is left out"},
        });
        arguments::spec(
            Task::TOOL,
            "Gives a task to an assistant of this system, a language model on this machine, and waits for its answer.",
            Effect::Exec,
            properties,
            &["task"],
            &[("task", ParamRole::Payload), ("tools", ParamRole::Selector)],
        )
    }
}

/// What is offered of these. Calls of the system are made by processes; whoever calls from outside is none.
pub(crate) fn offered(specs: Vec<ToolSpec>) -> Vec<ToolSpec> {
    let is_tool = |spec: &ToolSpec| !SystemCall::NAMES.contains(&spec.name.as_str());
    specs.into_iter().filter(is_tool).chain([Task::spec()]).collect()
}

/// A refusal of ours.
pub(crate) fn refused(why: impl Into<String>) -> ToolResult {
    ToolResult::failed(why, Label::of(Sources::SYSTEM))
}

/// The tools of the kernel in this process.
pub(crate) struct Offered {
    kernel: Arc<Kernel>,
    disk: Arc<dyn Disk>,
    /// By who came in: the user and the key, which is charged.
    services: Mutex<BTreeMap<(String, String), HttpService>>,
}

impl Offered {
    pub(crate) fn new(kernel: Arc<Kernel>, disk: Arc<dyn Disk>) -> Offered {
        Offered { kernel, disk, services: Mutex::default() }
    }

    fn service(&self, caller: &Caller) -> HttpService {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (caller.tenant.clone(), caller.key.clone());
        services.entry(key).or_insert_with(|| self.offer(caller).guarded_service()).clone()
    }

    fn offer(&self, caller: &Caller) -> Offer {
        let (kernel, who) = (self.kernel.clone(), caller.clone());
        let call = move |name: &str, arguments: Value, cancel: Cancel| {
            let answer = match name {
                Task::TOOL => {
                    Task::read(arguments).and_then(|task| answer(&kernel, &who, task, &cancel))
                }
                _ => invoke(&kernel, &who, name, &arguments, cancel),
            };
            answer.unwrap_or_else(|why| refused(format!("{why:#}")))
        };
        let (folders, who) = (Folders(self.disk.clone()), caller.tenant.clone());
        let bytes = move |file: &FileRef| {
            let space = folders.open(&who, &space_named(SPACE, &who).ok()?).ok()?;
            space.read(&file.path).ok().map(|file| file.bytes)
        };
        Offer::new(offered(self.kernel.tool_specs()), Arc::new(call), Arc::new(bytes))
    }
}

impl Mcp for Offered {
    fn answer(
        &self,
        caller: &Caller,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        let service = self.service(caller);
        Box::pin(async move { service.answer(request).await.map(Body::new) })
    }
}

fn invoke(
    kernel: &Kernel,
    who: &Caller,
    name: &str,
    arguments: &Value,
    cancel: Cancel,
) -> Result<ToolResult> {
    let space = space_named(SPACE, &who.tenant)?;
    let call = Call { id: String::new(), name: name.into(), arguments: arguments.to_string() };
    Ok(kernel.invoke(&who.tenant, &space, &call, cancel))
}

/// Runs an assistant to its end; it ends too when nobody waits for it any more.
fn answer(kernel: &Kernel, who: &Caller, task: Task, cancel: &Cancel) -> Result<ToolResult> {
    let label = Label::of(Sources::USER).for_reader(&who.tenant);
    let model = match task.model {
        Some(model) => model,
        None => kernel.models().first().context("this system has no model")?.name.clone(),
    };
    let words = Prompt::Chat(vec![Message::new(Role::User, task.task, label)]);
    let mut request = yushan_abi::Request::new(model, words);
    request.tenant.clone_from(&who.tenant);
    request.account.clone_from(&who.key);
    let mut program = Program {
        title: "assistant of another program".into(),
        budget: Budget { calls: Some(CALLS), ..Budget::default() },
        space: space_named(SPACE, &who.tenant)?,
        ..Program::new(request)
    };
    let tools = task.tools.into_iter();
    program.capabilities = tools.map(|name| (name, Capability::default())).collect();
    let (sender, receiver) = mpsc::channel();
    let pid = kernel.spawn(program, Box::new(sender))?;
    let mut text = String::new();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(Event::Text { text: more, .. }) => text.push_str(&more),
            // What it said before a call was about the call.
            Ok(Event::Answered { .. }) => text.clear(),
            Ok(Event::Done { .. }) => {
                return Ok(ToolResult::new(text, Label::of(Sources::MODEL)));
            }
            Ok(Event::Failed(refusal)) => return Err(refusal.into()),
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Timeout) if cancel.is_cancelled() => {
                kernel.signal(pid, Signal::Kill)?;
                bail!("nobody waits for it any more");
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the assistant ended"),
        }
    }
}
