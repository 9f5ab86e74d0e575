//! Against our own server with a scripted model, and against servers that break what can be broken.

#[path = "../../../server/tests/scripted/mod.rs"]
mod scripted;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scripted::{CONTEXT, Fake, MODEL, Memory, OneModel, TwoKeys};
use serde_json::json;
use yushan_abi::{
    Call, Complete, Counts, Event, Finish, Flow, Form, Keep, Label, Message, Overflow, Prompt,
    Refusal, Request, Role, Sink, ToolChoice, ToolSpec,
};
use yushan_server::Server;

use super::{Remote, Route};

/// Our own server; it ends with the test.
struct House {
    fake: Arc<Fake>,
    address: String,
    _runtime: tokio::runtime::Runtime,
}

fn house() -> House {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let fake = Arc::new(Fake::default());
    let keys = Arc::new(TwoKeys::new(false));
    let server = Server::new(fake.clone(), Arc::new(Memory::default()), Arc::new(OneModel), keys);
    runtime.spawn(yushan_server::serve(listener, Arc::new(server), std::future::pending()));
    House { fake, address, _runtime: runtime }
}

fn remote(address: &str) -> Remote {
    Remote::new(address, Some("key-ann".into()), 8)
}

fn said(text: &str) -> Request {
    let message = Message::new(Role::User, text, Label::default());
    Request::new(MODEL, Prompt::Chat(vec![message]))
}

fn ask(remote: &dyn Complete, request: Request) -> Receiver<Event> {
    let (sender, receiver) = channel();
    remote.complete(request, Box::new(sender)).expect("begins");
    receiver
}

/// Text, and the last event.
fn finish(events: Receiver<Event>) -> (String, Event) {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Text { text: more, .. } => text += &more,
            Event::Done { .. } | Event::Failed(_) => return (text, event),
            _ => {}
        }
    }
    panic!("no end after {text:?}");
}

fn failed(events: Receiver<Event>) -> Refusal {
    match finish(events) {
        (_, Event::Failed(refusal)) => refusal,
        (text, other) => panic!("{text:?} {other:?}"),
    }
}

#[test]
fn our_own_server_answers() {
    let house = house();
    let remote = remote(&house.address);
    let models = remote.models();
    assert_eq!((models[0].name.as_str(), models[0].context), (MODEL, CONTEXT));
    let (text, end) = finish(ask(&remote, said("hello")));
    assert_eq!(text, "You said: hello");
    match end {
        Event::Done { finish: Finish::End, counts, calls } => {
            let prompt = "<user>hello".len();
            assert_eq!((counts.limit, counts.prompt, counts.generated), (CONTEXT, prompt, 3));
            assert_eq!((counts.cached, calls), (prompt / 2, vec![]));
        }
        other => panic!("{other:?}"),
    }
    // What was asked there is what was asked here.
    let asked = Request {
        max_tokens: Some(9),
        stops: vec!["lo".into()],
        form: Form::Text,
        logprobs: Some(2),
        ..said("hello")
    };
    let events: Vec<Event> = ask(&remote, asked.clone()).into_iter().collect();
    let there = house.fake.last.lock().unwrap().clone().unwrap();
    assert_eq!((there.max_tokens, &there.stops), (asked.max_tokens, &asked.stops));
    assert_eq!((there.logprobs, there.tenant.as_str()), (Some(2), "ann"));
    assert!(matches!(events[0], Event::Started(_)));
    match &events[1] {
        Event::Text { text, logprob: Some(logprob) } => {
            assert_eq!((text.as_str(), logprob.logprob), ("You ", Some(-0.5)));
            assert_eq!((logprob.bytes.as_slice(), logprob.top.len()), (b"Y".as_slice(), 2));
        }
        other => panic!("{other:?}"),
    }
    let stopped = Finish::Stop("lo".into());
    assert!(matches!(events.last(), Some(Event::Done { finish, .. }) if *finish == stopped));
    let cut = Request { max_tokens: Some(1), ..said("hello") };
    let (text, end) = finish(ask(&remote, cut));
    assert_eq!(text, "You ");
    assert!(matches!(end, Event::Done { finish: Finish::Length, .. }));
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } } });
    let formed = Request { form: Form::Schema(schema), ..said("hello") };
    assert_eq!(finish(ask(&remote, formed)).0, r#"{"n":7}"#);
    let text = Prompt::Text("once".into());
    let text = Request { max_tokens: Some(3), logprobs: Some(1), ..Request::new(MODEL, text) };
    assert_eq!(finish(ask(&remote, text)).0, " and so ");
    let gap = Prompt::Infill { prefix: "one ".into(), suffix: " three".into() };
    let filled = Request { max_tokens: Some(9), ..Request::new(MODEL, gap.clone()) };
    assert_eq!(finish(ask(&remote, filled)).0, "You said: one … three");
    assert_eq!(house.fake.last.lock().unwrap().clone().unwrap().prompt, gap);
}

