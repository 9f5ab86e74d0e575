//! Against Hugging Face's merges and ids, against a plain trainer, and what must hold of any corpus.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use yushan_model::tokenizer::{Ends, PreTokenizer, Special, Tokenizer};

use super::*;

const LIMIT: usize = 1 << 24;

/// Written by `tests/golden/bpe.py`.
#[derive(Deserialize)]
struct Golden {
    corpus: Vec<String>,
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    pre_tokenizer: String,
    vocabulary: usize,
    min_frequency: u64,
    merges: Vec<(u32, u32)>,
    ids: Vec<Vec<u32>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/golden/bpe.json")).unwrap()
}

fn options(pre_tokenizer: &str, vocabulary: usize, min_frequency: u64) -> Options {
    let pre_tokenizer = PreTokenizer::new(pre_tokenizer).unwrap();
    Options { vocabulary, pre_tokenizer, min_frequency, ..Options::default() }
}

fn trained(
    corpus: &[impl AsRef<str> + Sync],
    options: &Options,
    threads: usize,
) -> Result<Trained> {
    let texts = corpus.iter().map(AsRef::as_ref);
    train(&Words::count(texts, options.pre_tokenizer, LIMIT, threads), options)
}

#[test]
fn merges_and_ids_equal_hugging_faces() {
    let Golden { corpus, texts, cases } = golden();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let options = options(&case.pre_tokenizer, case.vocabulary, case.min_frequency);
        let trained = trained(&corpus, &options, 2).unwrap();
        assert_eq!(trained.merges(), case.merges, "{}", case.pre_tokenizer);
        let tokenizer = trained.tokenizer().unwrap();
        assert_eq!(encode_batch(&tokenizer, &texts, 2), case.ids, "{}", case.pre_tokenizer);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let mut corpus = golden().corpus;
    for _ in 0..5 {
        corpus.extend(corpus.clone());
    }
    let options = options("qwen2", 400, 2);
    let one = trained(&corpus, &options, 1).unwrap();
    let tokenizer = one.tokenizer().unwrap();
    for threads in [2, 3, 8] {
        let other = trained(&corpus, &options, threads).unwrap();
        assert_eq!(one, other, "{threads} threads");
        assert_eq!(one.to_json(), other.to_json());
        assert_eq!(
            encode_batch(&tokenizer, &corpus, 1),
            encode_batch(&tokenizer, &corpus, threads)
        );
    }
}

#[test]
fn the_files_say_what_the_tokenizer_is() {
    let trained = trained(&golden().corpus, &options("qwen2", 300, 2), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    trained.write(folder.path(), 2048).unwrap();
    let tokenizer = Tokenizer::from_hugging_face(folder.path()).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 300);
    assert_eq!((tokenizer.roles().bos, tokenizer.roles().eos), (Some(0), Some(0)));
    assert_eq!(tokenizer.token_of("<|im_end|>"), Some(2));
    assert!(tokenizer.is_end_of_generation(0) && tokenizer.is_end_of_generation(2));
    let text = "the <|im_start|>cat";
    let as_text = tokenizer.encode(text, Special::AsText, Ends::Bare);
    assert!(as_text.iter().all(|&id| id > 2), "{as_text:?}");
    assert!(tokenizer.encode(text, Special::Parse, Ends::Bare).contains(&1));
}

