//! Vocabularies of OpenAI.

use super::*;

fn gpt2() -> Option<Tokenizer> {
    let encoder = read_shared("tokenizers/gpt2/encoder.json")?;
    let merges = read_shared("tokenizers/gpt2/vocab.bpe")?;
    Some(Tokenizer::from_gpt2(&encoder, &merges).unwrap())
}

fn ranks(name: &str, pre_tokenizer: &str) -> Option<Tokenizer> {
    let file = read_shared(&format!("tokenizers/tiktoken/{name}.tiktoken"))?;
    let pre_tokenizer = PreTokenizer::new(pre_tokenizer).unwrap();
    Some(Tokenizer::from_tiktoken(&file, pre_tokenizer, &["<|endoftext|>"]).unwrap())
}

#[test]
fn ids_equal_llama_cpp_for_gpt_2_from_all_its_files() {
    check_ggml("gpt-2", gpt2());
    check_ggml("gpt-2", ranks("r50k_base", "gpt-2"));
}

#[test]
fn the_end_of_a_text_is_known() {
    for tokenizer in [gpt2(), ranks("r50k_base", "gpt-2")].into_iter().flatten() {
        assert_eq!(tokenizer.roles().eos, Some(50256));
        assert_eq!(tokenizer.encode("<|endoftext|>", Special::Parse, Ends::Bare), [50256]);
        // GGUF needs merges, and ranks have none.
        let written = tokenizer.write_gguf(50257, &mut crate::gguf::Header::new());
        assert_eq!(written.is_ok(), tokenizer.merger.pairs().is_some());
    }
}

/// Recorded with tiktoken 0.12: `Encoding.encode_ordinary` of `cl100k_base`.
#[test]
fn ids_equal_tiktokens() {
    let Some(tokenizer) = ranks("cl100k_base", "llama3") else { return };
    let cases: [(&str, &[u32]); 5] = [
        ("hello world", &[15339, 1917]),
        (
            "It's 12345 o'clock…\r\n\r\n  ",
            &[2181, 596, 220, 4513, 1774, 297, 63510, 1981, 881, 256],
        ),
        ("🦙 naïve café\t\t x", &[9468, 99, 247, 95980, 588, 53050, 298, 865]),
        ("aaaaaaaaaaaaaaaaaaaaaaab  ", &[70540, 70540, 29558, 5418, 370, 256]),
        (
            "WE'LL go'S ſ'ſ 3.14159",
            &[12739, 6, 4178, 733, 13575, 27006, 123, 6, 129, 123, 220, 18, 13, 9335, 2946],
        ),
    ];
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(text, Special::AsText, Ends::Bare), ids, "{text:?}");
        let mut remembered = Vec::new();
        let mut encoder = tokenizer.encoder();
        encoder.append(text, &mut remembered);
        encoder.append(text, &mut remembered);
        assert_eq!(remembered, [ids, ids].concat(), "{text:?}");
    }
}

#[test]
fn broken_files_are_refused() {
    let check = |file: &str, wanted: &str| {
        let read = Tokenizer::from_tiktoken(file.as_bytes(), PreTokenizer::default(), &[]);
        let error = read.err().expect("it is broken").to_string();
        assert!(error.contains(wanted), "{error}");
    };
    check("", "no token");
    check("IQ== 0\n", "no token");
    check("IQ== 0\nIg==\n", "line 2");
    check("IQ== 0\nIg== 2\n", "in order");
    check("IQ== 0\n?? 1\n", "line 2");
    check(" 0\n", "line 1");
    let read = |encoder: &str, merges: &str| {
        Tokenizer::from_gpt2(encoder.as_bytes(), merges.as_bytes()).err().map(|e| e.to_string())
    };
    assert!(read("[]", "").is_some() && read("{", "").is_some());
    assert!(read("{\"a\": 0}", "a b").unwrap().contains("vocabulary"));
}
