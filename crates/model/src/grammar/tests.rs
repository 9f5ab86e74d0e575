//! What each notation allows, byte by byte, and what hostile grammars end in.

use serde_json::json;

use super::*;
use crate::tokenizer::test_tokenizer;

#[test]
fn engines_are_shared_and_constraints_sent_between_threads() {
    fn check<T: Send>() {}
    fn check_shared<T: Send + Sync>() {}
    check::<Constraint>();
    check_shared::<GrammarEngine>();
}

fn engine() -> GrammarEngine {
    let tokenizer = test_tokenizer();
    let vocabulary = tokenizer.vocabulary_size();
    GrammarEngine::new(tokenizer, vocabulary)
}

fn allows(mask: &[u32], token: TokenId) -> bool {
    mask[token as usize / 32] >> (token % 32) & 1 == 1
}

/// Whether the grammar accepts exactly `text`, token by token of its bytes.
fn accepts(constraint: &Constraint, text: &str) -> bool {
    let mut constraint = constraint.clone();
    for byte in text.bytes() {
        let token = 3 + TokenId::from(byte);
        if constraint.is_finished() || !allows(constraint.mask().unwrap(), token) {
            return false;
        }
        constraint.accept(token).unwrap();
    }
    if constraint.is_finished() {
        return true;
    }
    let end = 2;
    allows(constraint.mask().unwrap(), end) && {
        constraint.accept(end).unwrap();
        constraint.is_finished()
    }
}

fn check(grammar: Grammar<'_>, good: &[&str], bad: &[&str]) {
    let constraint = engine().compile(grammar).unwrap_or_else(|e| panic!("{grammar:?}: {e}"));
    for text in good {
        assert!(accepts(&constraint, text), "{grammar:?} must accept {text:?}");
    }
    for text in bad {
        assert!(!accepts(&constraint, text), "{grammar:?} must refuse {text:?}");
    }
}

