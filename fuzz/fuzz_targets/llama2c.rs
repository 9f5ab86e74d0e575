//! A llama2.c `.bin`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_model::ModelFile;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = ModelFile::parse(bytes.to_vec()) {
        assert!(file.tensors().all(|tensor| !tensor.data.is_empty()));
    }
});
