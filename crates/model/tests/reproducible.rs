//! Invariant 7: the logits of a sequence depend on its tokens alone, bit for bit, whatever else is in
//! the batch, however its tokens are cut into chunks, however many threads run, and whether a prefix
//! came from the cache, a fork, a truncation, a file on disk, or fresh prefill.

mod tiny;

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;
use yushan_abi::{Admitted, Chunk, Executor, ExecutorError, Logits, SequenceId, TokenId};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_tensor::DType;
use yushan_tensor::kv::KvType;

fn engine(dtype: DType, kv: KvType, threads: usize) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write(&path, dtype, 512);
    let file = ModelFile::open(&path).unwrap();
    let options =
        Options { threads, context: 200, sequences: 4, rows: 96, ..Options::for_file(&file) };
    Engine::load(&file, &Options { kv, ..options }).unwrap()
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|v| v.to_bits()).collect()
}

/// The logits after every token, computed one token at a time on one thread, without a cache.
struct Truth {
    engine: Engine,
    known: HashMap<Vec<TokenId>, Vec<u32>>,
}

impl Truth {
    fn after(&mut self, tokens: &[TokenId]) -> Vec<u32> {
        if let Some(known) = self.known.get(tokens) {
            return known.clone();
        }
        self.engine.clear_cache();
        let sequence = self.engine.admit("", &tokens[..1]).unwrap().sequence;
        let mut last = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            let chunk =
                Chunk { sequence, tokens: std::slice::from_ref(token), logits: Logits::Last };
            last = bits(self.engine.step(&[chunk]).unwrap().row(0));
            self.known.insert(tokens[..=at].to_vec(), last.clone());
        }
        self.engine.release(sequence).unwrap();
        last
    }
}

/// One sequence of the mixed run and what it holds.
struct Live {
    id: SequenceId,
    tokens: Vec<TokenId>,
}

/// What the run does next: a kind, which sequence, how many tokens, which tokens.
type Move = (u8, usize, usize, u32);

fn tokens(count: usize, salt: u32) -> Vec<TokenId> {
    (0..count as u32).map(|i| (i * 7 + salt * (i / 40)) % tiny::VOCABULARY as u32).collect()
}

fn run(engine: &mut Engine, truth: &mut Truth, moves: &[Move]) {
    let mut live: Vec<Live> = Vec::new();
    for &(kind, which, count, salt) in moves {
        let at = which % live.len().max(1);
        match kind {
            0 | 1 if live.len() < 4 => {
                let prompt = tokens(count + 1, salt);
                let admitted = engine.admit("", &prompt).unwrap();
                assert!(admitted.cached < prompt.len());
                live.push(Live {
                    id: admitted.sequence,
                    tokens: prompt[..admitted.cached].to_vec(),
                });
            }
            2 if !live.is_empty() && live.len() < 4 => {
                let id = engine.fork(live[at].id).unwrap();
                live.push(Live { id, tokens: live[at].tokens.clone() });
            }
            3 if !live.is_empty() => {
                let length = live[at].tokens.len() * (which % 5) / 4;
                engine.truncate(live[at].id, length).unwrap();
                live[at].tokens.truncate(length);
            }
            4 if !live.is_empty() => engine.release(live.swap_remove(at).id).unwrap(),
            _ => {}
        }
        // Every live sequence grows: one by many tokens, the others by a few.
        let grown: Vec<Vec<TokenId>> = live
            .iter()
            .enumerate()
            .map(|(i, l)| {
                let more = if i == at { count.min(60) } else { which % 3 };
                let more = more.min(160 - l.tokens.len().min(160));
                let all = tokens(l.tokens.len() + more, salt);
                all[l.tokens.len()..].to_vec()
            })
            .collect();
        let chunks: Vec<Chunk<'_>> = live
            .iter()
            .zip(&grown)
            .filter(|(_, grown)| !grown.is_empty())
            .map(|(l, grown)| Chunk {
                sequence: l.id,
                tokens: grown,
                logits: if which % 4 == 0 { Logits::All } else { Logits::Last },
            })
            .collect();
        if chunks.is_empty() {
            continue;
        }
        let output = engine.step(&chunks).unwrap();
        let mut row = 0;
        for (l, grown) in live.iter_mut().zip(&grown).filter(|(_, grown)| !grown.is_empty()) {
            let skip = if which % 4 == 0 { 0 } else { grown.len() - 1 };
            for (i, token) in grown.iter().enumerate() {
                l.tokens.push(*token);
                if i >= skip {
                    assert_eq!(
                        bits(output.row(row)),
                        truth.after(&l.tokens),
                        "after {} tokens",
                        l.tokens.len()
                    );
                    row += 1;
                }
            }
        }
        assert_eq!(row, output.rows());
    }
    for l in live {
        engine.release(l.id).unwrap();
    }
}

