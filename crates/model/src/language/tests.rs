//! Over a tokenizer of bytes and made-up logits: what requests become, what they are refused for,
//! and that a replayed writer goes on as if nothing had happened.

use proptest::prelude::*;
use serde_json::{Value, json};
use yushan_abi::{Label, Role, Sampling};

use super::*;
use crate::tokenizer::test_tokenizer;
use crate::tokenizer::tests::bytes_and;

const END: TokenId = 2;

fn language() -> ModelLanguage {
    let tokenizer = test_tokenizer();
    ModelLanguage::with_vocabulary(tokenizer.vocabulary_size(), tokenizer).unwrap()
}

fn ids(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| 3 + TokenId::from(byte)).collect()
}

fn tool(name: &str, schema: Value) -> ToolSpec {
    serde_json::from_value(json!({"name": name, "schema": schema})).unwrap()
}

fn asking(prompt: Prompt) -> Request {
    Request::new("m", prompt)
}

fn weather() -> Request {
    let schema = json!({
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": false,
    });
    Request { tools: vec![tool("weather", schema)], ..asking(Prompt::Tokens(vec![1, 70])) }
}

/// Writes `text` and an end, token by token.
fn write(request: &Request, text: &str) -> (String, Option<End>) {
    let mut writer = language().begin(request, &[1, 70]).unwrap();
    let mut shown = String::new();
    let mut end = None;
    for token in ids(text).into_iter().chain([END]) {
        let mut logits = vec![0.0; test_tokenizer().vocabulary_size()];
        logits[token as usize] = 100.0;
        let written = writer.next(&logits).unwrap();
        assert_eq!(written.token, token, "after {shown:?}");
        shown += &written.pieces.iter().map(told).collect::<String>();
        end = written.end;
        if end.is_some() {
            break;
        }
    }
    assert!(matches!(writer.next(&[0.0]), Err(Refusal::Internal(_))));
    (shown, end)
}

fn told(piece: &Piece) -> String {
    match piece {
        Piece::Text(text) | Piece::Arguments(text) => text.clone(),
        Piece::CallBegins { name, .. } => format!("‹{name}›"),
    }
}

#[test]
fn answers_are_text_calls_and_an_end() {
    let call =
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    let plain = asking(Prompt::Tokens(vec![1, 70]));
    for (request, said, shown, kind) in [
        (&plain, "Hi, 玉山", "Hi, 玉山", "End"),
        (&plain, call, call, "End"),
        (&weather(), "Hi", "Hi", "End"),
        (&weather(), call, "‹weather›{\"city\": \"Oslo\"}", "Calls"),
        (&weather(), &format!("Well\n{call}"), "Well\n‹weather›{\"city\": \"Oslo\"}", "Calls"),
        (&weather(), "a <tool", "a <tool", "End"),
        // Stop texts end text, not calls.
        (
            &Request { stops: vec!["{".into(), "!".into()], ..weather() },
            "Hi! you",
            "Hi",
            "Stop(\"!\")",
        ),
        (
            &Request { stops: vec!["{".into()], ..weather() },
            call,
            "‹weather›{\"city\": \"Oslo\"}",
            "Calls",
        ),
        (&Request { stops: vec!["<tool_".into()], ..weather() }, "a <tool_x", "a ", "Stop"),
        (
            &Request { form: Form::Schema(json!({"type": "integer"})), ..weather() },
            "12",
            "12",
            "End",
        ),
        (&Request { form: Form::Json, ..plain.clone() }, "{\"a\": []}", "{\"a\": []}", "End"),
        (&Request { form: Form::Regex("a+b".into()), ..plain.clone() }, "aab", "aab", "End"),
        (
            &Request { form: Form::Grammar("root ::= \"x\"".into()), ..plain.clone() },
            "x",
            "x",
            "End",
        ),
        (&Request { form: Form::Grammar("start: \"x\"".into()), ..plain.clone() }, "x", "x", "End"),
    ] {
        let (text, end) = write(request, said);
        assert_eq!(text, shown, "{said}");
        let end = format!("{:?}", end.unwrap());
        assert!(end.starts_with(kind), "{said}: {end}");
    }
}

#[test]
fn what_is_held_back_comes_when_the_answer_is_cut() {
    let request = Request { stops: vec!["stop".into()], ..weather() };
    for (said, shown, rest) in
        [("so st", "so ", "st"), ("so <tool", "so ", "<tool"), ("玉", "玉", "")]
    {
        let mut writer = language().begin(&request, &[1, 70]).unwrap();
        let mut text = String::new();
        for token in ids(said) {
            text += &writer.replay(token).unwrap().pieces.iter().map(told).collect::<String>();
        }
        assert_eq!(text, shown);
        assert_eq!(writer.finish().iter().map(told).collect::<String>(), rest, "{said}");
        assert_eq!(writer.finish(), []);
    }
}

