//! Background responses of models that are not the kernel's: no journal knows them, so what was asked is a
//! document until it has ended, and is asked again, from its beginning, after a restart.
//!
//! The key decision: asking again changes nothing outside, for a response calls no tool by itself. While its
//! model cannot be asked it stays queued, as a process waits in the journal for a start with its model. If the kernel
//! has that model by then, it is a process as of then: the journal's, and charged by the kernel.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use yushan_abi::{DiskError, Document, Request};

use super::collect;
use super::object::{KIND as RESPONSE, Kept, ResponseObject};
use crate::Server;
use crate::doors::Caller;
use crate::events::{Events, blocking};
use crate::fault::Fault;
use crate::ids;
use crate::watch::Watch;

/// The kind of these documents; their keys are the responses'.
const KIND: &str = "background";
/// Documents that are read at a time.
const PAGE: usize = 100;
/// How long it waits for a model before it looks again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the kernel does itself for a model.
#[derive(Clone, Copy, Default)]
pub(super) struct Own {
    /// Its journal keeps what is asked.
    pub(super) keeps: bool,
    /// It charges for the answer.
    pub(super) bills: bool,
}

impl Own {
    /// For this one.
    pub(super) async fn model(server: &Server, name: &str) -> Result<Own, Fault> {
        let Some(kernel) = server.kernel.clone() else { return Ok(Own::default()) };
        let name = name.to_string();
        blocking(move || Own { keeps: kernel.knows(&name), bills: kernel.bills(&name) }).await
    }
}

/// Keeps what is asked, for no journal does. On return it is durable.
pub(super) async fn note(
    server: &Server,
    id: &str,
    owner: &str,
    request: &Request,
) -> Result<(), Fault> {
    let document = Document {
        kind: KIND.to_string(),
        key: id.to_string(),
        owner: owner.to_string(),
        created_ms: ids::seconds() * 1000,
        body: json!(request).to_string(),
    };
    server.on_disk(move |disk| disk.put(&document)).await
}

/// It has ended, or will not be asked.
pub(super) async fn over(server: &Server, id: &str) -> Result<(), Fault> {
    let key = id.to_string();
    let forget = move |disk: &dyn yushan_abi::Disk| match disk.get(KIND, &key)? {
        Some(_) => disk.delete(KIND, &key).map(drop),
        None => Ok(()),
    };
    server.on_disk(forget).await
}

/// Asks again what had not ended when the system stopped; how many. What is `journalled` is not: the kernel has
/// taken it up.
pub(crate) fn resume(
    server: &Arc<Server>,
    journalled: &HashSet<String>,
) -> Result<usize, DiskError> {
    let (mut count, mut after) = (0, String::new());
    loop {
        let page = server.disk.list(KIND, None, &after, PAGE)?;
        let Some(last) = page.last() else { return Ok(count) };
        after.clone_from(&last.key);
        for document in page {
            let waiting = match journalled.contains(&document.key) {
                true => None,
                false => waiting(server, &document)?,
            };
            match waiting {
                Some((kept, request)) => {
                    let object = ResponseObject::again(&kept, &request);
                    let begun = begin(server.clone(), document.clone(), request);
                    collect(server.clone(), begun, object, kept.input, document.owner);
                    count += 1;
                }
                // Its end was kept, or its beginning noted, and the system stopped before it was forgotten here.
                None => drop(server.disk.delete(KIND, &document.key)?),
            }
        }
    }
}

/// The response that waits for this, and what was asked.
fn waiting(server: &Server, document: &Document) -> Result<Option<(Kept, Request)>, DiskError> {
    let response = server.disk.get(RESPONSE, &document.key)?;
    let kept = response.and_then(|response| Kept::of(&response).ok());
    let kept = kept.filter(|kept| kept.response["status"] == "queued");
    Ok(kept.zip(serde_json::from_str(&document.body).ok()))
}

/// Asks as soon as the model is there and has room.
async fn begin(server: Arc<Server>, document: Document, request: Request) -> Result<Events, Fault> {
    loop {
        let begun = match server.model(&request.model).await {
            Ok(_) => ask(&server, &document, &request).await,
            Err(fault) => Err(fault),
        };
        match begun {
            Err(Fault::NoModel(_) | Fault::Busy { .. }) => tokio::time::sleep(AGAIN).await,
            begun => return begun,
        }
    }
}

/// Asks whoever has the model now.
async fn ask(server: &Server, document: &Document, request: &Request) -> Result<Events, Fault> {
    let own = Own::model(server, &request.model).await?;
    let (tenant, key) = (document.owner.clone(), request.account.clone());
    let payer = Caller { tenant, key, ..Caller::default() };
    let watch = Watch::again(server, (!own.bills).then_some(payer));
    let events = Events::begin(&server.complete, watch, request.clone(), 1).await?;
    if own.keeps {
        // Otherwise it is forgotten at the next start, for the journal tells of it.
        let _ = over(server, &document.key).await;
    }
    Ok(events)
}
