//! For tests: a web server on the loopback, and a disk in memory.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::thread;

use yushan_abi::{
    Change, Disk, DiskError, Document, Hit, Index, Invocation, Item, Label, NewRecord, Record,
    Tool, ToolResult,
};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// Answers requests on the loopback with bytes, headers and all, and gives its port. It lives as long as the tests.
pub(crate) fn serve(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> u16 {
    serve_raw(move |stream| {
        if let Some(asked) = read_request(&stream) {
            let mut stream = stream;
            let _ = stream.write_all(&answer(&asked));
        }
    })
}

/// Hands connections out.
pub(crate) fn serve_raw(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    port
}

/// Reads a request to the end of its body.
pub(crate) fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let mut asked = Asked {
        method: words.next()?.to_string(),
        path: words.next()?.to_string(),
        ..Asked::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        asked.headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let length = asked.headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).ok()?;
    Some(asked)
}

/// A response with its length.
pub(crate) fn response(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let headers = headers.split('|').filter(|header| !header.is_empty());
    let headers: String = headers.map(|header| format!("{header}\r\n")).collect();
    let head = format!(
        "HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A page.
pub(crate) fn html(body: impl AsRef<[u8]>) -> Vec<u8> {
    response(200, "Content-Type: text/html; charset=utf-8", body)
}

/// Calls a tool for `ann` in a space.
pub(crate) fn call(tool: &dyn Tool, space: &str, arguments: serde_json::Value) -> ToolResult {
    let label = Label::default();
    tool.call(&Invocation {
        arguments: &arguments,
        key: "1",
        space,
        owner: "ann",
        label: &label,
        cancel: yushan_abi::Cancel::default(),
    })
}

/// Documents, bytes and items; no journal. Words are found as they stand.
#[derive(Default)]
pub(crate) struct Memory {
    documents: Mutex<BTreeMap<(String, String), Document>>,
    bytes: Mutex<HashMap<String, Vec<u8>>>,
    items: Mutex<BTreeMap<(String, String), Item>>,
}

impl Disk for Memory {
    fn append(&self, _: &[NewRecord]) -> Result<u64, DiskError> {
        Err(DiskError::Failed("no journal".into()))
    }

    fn replay(
        &self,
        _: u64,
        _: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        Err(DiskError::Failed("no journal".into()))
    }

    fn replay_of(
        &self,
        _: u64,
        _: u64,
        _: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        Err(DiskError::Failed("no journal".into()))
    }

    fn verify(&self) -> Result<u64, DiskError> {
        Ok(0)
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
        kind: &str,
        owner: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Document>, DiskError> {
        let documents = self.documents.lock().unwrap();
        let mine = documents.values().filter(|document| {
            document.kind == kind && owner.is_none_or(|owner| document.owner == owner)
        });
        Ok(mine.filter(|document| *document.key > *after).take(limit).cloned().collect())
    }

    fn change(&self, changes: &[Change]) -> Result<(), DiskError> {
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
        let mut all = self.bytes.lock().unwrap();
        if let Some((name, _)) = all.iter().find(|(_, kept)| *kept == bytes) {
            return Ok(name.clone());
        }
        let name = format!("{:064x}", all.len() + 1);
        all.insert(name.clone(), bytes.to_vec());
        Ok(name)
    }

    fn get_bytes(&self, sha256: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.bytes.lock().unwrap().get(sha256).cloned())
    }
}

impl Index for Memory {
    fn insert(&self, item: &Item) -> Result<(), DiskError> {
        let name = (item.owner.clone(), item.id.clone());
        self.items.lock().unwrap().insert(name, item.clone());
        Ok(())
    }

    fn remove(&self, owner: &str, id: &str) -> Result<bool, DiskError> {
        Ok(self.items.lock().unwrap().remove(&(owner.into(), id.into())).is_some())
    }

    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError> {
        let query = query.to_lowercase();
        let words: Vec<&str> = query.split_whitespace().collect();
        let items = self.items.lock().unwrap();
        let mut hits: Vec<Hit> = items
            .values()
            .filter(|item| item.owner == owner)
            .map(|item| {
                let text = item.text.to_lowercase();
                let found = words.iter().map(|word| text.matches(word).count()).sum::<usize>();
                Hit { item: item.clone(), score: found as f64 }
            })
            .filter(|hit| hit.score > 0.0)
            .collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        hits.truncate(limit);
        Ok(hits)
    }
}
