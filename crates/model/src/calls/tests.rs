//! What each convention's reader makes of an answer, however it is cut; what the grammar of calls
//! lets through, and that the two agree.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use yushan_abi::{Call, Piece, ToolSpec};

use super::*;
use crate::grammar::{Constraint, GrammarEngine};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::tests::bytes_and;

fn reader(convention: Convention) -> Parser {
    let names = vec!["get".to_string(), "say \"é\"".to_string()];
    Parser::new(convention, names, Ids::of_prompt(&[1, 2, 3]))
}

/// The pieces, those of one kind that follow each other joined, and the calls that are whole.
fn read<'a>(
    convention: Convention,
    cuts: impl Iterator<Item = &'a str>,
) -> (Vec<Piece>, Vec<Call>) {
    let mut reader = reader(convention);
    let mut pieces = Vec::new();
    cuts.for_each(|text| reader.push(text, &mut pieces));
    reader.finish(&mut pieces);
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(before)), Piece::Text(text)) => *before += &text,
            (Some(Piece::Arguments(before)), Piece::Arguments(text)) => *before += &text,
            (_, piece) => joined.push(piece),
        }
    }
    (joined, reader.calls().to_vec())
}

/// Pieces in one line: text, `‹name›` and arguments.
fn line(pieces: &[Piece]) -> String {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::CallBegins { name, .. } => format!("‹{name}›"),
            Piece::Arguments(text) => text.clone(),
        })
        .collect()
}

/// `(answer, pieces in one line, whole calls)`.
const HERMES: &[(&str, &str, usize)] = &[
    ("just text", "just text", 0),
    (
        "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": 1}}\n</tool_call>",
        "‹get›{\"a\": 1}",
        1,
    ),
    (
        "Well.\n<tool_call>{\"name\":\"get\",\"arguments\":{}}</tool_call>\n\n<tool_call>{\"name\":\"say \\\"\\u00e9\\\"\",\"arguments\":{\"x\":[\"}\",\"\\\"]\"]}}</tool_call>  ",
        "Well.\n‹get›{}‹say \"é\"›{\"x\":[\"}\",\"\\\"]\"]}",
        2,
    ),
    (
        "<tool_call>{\"arguments\": {\"a\": {}} , \"name\": \"get\"}</tool_call>",
        "‹get›{\"a\": {}}",
        1,
    ),
    (
        "<tool_call>{\"id\": [1, {\"}\": -2.5e3}], \"name\": \"get\", \"arguments\": {}, \"more\": null}</tool_call>",
        "‹get›{}",
        1,
    ),
    // Calls that are none.
    ("<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", 0),
    (
        "<tool_call>{\"name\": \"other\", \"arguments\": {}}",
        "<tool_call>{\"name\": \"other\", \"arguments\": {}}",
        0,
    ),
    (
        "<tool_call>{\"name\": \"get\", \"arguments\": \"{}\"}",
        "<tool_call>{\"name\": \"get\", \"arguments\": \"{}\"}",
        0,
    ),
    ("<tool_call>{\"name\": \"get\"}</tool_call>", "<tool_call>{\"name\": \"get\"}</tool_call>", 0),
    ("<tool_call>{\"name\": \"ge", "<tool_call>{\"name\": \"ge", 0),
    (" <tool", " <tool", 0),
    ("\n", "\n", 0),
    (
        "<<tool_call<tool_call><tool_call>{\"name\":\"get\",\"arguments\":{}}</tool_call>",
        "<<tool_call<tool_call>‹get›{}",
        1,
    ),
    // Broken and cut arguments, missing ends.
    ("<tool_call>{\"name\": \"get\", \"arguments\": {\"a\": }} x", "‹get›{\"a\": }} x", 0),
    ("<tool_call>{\"name\": \"get\", \"arguments\": {\"a\": [}", "‹get›{\"a\": [}", 0),
    ("<tool_call>{\"name\": \"get\", \"arguments\": {}}\nthat's it", "‹get›{}\nthat's it", 1),
    ("<tool_call>{\"name\": \"get\", \"arguments\": {} what", "‹get›{} what", 1),
    (
        "<tool_call>{\"name\": \"get\", \"arguments\": {}}\n</tool_call>\nso <b>",
        "‹get›{}\nso <b>",
        1,
    ),
];
const LLAMA_3: &[(&str, &str, usize)] = &[
    ("{\"name\": \"get\", \"parameters\": {\"a\": \"玉山\"}}", "‹get›{\"a\": \"玉山\"}", 1),
    (" \n{ \"name\" :\"get\", \"parameters\": {}}\n", "‹get›{}", 1),
    ("Sure: <|python_tag|>{\"name\": \"get\", \"parameters\": {}}", "Sure: ‹get›{}", 1),
    ("<|python_tag|>brave.call(q=\"x\")", "<|python_tag|>brave.call(q=\"x\")", 0),
    ("{\"answer\": {\"name\": 1}}", "{\"answer\": {\"name\": 1}}", 0),
    ("{\"name\": \"Ann\", \"parameters\": {}}", "{\"name\": \"Ann\", \"parameters\": {}}", 0),
    ("{}", "{}", 0),
    ("a {\"name\": \"get\", \"parameters\": {}}", "a {\"name\": \"get\", \"parameters\": {}}", 0),
];
const MISTRAL: &[(&str, &str, usize)] = &[
    ("[TOOL_CALLS] [{\"name\": \"get\", \"arguments\": {\"a\": 1}}]", "‹get›{\"a\": 1}", 1),
    (
        "[TOOL_CALLS][{\"name\": \"get\", \"arguments\": {}}, {\"name\": \"get\", \"arguments\": {\"b\": []}, \"id\": \"012345678\"}]",
        "‹get›{}‹get›{\"b\": []}",
        2,
    ),
    (
        "[TOOL_CALLS] {\"name\": \"get\", \"arguments\": {}}",
        "[TOOL_CALLS] {\"name\": \"get\", \"arguments\": {}}",
        0,
    ),
    ("[TOOL", "[TOOL", 0),
    (
        "[TOOL_CALLS] [{\"name\": \"get\", \"arguments\": {}}, {\"name\": 1}]",
        "‹get›{}, {\"name\": 1}]",
        1,
    ),
];