/// Logits that prefer some letters and now and then a call.
fn row(seed: u64, at: usize) -> Vec<f32> {
    let mut state = seed ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..test_tokenizer().vocabulary_size())
        .map(|token| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let bonus = match token {
                2 => 1.0,
                t if t == 3 + usize::from(b'<') => 4.0,
                t if (3 + 97..3 + 110).contains(&t) => 3.0,
                _ => 0.0,
            };
            (state >> 40) as f32 / (1 << 22) as f32 + bonus
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_replayed_writer_goes_on_alike(
        seed in any::<u64>(),
        known in 0usize..48,
        temperature in prop_oneof![Just(0.0f32), 0.5f32..1.5],
        penalty in prop_oneof![Just(0.0f32), Just(0.5)],
        must in any::<bool>(),
        with_tools in any::<bool>(),
    ) {
        let mut request = if with_tools { weather() } else { asking(Prompt::Tokens(vec![1, 70])) };
        request.sampling = Sampling { temperature, frequency_penalty: penalty, seed, top_p: 0.9, ..Sampling::default() };
        request.stops = vec!["abc".into(), "q".into()];
        request.logprobs = Some(2);
        if must && with_tools {
            request.tool_choice = ToolChoice::Required;
        }
        let language = language();
        let mut writer = language.begin(&request, &[1, 70]).unwrap();
        let mut whole = Vec::new();
        for at in 0..48 {
            whole.push(writer.next(&row(seed, at)).unwrap());
            if whole[at].end.is_some() {
                break;
            }
        }
        let mut again = language.begin(&request, &[1, 70]).unwrap();
        for (at, before) in whole.iter().enumerate() {
            let expected = if at < known {
                Written { logprob: None, ..before.clone() }
            } else {
                before.clone()
            };
            let written = match at < known {
                true => again.replay(before.token),
                false => again.next(&row(seed, at)),
            };
            prop_assert_eq!(written.unwrap(), expected);
        }
        prop_assert_eq!(again.finish(), writer.finish());
    }
}

#[test]
fn bad_requests_name_the_field() {
    let tokens = || asking(Prompt::Tokens(vec![1, 70]));
    let sampling = |change: fn(&mut Sampling)| {
        let mut request = tokens();
        change(&mut request.sampling);
        request
    };
    let form = |form| Request { form, ..tokens() };
    let choice = |tool_choice| Request { tool_choice, ..weather() };
    for (request, field, said) in [
        (asking(Prompt::Chat(vec![])), "messages", "none"),
        (asking(Prompt::Tokens(vec![])), "prompt", "no tokens"),
        (asking(Prompt::Tokens(vec![1, 9_999])), "prompt", "token 9999"),
        (sampling(|s| s.temperature = -1.0), "temperature", "-1"),
        (sampling(|s| s.temperature = f32::NAN), "temperature", "NaN"),
        (sampling(|s| s.top_p = 0.0), "top_p", "0"),
        (sampling(|s| s.presence_penalty = f32::INFINITY), "presence_penalty", "inf"),
        (sampling(|s| s.logit_bias = vec![(9_999, 1.0)]), "logit_bias", "9999"),
        (Request { stops: vec![String::new()], ..tokens() }, "stop", "empty"),
        (
            form(Form::Schema(json!({"type": "array", "uniqueItems": true}))),
            "response_format",
            "uniqueItems",
        ),
        (form(Form::Schema(json!({"type": "nonsense"}))), "response_format", "nonsense"),
        (form(Form::Regex("(".into())), "response_format", ""),
        (form(Form::Grammar("root ::= nothing".into())), "response_format", "nothing"),
        (choice(ToolChoice::Named("other".into())), "tool_choice", "other"),
        (Request { tools: vec![], ..choice(ToolChoice::Required) }, "tool_choice", "no tools"),
        (Request { tools: vec![tool("", json!({}))], ..tokens() }, "tools", "no name"),
        (
            Request { tools: vec![tool("a", json!({})), tool("a", json!({}))], ..tokens() },
            "tools",
            "two",
        ),
        (
            Request { tools: vec![tool("a", json!({"type": "array"}))], ..tokens() },
            "tools",
            "\"a\"",
        ),
        (Request { form: Form::Regex("a".into()), ..weather() }, "response_format", "tool_choice"),
        (
            Request { form: Form::Schema(json!({"type": "nonsense"})), ..weather() },
            "response_format",
            "nonsense",
        ),
    ] {
        let language = language();
        let prompt = language.encode(&request);
        let refused = prompt.and_then(|prompt| language.begin(&request, &prompt).map(|_| ()));
        match refused {
            Err(Refusal::Invalid { field: at, detail }) => {
                assert!(at == field && detail.contains(said), "{field} {said}: {at}: {detail}");
            }
            other => panic!("{field} {said}: {other:?}"),
        }
    }
    assert!(matches!(language().detokenize(&[9_999]), Err(Refusal::Invalid { .. })));
}

