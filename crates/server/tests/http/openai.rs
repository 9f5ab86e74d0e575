//! Chats, completions, embeddings and models, in OpenAI's form.

use serde_json::{Value, json};
use yushan_abi::{Overflow, Prompt, Sources, ToolChoice};

use crate::house::{chat, house, tool, with};
use crate::scripted::{CONTEXT, MODEL};

#[tokio::test]
async fn models_are_listed_and_described() {
    let house = house(true);
    let list = house.get("/v1/models").await.json();
    assert_eq!(list["data"][0]["id"], MODEL);
    assert_eq!(list["data"][0]["context_length"], CONTEXT);
    assert_eq!(house.get(&format!("/v1/models/{MODEL}")).await.json()["object"], "model");
    let reply = house.get("/v1/models/none").await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let house = house(true);
    let reply = house.post("/v1/chat/completions", chat("hello")).await;
    let body = reply.json();
    assert_eq!(reply.status, 200, "{body}");
    assert!(body["id"].as_str().expect("an id").starts_with("chatcmpl-"));
    assert_eq!(body["choices"][0]["message"]["content"], "You said: hello");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let prompt = "<user>hello".len();
    assert_eq!(body["usage"]["prompt_tokens"], prompt);
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], prompt / 2);
    let window = json!({"limit": CONTEXT, "prompt_tokens": prompt, "cached_tokens": prompt / 2,
                        "dropped_tokens": 0});
    assert_eq!(body["context"], window);
}

#[tokio::test]
async fn a_chat_is_streamed_in_the_order_clients_expect() {
    let house = house(true);
    let body = with(
        chat("hello you"),
        json!({"stream": true, "n": 2,
        "stream_options": {"include_usage": true}}),
    );
    let reply = house.post("/v1/chat/completions", body).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert!(reply.text.ends_with("data: [DONE]\n\n"));
    let events = reply.events();
    let first = &events[0]["choices"][0]["delta"];
    assert_eq!((&first["role"], &first["content"]), (&json!("assistant"), &Value::Null));
    assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
    for index in 0..2 {
        let own = events.iter().filter_map(|event| event["choices"].get(0));
        let own: Vec<_> = own.filter(|choice| choice["index"] == index).collect();
        let text: String =
            own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "You said: hello you");
        let last = own.last().expect("choices");
        assert_eq!((&last["finish_reason"], &last["delta"]), (&json!("stop"), &json!({})));
    }
    let usage = events.last().expect("events");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn fields_reach_the_request() {
    let house = house(true);
    let body = with(
        chat("hello"),
        json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": -3, "n": 2,
            "frequency_penalty": -1, "presence_penalty": 2, "logit_bias": {"17": -100}, "stop": "x",
            "max_completion_tokens": 9, "tools": [tool()], "tool_choice": "required",
            "parallel_tool_calls": false, "logprobs": true, "top_logprobs": 3, "service_tier": "flex",
            "overflow": "truncate_oldest", "user": "me", "metadata": {"a": "b"},
        }),
    );
    let reply = house.post("/v1/chat/completions", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.headers["x-yushan-ignored"], "metadata, user");
    let request = house.last();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 7));
    assert_eq!((sampling.seed as i64, &*sampling.logit_bias), (-2, &[(17, -100.0)][..]));
    assert_eq!((request.max_tokens, request.logprobs), (Some(9), Some(3)));
    assert_eq!((request.tool_choice, request.parallel_calls), (ToolChoice::Required, false));
    assert_eq!((request.overflow, request.stops), (Overflow::TruncateOldest, vec!["x".into()]));
    let Prompt::Chat(messages) = request.prompt else { panic!("a chat") };
    assert!(messages[0].label().sources.contains(Sources::USER));
}

#[tokio::test]
async fn what_a_tool_gave_back_is_not_trusted() {
    let house = house(true);
    let body = json!({"model": MODEL, "tools": [tool()], "messages": [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
    ]});
    let reply = house.post("/v1/chat/completions", body).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "You said: rain");
    let Prompt::Chat(messages) = house.last().prompt else { panic!("a chat") };
    let trusted: Vec<_> = messages.iter().map(|message| message.label().is_trusted()).collect();
    assert_eq!(trusted, [true, true, true, false]);
    assert_eq!(messages[3].answers.as_deref(), Some("call_0"));
    assert_eq!(messages[3].name.as_deref(), Some("weather"));
}

#[tokio::test]
async fn tools_are_called_whole_and_in_pieces() {
    let house = house(true);
    let body = with(chat("the weather?"), json!({"tools": [tool()]}));
    let whole = house.post("/v1/chat/completions", body.clone()).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], r#"{"city":"text"}"#);
    let streamed =
        house.post("/v1/chat/completions", with(body, json!({"stream": true}))).await.events();
    let deltas =
        streamed.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0));
    let deltas: Vec<_> = deltas.collect();
    assert_eq!((&deltas[0]["id"], &deltas[0]["type"]), (&json!("call_0"), &json!("function")));
    let pieces = deltas.iter().map(|delta| delta["function"]["arguments"].as_str().expect("text"));
    assert_eq!(pieces.collect::<String>(), r#"{"city":"text"}"#);
}

