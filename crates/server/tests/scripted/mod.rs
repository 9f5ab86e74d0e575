//! Fakes of everything the server needs: a model whose answers follow from the last message, a disk in
//! memory, two keys, a library of one model.
//!
//! The key decision: the fake keeps `Complete`'s contract to the letter (events in order, "full" and "gone" obeyed,
//! refusals early and late), so that what passes here differs from the kernel in its words alone.
// Each program that includes this file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yushan_abi::{
    Call, Change, Complete, Counts, Disk, DiskError, Document, Event, Finish, Flow, Form, Hit,
    Index, Item, Keep, Language, Logprob, Message, ModelInfo, NewRecord, Prompt, Record, Refusal,
    Request, Role, Sink, ToolChoice, Writer,
};
use yushan_server::{Access, Allowance, Caller, Denial, Fault, Keys, Library, Progress, Turn};

/// The only model.
pub(crate) const MODEL: &str = "scripted/tiny";
/// Tokens it holds.
pub(crate) const CONTEXT: usize = 4096;

/// The model. Its tokens are bytes.
#[derive(Default)]
pub(crate) struct Fake {
    /// Answers whose reader went away.
    pub(crate) gone: Arc<AtomicUsize>,
    /// The request asked last.
    pub(crate) last: Mutex<Option<Request>>,
    /// For how long the model was to be kept, when that was said last.
    pub(crate) kept: Mutex<Option<Keep>>,
}

impl Complete for Fake {
    fn complete(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refusal> {
        let language = self.language(&request.model)?;
        *self.last.lock().unwrap() = Some(request.clone());
        let prompt = language.encode(&request)?;
        let asked = asked(&request.prompt);
        match asked.as_str() {
            "be busy" => return Err(Refusal::Busy { after_ms: 1500 }),
            "be too big" => return Err(Refusal::NoMemory("4 GiB are needed".to_string())),
            "" if request.form == Form::Embedding => {
                let (field, detail) = ("prompt".to_string(), "no tokens".to_string());
                return Err(Refusal::Invalid { field, detail });
            }
            _ if prompt.len() > CONTEXT => {
                return Err(Refusal::TooLong { limit: CONTEXT, prompt: prompt.len() });
            }
            _ => {}
        }
        let gone = self.gone.clone();
        std::thread::spawn(move || {
            let mut writing = Writing { sink, gone, counts: counts(prompt.len()) };
            writing.write(&request, &prompt, &asked);
        });
        Ok(())
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![ModelInfo {
            name: MODEL.to_string(),
            created: 1_700_000_000,
            context: CONTEXT,
            bytes: 1024,
            architecture: "llama".to_string(),
            parameters: 260_000,
            quantization: "F32".to_string(),
            digest: "00ff".to_string(),
            template: Some("{{ messages }}".to_string()),
            loaded: match *self.kept.lock().unwrap() {
                Some(Keep::For(Duration::ZERO)) => None,
                Some(Keep::Forever) => Some(u64::MAX),
                _ => Some(1_800_000_000),
            },
            memory: 2048,
            aliases: vec!["tiny".to_string()],
        }]
    }

    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal> {
        match model {
            MODEL => Ok(Arc::new(Bytes)),
            other => Err(Refusal::NoModel(other.to_string())),
        }
    }

    fn keep(&self, _: &str, keep: Keep) -> bool {
        *self.kept.lock().unwrap() = Some(keep);
        true
    }
}

fn counts(prompt: usize) -> Counts {
    Counts { limit: CONTEXT, prompt, cached: prompt / 2, dropped: 0, generated: 0 }
}

/// The last thing said.
fn asked(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Chat(messages) => messages.last().map(Message::text).unwrap_or_default(),
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => Bytes.detokenize(tokens).unwrap_or_default(),
        Prompt::Infill { prefix, suffix } => format!("{prefix}…{suffix}"),
    }
}

struct Writing {
    sink: Box<dyn Sink>,
    gone: Arc<AtomicUsize>,
    counts: Counts,
}

impl Writing {
    /// Pushes an event; waits while the reader is slow; whether it is still there.
    fn push(&mut self, event: Event) -> bool {
        let mut flow = self.sink.push(event);
        while flow == Flow::Full {
            std::thread::sleep(Duration::from_millis(1));
            flow = self.sink.is_ready();
        }
        if flow == Flow::Gone {
            self.gone.fetch_add(1, Ordering::SeqCst);
        }
        flow == Flow::More
    }

