//! For tests: a web server on the loopback, and an index in memory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use yushan_abi::{DiskError, Hit, Index, Invocation, Item, Label, Tool, ToolResult};

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

/// Finds words as they stand.
#[derive(Default)]
pub(crate) struct Words {
    items: Mutex<BTreeMap<(String, String), Item>>,
}

impl Index for Words {
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
