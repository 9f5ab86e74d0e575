//! The running kernel over a scripted engine: bytes are tokens, and what follows depends on all that
//! stands before, so that any mix-up between processes shows.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use yushan_abi::scripted::Scripted;
use yushan_abi::*;
use yushan_kernel::{
    Budget, Core, Exit, Kernel, Loaded, Options, Order, Pid, Process, Program, Signal, State,
    SwapFile, Swapped,
};

const CONTEXT: usize = 64;

/// Text is its bytes; a conversation is its messages, one after the other.
struct Bytes;

struct Scribe {
    stops: Vec<String>,
    text: String,
}

impl Language for Bytes {
    fn encode(&self, request: &Request) -> Result<Vec<TokenId>, Refusal> {
        Ok(match &request.prompt {
            Prompt::Chat(messages) => self.tokenize(&self.apply_template(messages)?, false, false),
            Prompt::Text(text) => self.tokenize(text, false, false),
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Infill { prefix, suffix } => {
                self.tokenize(&format!("{prefix}{suffix}"), false, false)
            }
        })
    }

    fn apply_template(&self, messages: &[Message]) -> Result<String, Refusal> {
        Ok(messages.iter().map(Message::text).collect())
    }

    fn tokenize(&self, text: &str, _: bool, _: bool) -> Vec<TokenId> {
        text.bytes().map(TokenId::from).collect()
    }

    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        Ok(tokens.iter().map(|&token| char::from(token as u8)).collect())
    }

    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        vec![token as u8]
    }

    fn begin(&self, request: &Request, _: &[TokenId]) -> Result<Box<dyn Writer>, Refusal> {
        Ok(Box::new(Scribe { stops: request.stops.clone(), text: String::new() }))
    }
}

impl Writer for Scribe {
    fn next(&mut self, logits: &[f32]) -> Result<Written, Refusal> {
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        self.replay(best.unwrap_or(0) as TokenId)
    }

    fn replay(&mut self, token: TokenId) -> Result<Written, Refusal> {
        let letter = char::from(token as u8);
        breaks(letter, '!');
        self.text.push(letter);
        let stop = self.stops.iter().find(|stop| self.text.ends_with(*stop)).cloned();
        let pieces = vec![Piece::Text(letter.to_string())];
        Ok(Written { token, pieces, logprob: None, end: stop.map(End::Stop) })
    }

    fn finish(&mut self) -> Vec<Piece> {
        self.text.chars().for_each(|letter| breaks(letter, '$'));
        Vec::new()
    }

    fn score(&self, _: &[f32], _: TokenId) -> Option<Logprob> {
        None
    }

    fn echo(&mut self, token: TokenId) -> String {
        breaks(char::from(token as u8), '@');
        char::from(token as u8).to_string()
    }
}

/// Panics at one letter, each part of a process at its own.
fn breaks(letter: char, at: char) {
    assert_ne!(letter, at, "as this test wants");
}

/// The letter after `tokens`: a hash of all of them. After a prompt with '!' or '$' the same comes next.
fn follows(tokens: &[TokenId]) -> usize {
    let hash =
        tokens.iter().fold(7_u64, |hash, &token| hash.wrapping_mul(31).wrapping_add(token.into()));
    let same = [b'!', b'$'].into_iter().find(|sign| tokens.contains(&TokenId::from(*sign)));
    same.map_or(97 + (hash % 26) as usize, usize::from)
}

fn answer(prompt: &str, tokens: usize) -> String {
    let mut all: Vec<TokenId> = prompt.bytes().map(TokenId::from).collect();
    (0..tokens).for_each(|_| all.push(follows(&all) as TokenId));
    all[prompt.len()..].iter().map(|&token| char::from(token as u8)).collect()
}

fn kernel(options: Options, room: usize) -> Kernel {
    kernel_of(options, room, CONTEXT)
}

fn kernel_of(options: Options, room: usize, context: usize) -> Kernel {
    let inner = Scripted::new(256, context, |tokens: &[TokenId], logits: &mut [f32]| {
        tokens.iter().for_each(|&token| breaks(char::from(token as u8), '?'));
        logits[follows(tokens)] = 1.0;
    });
    let executor = Box::new(inner.room(room));
    let info = ModelInfo { name: "bytes".into(), context, ..ModelInfo::default() };
    Kernel::start(vec![Loaded { info, language: Arc::new(Bytes), executor }], options)
}

