//! Tests of the tokenizer: against llama.cpp's recorded ids, against Hugging Face's, on hostile
//! files, and for what must hold of any tokenizer.

mod infill;
mod shared;
mod tiktoken;

use std::sync::{Arc, LazyLock};

use super::*;
pub(crate) use shared::llama3_json;
use shared::{read_shared, stories};

/// A tokenizer of single bytes and, from id 256 on, control tokens (the first two begin and end a
/// text) and user-defined words.
pub(crate) fn bytes_and(specials: &[&str], words: &[&str]) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        let name = byte_level::encode(&[byte]);
        vocab.insert(name, serde_json::json!(byte));
    }
    let added: Vec<_> = specials
        .iter()
        .map(|name| (name, true))
        .chain(words.iter().map(|name| (name, false)))
        .enumerate()
        .map(|(at, (name, special))| serde_json::json!({"id": 256 + at, "content": name, "special": special}))
        .collect();
    let file = serde_json::json!({
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "added_tokens": added,
    });
    let config = serde_json::json!({
        "bos_token": specials.first(),
        "eos_token": specials.get(1),
    });
    let (file, config) = (file.to_string(), config.to_string());
    Tokenizer::from_tokenizer_json(file.as_bytes(), Some(config.as_bytes())).unwrap()
}

/// Llama 3's tokenizer.
pub(crate) fn llama_3() -> Option<Tokenizer> {
    let config = br#"{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}"#;
    Some(Tokenizer::from_tokenizer_json(&shared::llama3_json()?, Some(config)).unwrap())
}

#[test]
fn llama2c_tokenizer_reads_its_own_text() {
    let Some(tokenizer) = stories() else { return };
    let Some(text) = read_shared("weights/stories260K/expected_greedy_200.txt") else { return };
    let text = String::from_utf8(text).unwrap();
    let ids = tokenizer.encode(&text, Special::AsText, Ends::Declared);
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids, Special::AsText), text);
    let tricky = "Äpfel 我想 🦙 \u{0} </s> <s>";
    let ids = tokenizer.encode(tricky, Special::AsText, Ends::Bare);
    assert!(ids.iter().all(|&id| id > 2), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids, Special::AsText), tricky);
}

/// llama.cpp's own cases: special tokens are text, no BOS.
fn check_ggml(name: &str, tokenizer: Option<Tokenizer>) {
    let (Some(tokenizer), Some(cases)) = (tokenizer, shared::ggml_cases(name)) else { return };
    assert!(cases.len() >= 40, "{name}: {} cases", cases.len());
    for (text, ids) in cases {
        let got = tokenizer.encode(&text, Special::AsText, Ends::Bare);
        assert_eq!(got, ids, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&got, Special::AsText), text, "{name}");
    }
}

#[test]
fn ids_equal_llama_cpp_for_vocabularies_in_gguf() {
    for name in ["llama-spm", "phi-3", "gpt-2", "falcon", "starcoder", "deepseek-coder"] {
        check_ggml(name, shared::ggml_vocab(name));
    }
}

#[test]
fn ids_equal_llama_cpp_for_llama_3() {
    let json = shared::llama3_json();
    check_ggml("llama-bpe", json.map(|j| Tokenizer::from_tokenizer_json(&j, None).unwrap()));
}

#[test]
fn ids_equal_llama_cpp_for_qwen_2() {
    let json = shared::qwen2_json();
    check_ggml("qwen2", json.map(|j| Tokenizer::from_tokenizer_json(&j, None).unwrap()));
}

/// A tokenizer for the tests of other modules: 0 unknown, 1 BOS, 2 EOS, then token `3 + b` is byte
/// `b`, then a few words.
pub(crate) fn test_tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let mut pieces = vec!["<unk>".to_string(), "\n<s>\n".into(), "\n</s>\n".into()];
        pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        pieces.extend(["ab", "abc", "true", "{\"", "\":"].map(String::from));
        let mut bytes = 16u32.to_le_bytes().to_vec();
        for piece in &pieces {
            bytes.extend(0f32.to_le_bytes());
            bytes.extend((piece.len() as u32).to_le_bytes());
            bytes.extend(piece.as_bytes());
        }
        Arc::new(Tokenizer::from_llama2c(&bytes, pieces.len()).expect("it is well formed"))
    });
    TOKENIZER.clone()
}
