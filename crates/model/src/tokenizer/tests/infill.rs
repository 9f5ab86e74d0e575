//! Which tokens mark a gap, in which order they stand, that they end answers, and that nobody can
//! write them.

use super::*;
use crate::gguf::{Gguf, Header};

const QWEN: &[&str] = &[
    "<|endoftext|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// A SentencePiece vocabulary in GGUF: 0 to 2 unknown, BOS and EOS, `3 + b` byte `b`, then `▁`, then
/// these with their types (3 control, 4 user-defined, 1 text).
fn pieces(more: &[(&str, i32)], keys: &[(&str, u32)]) -> crate::Result<Tokenizer> {
    let mut tokens = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("▁".into());
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.push(1);
    for &(text, kind) in more {
        tokens.push(text.into());
        types.push(kind);
    }
    let mut header = Header::new();
    header.set("tokenizer.ggml.model", "llama");
    header.set("tokenizer.ggml.tokens", tokens.as_slice());
    header.set("tokenizer.ggml.token_type", types.as_slice());
    header.set("tokenizer.ggml.scores", vec![0.0_f32; tokens.len()].as_slice());
    for (name, id) in keys {
        header.set(&format!("tokenizer.ggml.{name}_token_id"), *id);
    }
    reopened(header)
}

fn reopened(header: Header) -> crate::Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.gguf");
    header.create(&path)?.finish()?;
    Tokenizer::from_gguf(Gguf::open(&path)?.metadata())
}

/// The first id behind the bytes and `▁`.
const NEW: TokenId = 260;
const SPACE: TokenId = 259;

fn byte(of: u8) -> TokenId {
    3 + TokenId::from(of)
}

