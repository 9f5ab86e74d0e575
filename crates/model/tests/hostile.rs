//! Files from outside, cut off and mutated: every one ends in a model or in an error that names the
//! field, never in a panic, and never in allocations that its size does not justify.
//!
//! The key decision: the allocator of this binary counts, so the bound on memory is measured, not
//! argued. It is the only `unsafe` code of the tests, and forwards to the system's allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use serde_json::json;
use yushan_model::gguf::Header;
use yushan_model::tokenizer::{Ends, Special, Tokenizer};
use yushan_model::{Error, ModelFile, Result};
use yushan_tensor::DType;

/// Mutated files of each format.
const MUTATIONS: u64 = 10_000;

/// What every parser may allocate besides twice the file: tables of 256 entries, error messages.
const SLACK: isize = 16 << 10;

/// Counts the bytes that this thread has allocated, now and at most.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    NOW.set(NOW.get() + bytes);
    PEAK.set(PEAK.get().max(NOW.get()));
}

// SAFETY: every call is forwarded unchanged to the system's allocator, which upholds the contract;
// counting touches only cells of this thread that need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old bytes and the new ones may be there at once.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A parser, as it is given a file; what it makes is used a little.
type Parse = fn(Vec<u8>) -> Result<()>;

fn check_bound(label: &str, parse: Parse, bytes: &[u8]) -> Result<()> {
    let input = bytes.to_vec();
    let before = NOW.get();
    PEAK.set(before);
    let result = parse(input);
    let peak = PEAK.get() - before;
    let bound = 2 * bytes.len() as isize + SLACK;
    assert!(peak <= bound, "{label}: {peak} bytes allocated for a file of {}", bytes.len());
    if let Err(error) = &result {
        match error {
            Error::Format { field, detail, .. } => {
                assert!(!field.is_empty() && !detail.is_empty(), "{label}: {error}");
            }
            Error::Unsupported { .. } | Error::Missing { .. } => {}
            other => panic!("{label}: {other:?}"),
        }
    }
    result
}

/// Every truncation within the first 4 KiB is refused, and so is the last byte's.
fn cut_everywhere(label: &str, parse: Parse, file: &[u8]) {
    assert!(file.len() > 4096, "{label}: the file has only {} bytes", file.len());
    // Tables that are made once for the whole process do not count.
    parse(file.to_vec()).unwrap_or_else(|error| panic!("{label}: {error}"));
    check_bound(label, parse, file).unwrap();
    for end in (0..4096).chain([file.len() - 1]) {
        let label = format!("{label} cut at {end}");
        assert!(check_bound(&label, parse, &file[..end]).is_err(), "{label}: accepted");
    }
}

/// Knuth's MMIX generator; the top bits.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// One to four changes, most of them in the first `head` bytes, where the descriptions are.
    fn mutate(&mut self, file: &[u8], head: usize) -> Vec<u8> {
        let mut bytes = file.to_vec();
        for _ in 0..=self.below(4) {
            let end = if self.below(8) > 0 { head.min(bytes.len()) } else { bytes.len() };
            let at = self.below(end);
            let len = self.below(24).min(bytes.len() - at);
            match self.below(8) {
                0 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
                1 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = self.below(256) as u8),
                2 | 3 => {
                    let number: u64 = *self.pick(&[
                        &0,
                        &1,
                        &0x7fff_ffff,
                        &0x8000_0000,
                        &0xffff_ffff,
                        &(1 << 40),
                        &(u64::MAX / 2),
                        &u64::MAX,
                    ]);
                    let width = *self.pick(&[&4, &8]);
                    let number = &number.to_le_bytes()[..width];
                    bytes[at..].iter_mut().zip(number).for_each(|(byte, new)| *byte = *new);
                }
                4 => drop(bytes.drain(at..at + len)),
                5 => {
                    let copy = bytes[at..at + len].to_vec();
                    bytes.splice(at..at, copy);
                }
                6 => {
                    let from = self.below(bytes.len());
                    let len = len.min(bytes.len() - from);
                    let copy = bytes[from..from + len].to_vec();
                    bytes.splice(at..at + len, copy);
                }
                _ => {
                    let text = self.pick(&[
                        "18446744073709551616",
                        "-1",
                        "1e999",
                        "0",
                        "4294967295",
                        "null",
                        "[[[[",
                        "{}",
                        "\"",
                        "\\ud800",
                        ",",
                        "\u{fffd}",
                    ]);
                    bytes.splice(at..at + len, text.bytes());
                }
            }
        }
        bytes
    }
}