fn cases() -> Vec<(Convention, &'static str, &'static str, usize)> {
    [(Convention::Hermes, HERMES), (Convention::Llama3, LLAMA_3), (Convention::Mistral, MISTRAL)]
        .into_iter()
        .flat_map(|(convention, cases)| cases.iter().map(move |c| (convention, c.0, c.1, c.2)))
        .collect()
}

#[test]
fn answers_are_text_and_calls() {
    for (convention, answer, expected, whole) in cases() {
        let (pieces, calls) = read(convention, [answer].into_iter());
        assert_eq!(line(&pieces), expected, "{convention:?}: {answer}");
        assert_eq!(calls.len(), whole, "{convention:?}: {answer}");
        let begun: Vec<_> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::CallBegins { id, .. } => Some(id),
                _ => None,
            })
            .collect();
        let ids: Vec<_> = calls.iter().map(|call| &call.id).collect();
        assert_eq!(begun[..ids.len()], ids, "{answer}");
        assert!(ids.iter().all(|id| id.len() == 9), "{ids:?}");
        assert!(ids.len() < 2 || ids[0] != ids[1], "{ids:?}");
    }
}

#[test]
fn a_call_without_end_is_given_up() {
    let long = format!("<tool_call>{{\"note\": \"{}\"}}", "x".repeat(9_000));
    let (pieces, _) = read(Convention::Hermes, [long.as_str()].into_iter());
    assert_eq!(line(&pieces), long);
    let deep =
        format!("<tool_call>{{\"name\": \"get\", \"arguments\": {}", "{\"a\":".repeat(99_999));
    let (pieces, calls) = read(Convention::Hermes, [deep.as_str()].into_iter());
    assert_eq!((pieces.len(), calls.len()), (2, 0));
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        which in 0usize..cases().len(),
        cuts in prop::collection::vec(0usize..300, 0..12),
        noise in "[<{\\[ \"]{0,3}",
    ) {
        let (convention, answer, ..) = cases()[which];
        let answer = noise + answer;
        let mut cuts: Vec<usize> =
            cuts.iter().map(|&cut| answer.floor_char_boundary(cut)).collect();
        cuts.extend([0, answer.len()]);
        cuts.sort_unstable();
        let whole = read(convention, [answer.as_str()].into_iter());
        let in_parts = read(convention, cuts.windows(2).map(|cut| &answer[cut[0]..cut[1]]));
        prop_assert_eq!(in_parts, whole);
    }
}

/// What calls are made of.
const SHARDS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    " [",
    "]",
    ", ",
    "{\"name\": \"get\"",
    "{\"name\"",
    ", \"arguments\": ",
    ", \"parameters\": ",
    ": ",
    "{}",
    "{\"é\": \"}<",
    "\"",
    "}",
    "\n",
    "玉",
    "<",
    "\\",
];

proptest! {
    #[test]
    fn cuts_of_nonsense_do_not_matter(
        convention in 0usize..3,
        shards in prop::collection::vec(0usize..SHARDS.len(), 0..24),
    ) {
        let convention = Convention::ALL[convention];
        let answer: String = shards.iter().map(|&at| SHARDS[at]).collect();
        let whole = read(convention, [answer.as_str()].into_iter());
        let chars = answer.char_indices().map(|(at, char)| &answer[at..at + char.len_utf8()]);
        prop_assert_eq!(read(convention, chars), whole.clone());
        if whole.0.iter().all(|piece| matches!(piece, Piece::Text(_))) {
            prop_assert_eq!(line(&whole.0), answer);
        }
    }
}

