//! A thousand connections that say nothing, say half of a request, or have said one: the built binary goes
//! on answering others, and its memory stays flat. How long each may take is in `server/tests/listen.rs`.

#![cfg(target_os = "linux")]

mod folder;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use folder::{folder, yushan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 1000;

/// Bytes that a connection may cost; most of it is what hyper reads into.
const EACH: usize = 32 << 10;

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// Bytes of a process that are in memory.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A connection over which this was sent; where it is a whole request, its answer was read.
fn connection(address: &str, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap(); // who is held up fails, and does not hang
    stream.write_all(sent.as_bytes()).unwrap();
    if sent.ends_with("\r\n\r\n") {
        let mut read = [0; 15];
        stream.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"HTTP/1.1 200 OK");
    }
    stream
}

#[test]
fn a_thousand_idle_connections_cost_little_and_hold_nobody_up() {
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let folder = folder();
    let mut command = yushan(folder.path(), "serve model.gguf -c 512 --port 0 --threads 1");
    let mut system = Ends(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(system.0.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| Some(line.unwrap().strip_prefix("Ollama")?.to_string()));
    let address = address.unwrap().trim().trim_start_matches("http://").to_string();
    // What it needs once is there.
    (0..20).for_each(|_| drop(connection(&address, HEALTH)));
    let before = resident(system.0.id());
    let open: Vec<TcpStream> = ["", "GET /v1/models HTTP/1.1\r\nHost: local", HEALTH]
        .into_iter()
        .cycle()
        .take(CONNECTIONS)
        .map(|sent| connection(&address, sent))
        .collect();
    for _ in 0..20 {
        connection(&address, HEALTH);
    }
    let after = resident(system.0.id());
    let each = after.saturating_sub(before) / CONNECTIONS;
    eprintln!("{} idle connections: {each} bytes each", open.len());
    assert!(each < EACH, "{before} bytes before, {after} after: {each} each");
    // They come and go, and nothing is left of them.
    drop(open);
    for _ in 0..3 {
        let more: Vec<_> = (0..CONNECTIONS).map(|_| connection(&address, HEALTH)).collect();
        drop(more);
    }
    let end = resident(system.0.id());
    assert!(end < before + CONNECTIONS * EACH, "{before} bytes before, {end} at the end");
}
