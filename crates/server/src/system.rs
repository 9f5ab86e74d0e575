//! The process table over HTTP: list, start, look, signal, answer, read the journal, replay.
//!
//! The same calls that `yushan ps`, `spawn`, `kill`, `logs` and the others make, and nothing more: what a
//! process is and what a signal does is the kernel's to say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use yushan_abi::{
    Call, Cancel, Class, Complete, Label, Message, ModelInfo, Prompt, Role, Sampling, Sources,
    ToolResult,
};
use yushan_kernel::gate::Capability;
use yushan_kernel::life::Mode;
use yushan_kernel::{Budget, Kernel, Payer, Pid, Process, Program, Replay, Says, Signal};

use crate::Server;
use crate::agent::named;
use crate::body::{CONVERSATION, OPTIONS, whole};
use crate::doors::Caller;
use crate::events::blocking;
use crate::fault::{ErrorBody, Fault};
use crate::watch::Unread;

/// Weights a process may have.
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1000;

/// The list.
#[derive(Serialize)]
pub(crate) struct Processes {
    object: &'static str,
    data: Vec<Process>,
}

/// What a process may be told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Order {
    /// A signal.
    Signal(Signal),
    /// Another class and weight.
    Nice(Class, u32),
    /// The answer to its question.
    Answer(String),
    /// Whether the call of this key may be made.
    Allow(String, bool),
    /// A message.
    Send(String),
}

/// A process to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProcess {
    /// The model it thinks with.
    model: String,
    /// Its task.
    task: String,
    /// What it shall be and do.
    #[serde(default)]
    instructions: String,
    /// What it may call: system calls (`fork`, `spawn`, `wait`, `send`, `receive`, `remember`, `recall`,
    /// `ask`, `exit`) and tools.
    #[serde(default)]
    tools: Vec<String>,
    /// What it may use up.
    #[serde(default)]
    #[schema(value_type = Object)]
    budget: Option<Budget>,
    /// Most tokens of a turn.
    max_tokens: Option<u64>,
    /// 0 to 2; 0, the default, is greedy.
    #[serde(default)]
    temperature: f32,
    /// Of the random numbers.
    #[serde(default)]
    seed: u64,
    /// `interactive`, `agent` (the default) or `batch`.
    #[schema(value_type = Option<String>)]
    class: Option<Class>,
    /// Its weight within its class.
    weight: Option<u32>,
    /// Whether somebody is there who can be asked.
    #[serde(default)]
    attended: bool,
    /// How calls of a tool are decided, beside the gate: `auto` (the default), `ask` or `deny`.
    #[serde(default)]
    #[schema(value_type = Object)]
    modes: BTreeMap<String, Mode>,
    /// Names the files and running programs that its tools work with, which last longer than it. Without it, its own.
    space: Option<String>,
}

impl NewProcess {
    fn program(self, caller: &Caller, model: &ModelInfo) -> Result<Program, Fault> {
        let tenant = caller.tenant.as_str();
        if self.task.is_empty() {
            return Err(Fault::invalid("task", "empty; expected what the process shall do"));
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            return Err(Fault::invalid("temperature", "expected a number from 0 to 2"));
        }
        let max_tokens = whole("max_tokens", self.max_tokens, 1, model.context)?;
        let weight = self.weight.unwrap_or(1);
        check_weight("weight", weight)?;
        let label = |source| Label::of(source).for_reader(tenant);
        let mut messages = Vec::new();
        if !self.instructions.is_empty() {
            messages.push(Message::new(Role::System, self.instructions, label(Sources::USER)));
        }
        messages.push(Message::new(Role::User, self.task, label(Sources::USER)));
        let sampling =
            Sampling { temperature: self.temperature, seed: self.seed, ..Sampling::default() };
        let request = yushan_abi::Request {
            max_tokens,
            sampling,
            class: self.class.unwrap_or(Class::Agent),
            weight,
            tenant: tenant.to_string(),
            account: caller.key.clone(),
            ..yushan_abi::Request::new(&*model.name, Prompt::Chat(messages))
        };
        let program = Program {
            capabilities: self
                .tools
                .into_iter()
                .map(|name| (name, Capability::default()))
                .collect(),
            budget: self.budget.unwrap_or_default(),
            attended: self.attended,
            modes: self.modes,
            space: self.space.map_or(Ok(String::new()), |name| named(&name, tenant))?,
            ..Program::new(request)
        };
        Ok(program)
    }
}

