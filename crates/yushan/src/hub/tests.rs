//! Against a small hub on loopback: whole and broken downloads, wrong promises, refusals.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

/// How one path is answered.
#[derive(Clone)]
struct Route {
    status: u16,
    /// Header lines besides the usual ones.
    headers: Vec<String>,
    body: Vec<u8>,
    /// Whether `Range` is understood.
    ranges: bool,
    /// The connection breaks after so many bytes, so many times.
    breaks: (usize, usize),
}

impl Route {
    /// A file of large file storage: the ETag is its SHA-256.
    fn file(body: &[u8]) -> Self {
        let sha: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        Route { headers: vec![format!("ETag: \"{sha}\"")], body: body.into(), ..Route::status(200) }
    }

    fn status(status: u16) -> Self {
        Route { status, headers: Vec::new(), body: Vec::new(), ranges: true, breaks: (0, 0) }
    }

    fn breaking(body: &[u8], after: usize, times: usize) -> Self {
        Route { breaks: (after, times), ..Route::file(body) }
    }
}

/// A hub and an empty models folder.
struct Fixture {
    routes: Arc<Mutex<HashMap<String, Route>>>,
    /// `PATH`, then ` TOKEN` and ` RANGE` where they were sent.
    requests: Arc<Mutex<Vec<String>>>,
    hub: Hub,
    folder: TempDir,
}

impl Fixture {
    fn new(routes: &[(&str, Route)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let routes = routes.iter().map(|(path, route)| (path.to_string(), route.clone())).collect();
        let routes = Arc::new(Mutex::new(routes));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let shared = (Arc::clone(&routes), Arc::clone(&requests));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &shared.0, &shared.1);
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        let hub = Hub { base, token: Some("secret".into()), models, pause: Duration::ZERO };
        Fixture { routes, requests, hub, folder }
    }

    fn pull(&self, name: &str) -> Result<PathBuf> {
        self.hub.pull(&Name::parse(name)?)
    }

    fn set(&self, path: &str, route: Route) {
        self.routes.lock().unwrap().insert(path.into(), route);
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// Every file below the data home, with its size.
    fn files(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut waiting = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = waiting.pop() {
            for path in entries(&folder).unwrap() {
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let name = path.strip_prefix(&self.hub.models).unwrap().display().to_string();
                    found.push((name, size(&path)));
                }
            }
        }
        found.sort();
        found
    }
}

fn answer(
    mut stream: TcpStream,
    routes: &Mutex<HashMap<String, Route>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut note = path.clone();
    let mut start = None;
    for line in lines {
        let line = line?.to_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse::<usize>().ok();
            note.push_str(&format!(" {range}"));
        }
        if let Some(token) = line.strip_prefix("authorization: bearer ") {
            note.push_str(&format!(" {token}"));
        }
        if line.is_empty() {
            break;
        }
    }
    requests.lock().unwrap().push(note);
    let mut routes = routes.lock().unwrap();
    let mut missing = Route::status(404);
    let route = routes.get_mut(&path).unwrap_or(&mut missing);
    let total = route.body.len();
    let (status, body, range) = match start.filter(|_| route.ranges && route.status == 200) {
        Some(start) if start < total => {
            let range = format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
            (206, &route.body[start..], range)
        }
        Some(_) => (416, &[][..], format!("Content-Range: bytes */{total}\r\n")),
        None => (route.status, &route.body[..], String::new()),
    };
    let headers: String = route.headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{range}{headers}\r\n"
    )?;
    let (after, times) = &mut route.breaks;
    let sent = if *times > 0 { (*after).min(length) } else { length };
    *times = times.saturating_sub(1);
    stream.write_all(&body[..sent])
}

const FILE: &str = "/o/r/resolve/main/m.gguf";
const NAME: &str = "hf:o/r:m.gguf";

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn a_file_comes_whole_and_only_once() {
    let body = content(300_000);
    let fixture = Fixture::new(&[(FILE, Route::file(&body))]);
    let path = fixture.pull(NAME).unwrap();
    assert_eq!(fs::read(&path).unwrap(), body);
    assert_eq!(fixture.files(), [("o/r/m.gguf".into(), 300_000)]);
    assert_eq!(fixture.requests(), [format!("{FILE} secret")]);
    assert_eq!(fixture.hub.resolve("m").unwrap(), path);
    assert_eq!(fixture.hub.resolve(NAME).unwrap(), path);
    assert!(fixture.requests().is_empty(), "what is here is not asked for");
    // A new version replaces it, the same does not.
    fixture.pull(NAME).unwrap();
    fixture.set(FILE, Route::file(b"new"));
    fixture.pull(NAME).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fixture.files(), [("o/r/m.gguf".into(), 3)]);
}