fn request(prompt: &str, tokens: usize) -> Request {
    Request { max_tokens: Some(tokens), ..Request::new("bytes", Prompt::Text(prompt.into())) }
}

fn start(kernel: &Kernel, request: Request) -> Receiver<Event> {
    let (sender, receiver) = channel();
    kernel.complete(request, Box::new(sender)).expect("is admitted");
    receiver
}

/// The text and the last event.
fn finish(events: Receiver<Event>) -> (String, Event) {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Text { text: more, .. } => text += &more,
            Event::Done { .. } | Event::Failed(_) => return (text, event),
            _ => {}
        }
    }
    panic!("the events ended without an end: {text:?}");
}

fn ended(events: Receiver<Event>) -> (String, Finish) {
    match finish(events) {
        (text, Event::Done { finish, .. }) => (text, finish),
        (text, other) => panic!("{text:?} {other:?}"),
    }
}

#[test]
fn an_answer_and_its_ends() {
    let kernel = kernel(Options::default(), 4096);
    let whole = answer("once", 20);
    let (text, event) = finish(start(&kernel, request("once", 20)));
    assert_eq!(text, whole);
    let counts = Counts { limit: CONTEXT, prompt: 4, generated: 20, ..Counts::default() };
    assert_eq!(event, Event::Done { finish: Finish::Length, counts, calls: vec![] });
    let stop = whole[7..9].to_string();
    let stopped = Request { stops: vec![stop.clone()], ..request("once", 20) };
    let (text, finish) = ended(start(&kernel, stopped));
    assert!(text.ends_with(&stop) && whole.starts_with(&text), "{text}");
    assert_eq!(finish, Finish::Stop(stop));
    let (text, finish) = ended(start(&kernel, request("once", 1000)));
    assert_eq!((text.len(), finish), (CONTEXT - 4, Finish::ContextFull));
    assert_eq!(ended(start(&kernel, request("once", 0))), (String::new(), Finish::Length));
    let echoed = Request { echo: true, ..request("once", 2) };
    let events: Vec<Event> = start(&kernel, echoed).into_iter().collect();
    let echo: String = events
        .iter()
        .filter_map(|event| match event {
            Event::Echo { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(echo, "once");
}

#[test]
fn many_at_once_get_what_each_would_alone_in_any_order_and_with_little_memory() {
    use yushan_kernel::Order::{Fair, Fifo, RoundRobin};
    for (order, room) in
        [(Fair, 4096), (Fifo, 4096), (RoundRobin, 4096), (Fair, 200), (RoundRobin, 130)]
    {
        let kernel = kernel(
            Options { order, slots: 5, prefill_beside: 3, most: 100, ..Options::default() },
            room,
        );
        let prompts: Vec<String> = (0..40).map(|i| format!("tale {i} of {}", i * 7 % 5)).collect();
        let running: Vec<_> = prompts
            .iter()
            .map(|prompt| (prompt, start(&kernel, request(prompt, 5 + prompt.len()))))
            .collect();
        for (prompt, events) in running {
            let expected = answer(prompt, 5 + prompt.len());
            assert_eq!(ended(events), (expected, Finish::Length), "{order:?} {room} {prompt}");
        }
    }
}

#[test]
fn too_long_too_many_and_unknown_are_refused() {
    let kernel = kernel(Options { most: 2, ..Options::default() }, 4096);
    let refuse = |request: Request| {
        let (sender, _receiver) = channel::<Event>();
        kernel.complete(request, Box::new(sender)).expect_err("is refused")
    };
    let long = "x".repeat(70);
    assert_eq!(refuse(request(&long, 1)), Refusal::TooLong { limit: CONTEXT, prompt: 70 });
    assert_eq!(
        refuse(Request::new("none", Prompt::Text("x".into()))),
        Refusal::NoModel("none".into())
    );
    assert!(matches!(refuse(request("", 1)), Refusal::Invalid { .. }));
    let stuck: Vec<_> = (0..2).map(|_| Slow::start(&kernel, "wait")).collect();
    assert!(matches!(refuse(request("x", 1)), Refusal::Busy { after_ms: 1.. }));
    drop(stuck);
    let message = |text: String| Message::new(Role::User, text, Label::default());
    let chat = vec![message("a".repeat(40)), message("b".repeat(20)), message("c".repeat(10))];
    let chat = Request {
        overflow: Overflow::TruncateOldest,
        max_tokens: Some(3),
        ..Request::new("bytes", Prompt::Chat(chat))
    };
    let events = loop {
        // The slow ones end at the kernel's next turn.
        let (sender, receiver) = channel();
        if kernel.complete(chat.clone(), Box::new(sender)).is_ok() {
            break receiver;
        }
    };
    let (text, event) = finish(events);
    let kept = format!("{}{}", "b".repeat(20), "c".repeat(10));
    assert_eq!(text, answer(&kept, 3));
    assert!(matches!(event, Event::Done { counts: Counts { dropped: 40, prompt: 30, .. }, .. }));
}

/// What a slow reader has taken, and what it says when asked for more.
type Taken = Arc<Mutex<(Vec<Event>, Flow)>>;

/// A reader with room for three events, until it is told otherwise.
struct Slow(Taken, Sender<()>);

impl Slow {
    fn start(kernel: &Kernel, prompt: &str) -> (Taken, Receiver<()>, Guard) {
        let shared = Arc::new(Mutex::new((Vec::new(), Flow::Full)));
        let (sender, receiver) = channel();
        let sink = Slow(shared.clone(), sender);
        kernel.complete(request(prompt, 30), Box::new(sink)).expect("is admitted");
        (shared.clone(), receiver, Guard(shared))
    }
}

/// Goes away when it is dropped.
struct Guard(Taken);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").1 = Flow::Gone;
    }
}

impl Sink for Slow {
    fn push(&mut self, event: Event) -> Flow {
        let mut shared = self.0.lock().expect("no panic");
        shared.0.push(event);
        let flow = if shared.0.len() < 3 { Flow::More } else { shared.1 };
        if flow == Flow::Full {
            let _ = self.1.send(());
        }
        flow
    }

    fn is_ready(&mut self) -> Flow {
        self.0.lock().expect("no panic").1
    }
}

#[test]
fn a_slow_reader_delays_itself_alone_and_one_that_is_gone_is_ended() {
    let kernel = kernel(Options { slots: 1, ..Options::default() }, 4096);
    let (slow, full, _stays) = Slow::start(&kernel, "slow");
    full.recv().expect("it fills up");
    assert_eq!(ended(start(&kernel, request("quick", 30))).0, answer("quick", 30));
    assert_eq!(slow.lock().expect("no panic").0.len(), 3, "nothing came while it was full");
    slow.lock().expect("no panic").1 = Flow::More;
    while !matches!(slow.lock().expect("no panic").0.last(), Some(Event::Done { .. })) {
        std::thread::yield_now();
    }
    let (_, full, goes) = Slow::start(&kernel, "gone");
    full.recv().expect("it fills up");
    drop(goes);
    let gone = |kernel: &Kernel| kernel.processes().iter().all(|process| process.exit.is_some());
    while !gone(&kernel) {
        std::thread::yield_now();
    }
    let last = kernel.processes().pop().expect("it is remembered");
    assert_eq!((last.state, last.exit), (State::Exited, Some(Exit::Killed)));
}

#[test]
fn signals_and_panics_reach_one_process_alone() {
    let kernel = kernel(Options::default(), 4096);
    let (held, full, _stays) = Slow::start(&kernel, "held");
    full.recv().expect("it fills up");
    let pid = kernel.processes()[0].pid;
    assert_eq!(kernel.signal(pid, Signal::Stop), Ok(true));
    assert_eq!(kernel.nice(pid, Class::Batch, 2), Ok(true));
    held.lock().expect("no panic").1 = Flow::More;
    assert_eq!(ended(start(&kernel, request("other", 20))).0, answer("other", 20));
    let process = kernel.processes().remove(0);
    assert!(process.stopped && process.exit.is_none());
    assert_eq!((process.spawn.class, process.spawn.weight), (Class::Batch, 2));
    assert_eq!(kernel.signal(pid, Signal::Kill), Ok(true));
    assert_eq!(kernel.signal(Pid(99), Signal::Kill), Ok(false));
    let (_, event) = finish(start(&kernel, request("panic!", 5)));
    assert!(matches!(event, Event::Failed(Refusal::Internal(_))), "{event:?}");
    assert_eq!(ended(start(&kernel, request("after", 9))).0, answer("after", 9));
    let last = held.lock().expect("no panic").0.pop();
    assert!(matches!(last, Some(Event::Done { finish: Finish::Cancelled, .. })), "{last:?}");
}

/// A reader that takes its time when it hears that its process begins.
struct Late(Sender<Event>);

impl Sink for Late {
    fn push(&mut self, event: Event) -> Flow {
        let begun = std::time::Instant::now();
        while matches!(event, Event::Started(_)) && begun.elapsed().as_millis() < 3 {
            std::hint::spin_loop();
        }
        self.0.push(event)
    }

    fn is_ready(&mut self) -> Flow {
        Flow::More
    }
}

/// A process that ends while it gets its place (it may take no time, and getting it takes some) is not run, and
/// nobody else hears of it.
#[test]
fn one_that_ends_while_it_gets_its_place_takes_nobody_with_it() {
    let kernel = kernel(Options::default(), 4096);
    let mut ended_there = 0;
    for _ in 0..50 {
        // With scores its prompt is read in parts, so that its place is told to the core.
        let scored = Request { echo: true, logprobs: Some(0), ..request(&"x".repeat(50), 5) };
        let budget = Budget { wall_ms: Some(0), ..Budget::default() };
        let program = Program { budget, ..Program::new(scored) };
        let (sender, events) = channel();
        kernel.spawn(program, Box::new(Late(sender))).expect("it begins");
        let beside = start(&kernel, request("beside", 5));
        let events: Vec<Event> = events.into_iter().collect();
        let over = matches!(&events[..], [.., Event::Done { finish: Finish::Budget(which), .. }]
            if which == "wall time");
        assert!(over, "{events:?}");
        ended_there += usize::from(matches!(events[0], Event::Started(_)));
        assert_eq!(ended(beside).0, answer("beside", 5));
    }
    assert!(ended_there > 0, "all ended before they got their places");
    assert!(kernel.is_alive());
}

/// A reader that panics at once, or when it is asked whether it has room.
struct Breaks(&'static str);

impl Sink for Breaks {
    fn push(&mut self, _: Event) -> Flow {
        assert_ne!(self.0, "push", "as this test wants");
        Flow::Full
    }

    fn is_ready(&mut self) -> Flow {
        panic!("as this test wants");
    }
}

#[test]
fn a_panic_stays_with_its_process_wherever_it_happens() {
    for room in [4096, 150] {
        let options = Options { slots: 6, prefill_beside: 3, ..Options::default() };
        let kernel = kernel(options, room);
        let prompts: Vec<String> = (0..12).map(|at| format!("tale {at}")).collect();
        let running: Vec<_> =
            prompts.iter().map(|prompt| (prompt, start(&kernel, request(prompt, 30)))).collect();
        // In the engine (which runs the rows of others in the same step), in a writer when it chooses,
        // when it ends and when it shows the prompt, and in a text that is brought into tokens.
        let panics: Vec<_> = ["in a step?", "chooses!", "ends$", "shows@"]
            .map(|prompt| Request { echo: true, ..request(prompt, 5) })
            .into_iter()
            .chain([Request { echo: true, ..request("shows@", 0) }])
            .map(|request| start(&kernel, request))
            .collect();
        for what in ["push", "is_ready"] {
            kernel.complete(request(what, 5), Box::new(Breaks(what))).expect("it begins");
        }
        for events in panics {
            let (text, end) = finish(events);
            let told =
                matches!(&end, Event::Failed(Refusal::Internal(why)) if why.contains("panicked"));
            assert!(told, "{text:?} {end:?}");
        }
        for (prompt, events) in running {
            assert_eq!(ended(events), (answer(prompt, 30), Finish::Length), "{room} {prompt}");
        }
        let alive = |kernel: &Kernel| kernel.processes().iter().any(|p| p.exit.is_none());
        // Their places are free again.
        while alive(&kernel) || kernel.seats().usage.sequences > 0 {
            assert!(kernel.is_alive());
            std::thread::yield_now();
        }
        assert_eq!(ended(start(&kernel, request("after", 9))).0, answer("after", 9));
    }
}

/// The vector that the scripted engine makes: how often each letter follows, brought to length 1.
fn embedding(prompt: &str) -> Vec<f32> {
    let tokens: Vec<TokenId> = prompt.bytes().map(TokenId::from).collect();
    let mut vector = vec![0.0_f32; 256];
    (1..=tokens.len()).for_each(|end| vector[follows(&tokens[..end])] += 1.0);
    let mean = vector.iter().map(|v| v / tokens.len() as f32).collect::<Vec<_>>();
    let length = mean.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    mean.into_iter().map(|v| (f64::from(v) / length) as f32).collect()
}

/// The parent breaks the step when all three run in it, the embedding in its third chunk. Its child ends with
/// it, before it could run alone: nothing may be kept of the tokens that the step had begun (the scripted engine
/// panics outside of a step if that is tried). The embedding goes on where it was.
#[test]
fn a_panic_in_a_step_takes_a_child_along_and_leaves_an_embedding_what_was_pooled() {
    let (context, mut child, mut third) = (1 << 13, false, false);
    let inner = Scripted::new(256, context, move |tokens: &[TokenId], logits: &mut [f32]| {
        let first = char::from(tokens[0] as u8);
        child |= first == 'C';
        third |= first == 'E' && tokens.len() > 3;
        assert!(first != 'P' || !(child && third), "as this test wants");
        let end = if first == 'E' { tokens.len() } else { 1 };
        logits[follows(&tokens[..end])] = 1.0;
    });
    let info = ModelInfo { name: "bytes".into(), context, ..ModelInfo::default() };
    let loaded = Loaded { info, language: Arc::new(Bytes), executor: Box::new(inner) };
    let options = Options { order: Order::Fifo, prefill_beside: 3, ..Options::default() };
    let kernel = Kernel::start(vec![loaded], options);
    let spawn = |prompt: &str, parent| {
        let (sender, events) = channel();
        let program = Program { parent, ..Program::new(request(prompt, context)) };
        (kernel.spawn(program, Box::new(sender)).expect("it begins"), events)
    };
    let (parent, panics) = spawn("P", None);
    let (_, killed) = spawn("C", Some(parent));
    let text = "E is a text that is read in chunks of three";
    let embedded = start(&kernel, Request { form: Form::Embedding, ..request(text, 9) });
    let events: Vec<Event> = embedded.into_iter().collect();
    assert!(
        matches!(&events[..], [_, Event::Embedding(vector), Event::Done { .. }]
        if *vector == embedding(text)),
        "{events:?}"
    );
    let (_, end) = finish(panics);
    assert!(matches!(&end, Event::Failed(Refusal::Internal(_))), "{end:?}");
    assert_eq!(ended(killed).1, Finish::Cancelled);
    while kernel.seats().usage.sequences > 0 {
        assert!(kernel.is_alive());
        std::thread::yield_now();
    }
}

#[test]
fn embeddings_are_processes_among_others() {
    let embed = |prompt: &str| Request { form: Form::Embedding, ..request(prompt, 9) };
    // Read in chunks of three, beside others, with little memory.
    for room in [4096, 130] {
        let kernel = kernel(Options { slots: 4, prefill_beside: 3, ..Options::default() }, room);
        let written: Vec<_> =
            (0..6).map(|i| start(&kernel, request(&format!("w{i}"), 20))).collect();
        let texts: Vec<String> = (0..12).map(|i| format!("{i}: a longer text {}", i * i)).collect();
        let running: Vec<_> = texts.iter().map(|text| start(&kernel, embed(text))).collect();
        for (text, events) in texts.iter().zip(running) {
            let events: Vec<Event> = events.into_iter().collect();
            let counts = Counts { limit: CONTEXT, prompt: text.len(), ..Counts::default() };
            let done = Event::Done { finish: Finish::End, counts, calls: vec![] };
            let expected = vec![Event::Started(counts), Event::Embedding(embedding(text)), done];
            assert_eq!(events, expected, "{room} {text}");
        }
        for (i, events) in written.into_iter().enumerate() {
            assert_eq!(ended(events).0, answer(&format!("w{i}"), 20));
        }
    }
    let kernel = kernel(Options::default(), 4096);
    // A text may fill the context; one that is longer is cut if the client says so.
    let (long, full) = ("x".repeat(CONTEXT + 6), "x".repeat(CONTEXT));
    let refused = kernel.complete(embed(&long), Box::new(channel().0));
    assert_eq!(refused, Err(Refusal::TooLong { limit: CONTEXT, prompt: CONTEXT + 6 }));
    let cut = Request { overflow: Overflow::TruncateOldest, ..embed(&long) };
    for (request, dropped) in [(embed(&full), 0), (cut, 6)] {
        let events: Vec<Event> = start(&kernel, request).into_iter().collect();
        assert_eq!(events[1], Event::Embedding(embedding(&full)));
        assert!(matches!(events[2], Event::Done { counts, .. } if counts.dropped == dropped));
    }
    let table = kernel.processes();
    assert!(table.iter().all(|p| p.exit == Some(Exit::Done) && p.counts.generated == 0));
}

#[test]
fn the_oldest_turns_are_summed_up_by_the_model() {
    const TASK: &str = "Summarize the following part of a conversation in a few sentences. Keep \
                        names, numbers, decisions and open questions. Write the summary and nothing \
                        else.\n\n";
    let kernel = kernel_of(Options::default(), 4096, 1024);
    let ask = |lengths: [usize; 4]| {
        let roles = [Role::System, Role::User, Role::Assistant, Role::User];
        let texts = lengths.into_iter().zip(["s", "a", "b", "c"]).map(|(n, text)| text.repeat(n));
        let chat = roles
            .into_iter()
            .zip(texts)
            .map(|(role, text)| Message::new(role, text, Label::of(Sources::USER)));
        Request {
            overflow: Overflow::Summarize,
            max_tokens: Some(3),
            ..Request::new("bytes", Prompt::Chat(chat.collect()))
        }
    };
    let old = format!("{TASK}user: {}\nassistant: {}\n", "a".repeat(400), "b".repeat(300));
    let summary = answer(&old, 256.min(1024 - old.len()));
    let prompt = format!("sSummary of what was said before: {summary}\n\n{}", "c".repeat(400));
    for _ in 0..2 {
        let (text, event) = finish(start(&kernel, ask([1, 400, 300, 400])));
        assert_eq!(text, answer(&prompt, 3));
        let Event::Done { counts, .. } = event else { panic!("{event:?}") };
        assert_eq!((counts.prompt, counts.dropped), (prompt.len(), 700));
    }
    // It is a process that is counted: two answers, two summaries.
    assert_eq!(kernel.processes().len(), 4);
    // What is to be summed up does not fit, or what stays does not.
    for lengths in [[1, 900, 300, 1], [1, 100, 100, 900], [1, 1, 1, 1100]] {
        let refused = kernel.complete(ask(lengths), Box::new(channel().0));
        let prompt = lengths.iter().sum();
        assert_eq!(refused, Err(Refusal::TooLong { limit: 1024, prompt }), "{lengths:?}");
    }
    assert_eq!(ended(start(&kernel, ask([1, 9, 9, 9]))).1, Finish::Length);
    assert_eq!(kernel.processes().len(), 5, "what fits is not summed up");
}

/// A file for swapping.
fn file(path: &str) -> Option<SwapFile> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).ok()?;
    Some(SwapFile { file, bytes: 1 << 20 })
}

