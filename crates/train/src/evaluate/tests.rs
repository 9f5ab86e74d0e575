use std::ops::ControlFlow;

use serde_json::{Value, json};
use yushan_abi::Executor;
use yushan_abi::scripted::Scripted;
use yushan_model::generate::{Event, Request, generate};
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

use super::*;
use crate::Error;

const V: usize = 23;

/// Logits that depend on all that stands before.
fn script(history: &[u32], logits: &mut [f32]) {
    let sum = history.iter().fold(7u32, |sum, id| sum.wrapping_mul(31).wrapping_add(*id));
    for (at, logit) in logits.iter_mut().enumerate() {
        *logit = ((sum >> 3).wrapping_add(at as u32 * 37) % 19) as f32 / 3.0;
    }
}

fn fake(context: usize) -> impl Executor {
    Scripted::new(V, context, script)
}

/// By the definition, in double precision.
fn plain(row: &[u32]) -> Vec<f64> {
    let one = |at: usize| {
        let mut logits = vec![0.0; V];
        script(&row[..at], &mut logits);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(logits[row[at] as usize]) - sum.ln()
    };
    (1..row.len()).map(one).collect()
}

fn text(seed: u64, length: usize) -> Vec<u32> {
    let mut random = interval::Random(seed);
    (0..length).map(|_| 3 + random.below(V - 3) as u32).collect()
}

#[test]
fn the_engine_is_asked_once_for_what_rows_share() {
    let rows = vec![
        vec![1, 5, 6, 7, 8],
        vec![1, 5, 6, 9, 10, 11],
        vec![1, 5, 6, 9, 10, 11],
        vec![4],
        vec![],
        vec![1, 5],
        vec![2, 5, 6],
        text(3, 30),
    ];
    let mut executor = fake(30);
    let got = Engine::new(&mut executor).logprobs(&rows).unwrap();
    for (row, got) in rows.iter().zip(&got) {
        let expected = if row.is_empty() { Vec::new() } else { plain(row) };
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-5, "{row:?}: {got} {expected}");
        }
    }
    assert_eq!(executor.usage().sequences, 0);
    let error = Engine::new(&mut executor).logprobs(&[text(3, 32)]).unwrap_err().to_string();
    assert!(error.contains("31") && error.contains("30"), "{error}");
    assert_eq!(executor.usage().sequences, 0);
}

#[test]
fn rows_of_a_batch_are_padded_and_padding_does_not_count() {
    let rows = vec![text(1, 40), vec![5], text(2, 3), vec![], text(3, 33), text(4, 65), text(5, 2)];
    let mut shapes = Vec::new();
    let mut model = Losses {
        context: 64,
        vocabulary: V,
        batch: 2,
        losses: |tokens: &[u32], targets: &[u32], batch: usize, out: &mut Vec<f32>| {
            let length = tokens.len() / batch;
            shapes.push((batch, length));
            for (tokens, targets) in tokens.chunks(length).zip(targets.chunks(length)) {
                for at in 0..length {
                    let row: Vec<u32> =
                        tokens[..=at].iter().chain(&targets[at..=at]).copied().collect();
                    let counts = targets[at] != u32::MAX;
                    out.push(if counts { -plain(&row)[at] as f32 } else { 0.0 });
                }
            }
        },
    };
    let got = model.logprobs(&rows).unwrap();
    let expected = Engine::new(&mut fake(64)).logprobs(&rows).unwrap();
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.len(), expected.len());
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5),
            "{got:?} {expected:?}"
        );
    }
    let long = model.logprobs(&[text(6, 66)]).unwrap_err().to_string();
    assert!(long.contains("66 tokens; expected at most 65"), "{long}");
    let outside = model.logprobs(&[vec![1, 23]]).unwrap_err().to_string();
    assert!(outside.contains("token 23 of a vocabulary of 23"), "{outside}");
    assert_eq!(shapes, [(2, 32), (2, 64), (1, 64)]);
    let mut broken = Losses {
        context: 8,
        vocabulary: V,
        batch: 1,
        losses: |tokens: &[u32], _: &[u32], _: usize, out: &mut Vec<f32>| {
            out.extend(tokens.iter().map(|id| [f32::NAN, f32::INFINITY][*id as usize % 2]));
        },
    };
    let got = broken.logprobs(&[vec![2, 3, 4]]).unwrap();
    assert!(got[0][0].is_nan() && got[0][1] == -9999.0, "{got:?}");
}

