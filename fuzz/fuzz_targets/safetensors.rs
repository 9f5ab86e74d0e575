//! `config.json`, a zero byte, a safetensors file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_model::ModelFile;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let tensors = bytes.get(end + 1..).unwrap_or_default().to_vec();
    if let Ok(file) = ModelFile::parse_safetensors(&bytes[..end], vec![tensors]) {
        assert!(file.tensors().all(|tensor| !tensor.data.is_empty()));
    }
});