#[tokio::test]
async fn logprobs_and_forms_are_told() {
    let house = house(true);
    let body = with(chat("a"), json!({"logprobs": true, "top_logprobs": 2}));
    let reply = house.post("/v1/chat/completions", body).await.json();
    let content = &reply["choices"][0]["logprobs"]["content"];
    assert_eq!(content[0]["logprob"], -0.5);
    assert_eq!(content[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (format, expected) in [
        (format, r#"{"n":7}"#),
        (json!({"type": "json_object"}), r#"{"answer":"a"}"#),
        (json!({"type": "text"}), "You said: a"),
    ] {
        let body = with(chat("a"), json!({"response_format": format}));
        let reply = house.post("/v1/chat/completions", body).await.json();
        assert_eq!(reply["choices"][0]["message"]["content"], expected);
    }
}

#[tokio::test]
async fn completions_take_text_texts_and_tokens() {
    let house = house(true);
    let ask = |more| with(json!({"model": MODEL, "prompt": "ab"}), more);
    for (more, texts) in [
        (json!({}), vec![" and so on and on"]),
        (json!({"echo": true, "max_tokens": 0}), vec!["ab"]),
        (
            json!({"prompt": ["ab", "cd"], "echo": true, "max_tokens": 2}),
            vec!["ab and ", "cd and "],
        ),
        (json!({"prompt": [97, 98], "echo": true, "max_tokens": 0}), vec!["ab"]),
        (json!({"prompt": [[97], [98]], "echo": true, "max_tokens": 0}), vec!["a", "b"]),
        (json!({"n": 2, "best_of": 2, "stop": [" on"]}), vec![" and so", " and so"]),
    ] {
        let reply = house.post("/v1/completions", ask(more.clone())).await;
        let body = reply.json();
        let choices = body["choices"].as_array().unwrap_or_else(|| panic!("{body}"));
        let found: Vec<_> =
            choices.iter().map(|choice| choice["text"].as_str().expect("text")).collect();
        assert_eq!(found, texts, "{more}");
        assert_eq!(choices.last().expect("one")["index"], texts.len() - 1);
    }
    let body = ask(json!({"echo": true, "logprobs": 1, "max_tokens": 1}));
    let logprobs = &house.post("/v1/completions", body).await.json()["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "b", " "]));
    assert_eq!(logprobs["token_logprobs"], json!([null, -0.5, -0.5]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2]));
    let body = ask(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = house.post("/v1/completions", body).await.events();
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, " and so on and on");
    assert_eq!(events.last().expect("usage")["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn a_gap_is_filled_and_nothing_beside_it_is_ignored() {
    let house = house(true);
    let open = json!({"model": MODEL, "prompt": "one ", "suffix": " three", "max_tokens": 9});
    let lines = json!({"model": MODEL, "prompt": "one ", "suffix": " three", "stream": false});
    let gap = Prompt::Infill { prefix: "one ".into(), suffix: " three".into() };
    let reply = house.post("/v1/completions", with(open.clone(), json!({"logprobs": 1}))).await;
    let choice = &reply.json()["choices"][0];
    assert_eq!(choice["text"], "You said: one … three");
    assert_eq!(choice["logprobs"]["token_logprobs"][0], -0.5);
    assert_eq!((house.last().prompt, house.last().echo), (gap.clone(), false));
    let streamed = with(open.clone(), json!({"stream": true, "n": 2}));
    let events = house.post("/v1/completions", streamed).await.events();
    let first = events.iter().filter(|event| event["choices"][0]["index"] == 0);
    let text: String = first.filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "You said: one … three");
    // One suffix for all; an empty one is none.
    let several = with(open.clone(), json!({"prompt": ["a", "b"]}));
    let reply = house.post("/v1/completions", several).await.json();
    assert_eq!(reply["choices"][1]["text"], "You said: b… three");
    house.post("/v1/completions", with(open.clone(), json!({"suffix": ""}))).await;
    assert_eq!(house.last().prompt, Prompt::Text("one ".into()));
    let reply = house.post("/api/generate", lines.clone()).await.json();
    assert_eq!((&reply["response"], house.last().prompt), (&json!("You said: one … three"), gap));
    // Nothing before the gap is no request to load the model.
    let reply = house.post("/api/generate", with(lines.clone(), json!({"prompt": ""}))).await;
    assert_eq!(reply.json()["response"], "You said: … three");
    for (path, base, more, field) in [
        ("/v1/completions", &open, json!({"echo": true}), "echo"),
        ("/v1/completions", &open, json!({"prompt": [97]}), "suffix"),
        ("/v1/completions", &open, json!({"prompt": [[97], [98]]}), "suffix"),
        ("/v1/completions", &open, json!({"suffix": "no gap"}), "suffix"),
        ("/v1/completions", &open, json!({"suffix": "x".repeat(CONTEXT)}), "prompt"),
        ("/api/generate", &lines, json!({"raw": true}), "raw"),
        ("/api/generate", &lines, json!({"system": "be kind"}), "system"),
        ("/api/generate", &lines, json!({"suffix": "no gap"}), "suffix"),
    ] {
        let reply = house.post(path, with(base.clone(), more.clone())).await;
        assert_eq!(reply.status, 400, "{path} {more}: {}", reply.text);
        let error = reply.json()["error"].clone();
        let said = error.as_str().is_some_and(|said| said.starts_with(&format!("{field}: ")));
        assert!(said || error["param"] == field, "{more}: {error}");
    }
}

#[tokio::test]
async fn refusals_have_their_status_and_code() {
    let house = house(true);
    for (text, status, code) in [
        ("be busy", 429, "rate_limit_exceeded"),
        ("be refused late", 400, "context_length_exceeded"),
        ("be too big", 507, "no_room"),
        ("fail", 500, ""),
        ("vanish", 500, ""),
    ] {
        let reply = house.post("/v1/chat/completions", chat(text)).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, error["code"].as_str().unwrap_or("")), (status, code), "{text}");
    }
    let busy = house.post("/v1/chat/completions", chat("be busy")).await;
    assert_eq!(busy.headers["retry-after"], "2");
    let long = house.post("/v1/chat/completions", chat(&"x".repeat(CONTEXT))).await.json();
    let said = long["error"]["message"].as_str().expect("a message");
    assert!(said.contains("4096") && said.contains("4102"), "{said}");
    for (path, field) in [("/v1/completions", "prompt"), ("/v1/responses", "input")] {
        let body = with(json!({"model": MODEL}), json!({field: "x".repeat(CONTEXT + 1)}));
        let error = house.post(path, body).await.json();
        assert_eq!(error["error"]["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["error"]["param"], field);
    }
    // In the middle of a stream an error is an event.
    for text in ["fail", "vanish"] {
        let body =
            with(chat(text), json!({"stream": true, "stream_options": {"include_usage": true}}));
        let reply = house.post("/v1/chat/completions", body).await;
        assert_eq!(reply.status, 200);
        let events = reply.events();
        assert_eq!(events.last().expect("an error")["error"]["type"], "server_error", "{text}");
    }
    let late = with(chat("be refused late"), json!({"stream": true}));
    assert_eq!(house.post("/v1/chat/completions", late).await.status, 400);
}

#[tokio::test]
async fn texts_are_embedded_in_their_order() {
    let house = house(true);
    let half = json!([0.0, 1.0, 0.0, 0.0]);
    let embed = async |more: Value| {
        let base = json!({"model": MODEL, "input": "aa"});
        house.post("/v1/embeddings", with(base, more)).await
    };
    let body = embed(json!({"user": "ann"})).await;
    assert_eq!(body.headers["x-yushan-ignored"], "user");
    let body = body.json();
    assert_eq!(body["data"], json!([{"object": "embedding", "index": 0, "embedding": half}]));
    assert_eq!(body["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
    let many: Vec<String> = (1..50).map(|n| "a".repeat(n)).collect();
    let body = embed(json!({"input": many, "encoding_format": "base64"})).await.json();
    assert_eq!(body["usage"]["total_tokens"], 49 * 25);
    assert_eq!(body["data"][48]["index"], 48);
    assert_eq!(body["data"][48]["embedding"], "AAAAAAAAgD8AAAAAAAAAAA==");
    for input in [json!([97]), json!([[97], [97, 97]]), json!(["a", "a"])] {
        let body = embed(json!({"input": input, "dimensions": 4})).await.json();
        assert_eq!(body["data"][0]["embedding"], half, "{body}");
    }
    for (more, param) in [
        (json!({"dimensions": 3}), "dimensions"),
        (json!({"dimensions": 0}), "dimensions"),
        (json!({"input": []}), "input"),
        (json!({"input": [""]}), "input"),
        (json!({"input": {}}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": "a".repeat(CONTEXT + 1)}), "input"),
        (json!({"encoding_format": "int8"}), "encoding_format"),
        (json!({"input_type": "query"}), "input_type"),
    ] {
        let reply = embed(more.clone()).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{more}");
    }
    let body = json!({"model": MODEL, "input": ["a", "aa"], "options": {"num_ctx": 64}});
    let reply = house.post("/api/embed", body).await;
    assert_eq!(reply.headers["x-yushan-ignored"], "options");
    let body = reply.json();
    assert_eq!(body["embeddings"], json!([half, half]));
    assert_eq!((&body["prompt_eval_count"], &body["dropped_tokens"]), (&json!(3), &json!(0)));
    let body = json!({"model": MODEL, "prompt": "a"});
    assert_eq!(house.post("/api/embeddings", body).await.json()["embedding"], half);
    let body = json!({"model": MODEL, "input": "a", "truncate": true});
    assert_eq!(house.post("/api/embed", body).await.status, 200);
    assert_eq!(house.last().overflow, Overflow::TruncateOldest);
}