fn documents(all: &[(Vec<u32>, u64)]) -> impl Iterator<Item = Result<Document>> {
    all.iter().map(|(tokens, bytes)| Ok(Document { tokens: tokens.clone(), bytes: *bytes }))
}

#[test]
fn bits_per_byte_score_every_token_once() {
    let lengths = [0, 1, 2, 9, 10, 11, 12, 31, 40, 5];
    let all: Vec<_> = lengths.iter().map(|&n| (text(n as u64, n), 3 * n as u64 + 1)).collect();
    for (window, stride, batch) in [(10, 1, 3), (10, 5, 1), (10, 9, 8), (64, 32, 2), (2, 1, 7)] {
        let windows = Windows { stride, batch, ..Windows::new(1, window) };
        let got = bits_per_byte(&mut Engine::new(&mut fake(64)), &mut documents(&all), &windows);
        let got = got.unwrap();
        // By the convention: each token after the start token and as much of the text as its row shows.
        let (mut nats, mut count) = (0.0, 0);
        for (tokens, _) in &all {
            for at in 0..tokens.len() {
                let room = window - 1;
                let end = match at < room {
                    true => room.min(tokens.len()),
                    false => (room + (at - room) / stride * stride + stride).min(tokens.len()),
                };
                let from = end.saturating_sub(room);
                let row: Vec<u32> = [1].iter().chain(&tokens[from..=at]).copied().collect();
                nats -= plain(&row).last().unwrap();
                count += 1;
            }
        }
        let bytes: u64 = all.iter().map(|(t, bytes)| if t.is_empty() { 0 } else { *bytes }).sum();
        assert_eq!((got.tokens, got.bytes, got.documents), (count, bytes, 9));
        let expected = nats / std::f64::consts::LN_2 / bytes as f64;
        assert!(
            (got.bpb.unwrap() - expected).abs() < 1e-5,
            "{window} {stride}: {got:?} {expected}"
        );
        assert!((got.loss.unwrap() - nats / count as f64).abs() < 1e-5);
        let interval = got.interval.unwrap();
        assert!(interval.low < expected && expected < interval.high, "{interval:?}");
    }
}

#[test]
fn start_and_end_tokens_are_not_scored_and_limits_cut_where_bytes_are_known() {
    let bare = [(vec![5, 6, 7], 12), (vec![8, 9], 8)];
    let dressed = [(vec![1, 5, 6, 7, 2], 12), (vec![8, 9, 2], 8), (vec![1, 2], 9), (vec![2], 9)];
    let windows = Windows { end: Some(2), ..Windows::new(1, 8) };
    let score = |all: &[(Vec<u32>, u64)], windows: &Windows<'_>| {
        bits_per_byte(&mut Engine::new(&mut fake(16)), &mut documents(all), windows).unwrap()
    };
    assert_eq!(score(&bare, &windows), score(&dressed, &windows));
    let table = [4; V];
    for (limit, token_bytes, tokens, bytes) in [
        (Some(2), Some(&table[..]), 2, 8),
        (Some(4), Some(&table[..]), 4, 16),
        (Some(2), None, 3, 12),
        (Some(0), None, 0, 0),
        (None, Some(&table[..]), 5, 20),
    ] {
        let got = score(&bare, &Windows { limit, token_bytes, ..windows });
        assert_eq!((got.tokens, got.bytes), (tokens, bytes), "{limit:?}");
    }
}

#[test]
fn a_hold_out_of_nothing_has_no_figure() {
    let windows = Windows::new(1, 8);
    for all in [vec![], vec![(vec![], 0)], vec![(vec![1], 4)]] {
        let got =
            bits_per_byte(&mut Engine::new(&mut fake(8)), &mut documents(&all), &windows).unwrap();
        assert_eq!(got, BitsPerByte::default());
    }
    for (window, stride) in [(1, 1), (8, 0), (8, 8)] {
        let windows = Windows { stride, ..Windows::new(1, window) };
        let all = [(vec![5], 1)];
        let error = bits_per_byte(&mut Engine::new(&mut fake(8)), &mut documents(&all), &windows);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("a window of") && error.contains("stride"), "{error}");
    }
    let mut broken = Vec::from([Err(Error::bad("shard 3", "cut"))]).into_iter();
    let error = bits_per_byte(&mut Engine::new(&mut fake(8)), &mut broken, &windows).unwrap_err();
    assert_eq!(error.to_string(), "shard 3: cut");
}

/// A model whose answers are handed in.
struct Told<F>(F);

impl<F: FnMut(&[u32]) -> Vec<f32>> Likelihood for Told<F> {
    fn logprobs(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        Ok(rows.iter().map(|row| (self.0)(row)).collect())
    }
}

