//! Against the scripted executor: no weights, the same contract.

use proptest::prelude::*;
use yushan_abi::scripted::Scripted;

use super::*;
use crate::grammar::{Grammar, GrammarEngine};
use crate::tokenizer::test_tokenizer;

const A: TokenId = 3 + b'a' as TokenId;
const END: TokenId = 2;

fn ids(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| 3 + TokenId::from(byte)).collect()
}

fn vocabulary() -> usize {
    test_tokenizer().vocabulary_size()
}

type Script = Box<dyn FnMut(&[TokenId], &mut [f32]) + Send>;

/// Says `text` after a prompt of `prompt` tokens, then ends.
fn says(text: &str, prompt: usize) -> Script {
    let tokens = ids(text);
    Box::new(move |history, logits| {
        let at = history.len().saturating_sub(prompt);
        let token = tokens.get(at).copied().unwrap_or(END);
        logits[token as usize] = 10.0;
    })
}

/// A model that depends on its last `order` tokens only, and prefers `favourites` ids.
fn random_model(seed: u64, order: usize, favourites: usize) -> Script {
    Box::new(move |history, logits| {
        let mut state = seed;
        let mut mix = |value: u64| {
            state = (state ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            state
        };
        history[history.len().saturating_sub(order)..].iter().for_each(|&t| {
            mix(u64::from(t));
        });
        for (at, logit) in logits.iter_mut().enumerate() {
            let bonus = if (A as usize..A as usize + favourites).contains(&at) { 6.0 } else { 0.0 };
            *logit = (mix(at as u64) >> 40) as f32 / (1 << 22) as f32 + bonus;
        }
    })
}

/// Runs a request and checks what must hold of every one.
fn run(
    script: Script,
    context: usize,
    draft: Option<Script>,
    request: Request<'_>,
) -> Result<(Outcome, Vec<String>)> {
    let tokenizer = test_tokenizer();
    let mut executor = Scripted::new(vocabulary(), context, script);
    let mut draft = draft.map(|script| Scripted::new(vocabulary(), context, script));
    let (mut pieces, mut tokens) = (Vec::new(), Vec::new());
    let outcome = generate(
        &mut executor,
        draft.as_mut().map(|draft| draft as &mut dyn Executor),
        &tokenizer,
        request,
        &mut |event| {
            if let Event::Token { id, text, .. } = event {
                tokens.push(id);
                pieces.push(text.to_string());
            }
            ControlFlow::Continue(())
        },
    );
    assert_eq!(executor.usage().sequences, 0, "the sequence is released");
    assert_eq!(draft.map_or(0, |draft| draft.usage().sequences), 0, "and the draft's");
    let outcome = outcome?;
    assert_eq!(outcome.text, pieces.concat());
    assert_eq!(outcome.tokens, tokens);
    assert_eq!(outcome.counts.generated, tokens.len());
    Ok((outcome, pieces))
}

fn greedy<'a>(prompt: &'a [TokenId]) -> Request<'a> {
    Request { sampling: Sampling::greedy(), ..Request::new(prompt) }
}

#[test]
fn answers_end_for_a_reason() {
    let prompt = ids("ab");
    for (said, context, max_tokens, stops, text, finish, generated) in [
        ("hello", 64, 99, &[][..], "hello", Finish::End, 6),
        ("hello", 64, 3, &[], "hel", Finish::Length, 3),
        ("hello", 64, 0, &[], "", Finish::Length, 0),
        ("hello", 5, 99, &[], "hell", Finish::ContextFull, 4),
        ("hello", 2, 99, &[], "h", Finish::ContextFull, 1),
        ("hello\nyou", 64, 99, &["x", "\n"], "hello", Finish::Stop(1), 6),
        ("hello\nyou", 64, 99, &["lloyd"], "hello\nyou", Finish::End, 10),
        ("say lloy", 64, 8, &["lloyd"], "say lloy", Finish::Length, 8),
        ("玉山", 64, 99, &["山"], "玉", Finish::Stop(0), 6),
        ("玉山", 64, 4, &[], "玉\u{fffd}", Finish::Length, 4),
    ] {
        let stops = stops.iter().map(ToString::to_string).collect();
        let request = Request { max_tokens, stops, ..greedy(&prompt) };
        let (outcome, _) = run(says(said, 2), context, None, request).unwrap();
        assert_eq!((outcome.text.as_str(), outcome.finish), (text, finish), "{said}");
        assert_eq!(outcome.counts.generated, generated, "{said}");
        assert_eq!(outcome.counts.prompt, 2);
    }
}

