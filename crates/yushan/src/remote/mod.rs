//! A model on another server that speaks OpenAI's interface: vLLM, another Yushan, a hosted one.
//!
//! A request becomes `/chat/completions` or `/completions` with a stream, and what is streamed back
//! becomes events. One thread reads; another hands over to the sink, looks whether it is still there, and
//! ends the connection when it is not or when nothing comes for too long.
//!
//! The key decision: what the other server cannot be asked is refused by name, and what it sends is as
//! little trusted as what a client sends: lines, answers and waiting events are bounded, and all that
//! breaks ends in a typed refusal. Only what failed before a byte came is tried again.
//!
//! Not here: tokens of a model elsewhere (`language` is refused), redirects (they would take the key along).

mod answer;
mod ask;
mod fault;
mod lines;
mod route;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;
use yushan_abi::{Complete, Event, Flow, Language, ModelInfo, Refusal, Request, Sink};

use answer::Answer;
use ask::{Ask, Dialect};
use lines::Lines;
pub(crate) use route::Route;

/// The variable with the key for other servers.
pub(crate) const KEY: &str = "YUSHAN_REMOTE_KEY";

const CONNECT: Duration = Duration::from_secs(10);
/// How long a list of models may take.
const LIST: Duration = Duration::from_secs(4);
/// How long it is good.
const FRESH: Duration = Duration::from_secs(10);
/// Silence after which an answer is given up: a long prompt takes its time.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a silent sink is asked whether it is still there.
const LOOK: Duration = Duration::from_millis(50);
/// Attempts to connect, and the first pause between them.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// Events that wait for the sink.
const WAITING: usize = 16;
/// Longest body that is not streamed, in bytes: of a list, and of an error.
const LONGEST_LIST: u64 = 4 << 20;
const LONGEST_ERROR: u64 = 64 << 10;
/// Models of one server.
const MOST_MODELS: usize = 4096;