    fn write(&mut self, request: &Request, prompt: &[u32], asked: &str) {
        if asked == "be refused late" {
            let refusal = Refusal::TooLong { limit: CONTEXT, prompt: CONTEXT + 1 };
            self.push(Event::Failed(refusal));
            return;
        }
        if !self.push(Event::Started(self.counts)) {
            return;
        }
        match asked {
            "fail" => {
                self.text("half ", request);
                self.push(Event::Failed(Refusal::Internal("the disk is on fire".to_string())));
                return;
            }
            // The sink is dropped without a word, as when a process panics.
            "vanish" => return,
            "go on forever" => {
                while self.text("on ", request) {
                    std::thread::sleep(Duration::from_micros(200));
                }
                return;
            }
            _ => {}
        }
        if request.echo {
            for (at, &token) in prompt.iter().enumerate() {
                let text = Bytes.detokenize(&[token]).unwrap_or_default();
                let logprob = request.logprobs.map(|top| logprob(token, top, at == 0));
                if !self.push(Event::Echo { text, logprob }) {
                    return;
                }
            }
        }
        if request.form == Form::Embedding {
            // How often each kind of letter occurs.
            let mut vector = vec![0.0; 4];
            prompt.iter().for_each(|&token| vector[token as usize % 4] += 1.0);
            let length = vector.iter().map(|v: &f32| v * v).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|v| *v /= length);
            if self.push(Event::Embedding(vector)) {
                let counts = self.counts;
                self.push(Event::Done { finish: Finish::End, counts, calls: Vec::new() });
            }
            return;
        }
        let finish = match calls(request, asked) {
            Some(calls) => return self.calls(calls),
            None => self.words(request, &answer(request, asked)),
        };
        if let Some(finish) = finish {
            let counts = self.counts;
            self.push(Event::Done { finish, counts, calls: Vec::new() });
        }
    }

    /// Writes one piece of text.
    fn text(&mut self, text: &str, request: &Request) -> bool {
        self.counts.generated += 1;
        let token = text.bytes().next().map_or(0, u32::from);
        let logprob = request.logprobs.map(|top| logprob(token, top, false));
        self.push(Event::Text { text: text.to_string(), logprob })
    }

    fn words(&mut self, request: &Request, answer: &str) -> Option<Finish> {
        let cut = request.stops.iter().filter_map(|stop| Some((answer.find(stop)?, stop))).min();
        let shown = cut.map_or(answer, |(at, _)| &answer[..at]);
        for (at, word) in shown.split_inclusive(' ').enumerate() {
            if request.max_tokens == Some(at) {
                return Some(Finish::Length);
            }
            if !self.text(word, request) {
                return None;
            }
        }
        Some(cut.map_or(Finish::End, |(_, stop)| Finish::Stop(stop.clone())))
    }

    fn calls(&mut self, calls: Vec<Call>) {
        for (index, call) in calls.iter().enumerate() {
            self.counts.generated += 2;
            let (front, back) = call.arguments.split_at(call.arguments.len() / 2);
            let begins = Event::Call {
                index,
                id: Some(call.id.clone()),
                name: Some(call.name.clone()),
                arguments: front.to_string(),
            };
            let more = Event::Call { index, id: None, name: None, arguments: back.to_string() };
            if !self.push(begins) || !self.push(more) {
                return;
            }
        }
        let counts = self.counts;
        self.push(Event::Done { finish: Finish::Calls, counts, calls });
    }
}

fn logprob(token: u32, top: usize, first: bool) -> Logprob {
    let bytes = |token: u32| vec![(token % 256) as u8];
    let others = (0..top as u32).map(|at| (token + at, bytes(token + at), -0.5 - at as f32));
    Logprob {
        id: token,
        bytes: bytes(token),
        logprob: (!first).then_some(-0.5),
        top: if first { Vec::new() } else { others.collect() },
    }
}

/// Calls, if the request has tools and asks for them, or the last message names one.
fn calls(request: &Request, asked: &str) -> Option<Vec<Call>> {
    let named = |name: &str| request.tools.iter().find(|tool| tool.name == name);
    let tools: Vec<_> = match &request.tool_choice {
        ToolChoice::None => return None,
        ToolChoice::Required => request.tools.first().into_iter().collect(),
        ToolChoice::Named(name) => named(name).into_iter().collect(),
        ToolChoice::Auto => {
            let Prompt::Chat(messages) = &request.prompt else { return None };
            if messages.last().map(|message| message.role) != Some(Role::User) {
                return None;
            }
            request.tools.iter().filter(|tool| asked.contains(&tool.name)).collect()
        }
    };
    let calls = tools.iter().enumerate().map(|(at, tool)| Call {
        id: format!("call_{at}"),
        name: tool.name.clone(),
        arguments: example(&tool.schema, &tool.schema).to_string(),
    });
    Some(calls.collect::<Vec<_>>()).filter(|calls| !calls.is_empty())
}

