//! A `.tiktoken` vocabulary, and the same bytes as `encoder.json`, a zero byte and `vocab.bpe`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_model::tokenizer::{Ends, PreTokenizer, Special, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let merges = bytes.get(end + 1..).unwrap_or_default();
    let ranks = Tokenizer::from_tiktoken(bytes, PreTokenizer::default(), &["<|endoftext|>"]);
    for tokenizer in [ranks, Tokenizer::from_gpt2(&bytes[..end], merges)].into_iter().flatten() {
        let ids = tokenizer.encode("the thing 玉山🦙 </s>", Special::Parse, Ends::Declared);
        tokenizer.decode(&ids, Special::Parse);
    }
});
