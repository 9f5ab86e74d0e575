//! What is kept for its owner: files and conversations.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::house::house;
use crate::scripted::MODEL;

#[tokio::test]
async fn files_are_kept_for_their_owner() {
    let house = house(true);
    let form = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n--b\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nhello\r\n--b--\r\n";
    let send = |form: &str| {
        let request = Request::post("/v1/files").header("host", "localhost");
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        request.body(Body::from(form.to_string())).expect("a request")
    };
    let file = house.send(send(form)).await.json();
    assert_eq!((&file["bytes"], &file["filename"]), (&json!(5), &json!("a.txt")), "{file}");
    let path = format!("/v1/files/{}", file["id"].as_str().expect("an id"));
    assert_eq!(house.get(&path).await.json(), file);
    assert_eq!(house.get(&format!("{path}/content")).await.text, "hello");
    assert_eq!(house.get("/v1/files").await.json()["data"], json!([file]));
    for path in [path.clone(), format!("{path}/content")] {
        assert_eq!(house.as_key("key-bob", "GET", &path, &Value::Null).await.status, 404);
    }
    assert_eq!(house.as_key("key-bob", "DELETE", &path, &Value::Null).await.status, 404);
    assert_eq!(house.as_key("", "DELETE", &path, &Value::Null).await.json()["deleted"], true);
    for bad in [
        "",
        "--b--\r\n",
        &form.replace("user_data", "fun"),
        &form[..60],
        &form.replace("purpose", "x"),
    ] {
        assert_eq!(house.send(send(bad)).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn conversations_are_kept_found_and_given_back_as_they_were() {
    let house = house(true);
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1",
        "type": "function", "function": {"name": "weather", "arguments": "{}"}}]});
    let messages = json!([
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "rain\n in  Taipei?"}]},
        call,
        {"role": "tool", "tool_call_id": "c1", "content": "much"},
    ]);
    let chat = json!({"id": "one", "model": MODEL, "created_at": 7, "updated_at": 9,
        "messages": messages});
    let keep = async |key, chats: Value| {
        house.as_key(key, "POST", "/v1/chats", &json!({ "conversations": chats })).await
    };
    let get = async |key, path: &str| house.as_key(key, "GET", path, &Value::Null).await;
    let other = json!({"title": "Snow", "messages": [{"role": "user", "content": "cold?"}]});
    let body = keep("key-ann", json!([chat, other])).await.json();
    let head = json!({"id": "one", "object": "chat", "title": "rain in Taipei?", "model": MODEL,
        "created_at": 7, "updated_at": 9, "messages": 4});
    assert_eq!(body["data"][0], head);
    assert_eq!(get("key-ann", "/v1/chats/one").await.json(), chat);
    for (path, count) in [
        ("/v1/chats", 2),
        ("/v1/chats?limit=1", 1),
        ("/v1/chats?after=one", 0),
        ("/v1/chats?q=Taipei", 1),
        ("/v1/chats?q=Snow", 1),
        ("/v1/chats?q=kind", 0),
    ] {
        let list = get("key-ann", path).await.json();
        assert_eq!(list["data"].as_array().expect("a list").len(), count, "{path}: {list}");
    }
    // The same name is another conversation for somebody else, who has none yet.
    assert_eq!(get("key-bob", "/v1/chats/one").await.status, 404);
    assert_eq!(house.as_key("key-bob", "DELETE", "/v1/chats/one", &Value::Null).await.status, 404);
    assert_eq!(get("key-bob", "/v1/chats?q=Taipei").await.json()["data"], json!([]));
    keep("key-bob", json!([{"id": "one", "messages": [{"role": "user", "content": "b"}]}])).await;
    assert_eq!(get("key-ann", "/v1/chats/one").await.json(), chat);
    // One that makes no sense, and none is kept.
    for (bad, param) in [
        (json!({"id": "a/b", "messages": messages}), "conversations[1].id"),
        (json!({"id": "new", "messages": messages}), "conversations[1].id"),
        (json!({"messages": []}), "conversations[1].messages"),
        (json!({"messages": [{"role": "king"}]}), "conversations[1].messages[0].role"),
        (json!({"messages": [7]}), "conversations[1].messages[0]"),
        (json!({"messages": messages, "x": 1}), "conversations[1].x"),
        (json!({"messages": messages, "created_at": -1}), "conversations[1].created_at"),
    ] {
        let reply = keep("key-ann", json!([{"id": "new", "messages": messages}, bad])).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{bad}");
        assert_eq!(get("key-ann", "/v1/chats/new").await.status, 404, "{bad}");
    }
    for path in ["/v1/chats?limit=0", "/v1/chats?limit=x", "/v1/chats?q=a&after=b", "/v1/chats?x=1"]
    {
        assert_eq!(get("key-ann", path).await.status, 400, "{path}");
    }
    let gone = house.as_key("key-ann", "DELETE", "/v1/chats/one", &Value::Null).await;
    assert_eq!(gone.json(), json!({"id": "one", "object": "chat", "deleted": true}));
    assert_eq!(get("key-ann", "/v1/chats?q=Taipei").await.json()["data"], json!([]));
    assert_eq!(get("key-bob", "/v1/chats/one").await.status, 200);
    house.disk.full.store(true, Ordering::SeqCst);
    assert_eq!(keep("key-ann", json!([chat])).await.status, 507);
}
