//! Models that come and go while others answer: a shelf of scripted ones, each of 40 bytes.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use yushan_abi::scripted::Scripted;
use yushan_abi::*;
use yushan_kernel::{Kernel, Loaded, Options, Shelf, Stock, World};

const SIZE: u64 = 40;

/// Writes the letter that is its name.
struct Letter;

impl Language for Letter {
    fn encode(&self, _: &Request) -> Result<Vec<TokenId>, Refusal> {
        Ok(vec![1, 2, 3])
    }

    fn apply_template(&self, _: &[Message]) -> Result<String, Refusal> {
        Ok(String::new())
    }

    fn tokenize(&self, text: &str, _: bool, _: bool) -> Vec<TokenId> {
        text.bytes().map(TokenId::from).collect()
    }

    fn detokenize(&self, _: &[TokenId]) -> Result<String, Refusal> {
        Ok(String::new())
    }

    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        vec![token as u8]
    }

    fn begin(&self, _: &Request, _: &[TokenId]) -> Result<Box<dyn Writer>, Refusal> {
        Ok(Box::new(Letter))
    }
}

impl Writer for Letter {
    fn next(&mut self, logits: &[f32]) -> Result<Written, Refusal> {
        let best = logits.iter().position(|&logit| logit > 0.0).unwrap_or(0);
        self.replay(best as TokenId)
    }

    fn replay(&mut self, token: TokenId) -> Result<Written, Refusal> {
        let pieces = vec![Piece::Text(char::from(token as u8).to_string())];
        Ok(Written { token, pieces, logprob: None, end: None })
    }

    fn finish(&mut self) -> Vec<Piece> {
        Vec::new()
    }

    fn score(&self, _: &[f32], _: TokenId) -> Option<Logprob> {
        None
    }

    fn echo(&mut self, _: TokenId) -> String {
        String::new()
    }
}

fn loaded(name: &str, digest: &str) -> Loaded {
    let letter = usize::from(name.as_bytes()[0]);
    let executor = Box::new(Scripted::new(256, 64, move |_: &[TokenId], logits: &mut [f32]| {
        logits[letter] = 1.0;
    }));
    let info = ModelInfo { memory: SIZE, ..info(name, digest) };
    Loaded { info, language: Arc::new(Letter), executor }
}

fn info(name: &str, digest: &str) -> ModelInfo {
    let (name, digest) = (name.to_string(), digest.to_string());
    ModelInfo { name, digest, context: 64, ..ModelInfo::default() }
}

