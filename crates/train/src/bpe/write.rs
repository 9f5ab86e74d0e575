//! A trained tokenizer as Hugging Face's files: `tokenizer.json` and `tokenizer_config.json`.
//!
//! The key decision: the bytes of the file follow from the tokenizer alone, so that its hash names it.
//! The beginning-of-text token is declared, not added by a template: training puts it where a document
//! begins, and `Ends::Declared` where a prompt does.

use std::path::Path;

use serde_json::{Value, json};
use yushan_model::tokenizer::Tokenizer;

use super::Trained;
use crate::{Error, Result};

impl Trained {
    /// The `tokenizer.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let alphabet = alphabet();
        let text = |token: u32| -> String {
            let bytes = &self.tokens[token as usize];
            bytes.iter().map(|&byte| alphabet[byte as usize]).collect()
        };
        let mut vocab = serde_json::Map::with_capacity(self.tokens.len());
        for id in 0..self.tokens.len() as u32 {
            let name = match self.specials.get(id as usize) {
                Some(name) => name.clone(),
                None => text(id),
            };
            vocab.insert(name, id.into());
        }
        let merges: Vec<Value> =
            self.merges.iter().map(|&(left, right)| json!([text(left), text(right)])).collect();
        let added: Vec<Value> = (self.specials.iter().enumerate())
            .map(|(id, name)| {
                json!({"id": id, "content": name, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let byte_level = |trim: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim,
                   "use_regex": false})
        };
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": self.pre_tokenizer.regex()},
                 "behavior": "Isolated", "invert": false},
                byte_level(false),
            ]},
            "post_processor": self.begins(),
            "decoder": byte_level(true),
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                      "continuing_subword_prefix": null, "end_of_word_suffix": null,
                      "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                      "vocab": vocab, "merges": merges},
        });
        file.to_string().into_bytes()
    }

    /// What puts the first special token before every text, as training does; nothing without one.
    fn begins(&self) -> Value {
        let Some(bos) = self.specials.first() else { return Value::Null };
        let token = json!({"SpecialToken": {"id": bos, "type_id": 0}});
        let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
        json!({
            "type": "TemplateProcessing",
            "single": [token.clone(), text("A", 0)],
            "pair": [token, text("A", 0), text("B", 1)],
            "special_tokens": {(bos.as_str()): {"id": bos, "ids": [0], "tokens": [bos]}},
        })
    }

    /// The `tokenizer_config.json`. `context`: the longest text of the model, in tokens.
    pub fn config_json(&self, context: usize) -> Vec<u8> {
        let bos = self.specials.first();
        let turn = self.specials.iter().find(|name| *name == "<|im_end|>");
        let file = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": false,
            "bos_token": bos,
            "eos_token": bos,
            "pad_token": bos,
            "extra_special_tokens": turn.map(|turn| json!({"eot_token": turn})).unwrap_or(json!({})),
            "clean_up_tokenization_spaces": false,
            "model_max_length": context,
        });
        serde_json::to_vec_pretty(&file).unwrap_or_default()
    }

    /// Writes both files into `folder`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write(&self, folder: &Path, context: usize) -> Result<()> {
        for (name, bytes) in [
            ("tokenizer.json", self.to_json()),
            ("tokenizer_config.json", self.config_json(context)),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::io("writing", path, error))?;
        }
        Ok(())
    }

    /// The tokenizer, ready to encode.
    ///
    /// # Errors
    /// None that training can cause; the reader's otherwise.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let config = self.config_json(usize::MAX);
        Ok(Tokenizer::from_tokenizer_json(&self.to_json(), Some(&config))?)
    }
}

/// GPT-2's character for each byte: printable ones for themselves, the others U+0100 and up.
fn alphabet() -> [char; 256] {
    let mut alphabet = ['\0'; 256];
    let mut others = 0x100..;
    for (at, byte) in super::merges::alphabet().enumerate() {
        let own = at < 256 - 68;
        let code = if own { u32::from(byte) } else { others.next().unwrap_or(0) };
        alphabet[byte as usize] = char::from_u32(code).unwrap_or('\0');
    }
    alphabet
}