fn check(dtype: DType, kv: KvType) {
    let truth = RefCell::new(Truth { engine: engine(dtype, kv, 1), known: HashMap::new() });
    for threads in [1, 2] {
        let mixed = RefCell::new(engine(dtype, kv, threads));
        let moves = prop::collection::vec((0u8..7, 0usize..20, 0usize..60, 0u32..3), 1..14);
        let config = ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() };
        proptest!(config, |(moves in moves)| {
            run(&mut mixed.borrow_mut(), &mut truth.borrow_mut(), &moves);
        });
    }
}

#[test]
fn any_mix_gives_the_same_bits_with_float_weights() {
    check(DType::F16, KvType::F16);
}

#[test]
fn any_mix_gives_the_same_bits_with_short_blocks() {
    check(DType::Q8_0, KvType::F16);
    check(DType::Q4_0, KvType::Q8_0);
}

#[test]
fn any_mix_gives_the_same_bits_with_super_blocks() {
    check(DType::Q4_K, KvType::F16);
    check(DType::Q6_K, KvType::F16);
}

#[test]
fn the_bound_on_memory_is_kept_and_nothing_changes_on_refusal() {
    let mut engine = engine(DType::Q8_0, KvType::F16, 1);
    let total = engine.usage().pages_total;
    let mut open = Vec::new();
    let refusal = loop {
        let sequence = engine.admit("", &[1]).unwrap().sequence;
        open.push(sequence);
        // Different first tokens, so that nothing is shared.
        let mut tokens = tokens(96, 1);
        tokens[0] = open.len() as u32;
        let before = engine.usage();
        let chunk = Chunk { sequence, tokens: &tokens, logits: Logits::None };
        match engine.step(&[chunk]) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(engine.usage(), before);
                assert_eq!(engine.length(sequence), Ok(0));
                break error;
            }
        }
        assert!(engine.usage().pages_live <= total);
    };
    assert!(refusal.to_string().contains("KV memory is full"), "{refusal}");
    assert_eq!(open.len(), total / 3 + 1);
    for sequence in open {
        engine.release(sequence).unwrap();
    }
    let usage = engine.usage();
    assert_eq!((usage.pages_live, usage.sequences), (0, 0));
    assert!(usage.pages_cached > 0);
}

/// Feeds a prompt of this tenant from where its cache ends.
fn read(engine: &mut Engine, tenant: &str, prompt: &[TokenId]) -> (SequenceId, usize) {
    let Admitted { sequence, cached } = engine.admit(tenant, prompt).unwrap();
    engine.step(&[Chunk { sequence, tokens: &prompt[cached..], logits: Logits::None }]).unwrap();
    (sequence, cached)
}

/// The logits after one more token.
fn next(engine: &mut Engine, sequence: SequenceId, token: TokenId) -> Vec<u32> {
    let chunk = Chunk { sequence, tokens: &[token], logits: Logits::Last };
    bits(engine.step(&[chunk]).unwrap().row(0))
}

#[test]
fn a_prefix_is_found_by_its_tenant_alone_and_the_logits_are_the_same() {
    let mut engine = engine(DType::Q8_0, KvType::F16, 1);
    let prompt = tokens(75, 1);
    let (first, cached) = read(&mut engine, "ada", &prompt);
    assert_eq!(cached, 0);
    let expected = next(&mut engine, first, 7);
    let (second, cached) = read(&mut engine, "bob", &prompt);
    assert_eq!(cached, 0, "bob learns what ada has asked");
    assert_eq!(next(&mut engine, second, 7), expected);
    let (third, cached) = read(&mut engine, "ada", &prompt);
    assert_eq!(cached, 64);
    assert_eq!(next(&mut engine, third, 7), expected);
    // A saved sequence is shared with whom it comes back to.
    let saved = engine.save(third).unwrap();
    let live = engine.usage().pages_live;
    let back = engine.restore("ada", &saved).unwrap();
    assert_eq!(engine.usage().pages_live, live + 1, "two of three pages are shared");
    let other = engine.restore("eve", &saved).unwrap();
    assert_eq!(engine.usage().pages_live, live + 4, "eve shares with nobody");
    assert_eq!(engine.admit("eve", &prompt).unwrap().cached, 64);
    let expected = next(&mut engine, third, 8);
    assert_eq!(next(&mut engine, back, 8), expected);
    assert_eq!(next(&mut engine, other, 8), expected);
}

#[test]
fn forks_are_saved_and_restored_each_with_its_own_end() {
    let mut engine = engine(DType::Q4_0, KvType::Q8_0, 2);
    let prompt = tokens(70, 2);
    let (parent, _) = read(&mut engine, "", &prompt);
    let pages = engine.usage().pages_live;
    let children = [5, 6].map(|token| (token, engine.fork(parent).unwrap()));
    assert_eq!(engine.usage().pages_live, pages, "a fork copies nothing");
    for (token, child) in children {
        next(&mut engine, child, token);
    }
    let saved = children.map(|(_, child)| engine.save(child).unwrap());
    let expected = children.map(|(_, child)| next(&mut engine, child, 9));
    for (_, child) in children {
        engine.release(child).unwrap();
    }
    engine.clear_cache();
    let back = saved.map(|saved| engine.restore("", &saved).unwrap());
    assert_eq!(back.map(|child| next(&mut engine, child, 9)), expected);
    for sequence in back.into_iter().chain([parent]) {
        engine.release(sequence).unwrap();
    }
    engine.clear_cache();
    let usage = engine.usage();
    assert_eq!((usage.pages_live, usage.pages_cached, usage.sequences), (0, 0, 0));
}