#[test]
fn text_comes_in_whole_characters_and_never_too_early() {
    let prompt = ids("ab");
    let request = Request { stops: vec!["stop".into()], ..greedy(&prompt) };
    let (_, pieces) = run(says("é st", 2), 64, None, request).unwrap();
    assert_eq!(pieces, ["", "é", " ", "", "", "st"]);
}

#[test]
fn end_tokens_can_be_ignored() {
    let prompt = ids("ab");
    let request = Request { ignore_ends: true, max_tokens: 4, ..greedy(&prompt) };
    let (outcome, _) = run(says("h", 2), 64, None, request).unwrap();
    assert_eq!(outcome.tokens, [ids("h")[0], END, END, END]);
    assert_eq!((outcome.text.as_str(), outcome.finish), ("h", Finish::Length));
}

#[test]
fn bad_requests_are_refused() {
    let prompt = ids("hello");
    type Change = fn(&mut Request<'_>);
    for (change, message) in [
        ((|r| r.prompt = &[]) as Change, "prompt: no tokens; expected at least one, e.g. BOS"),
        (|r| r.stops = vec![String::new()], "stop: an empty string"),
        (|r| r.sampling.top_p = f32::NAN, "top_p: NaN; expected more than 0"),
        (|r| r.sampling.temperature = -1.0, "temperature: -1; expected 0 or more"),
        (|r| r.sampling.logit_bias = vec![(99_999, 1.0)], "logit_bias: 1 for token 99999"),
        (|r| r.speculation = Speculation::Draft { most: 3 }, "speculation: a draft model is asked"),
        (|r| r.speculation = Speculation::Draft { most: 0 }, "speculation: 0 tokens"),
    ] {
        let mut request = greedy(&prompt);
        change(&mut request);
        let error = run(says("x", 5), 64, None, request).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let error = run(says("x", 5), 4, None, greedy(&prompt)).unwrap_err().to_string();
    assert!(
        error.starts_with("the prompt has 5 tokens, but the context window holds 4"),
        "{error}"
    );
}

#[test]
fn a_draft_of_another_vocabulary_is_refused() {
    let prompt = ids("a");
    let mut executor = Scripted::new(vocabulary(), 64, says("x", 1));
    let mut draft = Scripted::new(7, 64, says("x", 1));
    let request = Request { speculation: Speculation::Draft { most: 2 }, ..greedy(&prompt) };
    let outcome =
        generate(&mut executor, Some(&mut draft), &test_tokenizer(), request, &mut |_| {
            ControlFlow::Continue(())
        });
    assert!(outcome.unwrap_err().to_string().contains("the draft model has 7 tokens"));
    assert_eq!(executor.usage().sequences, 0);
}

#[test]
fn the_callback_can_cancel_at_any_event() {
    let prompt = ids("abc");
    for stop_at in 0..8 {
        let mut executor = Scripted::new(vocabulary(), 64, says("hello", 3));
        let mut seen = 0;
        let request = Request { echo: true, ..greedy(&prompt) };
        let outcome = generate(&mut executor, None, &test_tokenizer(), request, &mut |_| {
            seen += 1;
            if seen > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(outcome.finish, Finish::Cancelled, "{stop_at}");
        assert_eq!(seen, stop_at + 1, "nothing happens after it");
        assert_eq!(executor.usage().sequences, 0);
    }
}

/// An executor with small steps and a cache that answers for the first `cached` tokens.
struct Narrow<E> {
    inner: E,
    rows: usize,
    cached: usize,
    largest: usize,
    fails_at: usize,
    /// No page is left for guesses.
    tight: bool,
    steps: usize,
}

impl<E: Executor> Executor for Narrow<E> {
    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }
    fn context(&self) -> usize {
        self.inner.context()
    }
    fn max_rows(&self) -> usize {
        self.rows
    }
    fn admit(
        &mut self,
        tenant: &str,
        prompt: &[TokenId],
    ) -> std::result::Result<yushan_abi::Admitted, yushan_abi::ExecutorError> {
        let mut admitted = self.inner.admit(tenant, prompt)?;
        admitted.cached = self.cached.min(prompt.len() - 1);
        if admitted.cached > 0 {
            let tokens = &prompt[..admitted.cached];
            let sequence = admitted.sequence;
            self.inner.step(&[Chunk { sequence, tokens, logits: Logits::None }])?;
        }
        Ok(admitted)
    }
    fn fork(
        &mut self,
        parent: SequenceId,
    ) -> std::result::Result<SequenceId, yushan_abi::ExecutorError> {
        self.inner.fork(parent)
    }
    fn step(
        &mut self,
        batch: &[Chunk<'_>],
    ) -> std::result::Result<yushan_abi::StepOutput<'_>, yushan_abi::ExecutorError> {
        self.steps += 1;
        let guessed = self.tight && batch.iter().any(|chunk| chunk.logits == Logits::All);
        if self.steps == self.fails_at || guessed {
            return Err(yushan_abi::ExecutorError::OutOfPages { asked: 1, available: 0, total: 4 });
        }
        self.largest = self.largest.max(batch.iter().map(|chunk| chunk.tokens.len()).sum());
        self.inner.step(batch)
    }
    fn pooled(
        &self,
        sequence: SequenceId,
    ) -> std::result::Result<Vec<f32>, yushan_abi::ExecutorError> {
        self.inner.pooled(sequence)
    }
    fn truncate(
        &mut self,
        sequence: SequenceId,
        length: usize,
    ) -> std::result::Result<(), yushan_abi::ExecutorError> {
        self.inner.truncate(sequence, length)
    }
    fn length(
        &self,
        sequence: SequenceId,
    ) -> std::result::Result<usize, yushan_abi::ExecutorError> {
        self.inner.length(sequence)
    }
    fn release(
        &mut self,
        sequence: SequenceId,
    ) -> std::result::Result<(), yushan_abi::ExecutorError> {
        self.inner.release(sequence)
    }
    fn save(
        &self,
        sequence: SequenceId,
    ) -> std::result::Result<Vec<u8>, yushan_abi::ExecutorError> {
        self.inner.save(sequence)
    }
    fn restore(
        &mut self,
        tenant: &str,
        saved: &[u8],
    ) -> std::result::Result<SequenceId, yushan_abi::ExecutorError> {
        self.inner.restore(tenant, saved)
    }
    fn usage(&self) -> yushan_abi::Usage {
        self.inner.usage()
    }
}

fn narrow(script: Script, rows: usize, cached: usize, fails_at: usize) -> Narrow<Scripted<Script>> {
    let inner = Scripted::new(vocabulary(), 256, script);
    Narrow { inner, rows, cached, largest: 0, fails_at, tight: false, steps: 0 }
}

#[test]
fn prompts_are_read_in_chunks_with_progress() {
    let prompt = ids("0123456789");
    for (rows, cached, echo, dones) in [
        (4, 0, false, &[0, 4, 8, 10][..]),
        (4, 3, false, &[3, 7, 10]),
        (64, 0, false, &[0, 10]),
        (1, 8, false, &[8, 9, 10]),
        // Scored: the cache has no logits, and the last token is left for the first step.
        (4, 3, true, &[0, 4, 8, 9, 10]),
    ] {
        let mut executor = narrow(says("x", 10), rows, cached, 0);
        let (mut progress, mut echoed) = (Vec::new(), Vec::new());
        let request = Request { echo, top_logprobs: Some(1), ..greedy(&prompt) };
        let outcome = generate(&mut executor, None, &test_tokenizer(), request, &mut |event| {
            match event {
                Event::Prompt { done, total, .. } => {
                    assert_eq!(total, 10);
                    progress.push(done);
                }
                Event::Echo { id, logprobs, .. } => echoed.push((id, logprobs.is_some())),
                Event::Token { logprobs, .. } => assert!(logprobs.is_some()),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(progress, dones, "{rows} {cached}");
        assert!(executor.largest <= rows);
        assert_eq!(outcome.counts.cached, if echo { 0 } else { cached });
        let scored = prompt.iter().enumerate().map(|(at, &id)| (id, at > 0));
        assert_eq!(echoed, if echo { scored.collect::<Vec<_>>() } else { Vec::new() });
    }
}

#[test]
fn echo_shows_the_prompt_once_and_scores_it() {
    let prompt = ids("日x");
    for (top_logprobs, max_tokens) in [(None, 2), (Some(2), 2), (Some(0), 0), (None, 0)] {
        let mut executor = narrow(random_model(7, 1, 4), 3, 2, 0);
        let (mut text, mut scores) = (String::new(), Vec::new());
        let request = Request { echo: true, top_logprobs, max_tokens, ..greedy(&prompt) };
        generate(&mut executor, None, &test_tokenizer(), request, &mut |event| {
            if let Event::Echo { text: piece, logprobs, .. } = event {
                text.push_str(piece);
                scores.extend(logprobs.map(|row| row.chosen));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(text, "日x");
        if top_logprobs.is_some() {
            let mut model = random_model(7, 1, 4);
            for (at, score) in scores.iter().enumerate() {
                let mut logits = vec![0.0; vocabulary()];
                model(&prompt[..=at], &mut logits);
                let mut reader = LogprobReader::default();
                assert_eq!(*score, reader.read(&logits, prompt[at + 1], 0).chosen);
            }
            assert_eq!(scores.len(), prompt.len() - 1);
        }
    }
}

#[test]
fn sequences_are_released_when_a_step_fails() {
    let prompt = ids("0123456789");
    for fails_at in 1..6 {
        let mut executor = narrow(says("hello", 10), 4, 0, fails_at);
        let outcome =
            generate(&mut executor, None, &test_tokenizer(), greedy(&prompt), &mut |_| {
                ControlFlow::Continue(())
            });
        assert!(matches!(outcome, Err(Error::Executor(_))), "{fails_at}");
        assert_eq!(executor.usage().sequences, 0);
    }
}

#[test]
fn a_grammar_forces_the_form_whatever_the_model_wants() {
    let engine = GrammarEngine::new(test_tokenizer(), vocabulary());
    let prompt = ids("a");
    for speculation in [Speculation::Off, Speculation::PromptLookup { ngram: 2, most: 4 }] {
        for seed in 0..4 {
            let constraint = engine.compile(Grammar::Regex("(cab|bac){3}!")).unwrap();
            let request = Request {
                constraint: Some(constraint),
                speculation,
                sampling: Sampling { seed, ..Sampling::llama_cpp() },
                ..Request::new(&prompt)
            };
            let (outcome, _) = run(random_model(seed, 2, 3), 64, None, request).unwrap();
            assert_eq!(outcome.finish, Finish::End);
            assert_eq!(outcome.text.len(), 10, "{:?}", outcome.text);
            assert!(outcome.text.ends_with('!'));
        }
    }
}

#[test]
fn right_guesses_save_steps() {
    let prompt = ids("abcabcabc");
    let text = "abcabcabcabcabc";
    let mut executor = narrow(says(text, 9), 64, 0, 0);
    let request =
        Request { speculation: Speculation::PromptLookup { ngram: 3, most: 4 }, ..greedy(&prompt) };
    let outcome = generate(&mut executor, None, &test_tokenizer(), request, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(outcome.text, text);
    assert!(outcome.counts.accepted >= 10, "{:?}", outcome.counts);
    assert!(executor.steps <= 7, "{} steps", executor.steps);
}

#[test]
fn guesses_that_find_no_memory_do_not_cost_the_answer() {
    let prompt = ids("abcabcabc");
    for (tight, draft_fails_at) in [(true, 0), (false, 1), (false, 2), (false, 3)] {
        for speculation in
            [Speculation::PromptLookup { ngram: 3, most: 4 }, Speculation::Draft { most: 4 }]
        {
            let mut executor = narrow(says("abcabcabcabc", 9), 64, 0, 0);
            executor.tight = tight;
            let mut draft = narrow(says("abcabcabcabc", 9), 4, 0, draft_fails_at);
            let request = Request { speculation, ..greedy(&prompt) };
            let outcome =
                generate(&mut executor, Some(&mut draft), &test_tokenizer(), request, &mut |_| {
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(outcome.text, "abcabcabcabc");
            assert_eq!(executor.usage().sequences + draft.usage().sequences, 0);
            assert_eq!(outcome.counts.accepted > 0, !tight);
        }
    }
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    order: usize,
    favourites: usize,
    prompt: Vec<TokenId>,
    context: usize,
    max_tokens: usize,
    temperature: f32,
    penalty: f32,
    ngram: usize,
    most: usize,
    masked: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let prompt = prop::collection::vec(A..A + 4, 1..12);
    let sampling =
        (prop_oneof![Just(0.0f32), Just(0.3), Just(1.5)], prop_oneof![Just(1.0f32), Just(1.3)]);
    let model = (any::<u64>(), 1usize..4, 1usize..5);
    let sizes = (12usize..48, 1usize..40, 1usize..4, 1usize..9, any::<bool>());
    (model, prompt, sizes, sampling).prop_map(|(model, prompt, sizes, sampling)| {
        let ((seed, order, favourites), (temperature, penalty)) = (model, sampling);
        let (context, max_tokens, ngram, most, masked) = sizes;
        Case {
            seed,
            order,
            favourites,
            prompt,
            context,
            max_tokens,
            temperature,
            penalty,
            ngram,
            most,
            masked,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// The same answer on and off, greedy and sampled, with penalties, stops, masks and both kinds.
    #[test]
    fn speculation_changes_nothing(case in cases()) {
        let grammar = GrammarEngine::new(test_tokenizer(), vocabulary());
        let mut answers = Vec::new();
        for speculation in [
            Speculation::Off,
            Speculation::PromptLookup { ngram: case.ngram, most: case.most },
            Speculation::Draft { most: case.most },
        ] {
            let request = Request {
                max_tokens: case.max_tokens,
                stops: vec!["abba".into()],
                top_logprobs: Some(1),
                constraint: case.masked.then(|| grammar.compile(Grammar::Regex("[a-d]*")).unwrap()),
                sampling: Sampling {
                    temperature: case.temperature,
                    repeat_penalty: case.penalty,
                    seed: case.seed,
                    ..Sampling::llama_cpp()
                },
                speculation,
                ..Request::new(&case.prompt)
            };
            // A draft that is right now and then.
            let draft = matches!(speculation, Speculation::Draft { .. })
                .then(|| random_model(case.seed, case.order.min(2), case.favourites));
            let model = random_model(case.seed, case.order, case.favourites);
            let (outcome, pieces) = run(model, case.context, draft, request).unwrap();
            prop_assert!(outcome.counts.accepted <= outcome.counts.drafted);
            answers.push((outcome.tokens, outcome.text, outcome.finish, pieces));
        }
        prop_assert_eq!(&answers[0], &answers[1]);
        prop_assert_eq!(&answers[0], &answers[2]);
    }
}