#[test]
fn what_cannot_be_trained_is_said() {
    let golden = golden();
    let check = |corpus: &[String], options: Options, wanted: &str| {
        let error = trained(corpus, &options, 2).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    let plain = options("qwen2", 300, 2);
    check(&[], plain.clone(), "no text");
    check(&["".into()], plain.clone(), "no text");
    check(&golden.corpus, options("qwen2", 258, 2), "need 259");
    check(&golden.corpus, options("qwen2", 0, 2), "need 259");
    check(&golden.corpus, options("qwen2", 1 << 17, 2), "only 76 merges");
    check(&["word".into()], options("qwen2", 1 << 17, 1), "only 3 merges");
    let with = |names: &[&str]| Options {
        specials: names.iter().map(|name| name.to_string()).collect(),
        ..plain.clone()
    };
    check(&golden.corpus, with(&["<|a|>", "<|a|>"]), "twice");
    check(&golden.corpus, with(&["the"]), "merged from ordinary text");
    check(&golden.corpus, with(&[""]), "merged from ordinary text");
    let error = PreTokenizer::new("(a+").unwrap_err().to_string();
    assert!(error.contains("(a+") && error.contains("qwen2"), "{error}");
}

#[test]
fn a_run_without_a_boundary_is_bounded() {
    let options = options("qwen2", 300, 2);
    let giant = "ab".repeat(200_000);
    let trained = trained(&[giant.as_str()], &Options { vocabulary: 270, ..options }, 1).unwrap();
    let tokenizer = trained.tokenizer().unwrap();
    let ids = tokenizer.encode(&giant, Special::AsText, Ends::Bare);
    assert!(ids.len() < giant.len() / 100, "{} ids", ids.len());
    assert_eq!(tokenizer.decode(&ids, Special::AsText), giant);
}

#[test]
fn rare_words_are_forgotten_when_memory_ends() {
    let limit = 64 << 10;
    let mut words = Words::new(PreTokenizer::default(), limit);
    for number in 0..20_000_u32 {
        let name: String =
            number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
        words.add(&format!("common {name}"));
    }
    assert!(words.forgotten() > 10_000, "{}", words.forgotten());
    assert!(words.len() < limit / 64, "{}", words.len());
    assert_eq!(words.sorted()[0], ("common", 20_000));
}

#[test]
fn evaluation_counts_what_is_there() {
    let trained = trained(&golden().corpus, &options("qwen2", 300, 2), 1).unwrap();
    let tokenizer = trained.tokenizer().unwrap();
    let texts = ["the 12 cats\n\n", "the the"];
    let row = evaluate(&tokenizer, texts.iter(), 2).unwrap();
    let tokens: usize = encode_batch(&tokenizer, &texts, 1).iter().map(Vec::len).sum();
    assert_eq!((row.bytes, row.words, row.tokens), (20, 5, tokens as u64));
    assert_eq!((row.vocabulary, row.digits), (300, 2));
    assert!(row.spaces >= 1 && row.used > 4);
    assert!(table(&[("ours".into(), "two".into(), row)]).contains("| ours | 300 | two |"));
    assert!(evaluate(&tokenizer, [""].iter(), 1).is_err());
}

/// The definition, word by word: count all pairs, merge the most frequent, begin again.
fn plain(words: &BTreeMap<Vec<u8>, u64>, room: usize, least: u64) -> Vec<(u32, u32)> {
    let mut ids = [0; 256];
    merges::alphabet().zip(0..).for_each(|(byte, id)| ids[byte as usize] = id);
    let mut words: Vec<(Vec<u32>, u64)> = words
        .iter()
        .map(|(word, &count)| (word.iter().map(|&byte| ids[byte as usize]).collect(), count))
        .collect();
    let mut merges: Vec<(u32, u32)> = Vec::new();
    for new in 256..256 + room as u32 {
        let mut counts: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (word, count) in &words {
            word.windows(2)
                .for_each(|pair| *counts.entry((pair[0], pair[1])).or_default() += count);
        }
        let best = counts.into_iter().filter(|(_, count)| *count >= least);
        // Of equal counts the first pair.
        let Some((pair, _)) = best.reduce(|a, b| if b.1 > a.1 { b } else { a }) else { break };
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == pair {
                    word.splice(at..at + 2, [new]);
                }
                at += 1;
            }
        }
        merges.push(pair);
    }
    merges
}

proptest! {
    /// Words without a letter twice in a row: for runs (`aaa`) the count of what is left of a pair is
    /// Hugging Face's, and the golden file is the oracle.
    #[test]
    fn merges_equal_the_plain_trainers(
        words in prop::collection::btree_map("[a-f]{1,9}", 1..20_u64, 1..30),
        least in 1..4_u64,
    ) {
        let words: BTreeMap<Vec<u8>, u64> = words
            .into_iter()
            .map(|(word, count)| {
                let mut word = word.into_bytes();
                word.dedup();
                (word, count)
            })
            .collect();
        let list: Vec<(&str, u64)> = words
            .iter()
            .map(|(word, count)| (std::str::from_utf8(word).unwrap(), *count))
            .collect();
        let learnt = merges::learn(list, &[], 60, least).unwrap();
        let plain = plain(&words, 60, least);
        prop_assert_eq!(&learnt.merges[..], &plain[..]);
    }

    #[test]
    fn any_text_comes_back(texts in prop::collection::vec("\\PC*|[ab \\r\\n\\t0-9'’sſé山\u{0301}🦙]{0,40}", 1..6)) {
        let golden = golden();
        for name in PreTokenizer::names() {
            let trained = trained(&golden.corpus, &options(name, 300, 2), 1).unwrap();
            let tokenizer = trained.tokenizer().unwrap();
            let batch = encode_batch(&tokenizer, &texts, 2);
            for (text, ids) in texts.iter().zip(batch) {
                prop_assert_eq!(&tokenizer.encode(text, Special::AsText, Ends::Bare), &ids);
                prop_assert_eq!(&tokenizer.decode(&ids, Special::AsText), text);
            }
        }
    }
}
