//! One connection to a foreign server.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    JsonObject, PaginatedRequestParams, ProtocolVersion,
};
use rmcp::service::{
    ClientInitializeError, NotificationContext, RunningService, serve_client_with_lifecycle,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, RoleClient, ServiceError};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use yushan_abi::Cancel;
use yushan_sandbox::{Jail, Prisoner, Tier};

use super::config::{Connect, JailConfig, Limits, ServerConfig};
use super::pins::Described;
use super::{McpError, runtime};

/// How often a caller looks whether somebody still waits.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a program's complaints that are kept.
const COMPLAINTS: usize = 2048;
/// How long a program that has ended is listened to.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Pages of a list of tools.
const PAGES: usize = 64;

/// Our side: asks, and answers nothing but pings.
#[derive(Clone)]
struct Asking {
    /// Set when the server says that its tools changed.
    changed: Arc<AtomicBool>,
}

impl ClientHandler for Asking {
    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new("yushan", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.store(true, Ordering::Release);
    }
}

/// A program, ended with its connection, and with all that it started and that stayed in its group of processes.
enum Process {
    Plain(std::process::Child),
    Jailed(#[expect(dead_code, reason = "ends the program when dropped")] Box<Prisoner>),
    Remote,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Process::Plain(child) = self {
            // The number is the group's as long as nobody has waited for its first process.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL); // perhaps nobody is left
            }
            let _ = child.wait();
        }
    }
}

/// A connection that stands, or has ended.
pub(super) struct Connection {
    name: String,
    limits: Limits,
    /// Dropped before the program is ended, so that it sees its input close first.
    service: Option<Arc<RunningService<RoleClient, Asking>>>,
    process: Process,
    complaints: Arc<Mutex<Vec<u8>>>,
    changed: Arc<AtomicBool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its tasks end on the runtime.
        let _entered = runtime().enter();
        self.service = None;
        self.process = Process::Remote;
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// Nobody waits any more.
    Cancelled,
    /// It took too long.
    Deadline,
    /// The server refused: these are its words.
    Refused(String),
    /// The connection is gone, or what came was no answer.
    Broken(String),
}