#[test]
fn a_saved_sequence_comes_back_with_the_same_bits() {
    let mut first = engine(DType::Q8_0, KvType::F16, 1);
    let prompt = tokens(75, 1);
    let (sequence, _) = read(&mut first, "", &prompt);
    let saved = first.save(sequence).unwrap();
    let expected = next(&mut first, sequence, 7);
    let mut second = engine(DType::Q8_0, KvType::F16, 2);
    let restored = second.restore("", &saved).unwrap();
    assert_eq!(second.length(restored), Ok(75));
    assert_eq!(next(&mut second, restored, 7), expected);
    // Its full pages are a prefix that others find.
    assert_eq!(second.admit("", &prompt).unwrap().cached, 64);

    // Another model, damage anywhere, and too little memory are refused, and leave nothing behind.
    let mut other = engine(DType::Q4_0, KvType::F16, 1);
    let error = other.restore("", &saved).unwrap_err().to_string();
    assert!(error.contains("model: 0x"), "{error}");
    let mut third = engine(DType::Q8_0, KvType::F16, 1);
    for at in (0..saved.len()).step_by(saved.len() / 97).chain(0..64) {
        let mut damaged = saved.clone();
        damaged[at] ^= 1;
        assert!(third.restore("", &damaged).is_err(), "byte {at}");
        assert!(third.restore("", &saved[..at]).is_err(), "cut at {at}");
    }
    assert_eq!((third.usage().pages_live, third.usage().pages_cached), (0, 0));
    let refusal = loop {
        // Tenants share nothing.
        let tenant = third.usage().sequences.to_string();
        if let Err(error) = third.restore(&tenant, &saved) {
            break error;
        }
    };
    let usage = third.usage();
    let asked = ExecutorError::OutOfPages {
        asked: 3,
        available: usage.pages_total - usage.pages_live,
        total: usage.pages_total,
    };
    assert_eq!(refusal, asked);
    assert_eq!(usage.sequences, usage.pages_total / 3);
}

#[test]
fn an_embedding_has_the_same_bits_however_it_is_cut_and_whatever_runs_beside_it() {
    let prompt = tokens(75, 1);
    let mut expected = None;
    for (threads, cut, beside) in [(1, 75, 0), (1, 1, 0), (2, 32, 5), (2, 7, 20), (1, 40, 1)] {
        let mut engine = engine(DType::Q8_0, KvType::F16, threads);
        // Its prefix is in the cache, where there are no states.
        let other = engine.admit("", &prompt).unwrap().sequence;
        engine.step(&[Chunk { sequence: other, tokens: &prompt, logits: Logits::None }]).unwrap();
        let admitted = engine.admit("", &prompt).unwrap();
        assert_eq!(admitted.cached, 64);
        let sequence = admitted.sequence;
        engine.truncate(sequence, 0).unwrap();
        let more = tokens(beside, 2);
        for chunk in prompt.chunks(cut) {
            let pooled = Chunk { sequence, tokens: chunk, logits: Logits::Pooled };
            engine.truncate(other, 75).unwrap();
            let others = Chunk { sequence: other, tokens: &more, logits: Logits::All };
            let batch = if more.is_empty() { vec![pooled] } else { vec![others, pooled] };
            assert_eq!(engine.step(&batch).unwrap().rows(), beside);
            // Tokens that are not pooled may come and go.
            let length = engine.length(sequence).unwrap();
            engine.step(&[Chunk { sequence, tokens: &[7], logits: Logits::None }]).unwrap();
            engine.truncate(sequence, length).unwrap();
        }
        let found = bits(&engine.pooled(sequence).unwrap());
        assert_eq!(expected.get_or_insert(found.clone()), &found, "{cut} beside {beside}");

        // Only some of its tokens, or none any more.
        engine.step(&[Chunk { sequence, tokens: &[7], logits: Logits::Last }]).unwrap();
        let error = engine.pooled(sequence).unwrap_err().to_string();
        assert!(error.starts_with("75 of the 76 tokens"), "{error}");
        engine.step(&[Chunk { sequence, tokens: &[7], logits: Logits::Pooled }]).unwrap();
        let error = engine.pooled(sequence).unwrap_err().to_string();
        assert!(error.starts_with("75 of the 77 tokens"), "{error}");
        engine.truncate(sequence, 20).unwrap();
        let error = engine.pooled(sequence).unwrap_err().to_string();
        assert!(error.starts_with("0 of the 20 tokens"), "{error}");
    }
}