/// The pid that stands in a path.
pub(crate) struct InPath(u64);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath, Fault> {
        let path = Path::<u64>::from_request_parts(parts, state).await;
        path.map(|Path(pid)| InPath(pid)).map_err(|error| Fault::invalid("pid", error.body_text()))
    }
}

fn check_weight(field: &str, weight: u32) -> Result<(), Fault> {
    if WEIGHTS.contains(&weight) {
        return Ok(());
    }
    Err(Fault::invalid(
        field,
        format!("{weight} was given; expected a whole number from 1 to 1000"),
    ))
}

pub(crate) fn kernel(server: &Server) -> Result<Arc<Kernel>, Fault> {
    let kernel = server.kernel.as_ref();
    kernel.cloned().ok_or_else(|| Fault::NotFound { what: "kernel", name: "here".into() })
}

/// Programs are run by the kernel, so their models are its own.
pub(crate) async fn is_own(kernel: &Arc<Kernel>, model: &str) -> Result<(), Fault> {
    let kernel = kernel.clone();
    let models = blocking(move || kernel.models()).await?;
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    if names.contains(&model) {
        return Ok(());
    }
    let own = match names[..] {
        [] => {
            "this system has none now: pull one, or name one's file when it is started".to_string()
        }
        _ => format!("expected one of {}", names.join(", ")),
    };
    let why = format!(
        "{model} is on another server, and processes with programs run on models of \
                       this system alone; {own}"
    );
    Err(Fault::invalid("model", why))
}

fn absent(pid: u64) -> Fault {
    Fault::NotFound { what: "process", name: pid.to_string() }
}

/// What a process can be allowed to call: the system's own calls and tools, as models are told of them.
#[utoipa::path(get, path = "/v1/tools", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn tools(State(server): State<Arc<Server>>) -> Result<Json<Value>, Fault> {
    let data = kernel(&server)?.tool_specs();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// A call of a tool.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invoke {
    /// That fit its schema.
    #[schema(value_type = Object)]
    arguments: Value,
    /// Names the files and running programs that it works with.
    space: String,
}

/// Makes one call of a tool, without a model: for programs that offer the tools of this system, as `yushan mcp` does.
#[utoipa::path(
    post,
    path = "/v1/tools/{name}",
    params(("name" = String, Path)),
    request_body = Invoke,
    responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody))
)]
pub(crate) async fn invoke(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<ToolResult>, Fault> {
    let Invoke { arguments, space } = server.read(request, CONVERSATION).await?;
    let kernel = kernel(&server)?;
    let space = named(&space, &caller.tenant)?;
    let call = Call { id: String::new(), name, arguments: arguments.to_string() };
    // This function is dropped with the connection, the thread that it waits for is not.
    let cancel = Cancel::default();
    let wanted = Waited(cancel.clone());
    let result = blocking(move || kernel.invoke(&caller.tenant, &space, &call, cancel)).await;
    drop(wanted);
    Ok(Json(result?))
}

/// All processes, those that ended lately too.
#[utoipa::path(get, path = "/v1/processes", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn list(State(server): State<Arc<Server>>) -> Result<Json<Processes>, Fault> {
    let kernel = kernel(&server)?;
    let data = blocking(move || kernel.processes()).await?;
    Ok(Json(Processes { object: "list", data }))
}

/// Starts a process that goes on by itself, and after a restart.
#[utoipa::path(
    post,
    path = "/v1/processes",
    request_body = NewProcess,
    responses(
        (status = 200, body = serde_json::Value),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody)
    )
)]
pub(crate) async fn spawn(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Value>, Fault> {
    let asked: NewProcess = server.read(request, CONVERSATION).await?;
    let model = server.model(&asked.model).await?;
    if let Some(kernel) = &server.kernel {
        is_own(kernel, &model.name).await?;
    }
    let program = asked.program(&caller, &model)?;
    let kernel = kernel(&server)?;
    let unread = Unread::new(&server, &caller, &program.request);
    let sink = Box::new(unread.clone());
    let pid = blocking(move || kernel.spawn(program, sink)).await?.map_err(Fault::from);
    let pid = pid.inspect_err(|fault| unread.refused(fault))?;
    Ok(Json(json!({ "pid": pid })))
}

/// A process, and its conversation if it has a program.
#[utoipa::path(
    get,
    path = "/v1/processes/{pid}",
    params(("pid" = u64, Path,)),
    responses((status = 200, body = serde_json::Value), (status = 404, body = ErrorBody))
)]
pub(crate) async fn look(
    State(server): State<Arc<Server>>,
    InPath(pid): InPath,
) -> Result<Json<Value>, Fault> {
    let kernel = kernel(&server)?;
    let (process, life) = blocking(move || {
        let process = kernel.processes().into_iter().find(|process| process.pid == Pid(pid));
        (process, kernel.look(Pid(pid)))
    })
    .await?;
    let process = process.ok_or_else(|| absent(pid))?;
    let key = life.as_ref().map(|life| life.key());
    Ok(Json(json!({ "process": process, "life": life, "key": key })))
}