impl Connection {
    /// Starts or reaches the server and agrees on a revision: asks without a handshake first, and shakes hands with those
    /// who do not understand.
    pub(super) fn open(config: &ServerConfig) -> Result<Connection, McpError> {
        config.check()?;
        let both = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        };
        match Connection::attempt(config, both) {
            // It answers what it does not understand as if it did.
            Err(Unopened::Confused(_)) => {
                Connection::attempt(config, ClientLifecycleMode::Initialize).map_err(Unopened::into)
            }
            other => other.map_err(Unopened::into),
        }
    }

    fn attempt(
        config: &ServerConfig,
        lifecycle: ClientLifecycleMode,
    ) -> Result<Connection, Unopened> {
        let changed = Arc::new(AtomicBool::new(false));
        let asking = Asking { changed: Arc::clone(&changed) };
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let (process, said, service) = match &config.connect {
            Connect::Http { url, token } => {
                let transport = http(config, url, token.as_deref())?;
                (
                    Process::Remote,
                    None,
                    begun(config, serve_client_with_lifecycle(asking, transport, lifecycle)),
                )
            }
            Connect::Stdio { program, arguments, environment, jail } => {
                let mut started =
                    Started::new(config, program, arguments, environment, jail.as_ref())?;
                let said = listen(started.stderr.take(), Arc::clone(&complaints));
                let _entered = runtime().enter();
                let pipes = started
                    .pipes()
                    .map_err(|error| broken(config, format!("did not start: {error}")))?;
                let transport = AsyncRwTransport::<RoleClient, _, _>::new(pipes.0, pipes.1)
                    .with_max_line_length(config.limits.message);
                (
                    started.process,
                    said,
                    begun(config, serve_client_with_lifecycle(asking, transport, lifecycle)),
                )
            }
        };
        let service = match service {
            Ok(service) => service,
            Err(error) => {
                // Whatever it had to say is there once it has ended; who it started may hold on to the pipe.
                drop(process);
                let _ = said.map(|said| said.recv_timeout(LAST_WORDS));
                return Err(error.with(&complaints));
            }
        };
        let (name, limits) = (config.name.clone(), config.limits);
        Ok(Connection {
            name,
            limits,
            service: Some(Arc::new(service)),
            process,
            complaints,
            changed,
        })
    }

    /// Whether calls can be made.
    pub(super) fn is_open(&self) -> bool {
        self.service.as_ref().is_some_and(|service| !service.is_closed())
    }

    /// Whether the server said that its tools changed, since this was asked last.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    fn peer(&self) -> Option<rmcp::Peer<RoleClient>> {
        self.service.as_ref().map(|service| service.peer().clone())
    }

    /// All its tools, by its names for them.
    pub(super) fn tools(&self) -> Result<BTreeMap<String, Described>, McpError> {
        let wrong = |why: String| {
            let error = McpError::Connection { name: self.name.clone(), why };
            with_complaints(error, &self.complaints)
        };
        let peer = self.peer().ok_or_else(|| wrong("ended".into()))?;
        let listed = runtime().block_on(async {
            tokio::time::timeout(self.limits.connect(), listed(&peer, &self.limits)).await
        });
        let tools = listed
            .map_err(|_| wrong("did not say in time what it offers".into()))?
            .map_err(|error| wrong(format!("did not say what it offers: {error}")))?;
        let mut described = BTreeMap::new();
        for tool in tools {
            let size = tool.to_string().len();
            if size > self.limits.description {
                let most = self.limits.description;
                let tool: String =
                    tool["name"].as_str().unwrap_or_default().chars().take(64).collect();
                return Err(wrong(format!(
                    "describes its tool {tool:?} with {size} bytes; {most} are allowed"
                )));
            }
            let name = tool["name"].as_str().unwrap_or_default().to_string();
            if described.insert(name.clone(), Described::of(&tool)).is_some() {
                let name: String = name.chars().take(64).collect();
                return Err(wrong(format!("has two tools of the name {name:?}")));
            }
        }
        Ok(described)
    }

    /// Makes one call and waits for it.
    pub(super) fn call(
        &self,
        tool: &str,
        arguments: JsonObject,
        cancel: &Cancel,
    ) -> Result<CallToolResult, CallError> {
        let service = self.service.clone();
        let service = service.ok_or_else(|| CallError::Broken("the server has ended".into()))?;
        let params = CallToolRequestParams::new(tool.to_string()).with_arguments(arguments);
        let (sender, receiver) = mpsc::channel();
        let task = runtime().spawn(async move {
            // Where the server keeps its place with us it is asked again; whatever else it asks for it does not get.
            let _ = sender.send(service.call_tool(params).await);
        });
        let deadline = Instant::now() + self.limits.call();
        let result = loop {
            match receiver.recv_timeout(LOOK) {
                Ok(result) => break result,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(CallError::Broken("the call was given up".into()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            // Dropping the request tells the server.
            if cancel.is_cancelled() {
                task.abort();
                return Err(CallError::Cancelled);
            }
            if Instant::now() >= deadline {
                task.abort();
                return Err(CallError::Deadline);
            }
        };
        result.map_err(|error| match error {
            ServiceError::McpError(error) => CallError::Refused(error.to_string()),
            ServiceError::UnexpectedResponse => CallError::Broken(
                "the server asked for something instead of answering, which is not supported"
                    .into(),
            ),
            other => CallError::Broken(other.to_string()),
        })
    }
}

fn broken(config: &ServerConfig, why: impl Into<String>) -> McpError {
    McpError::Connection { name: config.name.clone(), why: why.into() }
}

fn with_complaints(error: McpError, complaints: &Mutex<Vec<u8>>) -> McpError {
    let McpError::Connection { name, why } = error else { return error };
    let said = complaints.lock().unwrap_or_else(PoisonError::into_inner);
    let said = String::from_utf8_lossy(&said).trim().to_string();
    let why = if said.is_empty() { why } else { format!("{why}; it said: {said}") };
    McpError::Connection { name, why }
}

/// Why there is no connection.
enum Unopened {
    Failed(McpError),
    /// What came is no answer to what was asked.
    Confused(McpError),
}

impl Unopened {
    fn with(self, complaints: &Mutex<Vec<u8>>) -> Unopened {
        match self {
            Unopened::Failed(error) => Unopened::Failed(with_complaints(error, complaints)),
            Unopened::Confused(error) => Unopened::Confused(with_complaints(error, complaints)),
        }
    }
}

impl From<McpError> for Unopened {
    fn from(error: McpError) -> Unopened {
        Unopened::Failed(error)
    }
}

impl From<Unopened> for McpError {
    fn from(unopened: Unopened) -> McpError {
        match unopened {
            Unopened::Failed(error) | Unopened::Confused(error) => error,
        }
    }
}

type Begun = Result<RunningService<RoleClient, Asking>, ClientInitializeError>;

fn begun(
    config: &ServerConfig,
    serving: impl Future<Output = Begun>,
) -> Result<RunningService<RoleClient, Asking>, Unopened> {
    let limit = config.limits.connect();
    let begun = runtime().block_on(async { tokio::time::timeout(limit, serving).await });
    let begun = begun
        .map_err(|_| broken(config, format!("did not answer within {} s", limit.as_secs())))?;
    begun.map_err(|error| {
        let told = broken(config, format!("could not be reached: {error}"));
        match error {
            ClientInitializeError::ExpectedInitResult(_)
            | ClientInitializeError::ExpectedInitResponse(_) => Unopened::Confused(told),
            _ => Unopened::Failed(told),
        }
    })
}

async fn listed(peer: &rmcp::Peer<RoleClient>, limits: &Limits) -> Result<Vec<Value>, String> {
    let (mut tools, mut cursor) = (Vec::new(), None);
    for _ in 0..PAGES {
        let params = PaginatedRequestParams::default().with_cursor(cursor);
        let page = peer.list_tools(Some(params)).await.map_err(|error| error.to_string())?;
        for tool in page.tools {
            tools.push(serde_json::to_value(tool).map_err(|error| error.to_string())?);
        }
        if tools.len() > limits.tools {
            return Err(format!("it has over {} tools; configure a smaller one", limits.tools));
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(tools);
        }
    }
    Err(format!("its list has more than {PAGES} pages"))
}

/// No proxy, no redirect, and the configured token alone.
fn http(
    config: &ServerConfig,
    url: &str,
    token: Option<&str>,
) -> Result<StreamableHttpClientTransport<reqwest::Client>, McpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Another part of the program may have chosen already: any choice will do.
    let _ = provider.as_ref().clone().install_default();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(config.limits.connect())
        .build()
        .map_err(|error| broken(config, format!("cannot be reached: {error}")))?;
    let mut transport = StreamableHttpClientTransportConfig::with_uri(url)
        .max_json_response_size(config.limits.message)
        .max_sse_event_size(config.limits.message)
        .custom_headers(HashMap::new());
    if let Some(token) = token {
        transport = transport.auth_header(token);
    }
    let _entered = runtime().enter();
    Ok(StreamableHttpClientTransport::with_client(client, transport))
}

/// A program with its pipes.
struct Started {
    process: Process,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
}

impl Started {
    fn new(
        config: &ServerConfig,
        program: &std::path::Path,
        arguments: &[String],
        environment: &BTreeMap<String, String>,
        jail: Option<&JailConfig>,
    ) -> Result<Started, McpError> {
        let failed = |error: String| broken(config, format!("did not start: {error}"));
        if let Some(allowed) = jail {
            let mut jail = Jail::new(program, Tier::Full);
            jail.arguments = arguments.to_vec();
            jail.environment
                .extend(environment.iter().map(|(name, value)| (name.clone(), value.clone())));
            jail.readable.extend(allowed.readable.iter().cloned());
            let mut prisoner = jail.start().map_err(|error| failed(error.to_string()))?;
            let (stdin, stdout, stderr) =
                (prisoner.stdin.take(), prisoner.stdout.take(), prisoner.stderr.take());
            return Ok(Started {
                process: Process::Jailed(Box::new(prisoner)),
                stdin,
                stdout,
                stderr,
            });
        }
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        for name in ["PATH", "HOME", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ok(Started { process: Process::Plain(child), stdin, stdout, stderr })
    }

    fn pipes(
        &mut self,
    ) -> std::io::Result<(tokio::process::ChildStdout, tokio::process::ChildStdin)> {
        let missing = || std::io::Error::other("it has no pipes");
        let stdout = self.stdout.take().ok_or_else(missing)?;
        let stdin = self.stdin.take().ok_or_else(missing)?;
        Ok((
            tokio::process::ChildStdout::from_std(stdout)?,
            tokio::process::ChildStdin::from_std(stdin)?,
        ))
    }
}

/// Reads a program's complaints to their end and keeps the last; what it gives hears of the end.
fn listen(
    stderr: Option<std::process::ChildStderr>,
    into: Arc<Mutex<Vec<u8>>>,
) -> Option<mpsc::Receiver<()>> {
    let mut stderr = stderr?;
    let (ended, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ended = ended;
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stderr.read(&mut buffer) {
            let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..count]);
            let old = kept.len().saturating_sub(COMPLAINTS);
            kept.drain(..old);
        }
    });
    Some(receiver)
}