fn answer(request: &Request, asked: &str) -> String {
    match &request.form {
        Form::Json => json!({"answer": asked}).to_string(),
        Form::Schema(schema) => example(schema, schema).to_string(),
        Form::Text | Form::Grammar(_) | Form::Regex(_) | Form::Embedding => match request.prompt {
            Prompt::Chat(_) | Prompt::Infill { .. } => format!("You said: {asked}"),
            _ => " and so on and on".to_string(),
        },
    }
}

/// Something that a schema allows.
fn example(schema: &Value, root: &Value) -> Value {
    if let Some(path) = schema["$ref"].as_str() {
        let found = root.pointer(path.trim_start_matches('#')).unwrap_or(&Value::Null);
        return example(found, root);
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let Some(first) = schema["anyOf"].get(0) {
        return example(first, root);
    }
    match schema["type"].as_str() {
        Some("string") => json!("text"),
        Some("integer") => json!(7),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => json!([example(&schema["items"], root)]),
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            properties.map(|(name, of)| (name.clone(), example(of, root))).collect()
        }
    }
}

/// The text side: a token is a byte.
struct Bytes;

impl Language for Bytes {
    fn encode(&self, request: &Request) -> Result<Vec<u32>, Refusal> {
        match &request.prompt {
            Prompt::Chat(messages) => {
                Ok(self.tokenize(&self.apply_template(messages)?, false, true))
            }
            Prompt::Text(text) => Ok(self.tokenize(text, false, false)),
            Prompt::Tokens(tokens) => self.detokenize(tokens).map(|_| tokens.clone()),
            Prompt::Infill { suffix, .. } if suffix == "no gap" => Err(Refusal::Invalid {
                field: "suffix".to_string(),
                detail: "this model has no tokens for filling in the middle".to_string(),
            }),
            Prompt::Infill { prefix, suffix } => {
                Ok(self.tokenize(&[&**prefix, suffix].concat(), false, false))
            }
        }
    }

    fn apply_template(&self, messages: &[Message]) -> Result<String, Refusal> {
        let lines =
            messages.iter().map(|message| format!("<{}>{}", message.role.name(), message.text()));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    fn tokenize(&self, text: &str, add_bos: bool, _: bool) -> Vec<u32> {
        add_bos.then_some(1).into_iter().chain(text.bytes().map(u32::from)).collect()
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, Refusal> {
        let bytes = tokens.iter().map(|&token| {
            u8::try_from(token).map_err(|_| Refusal::Invalid {
                field: "prompt".to_string(),
                detail: format!("token {token} was given; the vocabulary has 256"),
            })
        });
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        vec![(token % 256) as u8]
    }

    fn begin(&self, _: &Request, _: &[u32]) -> Result<Box<dyn Writer>, Refusal> {
        Err(Refusal::Internal("the fake writes without a writer".to_string()))
    }
}

/// A disk in memory that can be full.
#[derive(Default)]
pub(crate) struct Memory {
    documents: Mutex<BTreeMap<(String, String), Document>>,
    bytes: Mutex<BTreeMap<String, Vec<u8>>>,
    items: Mutex<BTreeMap<String, Item>>,
    /// Whether writes fail.
    pub(crate) full: AtomicBool,
}

impl Memory {
    fn room(&self) -> Result<(), DiskError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(DiskError::Full("0 bytes left".to_string())),
            false => Ok(()),
        }
    }
}

impl Disk for Memory {
    fn append(&self, _: &[NewRecord]) -> Result<u64, DiskError> {
        Err(DiskError::Failed("the server keeps no journal".to_string()))
    }

    fn replay(
        &self,
        _: u64,
        _: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        Err(DiskError::Failed("the server keeps no journal".to_string()))
    }

    fn replay_of(
        &self,
        _: u64,
        _: u64,
        _: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        Err(DiskError::Failed("the server keeps no journal".to_string()))
    }

    fn verify(&self) -> Result<u64, DiskError> {
        Err(DiskError::Failed("the server keeps no journal".to_string()))
    }

