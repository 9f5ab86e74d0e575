//! The kernel's side of a model with real weights (stories260K, if it lies beside the checkout): a
//! model that tells tales to children and has never seen a tool writes valid calls, and where none
//! is asked for the same tales as ever.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use yushan_abi::{
    Chunk, End, Executor, Form, Label, Language, Logits, Message, Piece, Prompt, Request, Role,
    Sampling, TokenId, ToolChoice, ToolSpec,
};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_model::generate::{self, generate};
use yushan_model::language::ModelLanguage;
use yushan_model::tokenizer::Tokenizer;

struct Stories {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    language: ModelLanguage,
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
    let language = ModelLanguage::new(&file, Arc::clone(&tokenizer)).unwrap();
    let options = Options { threads: 1, context: 4096, ..Options::for_file(&file) };
    Some(Stories { engine: Engine::load(&file, &options).unwrap(), tokenizer, language })
}

struct Told {
    tokens: Vec<TokenId>,
    pieces: Vec<Piece>,
    end: Option<End>,
}

impl Stories {
    /// Writes at most `most` tokens.
    fn answer(&mut self, request: &Request, most: usize) -> Told {
        let prompt = self.language.encode(request).unwrap();
        let mut writer = self.language.begin(request, &prompt).unwrap();
        let sequence = self.engine.admit("", &prompt).unwrap();
        let mut feed = prompt[sequence.cached..].to_vec();
        let sequence = sequence.sequence;
        let mut told = Told { tokens: Vec::new(), pieces: Vec::new(), end: None };
        while told.end.is_none() && told.tokens.len() < most {
            let mut rest = feed.as_slice();
            while rest.len() > self.engine.max_rows() {
                let (tokens, left) = rest.split_at(self.engine.max_rows());
                self.engine.step(&[Chunk { sequence, tokens, logits: Logits::None }]).unwrap();
                rest = left;
            }
            let chunk = Chunk { sequence, tokens: rest, logits: Logits::Last };
            let output = self.engine.step(&[chunk]).unwrap();
            let written = writer.next(output.row(0)).unwrap();
            feed = vec![written.token];
            told.tokens.push(written.token);
            told.pieces.extend(written.pieces);
            told.end = written.end;
        }
        told.pieces.extend(writer.finish());
        self.engine.release(sequence).unwrap();
        told
    }
}

fn tools() -> Vec<ToolSpec> {
    let tool = |name: &str, schema: Value| {
        serde_json::from_value(json!({"name": name, "description": "Does it.", "schema": schema}))
            .unwrap()
    };
    vec![
        tool(
            "weather",
            json!({
                "type": "object",
                "properties": {
                    "city": {"enum": ["Oslo", "Rome", "玉山"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                },
                "required": ["city", "days"],
                "additionalProperties": false,
            }),
        ),
        tool(
            "note",
            json!({
                "properties": {
                    "text": {"type": "string", "maxLength": 20},
                    "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
                },
                "required": ["text", "tags"],
                "additionalProperties": false,
            }),
        ),
    ]
}

fn is_valid(name: &str, arguments: &str) -> bool {
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    let fields = arguments.as_object().unwrap();
    fields.len() == 2
        && match name {
            "weather" => {
                ["Oslo", "Rome", "玉山"].contains(&fields["city"].as_str().unwrap())
                    && (1..=14).contains(&fields["days"].as_i64().unwrap())
            }
            "note" => {
                let tags = fields["tags"].as_array().unwrap();
                fields["text"].as_str().unwrap().chars().count() <= 20
                    && tags.len() <= 3
                    && tags.iter().all(Value::is_boolean)
            }
            _ => false,
        }
}

fn request(tool_choice: ToolChoice, seed: u64) -> Request {
    let message = Message::new(Role::User, "What is the weather?", Label::default());
    Request {
        tools: tools(),
        tool_choice,
        parallel_calls: seed.is_multiple_of(2),
        sampling: Sampling { seed, ..Sampling::default() },
        ..Request::new("stories", Prompt::Chat(vec![message]))
    }
}

#[test]
fn a_model_that_knows_no_tools_writes_valid_calls() {
    let Some(mut stories) = stories() else { return };
    let mut several = false;
    for seed in 0..16 {
        let choice = match seed % 4 {
            3 => ToolChoice::Named("note".into()),
            _ => ToolChoice::Required,
        };
        let told = stories.answer(&request(choice.clone(), seed), 2500);
        let Some(End::Calls(calls)) = told.end else { panic!("seed {seed}: {:?}", told.pieces) };
        assert!(seed % 2 == 0 || calls.len() == 1, "seed {seed}: {calls:?}");
        several |= calls.len() > 1;
        let mut at = calls.iter();
        let mut arguments = String::new();
        for piece in &told.pieces {
            match piece {
                Piece::Text(text) => panic!("seed {seed}: {text:?}"),
                Piece::CallBegins { id, name } => {
                    let call = at.next().unwrap();
                    assert_eq!((id, name), (&call.id, &call.name));
                    arguments.push('|');
                }
                Piece::Arguments(text) => arguments += text,
            }
        }
        let whole: String = calls.iter().map(|call| format!("|{}", call.arguments)).collect();
        assert_eq!(arguments, whole, "seed {seed}");
        for call in &calls {
            assert!(is_valid(&call.name, &call.arguments), "seed {seed}: {call:?}");
            assert!(!matches!(&choice, ToolChoice::Named(name) if *name != call.name));
        }
    }
    assert!(several, "some answer calls several");
}

#[test]
fn answers_are_those_of_the_loop_whether_tools_may_be_called_or_not() {
    let Some(mut stories) = stories() else { return };
    let (prompt, most) = ("Once upon a time", 60);
    for (seed, temperature) in [(0, 0.0), (1, 1.0), (2, 0.7)] {
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        let stops = vec!["xyz".to_string()];
        let plain = Request {
            sampling,
            stops: stops.clone(),
            ..Request::new("stories", Prompt::Text(prompt.into()))
        };
        let tokens = stories.language.encode(&plain).unwrap();
        let asked = generate::Request {
            sampling: plain.sampling.clone(),
            stops,
            max_tokens: most,
            ..generate::Request::new(&tokens)
        };
        let outcome = generate(&mut stories.engine, None, &stories.tokenizer, asked, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let with_tools = Request { tools: tools(), ..plain.clone() };
        for request in [&plain, &with_tools] {
            let told = stories.answer(request, most);
            assert_eq!(told.tokens, outcome.tokens, "temperature {temperature}");
            let text: String = told
                .pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.as_str(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(text, outcome.text, "temperature {temperature}");
        }
    }
}

#[test]
fn forms_hold() {
    let Some(mut stories) = stories() else { return };
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": false,
    });
    for form in [Form::Schema(schema), Form::Regex("\\{\"[a-z]{1,5}\": [0-9]\\}".into())] {
        let plain = Request::new("stories", Prompt::Text("Tom".into()));
        let told = stories.answer(&Request { form, ..plain }, 200);
        assert_eq!(told.end, Some(End::End));
        let text: String =
            told.pieces.iter().map(|p| if let Piece::Text(t) = p { t } else { "" }).collect();
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    }
}