fn fresh_file() -> Option<SwapFile> {
    Some(SwapFile { file: tempfile::tempfile().expect("a temporary file"), bytes: 1 << 20 })
}

/// Runs many processes in memory for a few; what was swapped.
fn crowd(order: Order, swap_bytes: u64, swap_file: Option<SwapFile>) -> Swapped {
    let options = Options { order, slots: 5, prefill_beside: 3, ..Options::default() };
    let kernel = kernel(Options { swap_bytes, swap_file, ..options }, 130);
    let prompts: Vec<String> = (0..40).map(|i| format!("tale {i} of {}", i * 7 % 5)).collect();
    let running: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            let class = [Class::Interactive, Class::Agent, Class::Batch][i % 3];
            let echo = i % 4 == 0;
            start(&kernel, Request { class, echo, ..request(prompt, 20 + prompt.len()) })
        })
        .collect();
    for ((i, prompt), events) in prompts.iter().enumerate().zip(running) {
        let (mut begun, mut echoed, mut text) = (0, String::new(), String::new());
        for event in events {
            match event {
                Event::Started(_) => begun += 1,
                Event::Echo { text, .. } => echoed += &text,
                Event::Text { text: more, .. } => text += &more,
                Event::Done { finish, .. } => assert_eq!(finish, Finish::Length),
                other => panic!("{prompt}: {other:?}"),
            }
        }
        assert_eq!(text, answer(prompt, 20 + prompt.len()), "{order:?} {prompt}");
        assert_eq!((begun, echoed.as_str()), (1, if i % 4 == 0 { prompt } else { "" }));
    }
    // What came back, or was read a second time, is not charged.
    for process in kernel.processes() {
        let Process { spent, counts, pid, .. } = process;
        assert_eq!(spent as usize, counts.prompt + counts.generated - 1, "{order:?} {pid}");
    }
    // The last part of the file is free when the thread has answered.
    loop {
        let swapped = kernel.seats().swapped;
        if (swapped.memory_bytes, swapped.file_bytes) == (0, 0) {
            return swapped;
        }
        std::thread::yield_now();
    }
}