#[test]
fn prompts_become_tokens() {
    let language = language();
    let message = |role, text: &str| Message::new(role, text, Label::default());
    let chat = vec![message(Role::System, "Be brief."), message(Role::User, "Hi")];
    let text = "System: Be brief.\nUser: Hi\nAssistant:";
    assert_eq!(language.apply_template(&chat).unwrap(), text);
    let tokens = language.encode(&asking(Prompt::Chat(chat.clone()))).unwrap();
    // The tokenizer puts a space before a text.
    assert_eq!(language.detokenize(&tokens).unwrap().trim(), format!("<s> {text}"));
    let told = |request: &Request| language.detokenize(&language.encode(request).unwrap()).unwrap();
    let with_tools = Request { prompt: Prompt::Chat(chat), ..weather() };
    assert!(told(&with_tools).contains("\"enum\":[\"Oslo\",\"Rome\"]"));
    let none = Request { tool_choice: ToolChoice::None, ..with_tools };
    assert!(!told(&none).contains("Oslo"));
    let tokens = language.tokenize("ab</s>", true, false);
    assert_eq!(tokens[0], 1);
    assert!(!tokens.contains(&END));
    assert_eq!(language.token_bytes(3 + 65), b"A");
    let parsed = bytes_and(&["<s>", "</s>"], &[]);
    let parsed = ModelLanguage::with_vocabulary(258, Arc::new(parsed)).unwrap();
    assert_eq!(parsed.tokenize("a</s>", false, true), [97, 257]);
    assert_eq!(parsed.tokenize("a</s>", false, false).len(), 5);
}

#[test]
fn prompts_are_echoed_and_scored() {
    let request = Request { echo: true, logprobs: Some(1), ..asking(Prompt::Tokens(ids("玉a"))) };
    let mut writer = language().begin(&request, &ids("玉a")).unwrap();
    let echoed: Vec<String> = ids("玉a").into_iter().map(|token| writer.echo(token)).collect();
    assert_eq!(echoed, ["", "", "玉", "a"]);
    let mut logits = vec![0.0; test_tokenizer().vocabulary_size()];
    logits[100] = 50.0;
    let scored = writer.score(&logits, 100).unwrap();
    assert_eq!((scored.id, scored.bytes, scored.top[0].0), (100, b"a".to_vec(), 100));
    assert!(scored.logprob.unwrap() > -1e-3);
    let silent = language().begin(&asking(Prompt::Tokens(vec![1])), &[1]).unwrap();
    assert_eq!(silent.score(&logits, 100), None);
}

/// Any logits at all, over each convention, with its markers as control tokens and as text.
#[test]
fn no_logits_make_an_invalid_call() {
    for (which, convention) in Convention::ALL.into_iter().enumerate() {
        let markers = ["<s>", "</s>", convention.opener(), "</tool_call>"];
        let tokenizer = Arc::new(bytes_and(&markers, &[]));
        let vocabulary = tokenizer.vocabulary_size();
        let language = ModelLanguage::with_vocabulary(vocabulary, tokenizer).unwrap();
        assert_eq!(language.template.convention(), convention);
        let mut called = 0;
        for seed in 0..40 {
            let mut request = weather();
            request.sampling.seed = seed;
            if seed % 2 == 0 {
                request.tool_choice = ToolChoice::Required;
            }
            let mut writer = language.begin(&request, &[256]).unwrap();
            let mut state = (seed << 8) + which as u64;
            for _ in 0..2_000 {
                let logits: Vec<f32> = (0..vocabulary)
                    .map(|token| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        // Markers and ends are likely where they may stand.
                        (state >> 40) as f32 / (1 << 23) as f32
                            + if token > 256 { 5.0 } else { 0.0 }
                    })
                    .collect();
                let written = writer.next(&logits).unwrap();
                let Some(end) = written.end else { continue };
                if let End::Calls(calls) = end {
                    called += 1;
                    for call in calls {
                        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                        let city = arguments["city"].as_str().unwrap();
                        assert!(call.name == "weather" && ["Oslo", "Rome"].contains(&city));
                        let days = arguments.get("days");
                        assert!(days.is_none_or(Value::is_number), "{arguments}");
                    }
                } else {
                    assert!(seed % 2 == 1, "{convention:?} {seed}: {end:?}");
                }
                break;
            }
        }
        assert!(called >= 20, "{convention:?}: {called} of 40 called");
    }
}