/// Whether an argument names a server and not a file.
pub(crate) fn is_address(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// Where a server's interface is: `/v1` may be left out of its address.
pub(crate) fn base(address: &str) -> String {
    let base = address.trim_end_matches('/');
    let after_scheme = base.split_once("://").map_or(base, |(_, rest)| rest);
    match after_scheme.contains('/') {
        true => base.to_string(),
        false => format!("{base}/v1"),
    }
}

/// Another server.
pub(crate) struct Remote {
    base: String,
    key: Option<String>,
    patience: Duration,
    /// Answers at once; more are refused.
    most: usize,
    running: Arc<AtomicUsize>,
    list: Mutex<List>,
}

/// What the server said it has.
#[derive(Default)]
struct List {
    at: Option<Instant>,
    models: Vec<(ModelInfo, Dialect)>,
}

/// One request on its way.
struct Call {
    agent: Agent,
    url: String,
    key: Option<String>,
    body: String,
    model: String,
    base: String,
}

/// Counts an answer for as long as it runs.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Remote {
    /// A server at `http://HOST/v1`; `/v1` may be left out. At most `most` answers at once.
    pub(crate) fn new(address: &str, key: Option<String>, most: usize) -> Remote {
        let base = base(address);
        let running = Arc::default();
        Remote { base, key, patience: PATIENCE, most, running, list: Mutex::default() }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server's models, asked for again when the list is old; while it does not answer, as they were.
    fn known(&self) -> Vec<(ModelInfo, Dialect)> {
        let mut list = self.list();
        if list.at.is_some_and(|at| at.elapsed() < FRESH) {
            return list.models.clone();
        }
        // Others go on with the old list meanwhile.
        list.at = Some(Instant::now());
        drop(list);
        let fetched = self.fetch();
        let mut list = self.list();
        if let Some(models) = fetched {
            list.models = models;
        }
        list.models.clone()
    }

    fn fetch(&self) -> Option<Vec<(ModelInfo, Dialect)>> {
        let agent = agent(Some(LIST));
        let request = agent.get(format!("{}/models", self.base));
        let mut answer = with_key(request, self.key.as_deref()).call().ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let text = answer.body_mut().with_config().limit(LONGEST_LIST).read_to_string().ok()?;
        let body: Value = serde_json::from_str(&text).ok()?;
        let models = body["data"].as_array()?.iter().take(MOST_MODELS);
        Some(models.filter_map(model).collect())
    }

    fn begin(&self) -> Result<Running, Refusal> {
        if self.running.fetch_add(1, Ordering::AcqRel) < self.most {
            return Ok(Running(self.running.clone()));
        }
        self.running.fetch_sub(1, Ordering::AcqRel);
        Err(Refusal::Busy { after_ms: 1000 })
    }
}

/// A model of the list. vLLM says how many tokens it holds, and so do we, each by another name.
fn model(about: &Value) -> Option<(ModelInfo, Dialect)> {
    let name = about["id"].as_str().filter(|name| !name.is_empty())?.to_string();
    let count = |field: &str| about[field].as_u64().and_then(|count| usize::try_from(count).ok());
    let context = count("max_model_len").or(count("context_length"));
    let info = ModelInfo {
        name,
        created: about["created"].as_u64().unwrap_or(0),
        context: context.unwrap_or(0),
        architecture: "remote".into(),
        ..ModelInfo::default()
    };
    Some((info, Dialect::of(about["owned_by"].as_str().unwrap_or(""))))
}

pub(crate) fn agent(patience: Option<Duration>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_global(patience)
        .user_agent(concat!("yushan/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

pub(crate) fn with_key<T>(
    request: ureq::RequestBuilder<T>,
    key: Option<&str>,
) -> ureq::RequestBuilder<T> {
    match key {
        Some(key) => request.header("authorization", format!("Bearer {key}")),
        None => request,
    }
}

impl Complete for Remote {
    fn complete(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refusal> {
        let found = self.known().into_iter().find(|(info, _)| info.name == request.model);
        let (info, dialect) = found.ok_or_else(|| Refusal::NoModel(request.model.clone()))?;
        let Ask { path, body } = Ask::of(&request, dialect)?;
        let running = self.begin()?;
        let answer = Answer::to(&request, info.context);
        let call = Call {
            agent: agent(None),
            url: format!("{}{path}", self.base),
            key: self.key.clone(),
            body: body.to_string(),
            model: request.model,
            base: self.base.clone(),
        };
        let (agent, base, patience) = (call.agent.clone(), self.base.clone(), self.patience);
        let (sender, receiver) = sync_channel(WAITING);
        let busy = |_| Refusal::Busy { after_ms: 1000 };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("remote-read").spawn(move || call.read(answer, &sender)).map_err(busy)?;
        let hand = move || {
            hand_over(&receiver, sink, &agent, (&base, patience));
            drop(running);
        };
        thread("remote").spawn(hand).map(drop).map_err(busy)
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.known().into_iter().map(|(info, _)| info).collect()
    }

    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal> {
        let detail = format!("{model} is on the server {}: ask it for tokens", self.base);
        Err(Refusal::Invalid { field: "model".into(), detail })
    }
}

impl Call {
    /// Reads the answer into the channel; its last event is an end.
    fn read(self, answer: Answer, out: &SyncSender<Event>) {
        if let Err(refusal) = self.stream(answer, out) {
            // Nobody waits for it any more, if it cannot be sent.
            let _ = out.send(Event::Failed(refusal));
        }
    }

    fn stream(&self, mut answer: Answer, out: &SyncSender<Event>) -> Result<(), Refusal> {
        let mut response = self.send()?;
        let status = response.status().as_u16();
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if !response.status().is_success() {
            let after = header("retry-after").map(str::to_string);
            let mut text = Vec::new();
            let body = response.body_mut().as_reader();
            let _ = body.take(LONGEST_ERROR).read_to_end(&mut text); // what came of it will do
            let text = String::from_utf8_lossy(&text);
            return Err(fault::of_status(&self.base, &self.model, status, after.as_deref(), &text));
        }
        if !header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let why = format!("{} does not stream its answers", self.base);
            return Err(Refusal::Internal(why));
        }
        let mut lines = Lines::new(response.body_mut().as_reader());
        loop {
            let data = lines.next_data().map_err(|why| self.broken(&why))?;
            let Some(data) = data.filter(|data| data != b"[DONE]") else { break };
            for event in answer.chunk(&data, &self.base, &self.model)? {
                if out.send(event).is_err() {
                    return Ok(());
                }
            }
        }
        let end = answer.end().ok_or_else(|| self.broken("it ended before the answer did"))?;
        let _ = out.send(end); // whoever went away needs no end
        Ok(())
    }

    /// Sends the request; again, if the server could not be reached.
    fn send(&self) -> Result<ureq::http::Response<ureq::Body>, Refusal> {
        let mut attempt = 0;
        loop {
            let request = self.agent.post(&self.url).content_type("application/json");
            match with_key(request, self.key.as_deref()).send(&self.body) {
                Ok(response) => return Ok(response),
                Err(error) if attempt + 1 < ATTEMPTS && is_unreached(&error) => {
                    std::thread::sleep(PAUSE * 2_u32.pow(attempt));
                    attempt += 1;
                }
                Err(error) => {
                    let why = format!("{} does not answer: {error}", self.base);
                    return Err(Refusal::Internal(why));
                }
            }
        }
    }

    fn broken(&self, why: &str) -> Refusal {
        Refusal::Internal(format!("the answer of {} broke off: {why}", self.base))
    }
}

/// Whether no byte of an answer can have come.
fn is_unreached(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect) | ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(error) => {
            matches!(error.kind(), ConnectionRefused | ConnectionReset | ConnectionAborted)
        }
        _ => false,
    }
}

/// Hands events to the sink as it has room, until the end; ends the connection with it.
fn hand_over(
    events: &Receiver<Event>,
    mut sink: Box<dyn Sink>,
    agent: &Agent,
    (base, patience): (&str, Duration),
) {
    let mut flow = Flow::More;
    let mut last = Instant::now();
    loop {
        match flow {
            Flow::Gone => break,
            Flow::Full => {
                std::thread::sleep(LOOK / 10);
                last = Instant::now();
                flow = sink.is_ready();
                continue;
            }
            Flow::More => {}
        }
        let event = match events.recv_timeout(LOOK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) if last.elapsed() < patience => {
                flow = sink.is_ready();
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                let why = format!("{base} said nothing for {} s", patience.as_secs());
                Event::Failed(Refusal::Internal(why))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Event::Failed(Refusal::Internal(format!("the answer of {base} was lost")))
            }
        };
        let ends = matches!(event, Event::Done { .. } | Event::Failed(_));
        last = Instant::now();
        flow = sink.push(event);
        if ends {
            break;
        }
    }
    agent.clone().shutdown();
}