#[test]
fn calls_come_whole_and_in_pieces() {
    let house = house();
    let remote = remote(&house.address);
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let tool = |name: &str| ToolSpec {
        name: name.into(),
        description: String::new(),
        schema: schema.clone(),
        effect: yushan_abi::Effect::Read,
        roles: Default::default(),
    };
    let tools = vec![tool("weather"), tool("news")];
    let request = Request { tools, ..said("weather and news") };
    let events: Vec<Event> = ask(&remote, request.clone()).into_iter().collect();
    let expected = |at: usize, name: &str| Call {
        id: format!("call_{at}"),
        name: name.into(),
        arguments: r#"{"city":"text"}"#.into(),
    };
    let whole = vec![expected(0, "weather"), expected(1, "news")];
    match events.last() {
        Some(Event::Done { finish: Finish::Calls, calls, .. }) => assert_eq!(*calls, whole),
        other => panic!("{other:?}"),
    }
    let mut pieced = [String::new(), String::new()];
    for event in &events {
        if let Event::Call { index, arguments, .. } = event {
            pieced[*index] += arguments;
        }
    }
    assert_eq!(pieced, [whole[0].arguments.clone(), whole[1].arguments.clone()]);
    // The results go back, and a tool that is named is called.
    let mut assistant = Message::new(Role::Assistant, "", Label::default());
    assistant.calls = whole;
    let mut result = Message::new(Role::Tool, "rain", Label::default());
    result.answers = Some("call_0".into());
    let Prompt::Chat(mut messages) = request.prompt.clone() else { panic!("a chat") };
    messages.extend([assistant, result]);
    let back = Request { prompt: Prompt::Chat(messages), ..request.clone() };
    assert_eq!(finish(ask(&remote, back)).0, "You said: rain");
    let named = Request { tool_choice: ToolChoice::Named("news".into()), ..request };
    let end = finish(ask(&remote, named)).1;
    assert!(matches!(end, Event::Done { calls, .. } if calls[0].name == "news"));
}

#[test]
fn refusals_keep_their_kind() {
    let house = house();
    let remote = remote(&house.address);
    assert_eq!(failed(ask(&remote, said("be busy"))), Refusal::Busy { after_ms: 2000 });
    assert!(matches!(failed(ask(&remote, said("be too big"))), Refusal::NoMemory(_)));
    let too_long = Refusal::TooLong { limit: CONTEXT, prompt: CONTEXT + 1 };
    assert_eq!(failed(ask(&remote, said("be refused late"))), too_long);
    let (text, end) = finish(ask(&remote, said("fail")));
    assert_eq!(text, "half ");
    assert!(matches!(end, Event::Failed(Refusal::Internal(why)) if why.contains("on fire")));
    let refused = |request: Request| {
        let (sender, _receiver) = channel();
        remote.complete(request, Box::new(sender)).expect_err("is refused")
    };
    let none = Request { model: "none".into(), ..said("a") };
    assert_eq!(refused(none), Refusal::NoModel("none".into()));
    for (field, request) in [
        ("overflow", Request { overflow: Overflow::TruncateOldest, ..said("a") }),
        ("echo", Request { echo: true, ..Request::new(MODEL, Prompt::Text("a".into())) }),
        ("max_tokens", Request::new(MODEL, Prompt::Text("a".into()))),
    ] {
        assert!(matches!(refused(request), Refusal::Invalid { field: told, .. } if told == field));
    }
    assert!(matches!(remote.language(MODEL), Err(Refusal::Invalid { .. })));
    assert!(!remote.keep(MODEL, Keep::Forever));
    let stranger = Remote::new(&house.address, Some("wrong".into()), 8);
    assert!(stranger.models().is_empty());
}