#[test]
fn a_gap_is_marked_as_each_family_was_trained() {
    let [a, b] = [TokenId::from(b'a'), TokenId::from(b'b')];
    // Ids from 256 on, in the order of the file; the second name is EOS.
    for (specials, words, expected) in [
        (QWEN, &[][..], Some(vec![258, a, 259, b, 260])),
        // As Qwen's tokenizer.json has them.
        (&QWEN[..2], &QWEN[2..], Some(vec![258, a, 259, b, 260])),
        (&["<fim_middle>", "<fim_suffix>", "<fim_prefix>"], &[], Some(vec![258, a, 257, b, 256])),
        (
            &["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"],
            &[],
            Some(vec![257, a, 256, b, 258]),
        ),
        (
            &["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
            &[],
            Some(vec![256, a, 257, b, 258]),
        ),
        (&["<s>", "</s>", "[SUFFIX]", "[PREFIX]"], &[], Some(vec![258, b, 259, a])),
        // Never two families, and never a part of one.
        (&["<fim_prefix>", "<fim-suffix>", "<fim_middle>"], &[], None),
        (&["<|fim_prefix|>", "<|fim_suffix|>"], &[], None),
        (&["[SUFFIX]", "[MIDDLE]"], &[], None),
        (&["<s>", "</s>"], &["fim_prefix", "fim_suffix", "fim_middle"], None),
    ] {
        let tokenizer = bytes_and(specials, words);
        assert_eq!(tokenizer.encode_infill("a", "b"), expected, "{specials:?} {words:?}");
    }
    let qwen = bytes_and(&QWEN[..2], &QWEN[2..]);
    assert_eq!(qwen.encode_infill("", "b"), Some(vec![258, 259, b, 260]));
    // Markers that somebody writes are text, on both sides of the gap.
    let written = "<|fim_middle|><|endoftext|>";
    let bytes = || written.bytes().map(TokenId::from);
    let expected = [258].into_iter().chain(bytes()).chain([259]).chain(bytes()).chain([260]);
    assert_eq!(qwen.encode_infill(written, written), Some(expected.collect()));
    let ends: Vec<TokenId> = (256..264).filter(|&id| qwen.is_end_of_generation(id)).collect();
    assert_eq!(ends, [256, 257, 261, 262, 263]);
    assert!((258..264).all(|id| qwen.is_special(id)));
}

#[test]
fn pieces_of_the_suffix_go_on_without_a_space() {
    let code_llama = [("▁<PRE>", 4), ("▁<MID>", 4), ("▁<SUF>", 4), ("▁<EOT>", 4)];
    let expected = vec![1, NEW, SPACE, byte(b'a'), NEW + 2, byte(b'b'), NEW + 1];
    for kind in [3, 4] {
        let tokenizer = pieces(&code_llama.map(|(text, _)| (text, kind)), &[]).unwrap();
        assert_eq!(tokenizer.encode_infill("a", "b").as_ref(), Some(&expected));
        assert!(tokenizer.is_end_of_generation(NEW + 3));
        // `▁` is a space in text, and a marker none the less.
        let ids = tokenizer.encode("x <PRE> y <EOT>", Special::AsText, Ends::Bare);
        assert!(ids.iter().all(|&id| id < NEW), "{ids:?}");
    }
    // A space that stands in the suffix stays.
    let tokenizer = pieces(&code_llama, &[]).unwrap();
    let spaced = vec![1, NEW, NEW + 2, SPACE, byte(b'b'), NEW + 1];
    assert_eq!(tokenizer.encode_infill("", " b"), Some(spaced));
}

#[test]
fn the_keys_of_gguf_go_before_the_texts() {
    let named = [("<fim_prefix>", 3), ("<fim_suffix>", 3), ("<fim_middle>", 3), ("<a>", 3)];
    let plain: Vec<(&str, i32)> = ["<p>", "<q>", "<r>", "<s2>"].map(|text| (text, 3)).to_vec();
    let gap = |order: [TokenId; 3]| {
        let [prefix, suffix, middle] = order.map(|at| NEW + at);
        Some(vec![1, prefix, SPACE, byte(b'a'), suffix, byte(b'b'), middle])
    };
    let (new, old) = (["fim_pre", "fim_suf", "fim_mid"], ["prefix", "suffix", "middle"]);
    for (tokens, names, ids, expected) in [
        (&named[..], &[][..], &[][..], gap([0, 1, 2])),
        (&named, &new[..1], &[3], gap([3, 1, 2])),
        (&plain, &new, &[2, 0, 1], gap([2, 0, 1])),
        (&plain, &old, &[2, 0, 1], gap([2, 0, 1])),
        (&plain, &new[..2], &[2, 0], None),
        (&plain, &[], &[], None),
    ] {
        let keys = names.iter().zip(ids).map(|(name, id)| (*name, NEW + id));
        let keys: Vec<_> = keys.collect();
        let tokenizer = pieces(tokens, &keys).unwrap();
        assert_eq!(tokenizer.encode_infill("a", "b"), expected, "{keys:?}");
    }
    let ends = [("fim_pad", NEW), ("fim_rep", NEW + 1), ("fim_sep", NEW + 2)];
    let tokenizer = pieces(&plain, &ends).unwrap();
    assert_eq!(tokenizer.ends_of_generation(), [2, NEW, NEW + 1, NEW + 2]);
    let bad = pieces(&plain, &[("fim_pre", 9999)]).err().expect("no such token").to_string();
    assert!(bad.contains("fim_pre_token_id") && bad.contains("9999"), "{bad}");
}

#[test]
fn what_marks_a_gap_is_written_into_gguf() {
    for tokenizer in [
        bytes_and(&QWEN[..2], &QWEN[2..]),
        bytes_and(&["<s>", "</s>", "[SUFFIX]", "[PREFIX]"], &[]),
        bytes_and(&["<s>", "</s>"], &[]),
    ] {
        let mut header = Header::new();
        let notes = tokenizer.write_gguf(tokenizer.vocabulary_size(), &mut header).unwrap();
        assert_eq!(notes, [""; 0]);
        let again = reopened(header).unwrap();
        assert_eq!(again.roles(), tokenizer.roles());
        assert_eq!(again.ends_of_generation(), tokenizer.ends_of_generation());
        assert_eq!(again.encode_infill("a", "b"), tokenizer.encode_infill("a", "b"));
    }
}

/// The ids that the models' own files give these tokens.
#[test]
fn real_vocabularies_fill_in_the_middle() {
    for (name, markers) in [
        ("starcoder", Some([1, 3, 2])),
        ("deepseek-coder", Some([32016, 32015, 32017])),
        ("llama-spm", None),
        ("gpt-2", None),
    ] {
        let Some(tokenizer) = shared::ggml_vocab(name) else { continue };
        let text = |text| tokenizer.encode(text, Special::AsText, Ends::Bare);
        let expected = markers.map(|[prefix, suffix, middle]| {
            let bos = tokenizer.roles().bos.filter(|_| tokenizer.adds_bos());
            let before = [vec![prefix], text("def f(a):\n    ")].concat();
            let after = [vec![suffix], text("\n    return b"), vec![middle]].concat();
            bos.into_iter().chain(before).chain(after).collect::<Vec<_>>()
        });
        let got = tokenizer.encode_infill("def f(a):\n    ", "\n    return b");
        assert_eq!(got, expected, "{name}");
    }
}
