//! A Jinja template, rendered with two messages.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use yushan_model::chat::{ChatTemplate, Message};
use yushan_model::tokenizer::Tokenizer;

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let file = r#"{"added_tokens": [{"id": 0, "content": "<|im_end|>", "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "model": {"type": "BPE", "vocab": {"a": 1}, "merges": []}}"#;
        Tokenizer::from_tokenizer_json(file.as_bytes(), None).expect("a valid tokenizer")
    })
}

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(Some(source), tokenizer()) else { return };
    let messages = [Message::new("system", "be brief"), Message::new("user", "hi <|im_end|>")];
    if let Ok(rendered) = template.render(&messages, &[], true) {
        assert!(rendered.guarded.iter().all(|range| rendered.text.get(range.clone()).is_some()));
    }
});
