//! A client of streamed completions that costs next to nothing: it shares the processors with what it measures.
//!
//! The key decision: while an answer comes, bytes are only kept; chunks, events and JSON are read when it has
//! ended. One request a connection, so that its end is the connection's.
// Each program that includes this file uses a part of it.
#![allow(dead_code)]

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Exponentially distributed with this mean.
    pub(crate) fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - (self.next() >> 11) as f64 / (1_u64 << 53) as f64).ln()
    }
}

/// A request to continue `prompt` tokens that share no beginning with others, by exactly `tokens` greedy ones.
pub(crate) fn completion(model: &str, prompt: usize, tokens: usize, random: &mut Random) -> Value {
    let prompt: Vec<u64> = (0..prompt).map(|_| 1000 + random.next() % 20_000).collect();
    json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
        // The ends of the models that this is asked of.
        "logit_bias": {"0": -100, "2": -100},
    })
}

/// What came back, and when.
pub(crate) struct Answer {
    /// Everything after the headers, as it stood on the wire.
    wire: Vec<u8>,
    head: String,
    /// Until the headers, the first byte after them, and the end.
    pub(crate) times: (Duration, Duration, Duration),
}

/// Posts a body to `/v1/completions` and takes the answer. A slow reader takes a little at a time and
/// waits so long in between.
pub(crate) async fn ask(
    address: SocketAddr,
    body: &Value,
    slow: Option<Duration>,
) -> Result<Answer> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(post(body).as_bytes()).await?;
    let (mut wire, mut piece) = (Vec::new(), vec![0; if slow.is_some() { 512 } else { 1 << 14 }]);
    let (mut headers, mut times) = (None, (None, None));
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        wire.extend_from_slice(&piece[..count]);
        if headers.is_none() {
            headers = wire.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            times.0 = headers.map(|_| begun.elapsed());
        }
        if times.1.is_none() && headers.is_some_and(|end| wire.len() > end) {
            times.1 = Some(begun.elapsed());
        }
        if let Some(pause) = slow {
            tokio::time::sleep(pause).await;
        }
    }
    let whole = begun.elapsed();
    let Some(end) = headers else {
        return Err(Error::other("the connection ended before the headers"));
    };
    let head = String::from_utf8_lossy(&wire[..end]).to_ascii_lowercase();
    wire.drain(..end);
    Ok(Answer { wire, head, times: (times.0.unwrap_or(whole), times.1.unwrap_or(whole), whole) })
}

/// The bytes of a request.
pub(crate) fn post(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The body, put together from its chunks.
    pub(crate) fn body(&self) -> String {
        let mut body = Vec::new();
        if self.header("transfer-encoding") == Some("chunked") {
            let mut rest = &self.wire[..];
            while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
                let size = std::str::from_utf8(&rest[..end]).unwrap_or_default();
                let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                let chunk = rest.get(end + 2..end + 2 + size).unwrap_or_default();
                if chunk.is_empty() {
                    break;
                }
                body.extend_from_slice(chunk);
                rest = rest.get(end + 4 + size..).unwrap_or_default();
            }
        } else {
            body.extend_from_slice(&self.wire);
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Its events, if it is a stream that ended as it should.
    pub(crate) fn events(&self) -> Option<Vec<Value>> {
        let body = self.body();
        let mut events: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        if events.pop() != Some("[DONE]") {
            return None;
        }
        events.into_iter().map(|event| serde_json::from_str(event).ok()).collect()
    }

    /// Its text, and the tokens of prompt and answer, if it is a stream that ended as it should.
    pub(crate) fn read(&self) -> Option<(String, u64, u64)> {
        let events = self.events()?;
        let texts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
        let usage = events.iter().rev().find_map(|event| event["usage"].as_object())?;
        let count = |name: &str| usage.get(name).and_then(Value::as_u64);
        Some((texts.collect(), count("prompt_tokens")?, count("completion_tokens")?))
    }
}

/// The value that `share` of the others do not exceed.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((share * values.len() as f64) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}
