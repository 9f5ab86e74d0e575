//! `tokenize FOLDER TEXT`: the ids of a text by the `tokenizer.json` of a folder, for comparisons.
//!
//! Prints the ids as a JSON list, then `equal` if decoding gives the text back, else where it differs.

use std::path::Path;

use yushan_model::tokenizer::{Ends, Special, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, text] = arguments.as_slice() else {
        return Err("usage: tokenize FOLDER TEXT".into());
    };
    let tokenizer = Tokenizer::from_hugging_face(Path::new(folder))?;
    let text = std::fs::read_to_string(text)?;
    let ids = tokenizer.encode(&text, Special::Parse, Ends::Bare);
    println!("{}", serde_json::to_string(&ids)?);
    let back = tokenizer.decode(&ids, Special::Parse);
    match text.bytes().zip(back.bytes()).position(|(a, b)| a != b) {
        None if text.len() == back.len() => println!("equal"),
        at => println!("differs at byte {}", at.unwrap_or(text.len().min(back.len()))),
    }
    Ok(())
}
