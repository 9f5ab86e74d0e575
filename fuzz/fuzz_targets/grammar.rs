//! One byte for the kind, then a JSON schema, a regular expression, Lark or GBNF.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use yushan_model::grammar::{Grammar, GrammarEngine};
use yushan_model::tokenizer::Tokenizer;

fn engine() -> &'static GrammarEngine {
    static ENGINE: OnceLock<GrammarEngine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        // All bytes as pieces, so that every text can be written.
        let bytes = (0..256).map(|byte| format!("\"<0x{byte:02X}>\": {}", byte + 1));
        let vocab = bytes.collect::<Vec<_>>().join(", ");
        let file = format!(
            r#"{{"added_tokens": [{{"id": 0, "content": "</s>", "special": true}}],
            "pre_tokenizer": {{"type": "Metaspace", "prepend_scheme": "never"}},
            "model": {{"type": "BPE", "byte_fallback": true, "vocab": {{{vocab}}}, "merges": []}}}}"#
        );
        let tokenizer = Tokenizer::from_tokenizer_json(file.as_bytes(), None);
        GrammarEngine::new(Arc::new(tokenizer.expect("a valid tokenizer")), 257)
    })
}

fuzz_target!(|input: (u8, &str)| {
    let (kind, text) = input;
    let schema;
    let grammar = match kind % 4 {
        0 => match serde_json::from_str(text) {
            Ok(value) => {
                schema = value;
                Grammar::JsonSchema(&schema)
            }
            Err(_) => return,
        },
        1 => Grammar::Regex(text),
        2 => Grammar::Lark(text),
        _ => Grammar::Gbnf(text),
    };
    if let Ok(mut constraint) = engine().compile(grammar) {
        let _ = constraint.mask();
    }
});