fn mutate_often(label: &str, parse: Parse, file: &[u8], head: usize) {
    let mut accepted = 0;
    for seed in 0..MUTATIONS {
        let bytes = Random(seed).mutate(file, head);
        accepted += u64::from(check_bound(&format!("{label} seed {seed}"), parse, &bytes).is_ok());
    }
    println!("{label}: {accepted} of {MUTATIONS} mutations are still files");
    assert!(accepted < MUTATIONS / 2, "{label}: mutations hardly matter");
}

/// Byte-level tokens: 256 bytes and some pairs.
fn byte_words() -> Vec<String> {
    let own = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0x100..0x144).filter_map(char::from_u32);
    let bytes = (0..256).filter(own).filter_map(char::from_u32).chain(others);
    let pairs = ["th", "he", "in", "er", "an", "the", "ing", "and"];
    bytes.map(String::from).chain(pairs.map(String::from)).collect()
}

const MERGES: [&str; 8] = ["t h", "h e", "i n", "e r", "a n", "th e", "in g", "an d"];

fn decoder_tensors(layers: usize) -> Vec<(String, Vec<usize>)> {
    let mut list = vec![("token_embd.weight".into(), vec![264, 4])];
    for layer in 0..layers {
        for (name, shape) in [
            ("attn_norm", &[4][..]),
            ("attn_q", &[4, 4]),
            ("attn_k", &[2, 4]),
            ("attn_v", &[2, 4]),
            ("attn_output", &[4, 4]),
            ("ffn_norm", &[4]),
            ("ffn_gate", &[6, 4]),
            ("ffn_up", &[6, 4]),
            ("ffn_down", &[4, 6]),
        ] {
            list.push((format!("blk.{layer}.{name}.weight"), shape.to_vec()));
        }
    }
    list.push(("output_norm.weight".into(), vec![4]));
    list
}

/// A GGUF model with its tokenizer, and where its data begins.
fn gguf_file() -> (Vec<u8>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut header = Header::new();
    header.set("general.architecture", "llama");
    for (name, value) in [
        ("context_length", 64_u32),
        ("embedding_length", 4),
        ("block_count", 2),
        ("feed_forward_length", 6),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        header.set(&format!("llama.{name}"), value);
    }
    let words = byte_words();
    header.set("tokenizer.ggml.model", "gpt2");
    header.set("tokenizer.ggml.pre", "gpt-2");
    header.set("tokenizer.ggml.merges", &MERGES[..]);
    header.set("tokenizer.ggml.token_type", &vec![1_i32; words.len()][..]);
    header.set("tokenizer.ggml.tokens", &words[..]);
    let tensors = decoder_tensors(2);
    for (name, shape) in &tensors {
        header.tensor(name, DType::F32, shape).unwrap();
    }
    let data = header.data_bytes() as usize;
    let mut writer = header.create(&path).unwrap();
    for (_, shape) in &tensors {
        writer.write(&vec![0; 4 * shape.iter().product::<usize>()]).unwrap();
    }
    writer.finish().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let head = bytes.len() - data;
    // The padding after the last tensor need not be there.
    bytes.truncate(bytes.len() - 16);
    (bytes, head)
}

fn parse_model(bytes: Vec<u8>) -> Result<()> {
    let file = ModelFile::parse(bytes)?;
    let touched: usize = file.tensors().map(|tensor| tensor.data.len() + tensor.name.len()).sum();
    assert!(touched > 0);
    Ok(())
}

