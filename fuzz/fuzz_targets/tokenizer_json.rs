//! `tokenizer.json`, and after a zero byte `tokenizer_config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    if let Ok(tokenizer) = Tokenizer::from_tokenizer_json(&bytes[..end], bytes.get(end + 1..)) {
        let ids = tokenizer.encode("the thing 玉山🦙 </s>", Special::Parse, Ends::Declared);
        tokenizer.decode(&ids, Special::Parse);
    }
});
