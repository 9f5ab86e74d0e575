//! A GGUF model with its tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_model::ModelFile;
use yushan_model::gguf::Gguf;
use yushan_model::tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    // Vocabulary-only files are no models, but hold tokenizers.
    if let Ok(file) = Gguf::parse(bytes.to_vec()) {
        let _ = Tokenizer::from_gguf(file.metadata());
    }
    if let Ok(file) = ModelFile::parse(bytes.to_vec()) {
        assert!(file.tensors().all(|tensor| !tensor.data.is_empty()));
    }
});
