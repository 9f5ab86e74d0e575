//! The files of a checkpoint, one behind another: each a length in four bytes, then its bytes. The manifest is made for
//! them unless the last one is there: it is one then, so that the hashes do not keep everything else from being read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_train::checkpoint::parse;

const NAMES: [&str; 8] = [
    "state.json",
    "model.safetensors",
    "optimizer.safetensors",
    "tokenizer.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "manifest.json",
];

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut files = Vec::new();
    for name in NAMES {
        let Some((length, left)) = rest.split_first_chunk::<4>() else { break };
        let length = (u32::from_le_bytes(*length) as usize).min(left.len());
        files.push((name, &left[..length]));
        rest = &left[length..];
    }
    let Ok(snapshot) = parse(7, &files) else { return };
    assert_eq!(snapshot.params.len(), snapshot.shape.parameters());
});
