//! The Ollama face.

use std::time::Duration;

use serde_json::{Value, json};
use yushan_abi::Keep;

use crate::house::{chat, house, tool, with};
use crate::scripted::{CONTEXT, MODEL};

#[tokio::test]
async fn ollama_answers_in_lines() {
    let house = house(true);
    let reply = house.post("/api/chat", chat("hello")).await;
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    let lines = reply.lines();
    let text: String =
        lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!(text, "You said: hello");
    let last = lines.last().expect("lines");
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(11), &json!(3)));
    assert!(last["total_duration"].as_u64() >= last["eval_duration"].as_u64());

    let body = with(chat("weather"), json!({"stream": false, "tools": [tool()]}));
    let reply = house.post("/api/chat", body).await.json();
    assert_eq!(reply["message"]["tool_calls"][0]["function"]["arguments"], json!({"city": "text"}));
    let body = json!({"model": format!("{MODEL}:latest"), "prompt": "hi", "system": "s", "stream": false,
        "options": {"num_predict": 2, "temperature": 0, "num_ctx": CONTEXT}, "think": false});
    let reply = house.post("/api/generate", body).await;
    assert_eq!(reply.headers["x-yushan-ignored"], "think");
    assert_eq!(
        (&reply.json()["response"], &reply.json()["done_reason"]),
        (&json!("You said: "), &json!("length"))
    );
    let reply = house.post("/api/generate", json!({"model": MODEL})).await.json();
    assert_eq!(reply["done_reason"], "load");
    let body = json!({"model": MODEL, "prompt": "hi", "format": "json", "stream": false});
    assert_eq!(house.post("/api/generate", body).await.json()["response"], r#"{"answer":"hi"}"#);
    let failed = house.post("/api/chat", chat("fail")).await.lines();
    assert_eq!(failed.last().expect("a line")["error"], "the disk is on fire");
}

#[tokio::test]
async fn ollama_keeps_models_as_long_as_clients_say() {
    let house = house(true);
    let minute = Some(Keep::For(Duration::from_secs(60)));
    for (keep_alive, prompt, reason, kept, expires) in [
        (json!("1m"), "", "load", minute, json!("2027-01-15T08:00:00Z")),
        (json!(-1), "", "load", Some(Keep::Forever), json!("9999-12-31T23:59:59Z")),
        (json!(60.0), "hi", "stop", minute, json!("2027-01-15T08:00:00Z")),
        (json!("0"), "", "unload", Some(Keep::For(Duration::ZERO)), Value::Null),
    ] {
        // Its alias will do.
        let body =
            json!({"model": "tiny", "prompt": prompt, "stream": false, "keep_alive": keep_alive});
        let reply = house.post("/api/generate", body).await;
        assert_eq!(reply.json()["done_reason"], reason, "{keep_alive}");
        assert!(!reply.headers.contains_key("x-yushan-ignored"), "{keep_alive}");
        assert_eq!(*house.fake.kept.lock().unwrap(), kept, "{keep_alive}");
        let running = &house.get("/api/ps").await.json()["models"][0];
        assert_eq!(running["expires_at"], expires, "{keep_alive}");
        assert!(running.is_null() || running["size"] == 2048, "{running}");
    }
    for wrong in [json!("soon"), json!([]), json!("5")] {
        let body = json!({"model": MODEL, "messages": [], "keep_alive": wrong});
        let reply = house.post("/api/chat", body).await;
        let good = wrong == json!("5");
        assert_eq!(reply.status, if good { 200 } else { 400 }, "{wrong}");
        assert!(good || reply.json()["error"].as_str().unwrap().starts_with("keep_alive: "));
    }
}

#[tokio::test]
async fn ollama_lists_shows_and_pulls() {
    let house = house(true);
    assert_eq!(house.get("/").await.text, "Ollama is running");
    assert!(house.get("/api/version").await.json()["version"].is_string());
    let tag = &house.get("/api/tags").await.json()["models"][0];
    assert_eq!(
        (&tag["model"], &tag["details"]["parameter_size"]),
        (&json!(MODEL), &json!("260.0K"))
    );
    assert_eq!(
        house.get("/api/ps").await.json()["models"][0]["expires_at"],
        "2027-01-15T08:00:00Z"
    );
    let shown = house.post("/api/show", json!({"model": MODEL})).await.json();
    assert_eq!(shown["model_info"]["llama.context_length"], CONTEXT);
    let lines = house.post("/api/pull", json!({"model": MODEL})).await.lines();
    assert_eq!((lines.len(), &lines[3]["status"]), (4, &json!("success")));
    let failed = house.post("/api/pull", json!({"name": "none", "stream": false})).await;
    assert_eq!(
        (failed.status, failed.json()),
        (404, json!({"error": "there is no model \"none\""}))
    );
    for (path, body, status) in [
        ("/api/embed", json!({"model": MODEL, "input": ""}), 400),
        ("/api/show", json!({"model": "none"}), 404),
        (
            "/api/chat",
            json!({"model": MODEL, "messages": [{"role": "user", "content": "a", "images": ["b"]}]}),
            400,
        ),
        ("/api/nothing", json!({}), 404),
        ("/api/tags", json!({}), 405),
    ] {
        let reply = house.post(path, body).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.json()["error"].is_string(), "{path}");
    }
    let reply = house.as_key("", "DELETE", "/api/delete", &json!({"model": MODEL})).await;
    assert_eq!(reply.status, 409);
}
