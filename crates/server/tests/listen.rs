//! The listener over loopback: deadlines, bounds of headers, an orderly end.

mod scripted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scripted::{Fake, MODEL, Memory, OneModel, TwoKeys};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use yushan_server::{Server, serve};

async fn start() -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let keys = Arc::new(TwoKeys::new(true));
    let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
    let mut server = Server::new(fake, disk, Arc::new(OneModel), keys);
    server.deadline = Duration::from_millis(200);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let served = serve(listener, Arc::new(server), async {
        let _ = stopped.await;
    });
    (address, stop, tokio::spawn(served))
}

/// Sends and reads until the server hangs up.
async fn talk(address: SocketAddr, sent: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(sent.as_bytes()).await.expect("sent");
    let mut read = Vec::new();
    // A server that hangs up while bytes are on their way resets the connection.
    let _ = stream.read_to_end(&mut read).await;
    String::from_utf8_lossy(&read).into_owned()
}

fn request(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn chat(text: &str, stream: bool) -> String {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": stream})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_huge_requests_are_closed() {
    let (address, _stop, _served) = start().await;
    let good = talk(address, &request("", &chat("hello", false))).await;
    assert!(good.starts_with("HTTP/1.1 200") && good.contains("You said: hello"), "{good}");
    let begun = Instant::now();
    // Headers that never end, and a body that never comes.
    let loris = talk(address, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    assert!(!loris.contains("200 OK"), "{loris}");
    let late = talk(address, &request("", &chat("hello", false))[..150]).await;
    assert!(late.starts_with("HTTP/1.1 408"), "{late}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    for headers in [
        format!("X: {}\r\n", "x".repeat(64 << 10)),
        (0..100).map(|at| format!("X-{at}: x\r\n")).collect(),
    ] {
        let reply = talk(address, &request(&headers, &chat("hello", false))).await;
        assert!(!reply.contains("200 OK"), "{reply}");
    }
    // JSON that is nested too deep, and a body of which is said that it is too long.
    let deep = talk(address, &request("", &"[".repeat(100_000))).await;
    assert!(deep.starts_with("HTTP/1.1 400") && deep.contains("nested 100000 deep"), "{deep}");
    let long = request("", "").replace("Content-Length: 0", "Content-Length: 99999999999");
    let long = talk(address, &long).await;
    assert!(long.starts_with("HTTP/1.1 413"), "{long}");
    let none = talk(address, "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(none.starts_with("HTTP/1.1 400"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_lets_answers_end() {
    let (address, stop, served) = start().await;
    let mut asked = TcpStream::connect(address).await.expect("a connection");
    let sent = request("", &chat(&"word ".repeat(500), true));
    asked.write_all(sent.as_bytes()).await.expect("sent");
    asked.read_u8().await.expect("an answer begins");
    let mut idle = TcpStream::connect(address).await.expect("a connection");
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    idle.read_u8().await.expect("an answer");
    stop.send(()).expect("it serves");
    let mut reply = String::new();
    asked.read_to_string(&mut reply).await.expect("a whole answer");
    assert!(reply.contains("[DONE]"), "{reply}");
    let begun = Instant::now();
    served.await.expect("no panic");
    assert!(begun.elapsed() < Duration::from_secs(5), "an idle connection holds nothing up");
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_streams_end_and_slow_ones_hold_nobody_up() {
    let (address, _stop, _served) = start().await;
    let text = "word ".repeat(200);
    let one = |slow: bool| {
        let sent = request("", &chat(&text, true));
        async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(sent.as_bytes()).await.expect("sent");
            let (mut read, mut piece) = (Vec::new(), vec![0; if slow { 4096 } else { 1 << 16 }]);
            loop {
                let count = stream.read(&mut piece).await.expect("read");
                if count == 0 {
                    return String::from_utf8_lossy(&read).contains("[DONE]");
                }
                read.extend_from_slice(&piece[..count]);
                if slow {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    };
    let streams: Vec<_> = (0..200).map(|at| tokio::spawn(one(at % 10 == 0))).collect();
    for stream in streams {
        assert!(stream.await.expect("no panic"));
    }
}
