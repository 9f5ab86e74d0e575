//! `logits MODEL IDS.json OUT.f32 [N]`: what the engine makes of some tokens, for comparisons.
//!
//! Writes `(tokens, vocabulary)` logits as little-endian floats to `OUT.f32` and prints the `N` greedy
//! tokens that follow as a JSON list. Keys and values are kept in F16, as users get them.

use std::path::Path;

use yushan_abi::{Chunk, Executor, Logits, TokenId};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};

fn best(logits: &[f32]) -> TokenId {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0) as TokenId
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, out, rest @ ..] = arguments.as_slice() else {
        return Err("usage: logits MODEL IDS.json OUT.f32 [N]".into());
    };
    let count = rest.first().map_or(Ok(0), |count| count.parse())?;
    let tokens: Vec<TokenId> = serde_json::from_slice(&std::fs::read(ids)?)?;
    let file = ModelFile::open(Path::new(model))?;
    let mut engine = Engine::load(&file, &Options::for_file(&file))?;
    let sequence = engine.admit("", &tokens)?.sequence;
    let output = engine.step(&[Chunk { sequence, tokens: &tokens, logits: Logits::All }])?;
    let rows = (0..output.rows()).flat_map(|row| output.row(row));
    std::fs::write(out, rows.flat_map(|logit| logit.to_le_bytes()).collect::<Vec<u8>>())?;
    let mut greedy = Vec::new();
    let mut token = best(output.row(output.rows() - 1));
    while greedy.len() < count {
        greedy.push(token);
        let row = Chunk { sequence, tokens: &[token], logits: Logits::Last };
        token = best(engine.step(&[row])?.row(0));
    }
    println!("{}", serde_json::to_string(&greedy)?);
    Ok(())
}