/// Names with their versions, and how often each was loaded. While the gate is shut no load ends.
#[derive(Default)]
struct Fake {
    models: Mutex<BTreeMap<String, String>>,
    loads: Mutex<BTreeMap<String, usize>>,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Fake {
    fn put(&self, name: &str, digest: &str) {
        self.models.lock().unwrap().insert(name.into(), digest.into());
    }

    fn loads(&self, name: &str) -> usize {
        self.loads.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl Shelf for Fake {
    fn list(&self) -> Vec<ModelInfo> {
        self.models.lock().unwrap().iter().map(|(name, digest)| info(name, digest)).collect()
    }

    fn bytes(&self, name: &str) -> Result<u64, Refusal> {
        let models = self.models.lock().unwrap();
        if !models.contains_key(name) {
            return Err(Refusal::NoModel(name.into()));
        }
        Ok(if name == "huge" { 101 } else { SIZE })
    }

    fn load(&self, name: &str) -> Result<Loaded, Refusal> {
        *self.loads.lock().unwrap().entry(name.into()).or_default() += 1;
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
        match name {
            "damaged" => Err(Refusal::Internal("damaged.gguf: GGUF: magic: ...".into())),
            "mined" => panic!("a file that makes its reader panic"),
            _ => Ok(loaded(name, &self.models.lock().unwrap()[name])),
        }
    }
}

fn system(keep: Keep) -> (Arc<Fake>, Arc<Kernel>) {
    let fake = Arc::new(Fake::default());
    ["a", "b", "c", "damaged", "huge", "mined"].iter().for_each(|name| fake.put(name, "1"));
    let stock = Stock { shelf: fake.clone(), memory: Some(100), keep };
    (fake, Arc::new(Kernel::with_stock(World::default(), Vec::new(), stock, Options::default())))
}

fn request(model: &str) -> Request {
    Request { max_tokens: Some(3), ..Request::new(model, Prompt::Text("x".into())) }
}

/// What it writes.
fn ask(kernel: &Kernel, model: &str) -> Result<String, Refusal> {
    let (sender, receiver) = channel();
    kernel.complete(request(model), Box::new(sender))?;
    Ok(text(receiver))
}

fn text(events: Receiver<Event>) -> String {
    let texts = events.into_iter().filter_map(|event| match event {
        Event::Text { text, .. } => Some(text),
        _ => None,
    });
    texts.collect()
}

fn in_memory(kernel: &Kernel) -> String {
    let models = kernel.models().into_iter();
    models.filter(|info| info.loaded.is_some()).map(|info| info.name).collect()
}

/// Waits until it is so; what other threads do takes its time.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A reader without room, until it is told that it is gone.
struct Full(Arc<Mutex<Flow>>);

impl Sink for Full {
    fn push(&mut self, _: Event) -> Flow {
        *self.0.lock().unwrap()
    }

    fn is_ready(&mut self) -> Flow {
        *self.0.lock().unwrap()
    }
}

#[test]
fn the_least_recently_used_makes_room() {
    let (fake, kernel) = system(Keep::Forever);
    assert_eq!(in_memory(&kernel), "");
    for (model, after) in [("a", "a"), ("b", "ab"), ("a", "ab"), ("c", "ac"), ("b", "bc")] {
        assert_eq!(ask(&kernel, model), Ok(model.repeat(3)));
        assert_eq!(in_memory(&kernel), after);
    }
    assert_eq!((fake.loads("a"), fake.loads("b"), fake.loads("c")), (1, 2, 1));
    let sizes = kernel.models().into_iter().map(|info| info.memory).sum::<u64>();
    assert_eq!(sizes, 2 * SIZE);
}

#[test]
fn what_is_used_stays_and_what_does_not_fit_is_refused() {
    let (_fake, kernel) = system(Keep::Forever);
    let flow = Arc::new(Mutex::new(Flow::Full));
    kernel.complete(request("a"), Box::new(Full(flow.clone()))).unwrap();
    kernel.complete(request("b"), Box::new(Full(flow.clone()))).unwrap();
    match ask(&kernel, "c") {
        Err(Refusal::NoMemory(why)) => assert!(why.contains("a (") && why.contains("b ("), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ask(&kernel, "huge"), Err(Refusal::NoMemory(_))));
    // Whoever uses them may have more of them.
    assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    *flow.lock().unwrap() = Flow::Gone;
    until("room for c", || ask(&kernel, "c") == Ok("ccc".into()));
    // What cannot fit at all costs nobody a place.
    let before = in_memory(&kernel);
    assert!(matches!(ask(&kernel, "huge"), Err(Refusal::NoMemory(_))));
    assert_eq!(in_memory(&kernel), before);
}

#[test]
fn one_load_for_all_that_wait_and_nobody_else_waits() {
    let (fake, kernel) = system(Keep::Forever);
    assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    *fake.shut.lock().unwrap() = true;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let kernel = kernel.clone();
            std::thread::spawn(move || ask(&kernel, "b"))
        })
        .collect();
    until("the load", || fake.loads("b") == 1);
    assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    assert!(asking.iter().all(|asking| !asking.is_finished()));
    *fake.shut.lock().unwrap() = false;
    fake.opened.notify_all();
    for asking in asking {
        assert_eq!(asking.join().unwrap(), Ok("bbb".into()));
    }
    assert_eq!(fake.loads("b"), 1);
}

#[test]
fn models_go_when_their_time_is_over() {
    let (fake, kernel) = system(Keep::For(Duration::ZERO));
    assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    until("a is gone", || in_memory(&kernel).is_empty());
    kernel.ready("b").unwrap();
    until("b is gone", || in_memory(&kernel).is_empty());
    assert_eq!(fake.loads("b"), 1);
    // What is said of a model that is in use holds from its last use on.
    let flow = Arc::new(Mutex::new(Flow::Full));
    kernel.complete(request("a"), Box::new(Full(flow.clone()))).unwrap();
    assert!(kernel.keep("a", Keep::For(Duration::from_secs(1000))));
    *flow.lock().unwrap() = Flow::Gone;
    until("a is idle", || kernel.processes().iter().all(|process| process.exit.is_some()));
    let seconds = yushan_kernel::runtime::clock() / 1000;
    let loaded = kernel.models().into_iter().find(|info| info.name == "a").unwrap().loaded;
    assert!(loaded.is_some_and(|at| (seconds + 900..seconds + 1100).contains(&at)), "{loaded:?}");
    assert!(kernel.keep("a", Keep::For(Duration::ZERO)));
    until("a is gone", || in_memory(&kernel).is_empty());
    assert!(!kernel.keep("none", Keep::Forever));
}

#[test]
fn a_bad_file_is_named_and_harms_nobody() {
    let (fake, kernel) = system(Keep::Forever);
    for _ in 0..2 {
        let refusal = ask(&kernel, "damaged").expect_err("is refused").to_string();
        assert!(refusal.contains("magic"), "{refusal}");
        let refusal = ask(&kernel, "mined").expect_err("is refused").to_string();
        assert!(refusal.contains("mined"), "{refusal}");
        assert_eq!(ask(&kernel, "none"), Err(Refusal::NoModel("none".into())));
        assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    }
    assert_eq!((fake.loads("damaged"), fake.loads("a")), (2, 1));
}

#[test]
fn the_shelf_may_change() {
    let (fake, kernel) = system(Keep::Forever);
    assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    fake.put("a", "2");
    // Looking is enough.
    kernel.models();
    assert_eq!(ask(&kernel, "a"), Ok("aaa".into()));
    assert_eq!(fake.loads("a"), 2);
    fake.models.lock().unwrap().remove("a");
    assert!(kernel.models().iter().all(|info| info.name != "a"));
    assert_eq!(ask(&kernel, "a"), Err(Refusal::NoModel("a".into())));
    // One that is nowhere else stays.
    let kernel = Kernel::start(vec![loaded("z", "")], Options::default());
    assert!(kernel.keep("z", Keep::For(Duration::ZERO)));
    assert_eq!(ask(&kernel, "z"), Ok("zzz".into()));
    assert_eq!(in_memory(&kernel), "z");
}
