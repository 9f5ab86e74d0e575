//! Decoding with real weights (stories260K, if it lies beside the checkout): the loop, the guesses,
//! the grammar and the score, over the engine instead of a script.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use yushan_abi::{Executor, Sampling, TokenId};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_model::generate::{Event, Finish, Outcome, Request, generate};
use yushan_model::grammar::{Grammar, GrammarEngine};
use yushan_model::score::score;
use yushan_model::speculate::Speculation;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

struct Stories {
    file: ModelFile,
    tokenizer: Arc<Tokenizer>,
    folder: PathBuf,
}

fn stories() -> Option<Stories> {
    let root = std::env::var_os("YUSHAN_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = root.join("data/weights/stories260K");
    if !folder.exists() {
        eprintln!("skipped: shared data not found: {}", folder.display());
        return None;
    }
    let file = ModelFile::open(&folder.join("stories260K.bin")).unwrap();
    let tokenizer = Arc::new(file.tokenizer(Some(&folder.join("tok512.bin"))).unwrap());
    Some(Stories { file, tokenizer, folder })
}

impl Stories {
    fn engine(&self, rows: usize) -> Engine {
        let options = Options { threads: 1, rows, ..Options::for_file(&self.file) };
        Engine::load(&self.file, &options).unwrap()
    }

    fn encode(&self, text: &str) -> Vec<TokenId> {
        self.tokenizer.encode(text, Special::AsText, Ends::Declared)
    }

    fn answer(&self, engine: &mut Engine, request: Request<'_>) -> Outcome {
        let mut draft = self.engine(64);
        let draft: &mut dyn Executor = &mut draft;
        let outcome = generate(engine, Some(draft), &self.tokenizer, request, &mut |_| {
            ControlFlow::Continue(())
        });
        assert_eq!(engine.usage().sequences, 0);
        outcome.unwrap()
    }
}

#[test]
fn greedy_tokens_and_text_equal_the_reference() {
    let Some(stories) = stories() else { return };
    let reference = std::fs::read(stories.folder.join("reference_greedy.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let ids = |name: &str| -> Vec<TokenId> {
        reference[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (prompt, expected) = (ids("prompt_tokens"), ids("greedy_tokens"));
    assert_eq!(stories.encode(reference["prompt"].as_str().unwrap()), prompt);
    for rows in [3, 512] {
        let request = Request {
            sampling: Sampling::greedy(),
            max_tokens: expected.len() - prompt.len(),
            ignore_ends: true,
            ..Request::new(&prompt)
        };
        let outcome = stories.answer(&mut stories.engine(rows), request);
        assert_eq!([&prompt[..], &outcome.tokens].concat(), expected);
        assert_eq!(outcome.finish, Finish::Length);
        let text = stories.tokenizer.decode(&expected, Special::AsText);
        assert_eq!(format!("{}{}", reference["prompt"].as_str().unwrap(), outcome.text), text);
    }
}

#[test]
fn guesses_change_nothing_but_the_number_of_steps() {
    let Some(stories) = stories() else { return };
    let prompt = stories.encode("Lily and Ben like to play. Lily and Ben like to");
    for temperature in [0.0, 0.7] {
        let mut answers = Vec::new();
        for speculation in [
            Speculation::Off,
            Speculation::PromptLookup { ngram: 3, most: 6 },
            Speculation::Draft { most: 4 },
        ] {
            let request = Request {
                sampling: Sampling { temperature, seed: 3952, ..Sampling::llama_cpp() },
                max_tokens: 200,
                speculation,
                ..Request::new(&prompt)
            };
            let mut engine = stories.engine(64);
            let outcome = stories.answer(&mut engine, request);
            assert!(speculation == Speculation::Off || outcome.counts.accepted > 0);
            answers.push((outcome.tokens, outcome.text, outcome.finish));
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[0], answers[2]);
    }
}

#[test]
fn a_schema_makes_a_story_teller_write_json() {
    let Some(stories) = stories() else { return };
    let grammars = GrammarEngine::new(stories.tokenizer.clone(), stories.file.config().vocabulary);
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "friends": { "type": "array", "items": { "enum": ["Tom", "Lily"] }, "maxItems": 3 },
        },
        "required": ["name", "friends"],
        "additionalProperties": false,
    });
    let prompt = stories.encode("Once upon a time");
    for seed in 0..5 {
        let request = Request {
            constraint: Some(grammars.compile(Grammar::JsonSchema(&schema)).unwrap()),
            sampling: Sampling { seed, ..Sampling::llama_cpp() },
            max_tokens: 200,
            speculation: Speculation::PromptLookup { ngram: 2, most: 4 },
            ..Request::new(&prompt)
        };
        let outcome = stories.answer(&mut stories.engine(64), request);
        assert_eq!(outcome.finish, Finish::End, "{}", outcome.text);
        let value: serde_json::Value = serde_json::from_str(&outcome.text).unwrap();
        assert!(value["name"].is_string() && value["friends"].is_array(), "{value}");
    }
}

/// The echo's log-probabilities and the score are two ways to the same numbers.
#[test]
fn score_and_echo_agree() {
    let Some(stories) = stories() else { return };
    let text = std::fs::read_to_string(stories.folder.join("expected_greedy_200.txt")).unwrap();
    let tokens = stories.encode(&text);
    let window = 64;
    let mut engine = stories.engine(24);
    let got = score(&mut engine, &stories.tokenizer, &tokens, window, &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let (mut nll, mut count) = (0.0, 0);
    for chunk in tokens.chunks_exact(window) {
        let mut prompt = chunk.to_vec();
        prompt[0] = 1;
        let mut at = 0;
        let request =
            Request { echo: true, top_logprobs: Some(0), max_tokens: 0, ..Request::new(&prompt) };
        generate(&mut engine, None, &stories.tokenizer, request, &mut |event| {
            if let Event::Echo { logprobs, .. } = event {
                if at > window / 2 {
                    nll -= f64::from(logprobs.unwrap().chosen);
                    count += 1;
                }
                at += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    assert_eq!((got.tokens, got.nll), (count, nll));
    // The model's own greedy text is no surprise to it.
    assert!(got.perplexity() < 2.0, "{}", got.perplexity());
    assert!(got.bits_per_byte() < 1.0);
}
