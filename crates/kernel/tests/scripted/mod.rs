//! A model that plays a part, a disk on paper and tools that keep a tally: for tests of programs.
//!
//! The model reads the conversation and says what the part makes of it, letter by letter. It calls tools by
//! lines: `|NAME {JSON}`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use yushan_abi::scripted::Scripted;
use yushan_abi::*;
use yushan_kernel::Loaded;

/// What the model says to a conversation.
pub(crate) type Part = fn(&[Message]) -> String;

/// Ends the conversation in the tokens.
const TURN: TokenId = 2;

struct Script;

struct Quill {
    text: String,
    /// How much of it is shown.
    shown: usize,
}

impl Language for Script {
    fn encode(&self, request: &Request) -> Result<Vec<TokenId>, Refusal> {
        let Prompt::Chat(messages) = &request.prompt else { panic!("a conversation") };
        let mut tokens = self.tokenize(&self.apply_template(messages)?, false, false);
        tokens.push(TURN);
        Ok(tokens)
    }
    fn apply_template(&self, messages: &[Message]) -> Result<String, Refusal> {
        Ok(messages.iter().map(|m| serde_json::to_string(m).unwrap() + "\n").collect())
    }
    fn tokenize(&self, text: &str, _: bool, _: bool) -> Vec<TokenId> {
        text.bytes().map(TokenId::from).collect()
    }
    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        Ok(tokens.iter().map(|&token| char::from(token as u8)).collect())
    }
    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        vec![token as u8]
    }
    fn begin(&self, _: &Request, _: &[TokenId]) -> Result<Box<dyn Writer>, Refusal> {
        Ok(Box::new(Quill { text: String::new(), shown: 0 }))
    }
}

impl Writer for Quill {
    fn next(&mut self, logits: &[f32]) -> Result<Written, Refusal> {
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        self.replay(best.unwrap_or(0) as TokenId)
    }
    fn replay(&mut self, token: TokenId) -> Result<Written, Refusal> {
        let mut written = Written { token, pieces: Vec::new(), logprob: None, end: None };
        if token != 0 {
            self.text.push(char::from(token as u8));
            if !self.text.contains('|') {
                written.pieces.push(Piece::Text(self.text[self.shown..].into()));
                self.shown = self.text.len();
            }
            return Ok(written);
        }
        let calls = self.text.split('|').skip(1).enumerate().map(|(at, call)| {
            let (name, arguments) = call.trim().split_once(' ').unwrap();
            Call { id: format!("c{at}"), name: name.into(), arguments: arguments.into() }
        });
        let calls: Vec<Call> = calls.collect();
        written.end = Some(if calls.is_empty() { End::End } else { End::Calls(calls) });
        Ok(written)
    }
    fn finish(&mut self) -> Vec<Piece> {
        Vec::new()
    }
    fn score(&self, _: &[f32], _: TokenId) -> Option<Logprob> {
        None
    }
    fn echo(&mut self, _: TokenId) -> String {
        String::new()
    }
}

/// A model named `m` that plays this part.
pub(crate) fn model(part: Part) -> Loaded {
    let script = move |tokens: &[TokenId], logits: &mut [f32]| {
        let turn = tokens.iter().position(|&token| token == TURN).unwrap_or(tokens.len() - 1);
        let bytes: Vec<u8> = tokens[..turn].iter().map(|&token| token as u8).collect();
        let lines = String::from_utf8(bytes).unwrap();
        let messages: Vec<Message> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = part(&messages);
        let next = said.as_bytes().get(tokens.len() - turn - 1).copied().unwrap_or(0);
        logits[usize::from(next)] = 1.0;
    };
    let context = 1 << 16;
    let executor = Box::new(Scripted::new(256, context, script));
    let info = ModelInfo { name: "m".into(), context, ..ModelInfo::default() };
    Loaded { info, language: Arc::new(Script), executor }
}