#[test]
fn in_memory_for_a_few_many_get_what_each_would_alone_wherever_they_are_swapped_to() {
    // How many lose their place depends on how fast they come; that some do does not.
    let mut back = [0; 3];
    for order in [Order::Fair, Order::RoundRobin, Order::Fifo] {
        let memory = crowd(order, 1 << 20, None);
        assert_eq!((memory.out, memory.dropped), (memory.back, 0), "{memory:?}");
        let both = crowd(order, 300, fresh_file());
        let disk = crowd(order, 0, fresh_file());
        let nowhere = crowd(order, 0, None);
        assert_eq!((nowhere.back, nowhere.dropped), (0, nowhere.out), "{nowhere:?}");
        [memory, both, disk].iter().zip(&mut back).for_each(|(of, sum)| *sum += of.back);
    }
    assert!(back.iter().all(|&back| back > 0), "{back:?}");
}

#[test]
fn a_disk_that_is_full_or_forgets_costs_time_alone() {
    // One refuses every byte, one reads back other bytes than were written, one ends early.
    for path in ["/dev/full", "/dev/zero", "/dev/null"] {
        let Some(file) = file(path) else {
            println!("skipped: there is no {path} here");
            continue;
        };
        let swapped = crowd(Order::Fair, 0, Some(file));
        assert!(swapped.out > 0, "{path}: {swapped:?}");
    }
    let small = SwapFile { bytes: 100, ..fresh_file().expect("a file") };
    assert!(crowd(Order::Fair, 0, Some(small)).dropped > 0);
}