/// What a reader has seen; it says what it is told to say.
struct Reader(Arc<Mutex<(usize, Flow)>>);

impl Sink for Reader {
    fn push(&mut self, _: Event) -> Flow {
        let mut seen = self.0.lock().unwrap();
        seen.0 += 1;
        seen.1
    }

    fn is_ready(&mut self) -> Flow {
        self.0.lock().unwrap().1
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn slow_readers_hold_it_and_gone_ones_end_it() {
    use std::sync::atomic::Ordering::SeqCst;
    let house = house();
    let remote = Remote::new(&house.address, Some("key-ann".into()), 1);
    let seen = Arc::new(Mutex::new((0, Flow::Full)));
    remote.complete(said("go on forever"), Box::new(Reader(seen.clone()))).unwrap();
    until("the first event", || seen.lock().unwrap().0 > 0);
    assert_eq!(seen.lock().unwrap().0, 1);
    // One answer at a time was allowed.
    let (sender, _receiver) = channel();
    let refused = remote.complete(said("a"), Box::new(sender));
    assert!(matches!(refused, Err(Refusal::Busy { .. })));
    seen.lock().unwrap().1 = Flow::More;
    until("more events", || seen.lock().unwrap().0 > 100);
    seen.lock().unwrap().1 = Flow::Gone;
    until("the other server hears of it", || house.fake.gone.load(SeqCst) == 1);
    until("room", || {
        let (sender, receiver) = channel();
        let begun = remote.complete(said("hello"), Box::new(sender));
        begun.is_ok() && finish(receiver).0 == "You said: hello"
    });
}

#[test]
fn local_names_win() {
    let (near, far) = (house(), house());
    let route = Route(vec![near.fake.clone(), Arc::new(remote(&far.address))]);
    assert_eq!(route.models().len(), 1);
    assert_eq!(finish(ask(&route, said("hello"))).0, "You said: hello");
    assert!(near.fake.last.lock().unwrap().is_some() && far.fake.last.lock().unwrap().is_none());
    assert!(route.keep(MODEL, Keep::Forever) && route.language(MODEL).is_ok());
    assert!(matches!(route.ready("none"), Err(Refusal::NoModel(_))));
}

/// A server that lists one model and answers anything else with these bytes, then closes, or holds the
/// connection until the client closes it.
fn broken(answer: Vec<u8>, holds: bool) -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (closed, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, closed) = (answer.clone(), closed.clone());
            std::thread::spawn(move || serve_broken(stream.unwrap(), &answer, holds, &closed));
        }
    });
    (address, receiver)
}

