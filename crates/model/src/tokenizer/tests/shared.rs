//! Where the tests find the data that is not in the repository.

use crate::shared_data;
use crate::tokenizer::Tokenizer;

/// A file of the shared data, unpacked if it ends in `.xz`.
pub(super) fn read_shared(name: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(shared_data(name)?).unwrap();
    if !name.ends_with(".xz") {
        return Some(bytes);
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut plain).unwrap();
    Some(plain)
}

/// The tokenizer of the 260K-parameter story model.
pub(super) fn stories() -> Option<Tokenizer> {
    let bytes = read_shared("weights/stories260K/tok512.bin")?;
    Some(Tokenizer::from_llama2c(&bytes, 512).unwrap())
}

/// The tokenizer of a vocabulary-only GGUF file of llama.cpp's tests.
pub(super) fn ggml_vocab(name: &str) -> Option<Tokenizer> {
    let path = shared_data(&format!("tokenizers/ggml-vocab/ggml-vocab-{name}.gguf"))?;
    let file = crate::gguf::Gguf::open(&path).unwrap();
    Some(Tokenizer::from_gguf(file.metadata()).unwrap())
}

/// llama.cpp's cases for a kind of tokenizer: texts and their ids, without BOS.
pub(super) fn ggml_cases(name: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let read = |kind: &str| {
        read_shared(&format!("tokenizers/ggml-vocab/ggml-vocab-{name}.gguf.{kind}"))
            .map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let (texts, ids) = (read("inp")?, read("out")?);
    // Every text is followed by the separator, the last one too.
    let mut texts: Vec<_> = texts.split("\n__ggml_vocab_test__\n").collect();
    assert_eq!(texts.pop(), Some(""), "{name}: after the last separator");
    let ids: Vec<Vec<u32>> = ids
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    assert_eq!(texts.len(), ids.len(), "{name}: cases and their ids");
    Some(texts.into_iter().map(str::to_string).zip(ids).collect())
}

/// Llama 3's and Qwen2's tokenizers as `tokenizer.json`, put together from their vocabularies.
pub(crate) fn llama3_json() -> Option<Vec<u8>> {
    let encoder = read_shared("tokenizers/llama3/encoder.json.xz")?;
    let merges = read_shared("tokenizers/llama3/vocab.bpe.xz")?;
    let vocab: serde_json::Value = serde_json::from_slice(&encoder).unwrap();
    let merges = String::from_utf8(merges).unwrap();
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version")).collect();
    let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let added = serde_json::json!([
        {"id": 128000, "content": "<|begin_of_text|>", "special": true},
        {"id": 128001, "content": "<|end_of_text|>", "special": true},
        {"id": 128006, "content": "<|start_header_id|>", "special": true},
        {"id": 128007, "content": "<|end_header_id|>", "special": true},
        {"id": 128009, "content": "<|eot_id|>", "special": true},
    ]);
    Some(byte_level_json(vocab, serde_json::json!(merges), regex, added, true))
}

/// See [`llama3_json`]. The file has ranks alone; the merge that makes a token is the last one left
/// when its bytes are merged by lower ranks.
pub(super) fn qwen2_json() -> Option<Vec<u8>> {
    use crate::tokenizer::byte_level::encode;
    let text = String::from_utf8(read_shared("tokenizers/qwen/qwen.tiktoken.xz")?).unwrap();
    let mut ranks = std::collections::HashMap::new();
    let mut words = Vec::new();
    for line in text.lines() {
        let (word, rank) = line.split_once(' ').unwrap();
        let word = base64(word);
        ranks.insert(word.clone(), rank.parse::<usize>().unwrap());
        words.push(word);
    }
    let mut merges = Vec::new();
    for (rank, word) in words.iter().enumerate() {
        let mut parts: Vec<&[u8]> = word.chunks(1).collect();
        while parts.len() > 2 {
            let joined = |at: usize| [parts[at], parts[at + 1]].concat();
            let best = (0..parts.len() - 1)
                .filter_map(|at| Some((*ranks.get(&joined(at))?, at)))
                .filter(|(other, _)| *other < rank)
                .min();
            let (_, at) = best.expect("every token can be made");
            let start = parts[at].as_ptr() as usize - word.as_ptr() as usize;
            let length = parts[at].len() + parts[at + 1].len();
            parts.splice(at..at + 2, [&word[start..start + length]]);
        }
        if let [left, right] = parts[..] {
            merges.push(serde_json::json!([encode(left), encode(right)]));
        }
    }
    let vocab: serde_json::Map<_, _> =
        words.iter().zip(0..).map(|(word, id)| (encode(word), id.into())).collect();
    let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let added = serde_json::json!([
        {"id": 151643, "content": "<|endoftext|>", "special": true},
        {"id": 151644, "content": "<|im_start|>", "special": true},
        {"id": 151645, "content": "<|im_end|>", "special": true},
    ]);
    Some(byte_level_json(vocab.into(), merges.into(), regex, added, false))
}

fn byte_level_json(
    vocab: serde_json::Value,
    merges: serde_json::Value,
    regex: &str,
    added_tokens: serde_json::Value,
    ignore_merges: bool,
) -> Vec<u8> {
    let split = serde_json::json!({"type": "Split", "pattern": {"Regex": regex},
        "behavior": "Isolated", "invert": false});
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    let file = serde_json::json!({
        "version": "1.0",
        "added_tokens": added_tokens,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges},
    });
    serde_json::to_vec(&file).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.bytes().filter(|&digit| digit != b'=') {
        let value = ALPHABET.iter().position(|&known| known == digit).unwrap();
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