    fn put(&self, document: &Document) -> Result<(), DiskError> {
        self.room()?;
        let key = (document.kind.clone(), document.key.clone());
        self.documents.lock().unwrap().insert(key, document.clone());
        Ok(())
    }

    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        let documents = self.documents.lock().unwrap();
        Ok(documents.get(&(kind.to_string(), key.to_string())).cloned())
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        let mut documents = self.documents.lock().unwrap();
        Ok(documents.remove(&(kind.to_string(), key.to_string())).is_some())
    }

    fn list(
        &self,
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError> {
        let documents = self.documents.lock().unwrap();
        let found = documents.values().filter(|document| {
            document.kind == kind
                && owner.is_none_or(|owner| owner == document.owner)
                && document.key.as_str() > after
        });
        Ok(found.take(limit).cloned().collect())
    }

    fn change(&self, changes: &[Change]) -> Result<(), DiskError> {
        self.room()?;
        for change in changes {
            match change {
                Change::Put(document) => self.put(document)?,
                Change::Delete { kind, key } => drop(self.delete(kind, key)?),
                Change::Insert(item) => self.insert(item)?,
                Change::Remove { owner, id } => drop(self.remove(owner, id)?),
            }
        }
        Ok(())
    }

    fn put_bytes(&self, bytes: &[u8]) -> Result<String, DiskError> {
        self.room()?;
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.bytes.lock().unwrap().insert(hash.clone(), bytes.to_vec());
        Ok(hash)
    }

    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.bytes.lock().unwrap().get(sha256).cloned())
    }
}

/// Finds texts that hold the query as it stands.
impl Index for Memory {
    fn insert(&self, item: &Item) -> Result<(), DiskError> {
        self.items.lock().unwrap().insert(item.id.clone(), item.clone());
        Ok(())
    }

    fn remove(&self, _: &str, id: &str) -> Result<bool, DiskError> {
        Ok(self.items.lock().unwrap().remove(id).is_some())
    }

    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError> {
        let items = self.items.lock().unwrap();
        let fits = items.values().filter(|item| item.owner == owner && item.text.contains(query));
        Ok(fits.take(limit).map(|item| Hit { item: item.clone(), score: 1.0 }).collect())
    }
}

/// Lets in `key-ann`, `key-bob` (who may not manage), `key-poor` and `key-fast` (who may begin nothing), and, if
/// open, whoever has no key.
#[derive(Default)]
pub(crate) struct TwoKeys {
    pub(crate) open: bool,
    /// Who was charged what.
    pub(crate) charged: Mutex<Vec<(String, Counts)>>,
    /// Held by requests that run.
    pub(crate) running: Arc<()>,
}

impl TwoKeys {
    pub(crate) fn new(open: bool) -> TwoKeys {
        TwoKeys { open, ..TwoKeys::default() }
    }

    /// What somebody was charged, in all: tokens of prompts and of answers.
    pub(crate) fn charged(&self, tenant: &str) -> (usize, usize) {
        let charged = self.charged.lock().unwrap();
        let of = charged.iter().filter(|(who, _)| who == tenant);
        of.fold((0, 0), |sum, (_, counts)| (sum.0 + counts.prompt, sum.1 + counts.generated))
    }
}

impl Keys for TwoKeys {
    fn admit(
        &self,
        key: Option<&str>,
        _: Option<IpAddr>,
        access: Access,
    ) -> Result<Caller, Denial> {
        match key {
            None if self.open => Ok(Caller::default()),
            None => Err(Denial::Missing),
            Some("key-bob") if access == Access::Manage => Err(Denial::Scope),
            Some(key) => match key.strip_prefix("key-") {
                Some(tenant) => Ok(Caller::new(tenant, key)),
                None if self.open => Ok(Caller::default()),
                None => Err(Denial::Unknown),
            },
        }
    }

    fn begin(&self, caller: &Caller) -> Result<Turn, Denial> {
        let granted = format!("10 tokens for {}", caller.tenant);
        match &*caller.tenant {
            "poor" => Err(Denial::Quota { granted, after_ms: None }),
            "fast" => Err(Denial::Rate { granted, after_ms: 60_000 }),
            _ => Ok(Turn {
                requests: Some(Allowance { limit: 60, left: 59, full_ms: 1000 }),
                tokens: Some(Allowance { limit: 6000, left: 0, full_ms: 60_000 }),
                held: Box::new(self.running.clone()),
            }),
        }
    }

    fn charge(&self, caller: &Caller, used: Counts) {
        self.charged.lock().unwrap().push((caller.tenant.clone(), used));
    }
}

/// Brings one model, which is there already.
pub(crate) struct OneModel;

impl Library for OneModel {
    fn pull(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        if name != MODEL {
            return Err(Fault::NotFound { what: "model", name: name.to_string() });
        }
        for completed in [0, 512, 1024] {
            let step = Progress {
                status: "pulling 00ff".to_string(),
                digest: Some("sha256:00ff".to_string()),
                total: Some(1024),
                completed: Some(completed),
            };
            if progress(step).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn delete(&self, _: &str) -> Result<(), Fault> {
        Err(Fault::Conflict("the only model stays".to_string()))
    }
}