fn serve_broken(mut stream: TcpStream, answer: &[u8], holds: bool, closed: &Sender<()>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first).unwrap();
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    std::io::Read::read_exact(&mut reader, &mut vec![0; length]).unwrap();
    if first.starts_with("GET") {
        let list = json!({ "data": [{ "id": MODEL, "owned_by": "vllm", "max_model_len": 4096 }] });
        let list = list.to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", list.len());
        stream.write_all((head + &list).as_bytes()).unwrap();
        return;
    }
    // A client that had enough closes the connection.
    let _ = stream.write_all(answer);
    if holds {
        let _ = std::io::Read::read(&mut reader, &mut [0]);
        let _ = closed.send(());
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

fn status(line: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

#[test]
fn broken_servers_end_in_a_refusal() {
    let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":7,"function":{"name":"f"}}]}}]}"#;
    let deep = format!("{HEAD}data: {}\n\n", "[".repeat(100_000));
    let endless = format!("{HEAD}data: {}", "x".repeat(3 << 20));
    let many = format!("{HEAD}{}", format!("{chunk}\n").repeat(1_400_000));
    let vllm = r#"{"object":"error","message":"This model's maximum context length is 2048 tokens. However, you requested 2100 tokens","code":400}"#;
    let cases: Vec<(&str, String)> = vec![
        ("\"nonsense\"", format!("{HEAD}data: nonsense\n\n")),
        ("broke off", format!("{HEAD}garbage without an end\n\n\0\u{1}")),
        ("broke off", format!("{HEAD}{chunk}\n\n")),
        ("broke off", format!("{HEAD}{chunk}\n\ndata: [DONE]\n\n")),
        ("broke off", HEAD.replace("\r\n\r\n", "\r\ncontent-length: 999\r\n\r\n") + chunk),
        ("no sense", format!("{HEAD}data: {call}\n\n")),
        ("no JSON", deep),
        ("more than 1048576 bytes", endless),
        ("more than 67108864 bytes", many),
        ("does not stream", status("200 OK", "content-type: application/json\r\n", "{}")),
        ("does not answer", "SSH-2.0-OpenSSH\r\n".into()),
        ("does not answer", String::new()),
        ("failed (500): oh", status("500 No", "", r#"{"error":{"message":"oh"}}"#)),
        ("failed (302)", status("302 Found", "location: http://127.0.0.1:1/\r\n", "")),
        ("try again in 7000 ms", status("429 Slow", "retry-after: 7\r\n", "{}")),
        ("try again in 1000 ms", status("503 Busy", "retry-after: Tue\r\n", "<html>")),
        ("does not exist", status("404 No", "", "{}")),
        ("YUSHAN_REMOTE_KEY", status("401 Who", "", "{}")),
        ("holds 2048 tokens, but the request has 2100", status("400 Bad", "", vllm)),
        ("top_k: ", status("400 Bad", "", r#"{"error":{"message":"no","param":"top_k"}}"#)),
    ];
    for (part, answer) in cases {
        let (address, _) = broken(answer.into_bytes(), false);
        let refusal = failed(ask(&remote(&address), said("hello"))).to_string();
        assert!(refusal.contains(part) && refusal.len() < 700, "{part:?} is not in {refusal:?}");
    }
}

#[test]
fn silence_ends_and_its_connection_too() {
    for head in ["", HEAD] {
        let (address, closed) = broken(head.as_bytes().to_vec(), true);
        let patience = Duration::from_millis(100);
        let remote = Remote { patience, ..remote(&address) };
        let refusal = failed(ask(&remote, said("hello")));
        assert!(matches!(refusal, Refusal::Internal(why) if why.contains("said nothing")));
        closed.recv_timeout(Duration::from_secs(30)).expect("the connection is closed");
        // A reader that goes away ends it as well, however patient.
        let remote = Remote { patience: Duration::from_secs(600), ..remote };
        let seen = Arc::new(Mutex::new((0, Flow::More)));
        remote.complete(said("hello"), Box::new(Reader(seen.clone()))).unwrap();
        seen.lock().unwrap().1 = Flow::Gone;
        closed.recv_timeout(Duration::from_secs(30)).expect("the connection is closed");
    }
    let nobody = Remote::new("http://127.0.0.1:1", None, 8);
    assert!(nobody.models().is_empty());
}

#[test]
fn counts_that_cannot_be_are_bounded() {
    let most = u64::MAX;
    let answer = format!(
        "{HEAD}data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":{most},\"completion_tokens\":{most},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{most}}}}},\
         \"context\":{{\"limit\":{most},\"dropped_tokens\":{most}}}}}\n\ndata: [DONE]\n\n"
    );
    let (address, _) = broken(answer.into_bytes(), false);
    let (_, Event::Done { counts, .. }) = finish(ask(&remote(&address), said("hello"))) else {
        panic!("it ends");
    };
    let Counts { prompt, cached, generated, limit, dropped, .. } = counts;
    assert_eq!([prompt, cached, generated, limit, dropped], [u32::MAX as usize; 5]);
}
