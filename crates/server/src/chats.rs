//! `/v1/chats`: conversations that are kept, in the form of OpenAI's messages, and found by their words.
//!
//! The key decision: a conversation is kept as it came and checked as if it were asked, so that what comes
//! out can be sent anywhere; several are kept together or not at all, each with what finds it. Names are the owner's own: the
//! same name under two owners is two conversations, and others' do not exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, Request, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use yushan_abi::{Change, Disk, Document, Item, Message, Role};

use crate::Server;
use crate::body::{FILE, parse, whole};
use crate::doors::Caller;
use crate::fault::{ErrorBody, Fault};
use crate::ids;
use crate::openai::messages::{ChatMessage, conversation};

/// The kind of a conversation's document.
const KIND: &str = "conversation";
/// Conversations of one page of a list, and of one request.
const MOST: usize = 1000;
/// Letters of a title that is taken from what was said.
const TITLE: usize = 60;

/// A conversation.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chat {
    /// Its name, up to 64 letters, digits, `-` and `_`; drawn if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Seconds since 1970; now if not given. That of the first time stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<u64>,
    /// Seconds since 1970; now if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated_at: Option<u64>,
    /// As in chats.
    #[schema(value_type = Vec<ChatMessage>)]
    messages: Vec<Value>,
}

/// Conversations to be kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chats {
    conversations: Vec<Chat>,
}

/// What a list says of a conversation.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatHead {
    id: String,
    object: &'static str,
    title: String,
    model: Option<String>,
    created_at: u64,
    updated_at: u64,
    /// How many there are.
    messages: usize,
}

/// Conversations.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatList {
    object: &'static str,
    data: Vec<ChatHead>,
    last_id: Option<String>,
    has_more: bool,
}

/// That a conversation is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatDeleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Which conversations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatQuery {
    /// Those with these words, the best first.
    q: Option<String>,
    limit: Option<u64>,
    /// Those after this one.
    after: Option<String>,
}

/// The last second that a conversation can be of: in the year 36,812.
const LATEST: usize = (1 << 40) - 1;

impl Chat {
    /// Checks a conversation that is to be kept and fills in what it does not say.
    fn check(&mut self, field: &str, caller: &Caller) -> Result<Vec<Message>, Fault> {
        #[derive(Deserialize)]
        struct Body {
            messages: Vec<ChatMessage>,
        }
        let id = self.id.get_or_insert_with(|| ids::name("chat-"));
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        if id.is_empty() || id.len() > 64 || !id.chars().all(plain) {
            let detail = format!("{id:?} was given; expected 1 to 64 letters, digits, - and _");
            return Err(Fault::invalid(format!("{field}.id"), detail));
        }
        for (name, seconds) in [("created_at", self.created_at), ("updated_at", self.updated_at)] {
            crate::body::whole(&format!("{field}.{name}"), seconds, 0, LATEST)?;
        }
        let now = ids::seconds();
        self.created_at.get_or_insert(now);
        self.updated_at.get_or_insert(now);
        let body = serde_json::json!({ "messages": self.messages }).to_string();
        let messages = parse::<Body>(body.as_bytes());
        let messages = messages.and_then(|body| conversation(body.messages, &caller.tenant));
        messages.map_err(|fault| match fault {
            Fault::Invalid { field: inner, detail } => {
                Fault::Invalid { field: format!("{field}.{inner}"), detail }
            }
            other => other,
        })
    }

    fn head(&self, id: String) -> ChatHead {
        ChatHead {
            id,
            object: "chat",
            title: self.title.clone().unwrap_or_else(|| self.first_words()),
            model: self.model.clone(),
            created_at: self.created_at.unwrap_or(0),
            updated_at: self.updated_at.unwrap_or(0),
            messages: self.messages.len(),
        }
    }

    /// What the user said first.
    fn first_words(&self) -> String {
        let said = self.messages.iter().find(|message| message["role"] == "user");
        let content = said.map(|message| &message["content"]);
        let text = content.and_then(|content| content.as_str().or(content[0]["text"].as_str()));
        text.unwrap_or("")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(TITLE)
            .collect()
    }
}

/// The name on the disk: no two owners and names give the same.
fn key(owner: &str, id: &str) -> String {
    format!("{}:{owner}:{id}", owner.len())
}

