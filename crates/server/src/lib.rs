//! The HTTP faces of Yushan: OpenAI, Ollama, and a plain page to chat in.
//!
//! The key decision: everything goes through [`yushan_abi::Complete`] and [`yushan_abi::Disk`]. A handler turns a
//! body into an `abi::Request`, and events into a body, and holds no rule of its own: what HTTP can do, the
//! command line can do by the same calls. The guards (`doors`, `body`) stand before every handler.
//!
//! Deliberately absent: TLS (a proxy does that), sessions and accounts (behind [`Keys`]), downloads (behind
//! [`Library`]).

mod agent;
mod approvals;
mod body;
mod chats;
mod doors;
mod embed;
mod events;
mod fault;
mod ids;
mod listen;
mod mcp;
mod metrics;
mod ollama;
mod openai;
mod openapi;
mod page;
mod render;
mod routes;
mod spaces;
mod stream;
mod system;
mod text;
mod traces;
mod visits;
mod watch;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use yushan_abi::{Complete, Disk, Index, ModelInfo, Request};
use yushan_kernel::Seats;

pub use agent::named as space_named;
pub use doors::{Access, Allowance, Caller, Denial, Doors, Keys, Turn};
pub use fault::Fault;
pub use ids::rfc3339;
pub use listen::serve;
pub use mcp::Mcp;
pub use routes::router;
pub use spaces::Spaces;
pub use traces::Traces;

/// Brings models and deletes them. Implementations: the binary's hub; the fake of the tests.
pub trait Library: Send + Sync {
    /// Fetches a model, telling how far it is until it hears that nobody listens; returns when the
    /// model can be asked for. Blocks.
    fn pull(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Fault>;

    /// Deletes a model. Blocks.
    fn delete(&self, name: &str) -> Result<(), Fault>;
}

/// How far a download is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: `pulling manifest`, `verifying sha256 digest`.
    pub status: String,
    /// Names the file, if one is being fetched.
    pub digest: Option<String>,
    /// Its bytes.
    pub total: Option<u64>,
    /// Of these, here.
    pub completed: Option<u64>,
}

/// Everything the faces need.
pub struct Server {
    /// Completes.
    pub complete: Arc<dyn Complete>,
    /// Keeps responses and files.
    pub disk: Arc<dyn Disk>,
    /// Brings models.
    pub library: Arc<dyn Library>,
    /// Judges keys.
    pub keys: Arc<dyn Keys>,
    /// Finds conversations by their words, where there is an index.
    pub index: Option<Arc<dyn Index>>,
    /// The process table, where the kernel runs here.
    pub kernel: Option<Arc<yushan_kernel::Kernel>>,
    /// The files that tools work with, where there are tools.
    pub spaces: Option<Arc<dyn Spaces>>,
    /// Offers the tools to other programs, where there are tools.
    pub mcp: Option<Arc<dyn Mcp>>,
    /// What the engines hold and what was swapped out of them, for `/metrics`.
    pub seats: Box<dyn Fn() -> Option<Seats> + Send + Sync>,
    /// Under which names it is called.
    pub doors: Doors,
    /// Until when a body must have come, and a header.
    pub deadline: Duration,
    /// Where spans go, if they are wanted.
    pub traces: Option<Traces>,
    metrics: Arc<metrics::Metrics>,
    running: openai::responses::Running,
}

impl Server {
    /// A server that is called by loopback names, with the usual deadline.
    pub fn new(
        complete: Arc<dyn Complete>,
        disk: Arc<dyn Disk>,
        library: Arc<dyn Library>,
        keys: Arc<dyn Keys>,
    ) -> Server {
        Server {
            complete,
            disk,
            library,
            keys,
            index: None,
            kernel: None,
            spaces: None,
            mcp: None,
            seats: Box::new(|| None),
            doors: Doors::default(),
            deadline: Duration::from_secs(30),
            traces: None,
            metrics: Arc::default(),
            running: openai::responses::Running::default(),
        }
    }

    /// Takes up what was under way when the system stopped; how many processes and background responses go
    /// on. To be called within the runtime that serves, before it does.
    pub fn resume(self: &Arc<Self>) -> Result<usize, yushan_abi::DiskError> {
        let mut journalled = HashSet::new();
        let processes = match &self.kernel {
            Some(kernel) => kernel.resume(|life| match life.program.key.as_str() {
                "" if life.program.parent.is_some() => Ok(Some(Box::new(yushan_abi::Nobody))),
                "" => Ok(Some(Box::new(watch::Unread::again(self)))),
                key => {
                    journalled.insert(key.to_string());
                    openai::responses::again(self, life)
                }
            })?,
            None => 0,
        };
        Ok(processes + openai::responses::pending::resume(self, &journalled)?)
    }

    /// What the body of a request says, in JSON of so many bytes at most.
    pub(crate) async fn read<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        request: axum::extract::Request,
        most: usize,
    ) -> Result<T, Fault> {
        body::json(request.into_body(), most, self.deadline).await
    }

    /// The model of this name.
    pub(crate) async fn model(&self, name: &str) -> Result<ModelInfo, Fault> {
        let models = self.models().await?;
        let (mut exact, mut other) = (None, None);
        for model in models {
            if model.name == name {
                exact = Some(model);
            } else if model.aliases.iter().any(|alias| alias == name) {
                other = Some(model);
            }
        }
        let found = exact.or(other);
        found.ok_or_else(|| Fault::NoModel(name.to_string()))
    }

    /// All models.
    pub(crate) async fn models(&self) -> Result<Vec<ModelInfo>, Fault> {
        let complete = self.complete.clone();
        events::blocking(move || complete.models()).await
    }

    /// Begins `n` answers, which are counted, charged to the caller, and traced.
    pub(crate) async fn start(
        &self,
        caller: &Caller,
        mut request: Request,
        n: usize,
    ) -> Result<events::Events, Fault> {
        request.account.clone_from(&caller.key);
        let watch = watch::Watch::new(self, caller, &request, n);
        events::Events::start(&self.complete, watch, request, n).await
    }

    /// Begins an answer that may call tools of this system.
    pub(crate) async fn start_agent(
        &self,
        caller: &Caller,
        mut program: yushan_kernel::Program,
    ) -> Result<events::Events, Fault> {
        let kernel = system::kernel(self)?;
        system::is_own(&kernel, &program.request.model).await?;
        program.request.account.clone_from(&caller.key);
        let program = kernel.remembered(program);
        let watch = watch::Watch::durable(self, caller, &program.request, true);
        let (mut events, sink) = events::Events::again(watch);
        match events::blocking(move || kernel.spawn(program, sink)).await? {
            Ok(_) => events.admitted().await,
            Err(refusal) => {
                let fault = Fault::from(refusal);
                events.refused(&fault);
                Err(fault)
            }
        }
    }

    /// Does something with the disk.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk) -> Result<T, yushan_abi::DiskError> + Send + 'static,
    ) -> Result<T, Fault> {
        let disk = self.disk.clone();
        Ok(events::blocking(move || work(&*disk)).await??)
    }
}