#[test]
fn templates_say_their_convention() {
    for (source, expected) in [
        ("{% if tools %}<tool_call>", Some(Convention::Hermes)),
        ("{{ tools }}[TOOL_CALLS]", Some(Convention::Mistral)),
        ("{{ tools }}[TOOL_CALLS]name[ARGS]{}", None),
        ("{{ tools }}<|start_header_id|>", Some(Convention::Llama3)),
        ("<|start_header_id|>", None),
        ("{{ tools }}", None),
        ("{{ tools }}<tool_call><function=", None),
    ] {
        assert_eq!(Convention::of_template(source), expected, "{source}");
    }
}

#[test]
fn ids_of_others_become_mistrals() {
    assert_eq!(short_id("abcDEF123"), "abcDEF123");
    let made = short_id("call_1234");
    assert!(made.len() == 9 && made.bytes().all(|b| b.is_ascii_alphanumeric()), "{made}");
    assert_eq!(made, short_id("call_1234"));
    assert_ne!(made, short_id("call_1235"));
}

fn tools() -> Vec<ToolSpec> {
    let tool = |name: &str, schema| ToolSpec {
        name: name.into(),
        description: "( unbalanced {".into(),
        schema,
        effect: yushan_abi::Effect::Read,
        roles: Default::default(),
    };
    vec![
        tool(
            "get",
            json!({"properties": {"a": {"type": "integer"}}, "additionalProperties": false}),
        ),
        tool(
            "say \"é\"",
            json!({
                "type": "object",
                "properties": {"to": {"enum": ["Ann", "Ben"], "description": "("}},
                "required": ["to"],
                "additionalProperties": false,
                "uniqueItems": true,
            }),
        ),
    ]
}

fn compile(
    tokenizer: &Arc<Tokenizer>,
    convention: Convention,
    parallel: bool,
    plain: Plain<'_>,
) -> Constraint {
    let tools = tools();
    let tools: Vec<&ToolSpec> = tools.iter().collect();
    let lark = answer(tokenizer, convention, &tools, parallel, plain).unwrap();
    let engine = GrammarEngine::new(Arc::clone(tokenizer), tokenizer.vocabulary_size());
    engine.compile_own(lark.clone()).unwrap_or_else(|error| panic!("{lark}\n{error}"))
}

/// Whether the constraint lets the whole text through, special tokens in it as tokens if `parse`.
fn accepts(tokenizer: &Tokenizer, constraint: &Constraint, text: &str, parse: bool) -> bool {
    use crate::tokenizer::{Ends, Special};
    let mut constraint = constraint.clone();
    let special = if parse { Special::Parse } else { Special::AsText };
    let mut tokens = tokenizer.encode(text, special, Ends::Bare);
    tokens.extend(tokenizer.roles().eos);
    for token in tokens {
        if constraint.is_finished() {
            return tokenizer.is_end_of_generation(token);
        }
        let mask = constraint.mask().unwrap();
        if mask[token as usize / 32] >> (token % 32) & 1 == 0 {
            return false;
        }
        constraint.accept(token).unwrap();
    }
    constraint.is_finished()
}

#[test]
fn constrained_answers_hold_valid_calls_only() {
    let get = |convention: Convention, arguments: &str| {
        let call = Call { id: "".into(), name: "get".into(), arguments: arguments.into() };
        convention.write(&[call], &str::to_string)
    };
    for convention in Convention::ALL {
        let markers = ["<s>", "</s>", convention.opener(), convention.closer()];
        for specials in
            [&markers[..2], &markers[..3 + usize::from(convention == Convention::Hermes)]]
        {
            let tokenizer = Arc::new(bytes_and(specials, &[]));
            let check = |constraint: &Constraint, text: &str, expected: bool| {
                for parse in [false, true] {
                    let got = accepts(&tokenizer, constraint, text, parse);
                    assert_eq!(got, expected, "{convention:?} {specials:?} {parse}: {text}");
                }
            };
            let must = compile(&tokenizer, convention, false, Plain::Nothing);
            let may = compile(&tokenizer, convention, false, Plain::Text);
            let schema = json!({"type": "integer"});
            let form = compile(&tokenizer, convention, false, Plain::Json(&schema));
            let say = Call {
                id: "".into(),
                name: "say \"é\"".into(),
                arguments: "{\"to\": \"Ben\"}".into(),
            };
            let say = convention.write(&[say], &str::to_string);
            for constraint in [&must, &may, &form] {
                check(constraint, &get(convention, "{\"a\": 12}"), true);
                check(constraint, &get(convention, "{}"), true);
                check(constraint, &say, true);
                check(constraint, &get(convention, "{\"a\": \"x\"}"), false);
                check(constraint, &get(convention, "{\"b\": 1}"), false);
                check(constraint, &say.replace("Ben", "Cid"), false);
                check(constraint, &get(convention, "{}").replace("get", "set"), false);
                check(constraint, &(get(convention, "{}") + "x"), false);
            }
            for (text, in_must, in_may, in_form) in [
                ("Hello.\n\n[x] <b> {\"a\": 玉", false, true, false),
                ("{\"name", false, true, false),
                ("12", false, true, true),
                ("", false, true, false),
            ] {
                check(&must, text, in_must);
                check(&may, text, in_may);
                check(&form, text, in_form);
            }
            let opener = convention.opener();
            check(&may, &format!("Hello {opener}"), false);
            let opened = format!("Well, {opener}{}", get(convention, "{}").replace(opener, ""));
            check(&may, &opened, true);
            check(&may, &opened.replace("{}", "{\"a\": null}"), false);
            // Nothing that free text allows is read as a call that the schema forbids.
            let bare = " { \"name\": \"get\", \"parameters\": {\"z\": 1}}";
            check(&may, bare, convention != Convention::Llama3);
        }
    }
}

