//! A llama2.c tokenizer; the first two bytes are the number of tokens.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let Some((count, file)) = bytes.split_first_chunk() else { return };
    let count = usize::from(u16::from_le_bytes(*count));
    if let Ok(tokenizer) = Tokenizer::from_llama2c(file, count) {
        let ids = tokenizer.encode("the thing 玉山🦙 </s>", Special::Parse, Ends::Declared);
        tokenizer.decode(&ids, Special::Parse);
    }
});