#[test]
fn broken_connections_are_taken_up_again() {
    let body = content(100_000);
    let check = |route: Route, expected: &[&str]| {
        let fixture = Fixture::new(&[(FILE, route)]);
        let path = fixture.pull(NAME).unwrap();
        assert!(fs::read(path).unwrap() == body);
        let requests: Vec<_> =
            fixture.requests().iter().map(|line| line.replace(" secret", "")).collect();
        let expected: Vec<_> = expected.iter().map(|range| format!("{FILE}{range}")).collect();
        assert_eq!(requests, expected);
        assert_eq!(fixture.files().len(), 1);
    };
    check(Route::breaking(&body, 30_000, 3), &["", " 30000-", " 60000-", " 90000-"]);
    check(Route { ranges: false, ..Route::breaking(&body, 30_000, 1) }, &["", " 30000-", ""]);
}

#[test]
fn a_later_pull_goes_on_with_the_same_version_only() {
    let body = content(100_000);
    let fixture = Fixture::new(&[]);
    let partial = fixture.hub.models.join("o/r/m.gguf.partial");
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let sha = Route::file(&body).headers[0].replace("ETag: ", "").replace('"', "");
    let leave = |file: &[u8]| {
        fs::write(&partial, file).unwrap();
        fs::write(partial.with_extension("version"), format!("{sha}\n100000\n")).unwrap();
    };
    leave(&body[..50_000]);
    // Every connection breaks at once.
    fixture.set(FILE, Route::breaking(&body, 0, 100));
    let error = format!("{:#}", fixture.pull(NAME).unwrap_err());
    assert!(error.contains("pull again to go on"), "{error}");
    assert_eq!(size(&partial), 50_000, "what came is kept");
    assert!(fixture.hub.list().unwrap().is_empty(), "a part is no model");
    fixture.requests();
    fixture.set(FILE, Route::file(&body));
    fixture.pull(NAME).unwrap();
    assert_eq!(fixture.requests(), [format!("{FILE} secret 50000-")]);
    assert!(fs::read(fixture.hub.models.join("o/r/m.gguf")).unwrap() == body);

    // Another version: from the beginning.
    leave(&body[..50_000]);
    let other = content(120_000);
    fixture.set(FILE, Route::file(&other));
    fixture.pull(NAME).unwrap();
    assert!(fs::read(fixture.hub.models.join("o/r/m.gguf")).unwrap() == other);

    // Everything came, but the program ended before the file had its name.
    leave(&body);
    fixture.set(FILE, Route::file(&body));
    fixture.pull(NAME).unwrap();
    assert!(fs::read(fixture.hub.models.join("o/r/m.gguf")).unwrap() == body);
    assert_eq!(fixture.files().len(), 1);
}

#[test]
fn failures_leave_the_old_file_and_say_what_to_do() {
    let wrong = Route { body: b"other".to_vec(), ..Route::file(b"these") };
    let long = Route { headers: vec!["X-Linked-Size: 3".into()], ..Route::file(b"these") };
    let check = |route: Route, expected: &str| {
        let fixture = Fixture::new(&[(FILE, Route::file(b"old"))]);
        let path = fixture.pull(NAME).unwrap();
        fixture.set(FILE, route);
        let error = format!("{:#}", fixture.pull(NAME).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read(path).unwrap(), b"old");
        assert_eq!(fixture.files().len(), 1, "{:?}", fixture.files());
    };
    check(wrong, "the checksum is wrong");
    check(long, "more than the 3 bytes expected");
    check(Route::status(404), "no such file (404)");
    check(Route::status(401), "refuses (401) this HF_TOKEN");
    check(Route::status(403), "refuses (403)");
    check(Route::status(503), "given up after 5 attempts");
    check(Route::status(418), "answered 418");
    let to = |location: &str| Route {
        headers: vec![format!("Location: {location}")],
        ..Route::status(302)
    };
    check(to(FILE), "more than 10 redirects");
    check(to("file:///etc/passwd"), "leads to");
    check(to("//elsewhere/x"), "leads to");
}

#[test]
fn without_a_token_a_refusal_names_the_variable() {
    let mut fixture = Fixture::new(&[(FILE, Route::status(401))]);
    fixture.hub.token = None;
    let error = fixture.pull(NAME).unwrap_err().to_string();
    assert!(error.contains("set HF_TOKEN"), "{error}");
    assert!(fixture.files().is_empty());
}

#[test]
fn redirects_keep_the_hubs_promise_and_the_token_stays_with_the_hub() {
    let body = content(1000);
    let storage = Fixture::new(&[(
        "/blob",
        Route { headers: vec!["ETag: \"x\"".into()], ..Route::file(&body) },
    )]);
    let promise = |sha: &str| Route {
        headers: vec![
            format!("Location: {}/blob", storage.hub.base),
            format!("X-Linked-ETag: \"{sha}\""),
            "X-Linked-Size: 1000".into(),
            "ETag: \"of the redirect\"".into(),
        ],
        ..Route::status(302)
    };
    let sha = Route::file(&body).headers[0].replace("ETag: ", "").replace('"', "");
    let fixture = Fixture::new(&[(FILE, promise(&sha))]);
    let path = fixture.pull(NAME).unwrap();
    assert!(fs::read(&path).unwrap() == body);
    assert_eq!(fixture.requests(), [format!("{FILE} secret")]);
    assert_eq!(storage.requests(), ["/blob"]);
    fixture.set(FILE, promise(&"0".repeat(64)));
    let error = fixture.pull(NAME).unwrap_err().to_string();
    assert!(error.contains("the checksum is wrong"), "{error}");
}

