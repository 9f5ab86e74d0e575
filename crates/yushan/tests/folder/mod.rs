//! A folder with tiny models that have a tokenizer, and the binary in it.

#![allow(dead_code, reason = "each program that includes this file uses a part of it")]

#[path = "../../../model/tests/tiny/mod.rs"]
pub(crate) mod tiny;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use yushan_model::gguf::{Gguf, Header};
use yushan_tensor::DType;

pub(crate) const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}assistant:{% endif %}";

/// A folder with `model.gguf`, which speaks through a template, and `bare.gguf`, which does not.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.gguf");
    tiny::write(&plain, DType::F32, 2048);
    let plain = Gguf::open(&plain).unwrap();
    write_with_tokenizer(&plain, &folder.path().join("model.gguf"), Some(TEMPLATE), &[]);
    write_with_tokenizer(&plain, &folder.path().join("bare.gguf"), None, &[]);
    folder
}

/// `coder.gguf`, whose last three tokens mark a gap: ids from [`tiny::VOCABULARY`] - 3 on.
pub(crate) fn add_coder(folder: &Path) {
    let plain = Gguf::open(&folder.join("plain.gguf")).unwrap();
    let markers = ["▁<PRE>", "▁<SUF>", "▁<MID>"];
    write_with_tokenizer(&plain, &folder.join("coder.gguf"), None, &markers);
}

/// The same tensors with a SentencePiece vocabulary: bytes, letters and some signs, the last of them
/// replaced by these control tokens.
fn write_with_tokenizer(from: &Gguf, path: &Path, template: Option<&str>, controls: &[&str]) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("▁".into());
    tokens.extend(('a'..='z').chain('A'..='Z').chain(".,:{}01\"".chars()).map(String::from));
    assert_eq!(tokens.len(), tiny::VOCABULARY);
    let letters = tokens.len() - controls.len();
    tokens.splice(letters.., controls.iter().map(|text| text.to_string()));
    let types: Vec<i32> = (0..tokens.len() as i32)
        .map(|id| match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            id if id as usize >= letters => 3,
            _ => 1,
        })
        .collect();
    let mut header = Header::new();
    header.copy(from.metadata(), |_| true);
    header.set("tokenizer.ggml.model", "llama");
    header.set("tokenizer.ggml.tokens", tokens.as_slice());
    header.set("tokenizer.ggml.token_type", types.as_slice());
    header.set("tokenizer.ggml.scores", vec![0.0_f32; tokens.len()].as_slice());
    header.set("tokenizer.ggml.bos_token_id", 1_u32);
    header.set("tokenizer.ggml.eos_token_id", 2_u32);
    header.set("tokenizer.ggml.unknown_token_id", 0_u32);
    if let Some(template) = template {
        header.set("tokenizer.chat_template", template);
    }
    let views: Vec<_> = from.tensors().iter().collect();
    for view in &views {
        header.tensor(view.name, view.dtype, view.shape).unwrap();
    }
    let mut writer = header.create(path).unwrap();
    for view in &views {
        writer.tensor(view.name, view.data).unwrap();
    }
    writer.finish().unwrap();
}

/// The binary in that folder, cut off from the home of whoever runs the test.
pub(crate) fn yushan(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yushan"));
    command.args(arguments.split_whitespace());
    command.current_dir(folder).env("YUSHAN_HOME", folder.join("home")).stdin(Stdio::null());
    command.env_remove("YUSHAN_SERVER").env_remove("YUSHAN_KEY");
    command
}

pub(crate) fn finish(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}