/// Sends a process a signal (`{"signal": "kill"}`, `"stop"`, `"continue"`), gives it another class and
/// weight (`{"nice": ["batch", 2]}`), answers its question (`{"answer": "…"}`), allows or forbids the call it
/// asks for (`{"allow": [KEY, true]}`), or sends it a message (`{"send": "…"}`).
#[utoipa::path(
    post,
    path = "/v1/processes/{pid}",
    params(("pid" = u64, Path,)),
    request_body = serde_json::Value,
    responses(
        (status = 200, body = serde_json::Value),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)
    )
)]
pub(crate) async fn tell(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    InPath(pid): InPath,
    request: Request,
) -> Result<Json<Value>, Fault> {
    let order: Order = server.read(request, OPTIONS).await?;
    if let Order::Nice(_, weight) = order {
        check_weight("nice[1]", weight)?;
    }
    let kernel = kernel(&server)?;
    let user = caller.tenant;
    blocking(move || {
        let says = |says| kernel.says(Pid(pid), &user, says).map(|()| true);
        let told = match order {
            Order::Signal(signal) => kernel.signal(Pid(pid), signal),
            Order::Nice(class, weight) => kernel.nice(Pid(pid), class, weight),
            Order::Answer(text) => says(Says::Text(text)),
            Order::Allow(key, allow) => says(Says::Allow(key, allow)),
            Order::Send(text) => kernel.mail(Pid(pid), &user, text).map(|()| true),
        };
        match told? {
            true => Ok(Json(json!({ "pid": pid }))),
            false => {
                let mut listed = kernel.processes().into_iter();
                Err(match listed.any(|process| process.pid == Pid(pid)) {
                    true => Fault::Over(pid),
                    false => absent(pid),
                })
            }
        }
    })
    .await?
}

/// Where a journal is read on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    /// Behind the entry of this `seq`; 0, the default: from the beginning.
    #[serde(default)]
    after: u64,
}

/// The journal of a process: what it was told and what it said, in order. Each entry has its place in the
/// journal of all, `seq`; whoever follows gives the last as `after`.
#[utoipa::path(
    get,
    path = "/v1/processes/{pid}/log",
    params(("pid" = u64, Path,), LogQuery),
    responses((status = 200, body = serde_json::Value), (status = 404, body = ErrorBody))
)]
pub(crate) async fn log(
    State(server): State<Arc<Server>>,
    InPath(pid): InPath,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Json<Value>, Fault> {
    let Query(LogQuery { after }) =
        query.map_err(|error| Fault::invalid("query", error.body_text()))?;
    let kernel = kernel(&server)?;
    let data = blocking(move || kernel.log(Pid(pid), after)).await??;
    if data.is_empty() && after == 0 {
        return Err(Fault::NoJournal(pid));
    }
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// Asks a process of the journal again, and gives the first difference. Whoever asks pays; it ends when he goes
/// away.
#[utoipa::path(
    post,
    path = "/v1/processes/{pid}/replay",
    params(("pid" = u64, Path,)),
    responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody))
)]
pub(crate) async fn replay(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    InPath(pid): InPath,
) -> Result<Json<Replay>, Fault> {
    let kernel = kernel(&server)?;
    let payer = Payer { tenant: caller.tenant, account: caller.key };
    // This function is dropped with the connection, the thread that it waits for is not.
    let wanted = Wanted(Arc::new(AtomicBool::new(true)));
    let still = wanted.0.clone();
    let replay = blocking(move || kernel.replay(Pid(pid), &payer, &still)).await;
    drop(wanted);
    Ok(Json(replay??))
}

/// Cancels a call when nobody waits for it any more.
struct Waited(Cancel);

impl Drop for Waited {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Whether somebody waits for an answer.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