/// A GGUF file with the tokenizer in it.
fn parse_gguf(bytes: Vec<u8>) -> Result<()> {
    try_tokenizer(&ModelFile::parse(bytes)?.tokenizer(None)?);
    Ok(())
}

fn try_tokenizer(tokenizer: &Tokenizer) {
    for text in ["the thing and 12 <s> </s>\n玉山🦙", " ", ""] {
        let ids = tokenizer.encode(text, Special::Parse, Ends::Declared);
        tokenizer.decode(&ids, Special::Parse);
    }
}

#[test]
fn gguf() {
    let (file, head) = gguf_file();
    cut_everywhere("GGUF", parse_gguf, &file);
    mutate_often("GGUF", parse_gguf, &file, head);
}

fn llama2c_file(version: i32) -> Vec<u8> {
    // dim, ffn, layers, heads, kv heads, vocabulary, context
    let sizes: Vec<u8> =
        [4_i32, 6, 2, 2, 1, 264, 16].iter().flat_map(|n| n.to_le_bytes()).collect();
    let floats: usize =
        decoder_tensors(2).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let (mut bytes, tables) = match version {
        0 => (sizes, 16 * 2),
        _ => {
            let magic = [0x616b_3432_u32.to_le_bytes(), version.to_le_bytes()].concat();
            let mut head = [&magic[..], &sizes, &[1]].concat();
            head.resize(256, 0);
            (head, 0)
        }
    };
    bytes.resize(bytes.len() + 4 * (floats + tables), 0);
    bytes
}

#[test]
fn llama2c() {
    for version in [0, 1] {
        let label = format!("llama2.c version {version}");
        let file = llama2c_file(version);
        cut_everywhere(&label, parse_model, &file);
        mutate_often(&label, parse_model, &file, 37);
    }
}

/// A `config.json`, its length in 4 bytes before it, then a safetensors file.
fn folder_file() -> (Vec<u8>, usize) {
    let filler = "x".repeat(1500);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4,
        "intermediate_size": 6, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 264, "rms_norm_eps": 1e-5, "head_dim": 2,
        "max_position_embeddings": 64, "tie_word_embeddings": true, "hidden_act": "silu",
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        "_comment": filler,
    })
    .to_string();
    let (mut entries, mut offset) = (serde_json::Map::new(), 0);
    for (name, shape) in decoder_tensors(4) {
        let mut name = name.replace("blk.", "model.layers.");
        for (here, there) in [
            ("token_embd", "model.embed_tokens"),
            ("output_norm", "model.norm"),
            ("attn_norm", "input_layernorm"),
            ("attn_output", "self_attn.o_proj"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ] {
            name = name.replace(here, there);
        }
        let end = offset + 4 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]});
        entries.insert(name, entry);
        offset = end;
    }
    let header = serde_json::Value::Object(entries).to_string();
    let mut bytes = (config.len() as u32).to_le_bytes().to_vec();
    bytes.extend(config.as_bytes());
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    let head = bytes.len();
    bytes.resize(head + offset, 0);
    (bytes, head)
}

fn parse_folder(mut bytes: Vec<u8>) -> Result<()> {
    let length = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let end = length.saturating_add(4).min(bytes.len());
    let tensors = bytes.split_off(end);
    let file = ModelFile::parse_safetensors(&bytes[4.min(end)..], vec![tensors])?;
    assert!(file.tensors().all(|tensor| (tensor.data.as_ptr() as usize).is_multiple_of(4)));
    Ok(())
}

#[test]
fn safetensors_and_config() {
    let (file, head) = folder_file();
    cut_everywhere("safetensors", parse_folder, &file);
    mutate_often("safetensors", parse_folder, &file, head);
}