#[test]
fn each_notation_allows_what_it_says() {
    check(Grammar::Regex("a(b|é)*/c"), &["a/c", "abé/c"], &["", "a", "abc", "a/cc"]);
    check(
        Grammar::Lark("start: \"(\" start \")\" | WORD\nWORD: /[a-z]+/"),
        &["a", "((ab))"],
        &["", "()", "(a", "a)"],
    );
    let schema = json!({
        "type": "object",
        "properties": { "n": { "type": "integer" }, "s": { "enum": ["x", "玉"] } },
        "required": ["n"],
        "additionalProperties": false,
    });
    check(
        Grammar::JsonSchema(&schema),
        &[r#"{"n":1}"#, r#"{"n": -20, "s": "玉"}"#, "{\n    \"n\": 1\n}"],
        &["", "{}", r#"{"n":"1"}"#, r#"{"n":1,"t":2}"#, r#"{"n":1"#, r#"{  "n":1}"#],
    );
    check(Grammar::JsonSchema(&json!(true)), &["[1, null]", "\"a\""], &["", "[1,  2]", "a"]);
}

#[test]
fn gbnf_without_recursion() {
    check(
        Grammar::Gbnf(
            "# A greeting.\nroot ::= greeting \" \" name? # that is all\ngreeting ::= \"Hi\" | \"Hello\" |\n  \"Ol\\u00e1\"\nname ::= [A-Z][a-z-]{1,3} ( \"!\"\n | \"?\" )*\n",
        ),
        &["Hi ", "Hello Bob", "Olá Jo-i!?!", "Hi Bo"],
        &["", "Hi", "Hi B", "Hi Bobby-", "Hi Bob."],
    );
    // A lexer that takes the longest word would not find these.
    check(
        Grammar::Gbnf("root ::= (\"ab\" | \"a\" \"bc\") \"x\"?"),
        &["ab", "abc", "abx", "abcx"],
        &["a", "abcc"],
    );
    check(
        Grammar::Gbnf("root ::= [^\\n\\]\"]+ . \"\\\\\" \"\\x41\" \"\"\n"),
        &["a\n\\A", "山~山\\A"],
        &["]a\\A", "a\\A", "\na\\A"],
    );
    check(
        Grammar::Gbnf("root ::= \"a\"{2} \"b\"{,2} \"c\"{1,}"),
        &["aac", "aabbcc"],
        &["ac", "aabbbc", "aa"],
    );
}

#[test]
fn gbnf_with_recursion() {
    let json = r##"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"##;
    check(
        Grammar::Gbnf(json),
        &["{}", r#"{"a":[1,-2.5e3,true],"é\n":{"b":null}} "#, "{\n  \"x\":\"\\u00e9\"}"],
        &["", "[]", r#"{"a":01}"#, "{\"a\":\"\u{1}\"}", r#"{"a":tru}"#, "{}  "],
    );
    check(
        Grammar::Gbnf("root ::= \"ab\" root | \"a\" \"bc\" root | \"d\""),
        &["d", "abd", "abcd", "ababcabd"],
        &["ab", "abccd"],
    );
}

#[test]
fn gbnf_mistakes_are_named() {
    for (gbnf, message) in [
        ("", "GBNF: no rule \"root\""),
        ("root ::= x", "GBNF: rule \"x\" is used but never defined"),
        ("root ::= \"a\"\nroot ::= \"b\"", "GBNF, line 2: rule \"root\" is defined twice"),
        ("root = \"a\"", "GBNF, line 1: expected ::= after \"root\""),
        ("root ::= \"a", "GBNF, line 1: expected \""),
        ("root ::= [a", "GBNF, line 1: expected ]"),
        ("root ::= [z-a]", "GBNF, line 1: the range 'z'-'a' is empty"),
        ("root ::= (\"a\"", "GBNF, line 1: expected )"),
        ("root ::= \"a\"{3,1}", "GBNF, line 1: {3,1} is empty"),
        ("root ::= \"a\"{1,99999}", "GBNF, line 1: 99999 repetitions; expected at most 2000"),
        ("root ::= \"\\q\"", "GBNF, line 1: unknown escape"),
        ("root ::= \"\\ud800\"", "GBNF, line 1: expected 4 hexadecimal digits"),
        ("root ::= <token>", "GBNF, line 1: '<'; expected the end of the rule"),
    ] {
        match gbnf::to_lark(gbnf) {
            Err(Error::Grammar(detail)) => assert!(detail.starts_with(message), "{detail}"),
            other => panic!("{gbnf}: {other:?}"),
        }
    }
}

/// A refusal is fine, and so is a grammar that works; a panic, a hang or much memory is not.
#[test]
fn hostile_grammars_end_in_an_error() {
    let engine = engine();
    let deep = |open: &str, close: &str, n: usize| open.repeat(n) + "\"a\"" + &close.repeat(n);
    let must_fail = [
        ("lark", "start: ".to_string() + &deep("(", ")", 100_000)),
        ("lark", "start: x".to_string()),
        ("lark", "start: /[/".to_string()),
        ("lark", "\u{0}".to_string()),
        ("lark", "a".repeat(LONGEST + 1)),
        ("gbnf", "root ::= ".to_string() + &deep("(", ")", 100_000)),
        ("regex", "(".repeat(100_000) + "a" + &")".repeat(100_000)),
        ("regex", "(?=a)b".to_string()),
    ];
    for (kind, source) in &must_fail {
        let grammar = match *kind {
            "lark" => Grammar::Lark(source),
            "gbnf" => Grammar::Gbnf(source),
            _ => Grammar::Regex(source),
        };
        let error = engine
            .compile(grammar)
            .err()
            .unwrap_or_else(|| panic!("{kind} {} is not refused", &source[..source.len().min(60)]));
        assert!(matches!(error, Error::Grammar(_)), "{error}");
    }
    let mut schema = json!(true);
    for _ in 0..100_000 {
        schema = [("items".to_string(), schema)].into_iter().collect();
    }
    assert!(engine.compile(Grammar::JsonSchema(&schema)).is_err());
    // Taken apart by hand: dropping it would recurse.
    while let Some(items) = schema.get_mut("items") {
        schema = items.take();
    }
}

/// Follows a grammar for a while: every step is bounded, whatever it ends in.
fn walk(mut constraint: Constraint) {
    for _ in 0..40 {
        let Ok(mask) = constraint.mask() else { return };
        let word = mask.iter().position(|&word| word != 0).unwrap();
        let token = word as u32 * 32 + mask[word].trailing_zeros();
        if constraint.accept(token).is_err() || constraint.is_finished() {
            return;
        }
    }
}

#[test]
fn heavy_grammars_work_or_are_refused() {
    let engine = engine();
    let n = DEEPEST;
    let lark = "start: ".to_string() + &"(".repeat(n) + "\"a\"" + &")".repeat(n);
    let gbnf = "root ::= ".to_string() + &"(".repeat(n) + "\"a\"" + &")*".repeat(n);
    let mut schema = json!({ "type": "null" });
    for _ in 0..n / 2 - 1 {
        schema = json!({ "type": "array", "items": schema });
    }
    let branches: Vec<_> = (0..200)
        .map(|at| json!({ "type": "object", "properties": { "a": { "const": at } }, "minProperties": 1 }))
        .collect();
    let all_of = json!({ "allOf": branches.clone() });
    let any_of = json!({ "anyOf": branches });
    let own = json!({ "$ref": "#" });
    let huge = json!({ "type": "string", "minLength": 4_000_000_000u32, "pattern": "^(a|b)*$" });
    for grammar in [
        Grammar::Lark(&lark),
        Grammar::Lark("start: start start | \"a\" | \"\""),
        Grammar::Lark("start: \"a\"{1,2000000000}"),
        Grammar::Gbnf(&gbnf),
        Grammar::Gbnf("root ::= a{2000}\na ::= b{2000}\nb ::= c{2000}\nc ::= \"x\" | \"\""),
        Grammar::Gbnf("root ::= a a\na ::= b{2000} root?\nb ::= c{2000}\nc ::= \"x\" | \"\""),
        Grammar::Gbnf("root ::= root"),
        Grammar::Gbnf("root ::= root root | \"a\"?"),
        Grammar::Regex("(((a{1,1000}){1,1000}){1,1000}){1,1000}"),
        Grammar::Regex("(a|b|ab)*(a|b|ab)*[ab]{500}c{1000}(a?){1000}"),
        Grammar::Regex(r"(\w{1,300}\d{1,300}){1,300}"),
        Grammar::JsonSchema(&schema),
        Grammar::JsonSchema(&all_of),
        Grammar::JsonSchema(&any_of),
        Grammar::JsonSchema(&own),
        Grammar::JsonSchema(&huge),
    ] {
        eprintln!("{grammar:.120?}");
        if let Ok(constraint) = engine.compile(grammar) {
            walk(constraint);
        }
    }
}

/// With a byte-level tokenizer of 128,000 tokens: what is forced is forced in its words.
#[test]
fn forced_text_takes_the_tokens_that_encoding_gives() {
    let Some(json) = crate::tokenizer::llama3_json() else { return };
    let tokenizer = Arc::new(Tokenizer::from_tokenizer_json(&json, None).unwrap());
    let vocabulary = tokenizer.vocabulary_size() + 56;
    let engine = GrammarEngine::new(tokenizer.clone(), vocabulary);
    let text = r#"{"answer": "international 玉山"}"#;
    let mut constraint = engine.compile(Grammar::Gbnf(&format!("root ::= {text:?}"))).unwrap();
    let mut tokens = Vec::new();
    while !constraint.is_finished() {
        let mask = constraint.mask().unwrap();
        assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
        let token = (0..vocabulary as TokenId).find(|&token| allows(mask, token)).unwrap();
        tokens.push(token);
        constraint.accept(token).unwrap();
    }
    assert_eq!(tokens, tokenizer.encode(text, Special::AsText, Ends::Bare));
}