/// Keeps conversations, over those of their names; all of them, or none if one makes no sense.
#[utoipa::path(
    post,
    path = "/v1/chats",
    request_body = Chats,
    responses((status = 200, body = ChatList), (status = 400, body = ErrorBody))
)]
pub(crate) async fn keep(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<ChatList>, Fault> {
    let body: Chats = server.read(request, FILE).await?;
    let mut chats = body.conversations;
    if !(1..=MOST).contains(&chats.len()) {
        let detail = format!("{} were given; expected 1 to {MOST}", chats.len());
        return Err(Fault::invalid("conversations", detail));
    }
    let (mut names, mut kept) = (BTreeSet::new(), Vec::new());
    for (at, chat) in chats.iter_mut().enumerate() {
        let field = format!("conversations[{at}]");
        let messages = chat.check(&field, &caller)?;
        let id = chat.id.clone().unwrap_or_default();
        if !names.insert(id.clone()) {
            return Err(Fault::invalid(format!("{field}.id"), format!("{id:?} stands here twice")));
        }
        kept.push((id, messages));
    }
    let (mut changes, mut heads) = (Vec::new(), Vec::new());
    for (chat, (id, messages)) in chats.into_iter().zip(kept) {
        let (document, item) = stored(&caller.tenant, &chat, &messages, &id);
        changes.push(Change::Put(document));
        changes.extend(server.index.is_some().then_some(Change::Insert(item)));
        heads.push(chat.head(id));
    }
    server.on_disk(move |disk| disk.change(&changes)).await?;
    Ok(Json(list_of(heads, false)))
}

/// A conversation as a document, and what finds it.
fn stored(owner: &str, chat: &Chat, messages: &[Message], id: &str) -> (Document, Item) {
    let key = key(owner, id);
    let said = messages.iter().filter(|message| message.role != Role::System);
    let texts = chat.title.iter().cloned().chain(said.map(Message::text));
    let item = Item {
        id: key.clone(),
        owner: owner.to_string(),
        text: texts.collect::<Vec<_>>().join("\n"),
        label: messages.iter().map(Message::label).reduce(|a, b| a.join(&b)).unwrap_or_default(),
    };
    let document = Document {
        kind: KIND.to_string(),
        key,
        owner: owner.to_string(),
        created_ms: 1000 * chat.created_at.unwrap_or(0),
        body: serde_json::json!(chat).to_string(),
    };
    (document, item)
}

fn list_of(data: Vec<ChatHead>, has_more: bool) -> ChatList {
    let last_id = data.last().map(|head| head.id.clone());
    ChatList { object: "list", data, last_id, has_more }
}

fn read(document: &Document) -> Result<(String, Chat), Fault> {
    let chat: Result<Chat, _> = serde_json::from_str(&document.body);
    let damaged = |why: &str| Fault::Internal(format!("{}: damaged: {why}", document.key));
    let mut chat = chat.map_err(|error| damaged(&error.to_string()))?;
    chat.created_at = Some(document.created_ms / 1000);
    Ok((chat.id.clone().ok_or_else(|| damaged("no id"))?, chat))
}

/// Lists the caller's conversations by their names, or those with some words, the best first.
#[utoipa::path(get, path = "/v1/chats", params(ChatQuery), responses((status = 200, body = ChatList)))]
pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ChatQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ChatList>, Fault> {
    let Query(query) = query.map_err(|error| Fault::invalid("query", error.body_text()))?;
    let limit = whole("limit", query.limit, 1, MOST)?.unwrap_or(100);
    let owner = caller.tenant;
    let documents = match query.q {
        None => {
            let after = query.after.map_or_else(String::new, |id| key(&owner, &id));
            server.on_disk(move |disk| disk.list(KIND, Some(&owner), &after, limit + 1)).await?
        }
        Some(words) => {
            let index = server.index.clone();
            let index = index.ok_or_else(|| Fault::invalid("q", "this server keeps no index"))?;
            crate::body::refuse("after", query.after.is_some(), "what is found has no pages")?;
            let find = move |disk: &dyn Disk| {
                let mut found = Vec::new();
                for hit in index.search(&owner, &words, limit)? {
                    // Other things than conversations may be found by their words too.
                    found.extend(disk.get(KIND, &hit.item.id)?);
                }
                Ok(found)
            };
            server.on_disk(find).await?
        }
    };
    let has_more = documents.len() > limit;
    let chats = documents.iter().take(limit).map(read);
    let heads = chats.map(|chat| chat.map(|(id, chat)| chat.head(id)));
    Ok(Json(list_of(heads.collect::<Result<_, _>>()?, has_more)))
}

/// Gives a conversation as it was kept.
#[utoipa::path(
    get,
    path = "/v1/chats/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = Chat), (status = 404, body = ErrorBody))
)]
pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Chat>, Fault> {
    let key = key(&caller.tenant, &id);
    match server.on_disk(move |disk| disk.get(KIND, &key)).await? {
        Some(document) => Ok(Json(read(&document)?.1)),
        None => Err(Fault::NotFound { what: "conversation", name: id }),
    }
}

/// Deletes a conversation.
#[utoipa::path(
    delete,
    path = "/v1/chats/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = ChatDeleted), (status = 404, body = ErrorBody))
)]
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<ChatDeleted>, Fault> {
    let (owner, key) = (caller.tenant.clone(), key(&caller.tenant, &id));
    let indexed = server.index.is_some();
    let gone = move |disk: &dyn Disk| {
        if disk.get(KIND, &key)?.is_none() {
            return Ok(false);
        }
        let delete = Change::Delete { kind: KIND.to_string(), key: key.clone() };
        let remove = indexed.then_some(Change::Remove { owner, id: key });
        disk.change(&[delete].into_iter().chain(remove).collect::<Vec<_>>())?;
        Ok(true)
    };
    match server.on_disk(gone).await? {
        true => Ok(Json(ChatDeleted { id, object: "chat", deleted: true })),
        false => Err(Fault::NotFound { what: "conversation", name: id }),
    }
}
