//! A server over the scripted fakes, and requests to it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use yushan_server::{Doors, Server, router};

use crate::scripted::{Fake, MODEL, Memory, OneModel, TwoKeys};

pub(crate) struct House {
    pub(crate) app: Router,
    pub(crate) fake: Arc<Fake>,
    pub(crate) disk: Arc<Memory>,
    pub(crate) keys: Arc<TwoKeys>,
}

pub(crate) fn house(open: bool) -> House {
    let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
    let keys = Arc::new(TwoKeys::new(open));
    let mut server = Server::new(fake.clone(), disk.clone(), Arc::new(OneModel), keys.clone());
    server.index = Some(disk.clone());
    server.doors = Doors::default().origin("https://chat.example.org");
    server.deadline = Duration::from_millis(200);
    House { app: router(Arc::new(server)), fake, disk, keys }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The values of the `data:` lines, without `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        let values = lines.filter(|line| *line != "[DONE]");
        values.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl House {
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.app.clone().oneshot(request).await.expect("infallible");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        Reply { status, headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    pub(crate) async fn as_key(&self, key: &str, method: &str, path: &str, body: &Value) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(request.body(Body::from(body)).expect("a request")).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.as_key("", "POST", path, &body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.as_key("", "GET", path, &Value::Null).await
    }

    pub(crate) fn last(&self) -> yushan_abi::Request {
        self.fake.last.lock().unwrap().clone().expect("a request")
    }
}

pub(crate) fn chat(text: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}]})
}

/// `base` with the fields of `more`.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    for (name, value) in more.as_object().expect("an object") {
        base[name] = value.clone();
    }
    base
}

pub(crate) fn tool() -> Value {
    json!({"type": "function", "function": {"name": "weather", "description": "d", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
}