/// A disk that can be copied, and that refuses to write after so many records.
#[derive(Clone, Default)]
pub(crate) struct Paper {
    pub(crate) records: Arc<Mutex<Vec<Record>>>,
    documents: Arc<Mutex<BTreeMap<(String, String), Document>>>,
    items: Arc<Mutex<Vec<Item>>>,
    room: Option<usize>,
}

impl Paper {
    /// A disk with room for so many records.
    pub(crate) fn small(room: usize) -> Paper {
        Paper { room: Some(room), ..Paper::default() }
    }

    /// The disk as it was after so many records.
    pub(crate) fn torn(&self, records: usize) -> Paper {
        let records = self.records.lock().unwrap()[..records].to_vec();
        Paper { records: Arc::new(Mutex::new(records)), ..Paper::default() }
    }
}

impl Disk for Paper {
    fn append(&self, records: &[NewRecord]) -> Result<u64, DiskError> {
        let mut all = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if self.room.is_some_and(|room| all.len() + records.len() > room) {
            return Err(DiskError::Full("no space left on device".into()));
        }
        for NewRecord { time_ms, pid, body } in records.iter().cloned() {
            let seq = all.len() as u64 + 1;
            all.push(Record { seq, time_ms, pid, body, hash: [0; 32] });
        }
        Ok(all.len() as u64)
    }
    fn replay(
        &self,
        from: u64,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        let all = self.records.lock().unwrap().clone();
        let _ = all.into_iter().filter(|record| record.seq >= from).try_for_each(visit);
        Ok(())
    }
    fn verify(&self) -> Result<u64, DiskError> {
        Ok(self.records.lock().unwrap().len() as u64)
    }
    fn put(&self, document: &Document) -> Result<(), DiskError> {
        let name = (document.kind.clone(), document.key.clone());
        self.documents.lock().unwrap().insert(name, document.clone());
        Ok(())
    }
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DiskError> {
        Ok(self.documents.lock().unwrap().get(&(kind.into(), key.into())).cloned())
    }
    fn delete(&self, kind: &str, key: &str) -> Result<bool, DiskError> {
        Ok(self.documents.lock().unwrap().remove(&(kind.into(), key.into())).is_some())
    }
    fn list(
        &self,
        _: &str,
        _: Option<&str>,
        _: &str,
        _: usize,
    ) -> Result<Vec<Document>, DiskError> {
        Ok(Vec::new())
    }
    fn put_bytes(&self, _: &[u8]) -> Result<String, DiskError> {
        Err(DiskError::Failed("paper holds no bytes".into()))
    }
    fn get_bytes(&self, _: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(None)
    }
}

impl Index for Paper {
    fn insert(&self, item: &Item) -> Result<(), DiskError> {
        let mut items = self.items.lock().unwrap();
        items.retain(|other| other.id != item.id);
        items.push(item.clone());
        Ok(())
    }
    fn remove(&self, _: &str, _: &str) -> Result<bool, DiskError> {
        Ok(false)
    }
    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError> {
        let items = self.items.lock().unwrap();
        let hits = items.iter().filter(|item| item.owner == owner && item.text.contains(query));
        Ok(hits.take(limit).map(|item| Hit { item: item.clone(), score: 1.0 }).collect())
    }
}

/// A tool that answers `NAME(ARGUMENTS)` and keeps the keys it was called with.
pub(crate) struct Tally {
    spec: ToolSpec,
    source: Sources,
    pub(crate) keys: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn new(name: &str, effect: Effect, source: Sources) -> Arc<Tally> {
        let spec = serde_json::json!({
            "name": name, "effect": effect, "schema": {"properties": {"to": {}}},
            "roles": {"to": "destination"},
        });
        let spec = serde_json::from_value(spec).unwrap();
        Arc::new(Tally { spec, source, keys: Mutex::default() })
    }
}

impl Tool for Tally {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }
    fn call(&self, arguments: &Value, key: &str) -> ToolResult {
        self.keys.lock().unwrap().push(key.into());
        assert!(arguments["to"] != "breaks", "a tool that breaks down");
        let text = format!("{}({arguments})", self.spec.name);
        ToolResult { text, failed: false, label: Label::of(self.source) }
    }
}