#[test]
fn several_calls_are_allowed_where_the_convention_has_them() {
    let call =
        |arguments: &str| Call { id: "".into(), name: "get".into(), arguments: arguments.into() };
    let tokenizer = Arc::new(bytes_and(&["<s>", "</s>"], &[]));
    for convention in [Convention::Hermes, Convention::Mistral] {
        let two = convention.write(&[call("{\"a\": 1}"), call("{}")], &str::to_string);
        for (parallel, expected) in [(false, false), (true, true)] {
            let constraint = compile(&tokenizer, convention, parallel, Plain::Nothing);
            let got = accepts(&tokenizer, &constraint, &two, false);
            assert_eq!(got, expected, "{convention:?}: {two}");
        }
        let (pieces, calls) = read(convention, [two.as_str()].into_iter());
        assert_eq!((line(&pieces).as_str(), calls.len()), ("‹get›{\"a\": 1}‹get›{}", 2));
    }
}

#[test]
fn schemas_that_are_no_objects_are_refused() {
    let tokenizer = bytes_and(&["<s>", "</s>"], &[]);
    for (schema, expected) in
        [(json!({"type": "string"}), "of type \"string\""), (json!([1]), "no JSON schema")]
    {
        let tool = ToolSpec { schema, ..tools().remove(0) };
        let error =
            answer(&tokenizer, Convention::Hermes, &[&tool], true, Plain::Text).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// As clients derive them from types, with what no grammar can express.
#[test]
fn schemas_of_real_clients_compile() {
    let tokenizer = Arc::new(bytes_and(&["<s>", "</s>"], &[]));
    for (schema, good, bad) in [
        (json!(null), "{\"any\": [1, {\"x\": null}]}", "[]"),
        (json!({"type": "object", "properties": {}}), "{}", "1"),
        (
            json!({
                "$defs": {"Unit": {"enum": ["C", "F"], "title": "Unit", "type": "string"}},
                "properties": {
                    "city": {"title": "City", "type": "string", "examples": ["Oslo"]},
                    "unit": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}], "default": null},
                },
                "required": ["city"],
                "title": "Weather",
                "type": "object",
            }),
            "{\"city\": \"Oslo\", \"unit\": null}",
            "{\"city\": \"Oslo\", \"unit\": \"K\"}",
        ),
        (
            json!({
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "properties": {
                    "when": {"type": "string", "format": "date-time"},
                    "path": {"type": "string", "format": "path"},
                    "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": true},
                    "kind": {"oneOf": [{"const": "a"}, {"const": "b"}]},
                },
                "required": ["kind"],
                "additionalProperties": false,
            }),
            "{\"path\": \"/x\", \"tags\": [\"a\", \"b\"], \"kind\": \"b\"}",
            "{\"kind\": \"c\"}",
        ),
    ] {
        let tool = ToolSpec { schema, ..tools().remove(0) };
        let lark = answer(&tokenizer, Convention::Hermes, &[&tool], false, Plain::Text).unwrap();
        let engine = GrammarEngine::new(Arc::clone(&tokenizer), tokenizer.vocabulary_size());
        let constraint = engine.compile_own(lark).unwrap();
        for (arguments, expected) in [(good, true), (bad, false)] {
            let call = Call { id: String::new(), name: "get".into(), arguments: arguments.into() };
            let text = Convention::Hermes.write(&[call], &str::to_string);
            assert_eq!(accepts(&tokenizer, &constraint, &text, false), expected, "{arguments}");
        }
    }
}
