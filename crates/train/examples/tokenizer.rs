//! Times the tokenizer: `tokenizer train VOCABULARY PRE_TOKENIZER THREADS FOLDER TEXT…` trains on the
//! lines of the texts and writes the files.

use std::time::Instant;

use yushan_model::tokenizer::PreTokenizer;
use yushan_train::bpe::{self, Options, Words};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, vocabulary, pre_tokenizer, threads, folder, texts @ ..] = &arguments[..] else {
        return Err("usage: tokenizer train VOCABULARY PRE_TOKENIZER THREADS FOLDER TEXT...".into());
    };
    if command != "train" {
        return Err(format!("unknown command {command:?}").into());
    }
    let pre_tokenizer = PreTokenizer::new(pre_tokenizer)?;
    let options = Options { vocabulary: vocabulary.parse()?, pre_tokenizer, ..Options::default() };
    let texts: Vec<String> = texts.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    let lines = || texts.iter().flat_map(|text| text.split_inclusive('\n'));
    let start = Instant::now();
    let words = Words::count(lines(), pre_tokenizer, 1 << 30, threads.parse()?);
    let counted = start.elapsed();
    let trained = bpe::train(&words, &options)?;
    let done = start.elapsed();
    println!(
        "{} bytes, {} words: counted in {:.3} s, {} merges in {:.3} s",
        words.text_bytes(),
        words.len(),
        counted.as_secs_f64(),
        trained.merges().len(),
        (done - counted).as_secs_f64()
    );
    std::fs::create_dir_all(folder)?;
    trained.write(folder.as_ref(), 2048)?;
    Ok(())
}
