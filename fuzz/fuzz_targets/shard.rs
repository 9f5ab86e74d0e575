//! A file of token shards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_train::shard::Shard;

fuzz_target!(|bytes: &[u8]| {
    let Ok(shard) = Shard::parse(bytes.to_vec()) else { return };
    let mut ids = Vec::new();
    for document in 0..shard.documents() {
        shard.tokens_of(document, &mut ids).expect("sound when parsed");
    }
    assert!(ids.len() * 2 <= bytes.len());
});
