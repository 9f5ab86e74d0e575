//! `/v1/responses`: kept, continued, streamed, in the background.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use yushan_abi::{Complete, Language, ModelInfo, Prompt, Refusal, Sink};
use yushan_server::{Server, router};

use crate::house::{House, house, tool, with};
use crate::scripted::{Fake, MODEL, Memory, OneModel, TwoKeys};

#[tokio::test]
async fn responses_are_kept_and_continued() {
    let house = house(true);
    let ask = |more| with(json!({"model": MODEL, "input": "one"}), more);
    let first = house.post("/v1/responses", ask(json!({"instructions": "be kind"}))).await.json();
    assert_eq!(first["status"], "completed", "{first}");
    assert_eq!(first["output"][0]["content"][0]["text"], "You said: one");
    let id = first["id"].as_str().expect("an id");
    assert_eq!(house.get(&format!("/v1/responses/{id}")).await.json(), first);
    let items = house.get(&format!("/v1/responses/{id}/input_items")).await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "one");
    let body =
        ask(json!({"input": [{"role": "user", "content": "two"}], "previous_response_id": id}));
    assert_eq!(house.post("/v1/responses", body).await.json()["status"], "completed");
    let Prompt::Chat(messages) = house.last().prompt else { panic!("a chat") };
    let texts: Vec<_> = messages.iter().map(yushan_abi::Message::text).collect();
    assert_eq!(texts, ["one", "You said: one", "two"], "instructions are not inherited");
    let other = house.as_key("key-bob", "GET", &format!("/v1/responses/{id}"), &Value::Null).await;
    assert_eq!(other.status, 404, "whose it is not");
    let gone = house.as_key("", "DELETE", &format!("/v1/responses/{id}"), &Value::Null).await;
    assert_eq!(gone.json()["deleted"], true);
    assert_eq!(house.get(&format!("/v1/responses/{id}")).await.status, 404);
    let body = ask(json!({"previous_response_id": id}));
    assert_eq!(house.post("/v1/responses", body).await.status, 404);
    let unkept = house.post("/v1/responses", ask(json!({"store": false}))).await.json();
    let id = unkept["id"].as_str().expect("an id");
    assert_eq!(house.get(&format!("/v1/responses/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_response_is_streamed_in_the_documented_order() {
    let house = house(true);
    let tools = json!([{"type": "function", "name": "weather", "parameters": tool()["function"]["parameters"]}]);
    for (input, items) in [
        (
            "hello",
            vec![
                "content_part.added",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
            ],
        ),
        ("weather", vec!["function_call_arguments.delta", "function_call_arguments.done"]),
    ] {
        let body = json!({"model": MODEL, "input": input, "stream": true, "tools": tools});
        let reply = house.post("/v1/responses", body).await;
        let events = reply.events();
        let mut names: Vec<_> =
            events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
        names.dedup();
        let inner = items.iter().map(|name| format!("response.{name}"));
        let outer = |names: [&str; 3]| names.map(|name| format!("response.{name}"));
        let expected: Vec<_> = outer(["created", "in_progress", "output_item.added"])
            .into_iter()
            .chain(inner)
            .chain(["response.output_item.done".to_string(), "response.completed".to_string()])
            .collect();
        assert_eq!(names, expected);
        let numbers =
            events.iter().map(|event| event["sequence_number"].as_u64().expect("a number"));
        assert!(numbers.eq(0..events.len() as u64));
        let last = &events.last().expect("events")["response"];
        let id = last["id"].as_str().expect("an id");
        assert_eq!(&house.get(&format!("/v1/responses/{id}")).await.json(), last);
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_acknowledged() {
    let house = house(true);
    house.disk.full.store(true, Ordering::SeqCst);
    let ask = |more| with(json!({"model": MODEL, "input": "one"}), more);
    for more in [json!({}), json!({"background": true})] {
        assert_eq!(house.post("/v1/responses", ask(more)).await.status, 507);
    }
    let events = house.post("/v1/responses", ask(json!({"stream": true}))).await.events();
    assert!(events.iter().all(|event| event["type"] != "response.completed"));
    assert_eq!(events.last().expect("an error")["type"], "error");
}

#[tokio::test]
async fn background_responses_end_or_are_cancelled() {
    let house = house(true);
    let ask = |input: &str| json!({"model": MODEL, "input": input, "background": true});
    let ended = async |input: &str| {
        let queued = house.post("/v1/responses", ask(input)).await.json();
        assert_eq!(queued["status"], "queued");
        let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
        for _ in 0..1000 {
            let now = house.get(&path).await.json();
            if !matches!(now["status"].as_str(), Some("queued" | "in_progress")) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{input}: it does not end");
    };
    let done = ended("hello").await;
    assert_eq!(done["output"][0]["content"][0]["text"], "You said: hello");
    assert_eq!(ended("fail").await["error"]["message"], "the disk is on fire");
    // What is refused at once was never queued.
    let refused = house.post("/v1/responses", ask("be busy")).await;
    assert_eq!((refused.status, &refused.headers["retry-after"]), (429, &"2".parse().unwrap()));
    let queued = house.post("/v1/responses", ask("go on forever")).await.json();
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    let cancelled = house.post(&format!("{path}/cancel"), Value::Null).await.json();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(house.get(&path).await.json()["status"], "cancelled");
    assert_eq!(house.as_key("", "DELETE", &path, &Value::Null).await.json()["deleted"], true);
}

/// A model on another server: not always there, and `silent` if it takes requests and gives no answer.
#[derive(Default)]
struct Elsewhere {
    fake: Fake,
    there: AtomicBool,
    silent: bool,
    held: Mutex<Vec<Box<dyn Sink>>>,
}

impl Complete for Elsewhere {
    fn complete(&self, request: yushan_abi::Request, sink: Box<dyn Sink>) -> Result<(), Refusal> {
        if self.silent {
            self.held.lock().unwrap().push(sink);
            return Ok(());
        }
        self.fake.complete(request, sink)
    }

    fn models(&self) -> Vec<ModelInfo> {
        if self.there.load(Ordering::SeqCst) { self.fake.models() } else { Vec::new() }
    }

    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal> {
        self.fake.language(model)
    }
}

#[tokio::test]
async fn what_another_server_was_to_answer_is_asked_again_after_a_restart() {
    let start = |disk: &Arc<Memory>, complete: &Arc<Elsewhere>| {
        let keys = Arc::new(TwoKeys::new(true));
        let server = Server::new(complete.clone(), disk.clone(), Arc::new(OneModel), keys.clone());
        let server = Arc::new(server);
        let resumed = server.resume().expect("the disk can be read");
        (House { app: router(server), fake: Arc::default(), disk: disk.clone(), keys }, resumed)
    };
    let disk = Arc::new(Memory::default());
    let there = || AtomicBool::new(true);
    let complete = Arc::new(Elsewhere { silent: true, there: there(), ..Default::default() });
    let (house, _) = start(&disk, &complete);
    let mut paths = Vec::new();
    for input in ["hello", "to be cancelled", "to be deleted"] {
        let asked = json!({"model": MODEL, "input": input, "background": true,
            "instructions": "be kind", "metadata": {"of": "ann"}});
        let queued = house.post("/v1/responses", asked).await.json();
        paths.push(format!("/v1/responses/{}", queued["id"].as_str().expect("an id")));
    }
    // The other server is not there yet when this one is back; the first stays as it crashed.
    let complete = Arc::new(Elsewhere::default());
    let (house, resumed) = start(&disk, &complete);
    assert_eq!(resumed, 3);
    for path in &paths {
        assert_eq!(house.get(path).await.json()["status"], "queued");
    }
    let cancelled = house.post(&format!("{}/cancel", paths[1]), Value::Null).await.json();
    assert_eq!(cancelled["status"], "cancelled");
    house.as_key("", "DELETE", &paths[2], &Value::Null).await;
    let (_, resumed) = start(&disk, &complete);
    assert_eq!(resumed, 1, "what was cancelled or deleted is not asked again");
    complete.there.store(true, Ordering::SeqCst);
    let mut ended = Value::Null;
    for _ in 0..10_000 {
        ended = house.get(&paths[0]).await.json();
        if ended["status"] == "completed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ended["output"][0]["content"][0]["text"], "You said: hello", "{ended}");
    assert_eq!(
        (&ended["metadata"], &ended["instructions"]),
        (&json!({"of": "ann"}), &json!("be kind"))
    );
    let asked = complete.fake.last.lock().unwrap().clone().expect("a request");
    let Prompt::Chat(messages) = asked.prompt else { panic!("a chat") };
    assert_eq!(
        messages.iter().map(yushan_abi::Message::text).collect::<Vec<_>>(),
        ["be kind", "hello"]
    );
}
