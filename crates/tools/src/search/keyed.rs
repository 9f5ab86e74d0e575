//! Search engines that answer in JSON: SearXNG, Brave, Tavily.
//!
//! The key decision: one function asks and three small ones read, so a further engine is a row. Their addresses are
//! the operator's and are allowed as they stand; what their answers name is not.

use std::time::Duration;

use serde_json::{Value, json};
use url::Url;
use yushan_abi::{Cancel, Label, Sources};

use super::{Found, Missed, Provider, Query};
use crate::web::fetch::{Ask, Failure, Fetcher, Limits};
use crate::web::guard::{Guard, Refused};
use crate::web::text::{seen, shortened};

/// Characters of an excerpt.
const EXCERPT: usize = 600;
/// For an answer.
const TIME: Duration = Duration::from_secs(15);
/// Bytes of an answer.
const BYTES: usize = 4 << 20;

/// Which engine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Searxng,
    Brave,
    Tavily,
}

/// One of the engines.
pub struct Keyed {
    kind: Kind,
    name: String,
    place: Url,
    key: String,
    fetcher: Fetcher,
}

impl Keyed {
    /// A SearXNG of one's own, by its address (`http://127.0.0.1:8888`); `json` has to be among its formats.
    ///
    /// # Errors
    /// If it is no address.
    pub fn searxng(address: &str) -> Result<Keyed, Refused> {
        Keyed::new(Kind::Searxng, "SearXNG", address, "search", String::new())
    }

    /// The Brave Search API; `address` is `https://api.search.brave.com`.
    ///
    /// # Errors
    /// If it is no address.
    pub fn brave(address: &str, key: &str) -> Result<Keyed, Refused> {
        Keyed::new(Kind::Brave, "Brave", address, "res/v1/web/search", key.into())
    }

    /// The Tavily API; `address` is `https://api.tavily.com`.
    ///
    /// # Errors
    /// If it is no address.
    pub fn tavily(address: &str, key: &str) -> Result<Keyed, Refused> {
        Keyed::new(Kind::Tavily, "Tavily", address, "search", key.into())
    }

    fn new(
        kind: Kind,
        name: &str,
        address: &str,
        path: &str,
        key: String,
    ) -> Result<Keyed, Refused> {
        let wrong = |error: String| Refused::NotAnAddress(format!("{address}: {error}"));
        let base = format!("{}/{path}", address.trim_end_matches('/'));
        let place = Url::parse(&base).map_err(|error| wrong(error.to_string()))?;
        let host = place.host_str().zip(place.port_or_known_default());
        let (host, port) = host.ok_or_else(|| wrong("no host".into()))?;
        let guard = Guard::default().allow(&format!("{host}:{port}"))?;
        guard.check(&place)?;
        let limits = Limits { bytes: BYTES, time: TIME, redirects: 0 };
        Ok(Keyed { kind, name: name.into(), place, key, fetcher: Fetcher { guard, limits } })
    }

    fn ask(&self, query: &Query<'_>) -> Ask {
        let limit = query.limit.clamp(1, 20).to_string();
        let mut url = self.place.clone();
        let mut headers = vec![("accept", "application/json".to_string())];
        let mut body = None;
        match self.kind {
            Kind::Searxng => {
                url.query_pairs_mut().append_pair("q", query.text).append_pair("format", "json");
            }
            Kind::Brave => {
                url.query_pairs_mut().append_pair("q", query.text).append_pair("count", &limit);
                headers.push(("x-subscription-token", self.key.clone()));
            }
            Kind::Tavily => {
                headers.push(("authorization", format!("Bearer {}", self.key)));
                body = Some(
                    json!({"query": query.text, "max_results": query.limit.clamp(1, 20)})
                        .to_string(),
                );
            }
        }
        Ask { url, headers, json: body, stays: true }
    }

    /// The list of results, and in it the field that holds an excerpt.
    fn results<'a>(&self, answer: &'a Value) -> (Option<&'a Value>, &'static str) {
        match self.kind {
            Kind::Searxng | Kind::Tavily => (answer.get("results"), "content"),
            // Without results Brave leaves the whole section out.
            Kind::Brave => {
                let nothing = answer.get("type").filter(|kind| *kind == "search");
                (answer.pointer("/web/results").or(nothing), "description")
            }
        }
    }
}

impl Provider for Keyed {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn search(&self, query: &Query<'_>) -> Result<Vec<Found>, Missed> {
        let fetched = self.fetch(self.ask(query), query.cancel)?;
        let down = |why: &str| Missed::Down(why.to_string(), None);
        let answer: Value =
            serde_json::from_slice(&fetched).map_err(|_| down("its answer is not JSON"))?;
        let (list, excerpt) = self.results(&answer);
        let list = list.ok_or_else(|| down("its answer has no results"))?;
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(rows.iter().filter_map(|row| found(row, excerpt)).take(query.limit).collect())
    }
}

impl Keyed {
    fn fetch(&self, ask: Ask, cancel: &Cancel) -> Result<Vec<u8>, Missed> {
        self.fetcher.fetch(ask, cancel).map(|fetched| fetched.body).map_err(|failure| match failure
        {
            Failure::Cancelled => Missed::Cancelled,
            Failure::Redirects(_) | Failure::Elsewhere => {
                Missed::Down("it redirects; give the address that it redirects to".into(), None)
            }
            Failure::Status(401 | 403, _) if self.kind == Kind::Searxng => {
                let why = "it refuses JSON; add `json` to `search.formats` of its settings.yml";
                Missed::Down(why.into(), None)
            }
            Failure::Status(401 | 403, _) => {
                Missed::Down("it does not accept the key".into(), None)
            }
            Failure::Status(code, after) => Missed::Down(
                format!("it answered with status {code}"),
                after.map(Duration::from_secs),
            ),
            other => Missed::Down(other.to_string(), None),
        })
    }
}

/// A row, if it leads to a page of the web.
fn found(row: &Value, excerpt: &str) -> Option<Found> {
    let url = Url::parse(row.get("url")?.as_str()?).ok()?;
    let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https"))?.to_string();
    if url.as_str().len() > 2048 {
        return None;
    }
    let line = |key: &str, most| {
        let text = plain(row.get(key).and_then(Value::as_str).unwrap_or_default());
        shortened(&text, most)
    };
    let mut label = Label::of(Sources::WEB);
    label.origins.insert(host);
    Some(Found {
        title: line("title", 200),
        url: url.to_string(),
        excerpt: line(excerpt, EXCERPT),
        label,
        sha256: None,
    })
}

/// Brave marks words with `<strong>`; others quote what they found as it stands.
fn plain(text: &str) -> String {
    let text = if text.contains('<') || text.contains('&') {
        dom_query::Document::fragment(crate::web::page::bounded(text)).text().to_string()
    } else {
        text.to_string()
    };
    seen(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}