fn llama2c_tokenizer_file() -> Vec<u8> {
    let mut bytes = 27_u32.to_le_bytes().to_vec();
    for token in 0..512_u32 {
        let piece = match token {
            0 => "<unk>".to_string(),
            1 => "\n<s>\n".into(),
            2 => "\n</s>\n".into(),
            3..259 => format!("<0x{:02X}>", token - 3),
            _ => format!(
                " {}",
                &"thingandwordsometimes"[token as usize % 9..][..token as usize % 7 + 1]
            ),
        };
        bytes.extend((-(token as f32)).to_le_bytes());
        bytes.extend((piece.len() as u32).to_le_bytes());
        bytes.extend(piece.as_bytes());
    }
    bytes
}

#[test]
fn llama2c_tokenizer() {
    let parse: Parse = |bytes| {
        try_tokenizer(&Tokenizer::from_llama2c(&bytes, 512)?);
        Ok(())
    };
    let file = llama2c_tokenizer_file();
    cut_everywhere("llama2.c tokenizer", parse, &file);
    mutate_often("llama2.c tokenizer", parse, &file, file.len());
    for count in [0, 1, 511, 513, usize::MAX] {
        let error = Tokenizer::from_llama2c(&file, count).err().expect("another number of tokens");
        assert!(matches!(error, Error::Format { .. }), "{count}: {error}");
    }
}

fn tokenizer_json() -> Vec<u8> {
    let words = byte_words();
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), id.into())).collect();
    json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 264, "content": "<s>", "special": true, "lstrip": false, "rstrip": true},
            {"id": 265, "content": "</s>", "special": true},
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": MERGES},
        "comment": "x".repeat(1500),
    })
    .to_string()
    .into_bytes()
}

#[test]
fn tokenizer_json_files() {
    let parse: Parse = |bytes| {
        try_tokenizer(&Tokenizer::from_tokenizer_json(&bytes, None)?);
        Ok(())
    };
    let file = tokenizer_json();
    cut_everywhere("tokenizer.json", parse, &file);
    mutate_often("tokenizer.json", parse, &file, file.len());
}

/// Tokens and the merges that make them, as dense as a file can have them: three or four bytes each.
fn dense_words(count: usize) -> (Vec<String>, Vec<String>) {
    let letters = || ('a'..='z').map(String::from);
    let (mut words, mut merges) = (byte_words()[..256].to_vec(), Vec::new());
    let mut level: Vec<String> = letters().collect();
    while words.len() < count {
        let longer = level.iter().flat_map(|word| letters().map(move |b| (word.clone(), b)));
        let longer: Vec<_> = longer.take(count - words.len()).collect();
        merges.extend(longer.iter().map(|(word, letter)| format!("{word} {letter}")));
        level = longer.iter().map(|(word, letter)| format!("{word}{letter}")).collect();
        words.extend(level.iter().cloned());
    }
    (words, merges)
}

/// The densest tokenizers need tables of 2.4 times their file; real files have longer tokens.
#[test]
fn tables_of_dense_tokenizers_are_bounded() {
    let (words, merges) = dense_words(20_000);
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), id.into())).collect();
    let json = json!({
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    let mut llama2c = 27_u32.to_le_bytes().to_vec();
    for word in &words {
        llama2c.extend(0_f32.to_le_bytes());
        llama2c.extend((word.len() as u32).to_le_bytes());
        llama2c.extend(word.as_bytes());
    }
    let (json, tokens) = (json.to_string().into_bytes(), words.len());
    type Read<'a> = &'a dyn Fn() -> Result<Tokenizer>;
    for (label, size, read) in [
        ("json", json.len(), (&|| Tokenizer::from_tokenizer_json(&json, None)) as Read<'_>),
        ("llama2.c", llama2c.len(), &|| Tokenizer::from_llama2c(&llama2c, tokens)),
    ] {
        let before = NOW.get();
        PEAK.set(before);
        let tokenizer = read().unwrap();
        let ratio = (PEAK.get() - before) as f64 / size as f64;
        println!("{label}: {ratio:.2} × the file for {} tokens", tokenizer.vocabulary_size());
        assert!(ratio < 2.5, "{label}: {ratio}");
    }
}