/// A hub that lists these files, each holding its own name.
fn listing(files: &[&str]) -> Fixture {
    let siblings: Vec<_> =
        files.iter().map(|file| serde_json::json!({"rfilename": file})).collect();
    let list = serde_json::json!({ "siblings": siblings }).to_string();
    let fixture =
        Fixture::new(&[("/api/models/o/r", Route { body: list.into(), ..Route::status(200) })]);
    for file in files {
        fixture.set(&format!("/o/r/resolve/main/{file}"), Route::file(file.as_bytes()));
    }
    fixture
}

#[test]
fn a_repository_is_pulled_as_the_model_in_it() {
    let check = |listed: &[&str], path: &str, pulled: &[&str]| {
        let fixture = listing(listed);
        let got = fixture.pull("hf:o/r").unwrap();
        assert_eq!(got, fixture.hub.models.join(path));
        let files: Vec<_> = fixture.files().into_iter().map(|(file, _)| file).collect();
        let expected: Vec<_> = pulled.iter().map(|file| format!("o/r/{file}")).collect();
        assert_eq!(files, expected);
        assert_eq!(fixture.hub.list().unwrap().len(), 1);
        fixture.requests();
        assert_eq!(fixture.hub.resolve("hf:o/r").unwrap(), got);
        assert!(fixture.requests().is_empty());
    };
    check(&["README.md", "a.gguf"], "o/r/a.gguf", &["a.gguf"]);
    check(
        &["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"],
        "o/r/a-00001-of-00002.gguf",
        &["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"],
    );
    check(
        &[
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
            "onnx/model.safetensors",
            "tokenizer.json",
            "vocab.txt",
        ],
        "o/r",
        &["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"],
    );
}

#[test]
fn what_a_hub_lists_is_not_trusted() {
    let check = |listed: &[&str], expected: &str| {
        let fixture = listing(listed);
        let error = format!("{:#}", fixture.pull("hf:o/r").unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert!(fixture.files().is_empty());
    };
    check(&["../../../escaped.gguf"], "cannot be a part of a name");
    check(&["/tmp/escaped.gguf"], "cannot be a part of a name");
    check(&["a.gguf", "b.gguf"], "name one: hf:o/r:a.gguf, hf:o/r:b.gguf");
    check(&["README.md"], "holds no model");
    let fixture = Fixture::new(&[(
        "/api/models/o/r",
        Route { body: b"<html>".to_vec(), ..Route::status(200) },
    )]);
    let error = fixture.pull("hf:o/r").unwrap_err().to_string();
    assert!(error.contains("does not list files"), "{error}");
}

#[test]
fn models_are_listed_found_and_removed() {
    let fixture = Fixture::new(&[]);
    let write = |file: &str, bytes: &[u8]| {
        let path = fixture.hub.models.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("o/one/m.gguf", b"12");
    write("o/one/sub/n-00001-of-00002.gguf", b"123");
    write("o/one/sub/n-00002-of-00002.gguf", b"123");
    write("o/two/m.gguf", b"1");
    write("o/two/q.gguf.partial", b"1");
    write("p/three/config.json", b"{}");
    write("p/three/model.safetensors", b"1234");
    write("p/three/stories.bin", b"1234");
    let held: Vec<_> = fixture.hub.list().unwrap().into_iter().map(|m| (m.name, m.bytes)).collect();
    let expected = [
        ("hf:o/one:m.gguf", 2),
        ("hf:o/one:sub/n-00001-of-00002.gguf", 6),
        ("hf:o/two:m.gguf", 1),
        ("hf:p/three", 10),
        ("hf:p/three:stories.bin", 4),
    ];
    assert_eq!(held, expected.map(|(name, bytes)| (name.to_string(), bytes)));
    let error = |name: &str| fixture.hub.remove(name).unwrap_err().to_string();
    assert!(error("m").contains("may be hf:o/one:m.gguf, hf:o/two:m.gguf"));
    assert!(error("x").contains("no pulled model is called \"x\""));
    assert!(error("../../x").contains("no pulled model"));
    assert!(error("hf:o/four").contains("is not here"));
    assert_eq!(fixture.hub.remove("n-00001-of-00002").unwrap(), 6);
    assert_eq!(fixture.hub.remove("hf:o/one:m.gguf").unwrap(), 2);
    assert!(!fixture.hub.models.join("o/one").exists(), "empty folders go");
    assert_eq!(fixture.hub.remove("three").unwrap(), 10);
    let left: Vec<_> = fixture.files().into_iter().map(|(file, _)| file).collect();
    assert_eq!(left, ["o/two/m.gguf", "o/two/q.gguf.partial"]);
}

#[test]
fn two_downloads_of_one_file_do_not_mix() {
    let fixture = Fixture::new(&[(FILE, Route::file(b"x"))]);
    let partial = fixture.hub.models.join("o/r/m.gguf.partial");
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let other = fs::File::create(&partial).unwrap();
    other.lock().unwrap();
    let error = fixture.pull(NAME).unwrap_err().to_string();
    assert!(error.contains("another yushan"), "{error}");
}