#[test]
fn whoever_runs_last_loses_its_place_first() {
    let limits = yushan_kernel::Limits { slots: 4, rows: 64, prefill_beside: 16 };
    let mut core = Core::new(yushan_kernel::Scheduler::new(Order::Fair, limits));
    let class = [Class::Interactive, Class::Batch, Class::Agent, Class::Interactive, Class::Agent];
    for class in class {
        let spawn = yushan_kernel::Spawn {
            parent: None,
            title: String::new(),
            model: String::new(),
            tenant: String::new(),
            class,
            weight: 1,
            budget: yushan_kernel::Budget::default(),
            price: yushan_kernel::Price::default(),
            spent: yushan_kernel::Spent::default(),
            label: Label::default(),
            prompt: 8,
        };
        core.apply(0, yushan_kernel::Event::Spawn(Box::new(spawn)));
    }
    core.plan(0);
    core.apply(1, yushan_kernel::Event::Signal(Pid(4), Signal::Stop));
    core.apply(1, yushan_kernel::Event::Blocked(Pid(3), true));
    let mut left: Vec<Pid> = (1..=5).map(Pid).collect();
    let mut order = Vec::new();
    while let Some(pid) = core.served_last(&left) {
        left.retain(|other| *other != pid);
        order.push(pid.0);
    }
    // Stopped, blocked, waiting for a slot; those that have just begun go on.
    assert_eq!(order, [4, 3, 5, 2, 1]);
}