fn letters(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn item(context: &str, choices: &[&str], answer: usize) -> Item {
    let choices = choices.iter().map(|choice| (*choice).to_owned()).collect();
    Item { context: context.into(), delimiter: " ".into(), choices, answer }
}

#[test]
fn choices_are_scored_over_their_own_tokens_and_normalised_by_bytes() {
    // An x costs 1, an é (two bytes) 0.5 each byte, all else 3: the context must not count.
    let mut model = Told(|row: &[u32]| {
        let cost = |&id: &u32| match id {
            0x78 => -1.0,
            0xc3 | 0xa9 => -0.5,
            0x20 => 0.0,
            _ => -3.0,
        };
        row[1..].iter().map(cost).collect()
    });
    let items = [
        item("ctx", &["xx", "xxxx", "yy"], 0), // −2, −4, −6; a byte −1, −1, −3
        item("ctx ", &["xy", "xxxxxx"], 1),    // −4, −6; −2, −1
        item("c", &["éé", "xxx"], 0),          // −2, −3; −0.5, −1
        item(&"long".repeat(20), &["a", "b"], 0), // does not fit
        item("ctx", &["x", "x"], 1),           // a tie goes to the first
    ];
    let reading = Reading { encode: &letters, start: Some(1), window: 40, batch: 2 };
    let mut answered = Vec::new();
    let got =
        multiple_choice(&mut model, &items, &reading, &mut |a| answered.push(a.clone())).unwrap();
    assert_eq!((got.items, got.skipped), (4, 1));
    assert_eq!(answered[0].scores, [-2.0, -4.0, -6.0]);
    let chosen: Vec<_> = answered.iter().map(|a| (a.item, a.chosen, a.chosen_normalised)).collect();
    assert_eq!(chosen, [(0, 0, 0), (1, 0, 1), (2, 0, 0), (4, 0, 0)]);
    assert_eq!(got.accuracy.unwrap().value, 0.5);
    assert_eq!(got.normalised.unwrap().value, 0.75);
    assert!((got.chance - (1.0 / 3.0 + 1.5) / 4.0).abs() < 1e-12);
    let none = multiple_choice(&mut model, &[], &reading, &mut |_| {}).unwrap();
    assert_eq!(none, Accuracy::default());
    // A model that is not asked right, or does not answer right, is an error.
    let mut short = Told(|_: &[u32]| vec![0.0]);
    assert!(multiple_choice(&mut short, &items, &reading, &mut |_| {}).is_err());
}

#[test]
fn a_seam_inside_a_token_belongs_to_the_ending() {
    // "t " is one token: the context alone ends otherwise than together with its ending.
    let encode = |text: &str| {
        let mut ids = letters(&text.replace("t ", "\u{1}"));
        ids.retain(|&id| id != 0);
        ids
    };
    let mut rows = Vec::new();
    let mut model = Told(|row: &[u32]| {
        rows.push(row.to_vec());
        (1..row.len()).map(|at| -(at as f32)).collect()
    });
    let reading = Reading { encode: &encode, start: None, window: 9, batch: 1 };
    let mut scores = Vec::new();
    multiple_choice(&mut model, &[item("ct", &["x", "yy"], 0)], &reading, &mut |a| {
        scores.clone_from(&a.scores);
    })
    .unwrap();
    assert_eq!(rows, [vec![0x63, 1, 0x78], vec![0x63, 1, 0x79, 0x79]]);
    assert_eq!(scores, [-3.0, -6.0]);
}

#[test]
fn cloze_items_are_seeded_and_have_one_right_word() {
    let words = "amber birch cedar dune ember fern gorse heath iris juniper kelp larch";
    let words: Vec<_> = words.split(' ').collect();
    let passage = |at: usize| {
        let word = words[at % words.len()];
        format!(
            "Number {at} of the old stories that she told us every winter was about the {word}.\n\n"
        )
    };
    let text: String = (0..100).map(passage).chain(["Too short.\n\n".to_owned()]).collect();
    let make = |seed| cloze(&mut [text.as_str(), "", "玉山最高"].into_iter(), 20, seed).unwrap();
    let items = make(1);
    assert_eq!(items.len(), 20);
    assert_eq!(items, make(1));
    assert_ne!(items, make(2));
    let mut places = [0; 4];
    for item in &items {
        assert!(item.context.ends_with("was about the"), "{item:?}");
        let number: usize = item.context.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(item.choices[item.answer], words[number % words.len()]);
        let distinct: std::collections::BTreeSet<_> = item.choices.iter().collect();
        assert_eq!(distinct.len(), 4);
        places[item.answer] += 1;
    }
    assert!(places.iter().all(|&count| count > 0), "{places:?}");
    for text in [
        "",
        "short",
        &"one two three four five six seven eight nine ten eleven twelve end. \n\n".repeat(50),
    ] {
        let error = cloze(&mut [text].into_iter(), 5, 1).unwrap_err().to_string();
        assert!(error.contains("no cloze items"), "{error}");
    }
}

/// Answers as `/v1/completions` does: the engine's own echo, written as the server writes it.
fn serve(executor: &mut dyn Executor, tokenizer: &Tokenizer, body: &Value) -> Value {
    assert_eq!(
        (&body["echo"], &body["max_tokens"], &body["logprobs"]),
        (&json!(true), &json!(0), &json!(0))
    );
    let prompts: Vec<Vec<u32>> = serde_json::from_value(body["prompt"].clone()).unwrap();
    let mut choices = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let (mut values, mut text) = (Vec::new(), String::new());
        let request =
            Request { echo: true, top_logprobs: Some(0), max_tokens: 0, ..Request::new(prompt) };
        generate(executor, None, tokenizer, request, &mut |event| {
            if let Event::Echo { text: piece, logprobs, .. } = event {
                text.push_str(piece);
                values.push(logprobs.map(|row| row.chosen.max(-9999.0)));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        choices.push(json!({"index": index, "text": text, "finish_reason": "length",
            "logprobs": {"token_logprobs": values, "tokens": [], "top_logprobs": [], "text_offset": []}}));
    }
    choices.reverse(); // their numbers count, not their order
    let reply =
        json!({"id": "cmpl-1", "object": "text_completion", "choices": choices, "usage": {}});
    serde_json::from_str(&reply.to_string()).unwrap()
}

fn unpacked(path: &std::path::Path) -> String {
    let mut text = String::new();
    let mut file = liblzma::read::XzDecoder::new(std::fs::File::open(path).unwrap());
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    text
}

fn stories() -> Option<(yushan_model::engine::Engine, Tokenizer, String)> {
    let folder = crate::shared_data("weights/stories260K")?;
    let file = yushan_model::ModelFile::open(&folder.join("stories260K.bin")).unwrap();
    let tokenizer = file.tokenizer(Some(&folder.join("tok512.bin"))).unwrap();
    let options = yushan_model::engine::Options {
        threads: 1,
        ..yushan_model::engine::Options::for_file(&file)
    };
    let engine = yushan_model::engine::Engine::load(&file, &options).unwrap();
    let text = std::fs::read_to_string(folder.join("expected_greedy_200.txt")).unwrap();
    Some((engine, tokenizer, text))
}

#[test]
fn a_server_gives_the_bits_of_the_engine_behind_it() {
    let Some((mut engine, tokenizer, text)) = stories() else { return };
    let encode = |text: &str| tokenizer.encode(text, Special::AsText, Ends::Bare);
    let texts: Vec<_> =
        text.split_inclusive('.').map(|text| (encode(text), text.len() as u64)).collect();
    let windows = Windows { batch: 3, ..Windows::new(1, 24) };
    let local =
        bits_per_byte(&mut Engine::new(&mut engine), &mut documents(&texts), &windows).unwrap();
    assert_eq!(local.documents, texts.len() as u64);
    // What the model wrote greedily is likely, and likelier in one piece than sentence by sentence.
    let whole = [(encode(&text), text.len() as u64)];
    let whole =
        bits_per_byte(&mut Engine::new(&mut engine), &mut documents(&whole), &Windows::new(1, 256));
    let whole = whole.unwrap();
    assert!(whole.bpb < Some(0.6) && whole.bpb < local.bpb, "{whole:?} {local:?}");
    let mut requests = 0;
    let mut remote = Completions {
        model: "stories".into(),
        max_tokens: 0,
        batch: 2,
        send: |body: Value| {
            requests += 1;
            Ok(serve(&mut engine, &tokenizer, &body))
        },
    };
    let served = bits_per_byte(&mut remote, &mut documents(&texts), &windows).unwrap();
    assert_eq!(local, served);
    assert!(requests > 1);
    let items =
        [item("Once upon a", &["time", "table"], 0), item("The cat sat on the", &["mat", "of"], 0)];
    let reading = Reading { encode: &encode, start: Some(1), window: 64, batch: 8 };
    let score = |model: &mut dyn Likelihood| {
        let mut all = Vec::new();
        multiple_choice(model, &items, &reading, &mut |a| all.push(a.clone())).unwrap();
        all
    };
    let served = score(&mut Completions {
        model: "stories".into(),
        max_tokens: 0,
        batch: 128,
        send: |body: Value| Ok(serve(&mut engine, &tokenizer, &body)),
    });
    let local = score(&mut Engine::new(&mut engine));
    assert_eq!(local, served);
    assert_eq!(local[0].chosen, 0, "{local:?}");
}

/// The model's published validation loss is 1.2968 nats a token (shared data, README).
#[test]
fn a_model_of_stories_has_its_published_loss_on_stories() {
    let Some((mut engine, tokenizer, _)) = stories() else { return };
    let Some(path) = crate::shared_data("pretrain/tinystories_sample.txt.xz") else { return };
    let text = unpacked(&path);
    let document = |story: &str| {
        let tokens = tokenizer.encode(story.trim(), Special::AsText, Ends::Bare);
        (tokens, story.trim().len() as u64)
    };
    let all: Vec<_> = text.split("<|endoftext|>").skip(100).take(40).map(document).collect();
    let windows = Windows { stride: 128, ..Windows::new(1, 512) };
    let got = bits_per_byte(&mut Engine::new(&mut engine), &mut documents(&all), &windows).unwrap();
    let loss = got.loss.unwrap();
    assert!((loss - 1.2968).abs() < 0.12, "{got:?}");
    println!("{got:?}");
}

#[test]
fn a_reply_that_does_not_fit_is_an_error() {
    let request = CompletionRequest::of("m", &[vec![1, 5, 6], vec![1, 7]], 0);
    let choice = |index: usize, values: Value| json!({"index": index, "logprobs": {"token_logprobs": values}});
    let good =
        json!({"choices": [choice(1, json!([null, -2])), choice(0, json!([null, -0.5, -99999]))]});
    assert_eq!(request.read(good).unwrap(), [vec![-0.5, -9999.0], vec![-2.0]]);
    for (reply, message) in [
        (json!({"error": {"message": "no such model"}}), "missing field `choices`"),
        (json!({"choices": []}), "0 choices for 2 prompts"),
        (json!({"choices": [choice(2, json!([]))]}), "choice 2 of 2"),
        (json!({"choices": [{"index": 0, "logprobs": null}]}), "no logprobs"),
        (
            json!({"choices": [choice(0, json!([null, -1]))]}),
            "2 log-probabilities for a prompt of 3",
        ),
        (json!({"choices": [choice(0, json!([null, -1, -1, -1]))]}), "changed the prompt"),
        (json!({"choices": [choice(0, json!([null, null, -1]))]}), "has no log-probability"),
        (json!({"choices": [choice(0, json!([null, "x", -1]))]}), "invalid type"),
    ] {
        let error = request.read(reply).unwrap_err().to_string();
        assert!(error.contains(message), "{error}: expected {message}");
    }
    // A server that has to write a token: its log-probability is left out.
    let request = CompletionRequest::of("m", &[vec![1, 5]], 1);
    let reply = json!({"choices": [choice(0, json!([null, -1, -7]))]});
    assert_eq!(request.read(reply).unwrap(), [vec![-1.0]]);
}

#[test]
fn the_shared_questions_can_be_read() {
    let Some(path) = crate::shared_data("instruct/mmlu_test.jsonl.xz") else { return };
    let items = Items::read(&unpacked(&path), Form::Arc);
    assert!(items.items.len() > 13_000, "{}", items.items.len());
    // Each subject begins with a row of the columns' names.
    assert!((1..=80).contains(&items.problem_count), "{:?}", items.problems);
    let one = &items.items[0];
    assert!(one.context.starts_with("Question: Find the degree for the given field extension"));
    assert_eq!((one.choices[one.answer].as_str(), one.choices.len()), ("4", 4));
}

#[test]
fn samples_have_seeds_of_their_own() {
    let prompts = ["a".to_owned(), "b".to_owned()];
    let mut write = |prompt: &str, seed: u64, _: f32| match prompt {
        "x" => Err(Error::bad("x", "y")),
        _ => Ok(format!("{prompt}{seed}")),
    };
    let got = samples(&prompts, 7, 0.8, &mut write).unwrap();
    let texts: Vec<_> = got.iter().map(|s| (s.text.as_str(), s.seed, s.temperature)).collect();
    assert_eq!(texts, [("a7", 7, 0.8), ("b8", 8, 0.8)]);
    assert!(samples(&["x".into()], 1, 0.0, &mut write).is_err());
}
