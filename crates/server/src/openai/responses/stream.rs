//! A response as server-sent events, in the order that OpenAI documents.
//!
//! The key decision: one item is open at a time. Whatever comes first for the next one closes it, with all the
//! "done" events that belong to it, innermost first.

use serde::Serialize;
use serde_json::{Value, json};
use yushan_abi::{Counts, Document, Event, Logprob, Message};

use crate::fault::Fault;
use crate::ids;
use crate::openai::TokenLogprob;
use crate::openai::responses::object::{Kept, OutputItem, OutputText, ResponseObject};
use crate::stream::Face;

/// Writes a response.
pub(crate) struct ResponseFace {
    object: ResponseObject,
    input: Vec<Message>,
    owner: String,
    sequence: u64,
    open: Option<Open>,
    ended: bool,
}

/// The item that is being written.
enum Open {
    Message { id: String, text: String, logprobs: Vec<TokenLogprob> },
    Call { id: String, call_id: String, name: String, arguments: String },
}

impl ResponseFace {
    pub(crate) fn new(object: ResponseObject, input: Vec<Message>, owner: &str) -> ResponseFace {
        let owner = owner.to_string();
        ResponseFace { object, input, owner, sequence: 0, open: None, ended: false }
    }

    /// Writes an event; `fields` is an object.
    fn write(&mut self, name: &str, fields: &Value, out: &mut String) {
        #[derive(Serialize)]
        struct Numbered<'a> {
            #[serde(rename = "type")]
            name: &'a str,
            sequence_number: u64,
            #[serde(flatten)]
            fields: &'a Value,
        }
        let numbered = Numbered { name, sequence_number: self.sequence, fields };
        self.sequence += 1;
        // All keys are texts.
        if let Ok(json) = serde_json::to_string(&numbered) {
            out.push_str(&format!("event: {name}\ndata: {json}\n\n"));
        }
    }

    fn whole(&mut self, name: &str, out: &mut String) {
        let fields = json!({"response": self.object});
        self.write(name, &fields, out);
    }

    fn text(&mut self, text: String, logprob: Option<Logprob>, out: &mut String) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close("completed", out);
            self.open_message(out);
        }
        let index = self.object.output.len();
        let added: Vec<_> = logprob.map(TokenLogprob::of).into_iter().collect();
        let Some(Open::Message { id, text: all, logprobs }) = &mut self.open else { return };
        all.push_str(&text);
        logprobs.extend(added.iter().cloned());
        let fields = json!({"item_id": id, "output_index": index, "content_index": 0,
                            "delta": text, "logprobs": added});
        self.write("response.output_text.delta", &fields, out);
    }

    fn open_message(&mut self, out: &mut String) {
        let (id, index) = (ids::name("msg_"), self.object.output.len());
        let item = message(&id, "in_progress", Vec::new());
        let added = json!({"output_index": index, "item": item});
        self.write("response.output_item.added", &added, out);
        let part = OutputText::of(String::new(), Vec::new());
        let fields =
            json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
        self.write("response.content_part.added", &fields, out);
        self.open = Some(Open::Message { id, text: String::new(), logprobs: Vec::new() });
    }

    fn call(&mut self, begins: Option<(String, String)>, more: &str, out: &mut String) {
        let index = self.object.output.len();
        if let Some((call_id, name)) = begins {
            self.close("completed", out);
            let index = self.object.output.len();
            let id = ids::name("fc_");
            let item = called(&id, &call_id, &name, "", "in_progress");
            let added = json!({"output_index": index, "item": item});
            self.write("response.output_item.added", &added, out);
            self.open = Some(Open::Call { id, call_id, name, arguments: String::new() });
            return self.call(None, more, out);
        }
        let Some(Open::Call { id, arguments, .. }) = &mut self.open else { return };
        if !more.is_empty() {
            arguments.push_str(more);
            let fields = json!({"item_id": id, "output_index": index, "delta": more});
            self.write("response.function_call_arguments.delta", &fields, out);
        }
    }

    /// Closes the open item.
    fn close(&mut self, status: &'static str, out: &mut String) {
        let index = self.object.output.len();
        let item = match self.open.take() {
            None => return,
            Some(Open::Message { id, text, logprobs }) => {
                let part = OutputText::of(text, logprobs);
                let done = json!({"item_id": id, "output_index": index, "content_index": 0,
                                  "text": part.text, "logprobs": part.logprobs});
                self.write("response.output_text.done", &done, out);
                let done = json!({"item_id": id, "output_index": index, "content_index": 0,
                                  "part": part});
                self.write("response.content_part.done", &done, out);
                message(&id, status, vec![part])
            }
            Some(Open::Call { id, call_id, name, arguments }) => {
                let done = json!({"item_id": id, "output_index": index, "name": name,
                                  "arguments": arguments});
                self.write("response.function_call_arguments.done", &done, out);
                called(&id, &call_id, &name, &arguments, status)
            }
        };
        let done = json!({"output_index": index, "item": item});
        self.write("response.output_item.done", &done, out);
        self.object.output.push(item);
    }

    fn done(&mut self, finish: &yushan_abi::Finish, counts: &Counts, out: &mut String) {
        self.object.end(finish, counts);
        let (status, event) = match self.object.status {
            "completed" => ("completed", "response.completed"),
            _ => ("incomplete", "response.incomplete"),
        };
        if self.open.is_none() && self.object.output.is_empty() {
            self.open_message(out);
        }
        self.close(status, out);
        self.whole(event, out);
        self.ended = true;
    }
}

fn message(id: &str, status: &'static str, content: Vec<OutputText>) -> OutputItem {
    OutputItem::Message { id: id.to_string(), role: "assistant", status, content }
}

fn called(
    id: &str,
    call_id: &str,
    name: &str,
    arguments: &str,
    status: &'static str,
) -> OutputItem {
    OutputItem::FunctionCall {
        id: id.to_string(),
        call_id: call_id.to_string(),
        name: name.to_string(),
        arguments: arguments.to_string(),
        status,
    }
}

impl Face for ResponseFace {
    const MEDIA: &'static str = "text/event-stream";
    const IDLE: &'static str = ": \n\n";

    fn event(&mut self, _: usize, event: Event, out: &mut String) {
        match event {
            Event::Started(_) => {
                self.whole("response.created", out);
                self.whole("response.in_progress", out);
            }
            Event::Echo { .. }
            | Event::Embedding(_)
            | Event::Answered { .. }
            | Event::Asks { .. }
            | Event::Verified(_) => {}
            Event::Text { text, logprob } => {
                if !text.is_empty() || logprob.is_some() {
                    self.text(text, logprob, out);
                }
            }
            Event::Call { id, name, arguments, .. } => self.call(id.zip(name), &arguments, out),
            Event::Done { finish, counts, .. } => self.done(&finish, &counts, out),
            Event::Failed(refusal) => {
                self.object.fail(&refusal.into());
                self.whole("response.failed", out);
                self.ended = true;
            }
        }
    }

    fn end(&mut self, _: &mut String) {}

    fn document(&mut self) -> Option<Document> {
        let now = std::mem::take(&mut self.ended) && self.object.store;
        now.then(|| Kept::document(&self.object, &self.input, &self.owner))
    }

    fn fault(&mut self, fault: Fault, out: &mut String) {
        let error = fault.body().error;
        let fields = json!({"code": error.code, "message": error.message, "param": error.param});
        self.write("error", &fields, out);
    }
}
