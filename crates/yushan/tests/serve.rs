//! The system as its clients meet it: the built binary serves a tiny model on a free port; requests
//! and the system's commands go to it from outside.

mod folder;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use folder::{finish, folder, yushan};
use serde_json::{Value, json};
use yushan_abi::Disk;

/// A running system; it ends with the test.
struct System {
    child: Child,
    address: String,
    /// Kept open, so that the system can write to it.
    stderr: BufReader<ChildStderr>,
}

impl System {
    /// Serves `model.gguf` of this folder.
    fn start(folder: &Path, flags: &str) -> System {
        System::serve(folder, &format!("model.gguf {flags}"))
    }

    /// Serves what these arguments say.
    fn serve(folder: &Path, arguments: &str) -> System {
        let arguments = format!("serve {arguments} --port 0 --threads 1");
        let mut child = yushan(folder, &arguments).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut system = System { child, address: String::new(), stderr };
        let mut said = String::new();
        while system.address.is_empty() {
            let read = system.stderr.read_line(&mut said).unwrap();
            assert!(read > 0, "the system did not start: {said}");
            let address = said.lines().last().and_then(|line| line.strip_prefix("Ollama"));
            system.address = address.unwrap_or("").trim().to_string();
        }
        system
    }

    /// Status and body of an answer.
    fn ask(&self, path: &str, body: Option<Value>, key: Option<&str>) -> (u16, Value) {
        let mut answer = self.send(path, body, key);
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    fn send(
        &self,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> ureq::http::Response<ureq::Body> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("{}{path}", self.address);
        let authorization = format!("Bearer {}", key.unwrap_or("none"));
        match body {
            None => agent.get(&url).header("authorization", &authorization).call().unwrap(),
            Some(body) => {
                let request = agent.post(&url).content_type("application/json");
                request.header("authorization", &authorization).send(body.to_string()).unwrap()
            }
        }
    }

    /// The events of a streamed answer, as they come.
    fn stream(&self, path: &str, body: Value) -> impl Iterator<Item = String> {
        let answer = self.send(path, Some(body), None);
        assert_eq!(answer.status(), 200);
        let lines = BufReader::new(answer.into_body().into_reader()).lines();
        lines.filter_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_string))
    }

    /// A command of the system: its exit code, stdout and stderr.
    fn command(&self, folder: &Path, arguments: &str) -> (Option<i32>, String, String) {
        let mut command = yushan(folder, arguments);
        command.env("YUSHAN_SERVER", &self.address);
        finish(command)
    }

    /// What `yushan chat` writes when these lines are typed.
    fn chat(&self, folder: &Path, arguments: &str, lines: &[&str]) -> String {
        let mut command = yushan(folder, &format!("chat model {arguments}"));
        command.env("YUSHAN_SERVER", &self.address);
        typed(command, lines)
    }
}

impl System {
    /// Ctrl-C, and waits until it has ended.
    fn interrupt(&mut self) {
        let pid = self.child.id().to_string();
        let told = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(told.success());
        self.child.wait().unwrap();
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn question(text: &str, most: usize) -> Value {
    json!({
        "model": "model",
        "messages": [{ "role": "user", "content": text }],
        "max_tokens": most,
        "temperature": 0,
        // The end of the reply: without it a reply is as long as asked for.
        "logit_bias": { "2": -100 },
    })
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_gap_is_filled_by_models_that_have_tokens_for_it() {
    let folder = folder();
    folder::add_coder(folder.path());
    let system = System::serve(folder.path(), "model.gguf coder.gguf");
    let ask = |model: &str, more: Value| {
        let mut body = json!({ "model": model, "max_tokens": 8, "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        system.ask("/v1/completions", Some(body), None)
    };
    // BOS and the prefix with its space, the suffix without one.
    let [prefix, suffix, middle] = [3, 2, 1].map(|back| folder::tiny::VOCABULARY as u64 - back);
    let letter = |of: char| 260 + of as u64 - 'a' as u64;
    let ids = [1, prefix, 259, letter('a'), letter('b'), suffix, letter('c'), letter('d'), middle];
    let (status, filled) = ask("coder", json!({ "prompt": "ab", "suffix": "cd" }));
    assert_eq!((status, &filled["usage"]["prompt_tokens"]), (200, &json!(ids.len())), "{filled}");
    let (_, same) = ask("coder", json!({ "prompt": ids }));
    assert_eq!(filled["choices"][0]["text"], same["choices"][0]["text"]);
    let body = json!({ "model": "coder", "prompt": "ab", "suffix": "cd", "stream": false });
    let (status, filled) = system.ask("/api/generate", Some(body), None);
    assert_eq!((status, &filled["prompt_eval_count"]), (200, &json!(ids.len())), "{filled}");
    let (status, refused) = ask("model", json!({ "prompt": "ab", "suffix": "cd" }));
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("suffix")), "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("no tokens for filling in the middle"), "{message}");
}

#[test]
fn a_background_response_goes_on_after_a_kill() {
    let folder = folder();
    let text = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    let asked = json!({
        "model": "model", "input": "Once upon a time", "background": true, "temperature": 0,
        "max_output_tokens": 100, "metadata": { "of": "ann" },
    });
    let ended = |system: &System, id: &Value| loop {
        let path = format!("/v1/responses/{}", id.as_str().unwrap());
        let (status, response) = system.ask(&path, None, None);
        assert_eq!(status, 200, "{response}");
        if !["queued", "in_progress"].contains(&response["status"].as_str().unwrap()) {
            return response;
        }
        std::thread::yield_now();
    };
    let mut system = System::start(folder.path(), "");
    let (_, first) = system.ask("/v1/responses", Some(asked.clone()), None);
    let whole = ended(&system, &first["id"]);
    // Killed or interrupted right after it was acknowledged, and a moment later, twice.
    for (moment, interrupted) in [(0, false), (5, true), (30, false), (0, true)] {
        let (status, queued) = system.ask("/v1/responses", Some(asked.clone()), None);
        assert_eq!(status, 200, "{queued}");
        std::thread::sleep(std::time::Duration::from_millis(moment));
        for _ in 0..2 {
            if interrupted {
                system.interrupt();
            }
            drop(system);
            system = System::start(folder.path(), "");
        }
        let again = ended(&system, &queued["id"]);
        assert_eq!(again["status"], whole["status"], "{again}");
        assert_eq!(text(&again), text(&whole));
        assert_eq!(again["metadata"], asked["metadata"]);
    }
    // The journal has them all, and they say the same again.
    let (code, out, err) = system.command(folder.path(), "replay 1");
    assert_eq!((code, out.contains("the same")), (Some(0), true), "{out}{err}");
    let (code, out, _) = system.command(folder.path(), "logs 1");
    assert!(code == Some(0) && out.starts_with("began: Once upon a time"), "{out}");
    // One that was cancelled does not come back.
    let (_, queued) = system.ask("/v1/responses", Some(asked.clone()), None);
    let path = format!("/v1/responses/{}/cancel", queued["id"].as_str().unwrap());
    system.ask(&path, Some(json!({})), None);
    let before = ended(&system, &queued["id"]);
    drop(system);
    let system = System::start(folder.path(), "");
    assert_eq!(ended(&system, &queued["id"])["status"], before["status"]);
}

#[test]
fn a_process_of_its_own_is_started_and_read_about() {
    let folder = folder();
    let system = System::start(folder.path(), "--price-read 1000000 --price-written 2000000");
    let spawn = "spawn tell --max-tokens 6 --tokens 500 --follow";
    let (code, out, err) = system.command(folder.path(), spawn);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("said: ") && out.ends_with("over: done\n"), "{out}");
    let (_, all) = system.ask("/v1/processes", None, None);
    let process = &all["data"][0];
    assert_eq!(process["spawn"]["budget"]["tokens"], 500, "{process}");
    assert_eq!(process["counts"]["generated"], 6, "{process}");
    for (arguments, expected) in [
        ("spawn x --tools teleport", "there is no tool \"teleport\""),
        ("spawn x --model other", "\"other\" does not exist"),
        ("logs 999", "999"),
        ("replay 999", "the journal has no process 999"),
        ("answer 1 yes", "asks nothing"),
        ("mail 1 hello", "no such process"),
    ] {
        let (code, _, err) = system.command(folder.path(), arguments);
        assert!(code != Some(0) && err.contains(expected), "{arguments}: {err}");
    }
}

#[test]
fn a_system_answers() {
    let folder = folder();
    let system = System::start(folder.path(), "");
    let (status, models) = system.ask("/v1/models", None, None);
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("model")), "{models}");

    let (status, whole) = system.ask("/v1/chat/completions", Some(question("hi", 8)), None);
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["choices"][0]["finish_reason"], "length", "{whole}");
    assert_eq!(whole["usage"]["completion_tokens"], 8, "{whole}");

    let mut streamed = question("hi", 8);
    streamed["stream"] = true.into();
    let events: Vec<String> = system.stream("/v1/chat/completions", streamed).collect();
    let (done, events) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| parsed(event)).collect();
    let pieces = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), whole["choices"][0]["message"]["content"]);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");

    let (status, processes) = system.ask("/v1/processes", None, None);
    assert_eq!(status, 200, "{processes}");
    let ended: Vec<_> = processes["data"].as_array().unwrap().iter().collect();
    assert_eq!(ended.len(), 2, "{processes}");
    for process in ended {
        assert_eq!(
            (&process["exit"], &process["counts"]["generated"]),
            (&json!("done"), &json!(8))
        );
    }
    let (code, table, _) = system.command(folder.path(), "ps -a");
    assert_eq!((code, table.lines().count()), (Some(0), 3), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains(" exited ")).count(), 2, "{table}");
    let (code, table, _) = system.command(folder.path(), "ps");
    assert_eq!((code, table.lines().count()), (Some(0), 1), "{table}");
}

#[test]
fn a_running_completion_is_killed() {
    let folder = folder();
    let system = System::start(folder.path(), "-c 50000 --slots 2");
    let mut long = question("hi", 49_000);
    long["stream"] = true.into();
    let mut events = system.stream("/v1/chat/completions", long);
    // It writes.
    events.find(|event| parsed(event)["choices"][0]["delta"]["content"].is_string()).unwrap();
    let (code, table, _) = system.command(folder.path(), "ps --json");
    let table = parsed(&table);
    assert_eq!((code, table.as_array().unwrap().len()), (Some(0), 1), "{table}");
    let pid = table[0]["pid"].as_u64().unwrap();
    let (_, top, _) = system.command(folder.path(), "top");
    assert!(top.starts_with("1 alive ") && top.contains("interactive"), "{top}");
    assert_eq!(system.command(folder.path(), &format!("kill {pid}")).0, Some(0));
    let rest: Vec<String> = events.collect();
    let end =
        rest.iter().rev().find(|event| *event != "[DONE]").map(|event| parsed(event)).unwrap();
    assert_eq!(
        (&end["choices"][0]["finish_reason"], &end["choices"][0]["finish_detail"]),
        (&json!("length"), &json!("cancelled")),
        "{end}"
    );
    let (_, processes) = system.ask("/v1/processes", None, None);
    let process = &processes["data"][0];
    assert_eq!((&process["pid"], &process["exit"]), (&pid.into(), &json!("killed")), "{process}");
    let (code, _, stderr) = system.command(folder.path(), "kill 4096");
    assert!(code == Some(1) && stderr.contains("no process \"4096\""), "{stderr}");
    for signal in ["kill", "stop"] {
        let (code, _, stderr) = system.command(folder.path(), &format!("{signal} {pid}"));
        assert!(code == Some(1) && stderr.contains("has ended"), "{stderr}");
    }
    // Served, and not pulled.
    let url = format!("{}/api/delete", system.address);
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.delete(&url).force_send_body().send(r#"{"model": "model"}"#).unwrap();
    let said = answer.body_mut().read_to_string().unwrap();
    let expected = json!({ "error": "no pulled model is called \"model\"; see yushan models" });
    assert_eq!((answer.status().as_u16(), parsed(&said)), (404, expected));
}

/// What a conversation writes when these lines are typed.
fn typed(mut command: Command, lines: &[&str]) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_conversation_without_a_system_has_its_own() {
    let folder = folder();
    let chat = |arguments: &str| yushan(folder.path(), &format!("chat {arguments}"));
    // Of a file, then of a model that was pulled, which needs no name.
    let said = typed(chat("model.gguf -c 512 --threads 1"), &["tell", "/fork", "/stats", "/bye"]);
    assert!(said.contains("tokens/s"), "{said}");
    let resumed = typed(chat("model.gguf --resume"), &["/branches"]);
    assert!(resumed.contains("2 messages"), "{resumed}");
    pulled(folder.path(), "model.gguf", "ann/first/first.gguf");
    let said = typed(chat(""), &["tell", "/stats"]);
    assert!(said.contains("tokens/s"), "{said}");

    // While it lasts the other commands find it, a second conversation joins it, and no other system starts.
    let mut first = chat("model.gguf");
    first.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = first.spawn().unwrap();
    let mut stdin = first.stdin.take().unwrap();
    stdin.write_all(b"tell\n").unwrap();
    let mut out = BufReader::new(first.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    let (code, table, err) = finish(yushan(folder.path(), "ps --all"));
    assert!(code == Some(0) && table.contains("model"), "{table}{err}");
    let joined = typed(chat("model"), &["tell", "/stats"]);
    assert!(joined.contains("tokens/s"), "{joined}");
    for (arguments, expected) in [
        ("chat model -c 512", "with an engine as it was started"),
        ("chat other.gguf", "no model \"other.gguf\"; the system has model"),
        ("serve model.gguf --port 0", "another system uses the data folder"),
    ] {
        let (code, _, err) = finish(yushan(folder.path(), arguments));
        assert!(code == Some(2) && err.contains(expected), "{arguments}: {code:?} {err}");
    }
    drop(stdin);
    assert!(first.wait().unwrap().success());
    let (code, _, err) = finish(yushan(folder.path(), "chat absent.gguf"));
    assert!(code == Some(3) && err.contains("absent.gguf"), "{code:?} {err}");
}

/// Puts a model where a pulled one lies.
fn pulled(folder: &Path, from: &str, name: &str) -> std::path::PathBuf {
    let to = folder.join("home/models").join(name);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(folder.join(from), &to).unwrap();
    to
}

#[test]
fn pulled_models_come_when_they_are_asked_for_and_go() {
    let folder = folder();
    let (first, second) = ("hf:ann/first:first.gguf", "hf:ann/second:second.gguf");
    pulled(folder.path(), "model.gguf", "ann/first/first.gguf");
    let system = System::serve(folder.path(), "-c 512 --slots 1");
    let listed = |path: &str| -> Vec<String> {
        let (_, list) = system.ask(path, None, None);
        let models = list["models"].as_array().unwrap();
        models.iter().map(|model| model["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!((listed("/api/tags"), listed("/api/ps")), (vec![first.into()], vec![]));
    // One that comes later can be asked for at once, by its short names too.
    let path = pulled(folder.path(), "model.gguf", "ann/second/second.gguf");
    for (model, full) in [("hf:ann/second", second), ("first", first)] {
        let mut body = question("hi", 4);
        body["model"] = model.into();
        let (status, answer) = system.ask("/v1/chat/completions", Some(body), None);
        assert_eq!((status, &answer["model"]), (200, &json!(full)), "{answer}");
    }
    assert_eq!(listed("/api/ps"), [first, second]);
    let (_, running) = system.ask("/api/ps", None, None);
    let (_, tags) = system.ask("/api/tags", None, None);
    assert!(running["models"][0]["size"].as_u64() > tags["models"][0]["size"].as_u64());
    let body = json!({ "model": "first", "keep_alive": 0 });
    let (_, answer) = system.ask("/api/generate", Some(body), None);
    assert_eq!(answer["done_reason"], "unload", "{answer}");
    while listed("/api/ps") != [second] {}
    std::fs::remove_file(path).unwrap();
    assert_eq!(listed("/api/tags"), [first]);
    // What is no model is named as it is asked for, and harms nobody.
    std::fs::write(folder.path().join("damaged"), "GGUF\u{7}\0\0\0 nonsense").unwrap();
    pulled(folder.path(), "damaged", "ann/third/third.gguf");
    let mut body = question("hi", 4);
    body["model"] = "third".into();
    let (status, answer) = system.ask("/v1/chat/completions", Some(body), None);
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(status == 500 && why.contains("version") && !why.contains("home/"), "{why}");
    let mut body = question("hi", 4);
    body["model"] = "first".into();
    assert_eq!(system.ask("/v1/chat/completions", Some(body), None).0, 200);
}

#[test]
fn memory_is_a_bound() {
    let folder = folder();
    pulled(folder.path(), "model.gguf", "ann/first/first.gguf");
    let arguments = "serve model.gguf --memory 1KB --port 0";
    let (code, _, stderr) = finish(yushan(folder.path(), arguments));
    assert!(code == Some(4) && stderr.contains("--memory"), "{stderr}");
    let system = System::serve(folder.path(), "--memory 1KB");
    let mut body = question("hi", 4);
    body["model"] = "first".into();
    let (status, answer) = system.ask("/v1/chat/completions", Some(body), None);
    assert_eq!((status, &answer["error"]["code"]), (507, &json!("no_room")), "{answer}");
}

#[test]
fn another_server_is_one_argument() {
    let folder = folder();
    let far = System::start(folder.path(), "-c 512");
    let elsewhere = self::folder();
    let near = System::serve(elsewhere.path(), &format!("{}/v1", far.address));
    let (_, here) = near.ask("/v1/chat/completions", Some(question("hi", 8)), None);
    let (_, there) = far.ask("/v1/chat/completions", Some(question("hi", 8)), None);
    assert_eq!(here["choices"], there["choices"]);
    assert_eq!(here["usage"]["completion_tokens"], 8, "{here}");
    let (status, why) = near.ask("/tokenize", Some(json!({ "content": "a" })), None);
    assert_eq!(status, 400, "{why}");
    // Through Ollama's interface, whose usual sampling needs fields that OpenAI has not.
    let body = json!({ "model": "model", "prompt": "hi", "options": { "num_predict": 3 }, "stream": false, "keep_alive": "5m" });
    let (status, answer) = near.ask("/api/generate", Some(body), None);
    assert_eq!(status, 200, "{answer}");
    drop(far);
    let (status, why) = near.ask("/v1/chat/completions", Some(question("hi", 8)), None);
    assert!(status == 500 && why.to_string().contains("does not answer"), "{why}");
}

/// Another server with a model named `model`, which takes what it is asked and does not answer. Its address.
fn silent() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            if line.starts_with("GET") {
                let list = r#"{"data": [{"id": "model", "max_model_len": 4096}]}"#;
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
                let _ = write!(stream, "{head}: {}\r\n\r\n{list}", list.len());
            }
            held.push(stream);
        }
    });
    format!("http://{address}")
}

#[test]
fn what_another_server_was_asked_becomes_one_process_here() {
    let folder = folder();
    let (code, key, stderr) =
        finish(yushan(folder.path(), "keys new ann --scopes look,use,manage"));
    assert_eq!(code, Some(0), "{stderr}");
    let key = key.trim();
    let system = System::serve(folder.path(), &format!("{}/v1", silent()));
    let asked = json!({
        "model": "model", "input": "Once upon a time", "background": true, "temperature": 0,
        "max_output_tokens": 2000,
    });
    let (status, queued) = system.ask("/v1/responses", Some(asked), Some(key));
    assert_eq!(status, 200, "{queued}");
    drop(system);
    let waiting = || {
        let disk = yushan_disk::Sqlite::open(&folder.path().join("home/disk")).unwrap();
        (disk.list("background", None, "", 9).unwrap(), disk)
    };
    let (asked, disk) = waiting();
    assert_eq!(asked.len(), 1);
    drop(disk);
    // Killed when it has become a process, and as if before it was forgotten as what is to be asked.
    for start in 0..3 {
        let mut system = System::start(folder.path(), "-c 50000");
        let mut said = String::new();
        system.stderr.read_line(&mut said).unwrap();
        assert!(said.starts_with("resumed 1 "), "{said}");
        if start == 0 {
            while system.ask("/v1/processes", None, Some(key)).1["data"] == json!([]) {}
            let stop = json!({ "signal": "stop" });
            assert_eq!(system.ask("/v1/processes/1", Some(stop), Some(key)).0, 200);
        }
        drop(system);
        let (left, disk) = waiting();
        assert!(start == 0 || left.is_empty(), "{left:?}");
        disk.put(&asked[0]).unwrap();
    }
    let mut system = System::start(folder.path(), "-c 50000");
    let go_on = json!({ "signal": "continue" });
    assert_eq!(system.ask("/v1/processes/1", Some(go_on), Some(key)).0, 200);
    let path = format!("/v1/responses/{}", queued["id"].as_str().unwrap());
    let ended = loop {
        let (status, response) = system.ask(&path, None, Some(key));
        assert_eq!(status, 200, "{response}");
        if !["queued", "in_progress"].contains(&response["status"].as_str().unwrap()) {
            break response;
        }
        std::thread::yield_now();
    };
    let (_, all) = system.ask("/v1/processes", None, Some(key));
    let processes = all["data"].as_array().unwrap();
    assert_eq!(processes.len(), 1, "{all}");
    system.interrupt();
    drop(system);
    // And it is paid once.
    let (_, listed, _) = finish(yushan(folder.path(), "keys list --json"));
    let used = &parsed(&listed)[0]["used"]["total"];
    let counts = &processes[0]["counts"];
    for of in ["prompt", "generated"] {
        assert_eq!(used[of], counts[of], "{listed} {ended}");
    }
}

#[test]
fn people_talk_to_a_system() {
    let folder = folder();
    let system = System::start(folder.path(), "-c 512");
    std::fs::write(folder.path().join("note.txt"), "a note").unwrap();
    let said = system.chat(
        folder.path(),
        "",
        &[
            "/system be brief",
            "/attach note.txt",
            "/attach absent.txt",
            "hi",
            "/fork",
            "/undo",
            "/branches",
            "/branch 1",
            "/save talk.json",
            "/load talk.json",
            "/stats",
            "/bye",
        ],
    );
    for part in [
        "\"note.txt\", 6 bytes, goes before",
        "error: absent.txt: ",
        "This is branch 2; /branch 1 goes back.",
        "   1  3 messages ",
        "*  2  1 message ",
        "Saved to talk.json.",
        "This is branch 3: 3 messages.",
        "tokens/s",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let saved = std::fs::read_to_string(folder.path().join("talk.json")).unwrap();
    let messages = &parsed(&saved)["messages"];
    assert_eq!(messages[0], json!({ "role": "system", "content": "be brief" }));
    assert_eq!(messages[1]["attached"], json!(["File \"note.txt\":\n```\na note\n```\n\n"]));
    assert_eq!(messages[1]["content"], "hi");
    assert!(!messages[2]["content"].as_str().unwrap().is_empty(), "{messages}");
}

#[test]
fn keys_are_asked_for() {
    let folder = folder();
    let mut command = yushan(folder.path(), "keys new ann");
    let Output { status, stdout, .. } = command.output().unwrap();
    assert!(status.success());
    let key = String::from_utf8(stdout).unwrap().trim().to_string();
    let system = System::start(folder.path(), "--require-key");
    for (key, path, expected) in [
        (None, "/v1/models", 401),
        (Some("ysk-0000"), "/v1/models", 401),
        (Some(key.as_str()), "/v1/models", 200),
        // Its scopes are `look` and `use`.
        (Some(key.as_str()), "/v1/processes", 403),
    ] {
        let (status, body) = system.ask(path, None, key);
        assert_eq!(status, expected, "{key:?} {path}: {body}");
    }
    let (status, _) = system.ask("/v1/chat/completions", Some(question("hi", 2)), Some(&key));
    assert_eq!(status, 200);
    let (code, _, stderr) = system.command(folder.path(), "ps");
    assert!(code == Some(1) && stderr.starts_with("error: "), "{stderr}");
}

#[test]
fn a_data_folder_belongs_to_one_system() {
    let folder = folder();
    let system = System::start(folder.path(), "");
    let (code, _, stderr) = finish(yushan(folder.path(), "serve model.gguf --port 0"));
    assert_eq!(code, Some(2), "{stderr}");
    for part in ["another system", "home", "YUSHAN_HOME"] {
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{stderr}");
    }
    // It is there again at once when its system has been killed.
    drop(system);
    System::start(folder.path(), "");
}

#[test]
fn processes_are_charged_to_the_key_they_were_started_with() {
    let folder = folder();
    let (code, key, stderr) =
        finish(yushan(folder.path(), "keys new ann --tokens-per-day 20 --scopes look,use,manage"));
    assert_eq!(code, Some(0), "{stderr}");
    let key = key.trim();
    let system = System::start(folder.path(), "--require-key");
    let task = json!({ "model": "model", "task": "tell me", "max_tokens": 6 });
    let (status, first) = system.ask("/v1/processes", Some(task.clone()), Some(key));
    assert_eq!(status, 200, "{first}");
    loop {
        let (_, all) = system.ask("/v1/processes", None, Some(key));
        if all["data"][0]["state"] == "exited" {
            break;
        }
        std::thread::yield_now();
    }
    for path in ["/v1/processes", "/v1/processes/1/replay"] {
        let (status, refused) = system.ask(path, Some(task.clone()), Some(key));
        assert_eq!((status, &refused["error"]["code"]), (429, &json!("insufficient_quota")));
    }
}

#[test]
fn what_cannot_work_is_said() {
    let folder = folder();
    let nobody = "--server http://127.0.0.1:1";
    for (arguments, expected, part) in [
        ("serve model.gguf --host 0.0.0.0 --port 0", 2, "yushan keys new"),
        ("serve absent.gguf --port 0", 3, "absent.gguf"),
        (&format!("chat {nobody}"), 3, "yushan serve"),
        (&format!("top {nobody}"), 3, "yushan serve"),
        (&format!("ps {nobody}"), 3, "yushan serve"),
    ] {
        let (code, stdout, stderr) = finish(yushan(folder.path(), arguments));
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{arguments}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{arguments}: {stderr}");
    }
}

#[test]
fn what_was_said_is_kept_exported_and_imported() {
    let folder = folder();
    let system = System::start(folder.path(), "-c 256");
    let run = |arguments: &str| system.command(folder.path(), arguments);
    let (code, _, stderr) = run("chat --resume");
    assert!(code == Some(1) && stderr.contains("keeps no conversation yet"), "{stderr}");
    system.chat(folder.path(), "", &["Where is Alishan?", "/clear", "And Lugu?", "/bye"]);
    let said = system.chat(folder.path(), "", &["/history", "/search Lugu", "/search Hualien"]);
    let counts = ["Where is Alishan?", "And Lugu?"].map(|title| said.matches(title).count());
    assert_eq!(counts, [1, 2], "{said}");
    assert!(said.trim_end().ends_with("none"), "{said}");

    assert_eq!(run("export --out all.json").0, Some(0));
    let exported = std::fs::read_to_string(folder.path().join("all.json")).unwrap();
    let conversations = parsed(&exported)["conversations"].as_array().unwrap().clone();
    assert_eq!(conversations.len(), 2, "{exported}");
    let id = conversations[0]["id"].as_str().unwrap();
    let said = system.chat(folder.path(), &format!("--resume {id}"), &["/branches", "/undo"]);
    assert!(said.contains("This is branch 1: 2 messages."), "{said}");
    let said = system.chat(folder.path(), "--resume", &["/branches"]);
    assert!(said.contains("This is branch 1: "), "{said}");

    // Another system gets equal data back.
    let elsewhere = self::folder();
    let other = System::start(elsewhere.path(), "-c 256");
    let run = |arguments: &str| other.command(folder.path(), arguments);
    let (code, lines, stderr) = run("import all.json");
    assert_eq!((code, lines.lines().count()), (Some(0), 2), "{stderr}");
    assert_eq!(run("export"), (Some(0), exported, "2 conversations\n".into()));
    let (code, one, _) = run(&format!("export {id}"));
    assert_eq!((code, &parsed(&one)["conversations"][0]), (Some(0), &conversations[0]));
    let lines = [
        json!([{"role": "user", "content": "a line"}]),
        json!({"messages": [
        {"role": "user", "content": "another"}, {"role": "assistant", "content": "yes"}]}),
    ];
    let [first, second] = &lines;
    std::fs::write(folder.path().join("lines.jsonl"), format!("{first}\n{second}\n")).unwrap();
    assert_eq!(run("import lines.jsonl").0, Some(0));
    // Bad files change nothing, and say where they are bad.
    for (text, code, part) in [
        ("{", 3, "no JSON"),
        (
            &format!("{first}\n[{{\"role\": \"king\", \"content\": \"a\"}}]"),
            1,
            "[1].messages[0].role",
        ),
        (&format!("{first}\n{{\"text\": 7}}"), 3, "line 2: no conversation"),
    ] {
        std::fs::write(folder.path().join("bad.json"), text).unwrap();
        let (found, _, stderr) = run("import bad.json");
        assert_eq!(found, Some(code), "{text}: {stderr}");
        assert!(stderr.contains("bad.json") && stderr.contains(part), "{text}: {stderr}");
    }
    assert_eq!(run("export absent").0, Some(1));
    let (_, all, _) = run("export");
    assert_eq!(parsed(&all)["conversations"].as_array().unwrap().len(), 4);
}

#[test]
fn texts_are_embedded_by_a_process() {
    let folder = folder();
    let system = System::start(folder.path(), "");
    let body = json!({"model": "model", "input": ["one text", "another", "one text"]});
    let (status, reply) = system.ask("/v1/embeddings", Some(body), None);
    assert_eq!(status, 200, "{reply}");
    let vector = |at: usize| {
        let list = reply["data"][at]["embedding"].as_array().unwrap();
        list.iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(vector(0), vector(2));
    assert_ne!(vector(0), vector(1));
    let length: f64 = vector(0).iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-6, "{length}");
    let (_, table, _) = system.command(folder.path(), "ps -a");
    assert_eq!(table.lines().filter(|line| line.contains("one text")).count(), 2, "{table}");
}

/// Sends a message of MCP over streamable HTTP; status, session and the answer, whichever form it has.
fn mcp(
    system: &System,
    key: Option<&str>,
    session: Option<&str>,
    message: &Value,
) -> (u16, Option<String>, Value) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent
        .post(format!("{}/mcp", system.address))
        .content_type("application/json")
        .header("accept", "application/json, text/event-stream")
        .header("authorization", format!("Bearer {}", key.unwrap_or("none")));
    let request = match session {
        None => request,
        Some(session) => {
            request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25")
        }
    };
    let mut answer = request.send(message.to_string()).unwrap();
    let header = answer.headers().get("mcp-session-id");
    let session = header.map(|value| value.to_str().unwrap().to_string());
    let text = answer.body_mut().read_to_string().unwrap();
    let mut data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let data = data.rfind(|data| !data.is_empty()).unwrap_or(&text);
    (answer.status().as_u16(), session, serde_json::from_str(data).unwrap_or_default())
}

#[test]
fn other_programs_use_the_tools_over_mcp() {
    let folder = folder();
    let made = |name: &str| {
        let (code, key, stderr) = finish(yushan(folder.path(), &format!("keys new {name}")));
        assert_eq!(code, Some(0), "{stderr}");
        key.lines().next().unwrap().to_string()
    };
    let (ann, bob) = (made("ann"), made("bob"));
    let system = System::start(folder.path(), "--require-key");
    let begins = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}}});
    assert_eq!(mcp(&system, None, None, &begins).0, 401);
    let (status, session, answer) = mcp(&system, Some(&ann), None, &begins);
    assert_eq!((status, &answer["result"]["serverInfo"]["name"]), (200, &json!("yushan")));
    let session = session.expect("a session");
    let ask = |method: &str, params: Value| {
        let message = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params});
        mcp(&system, Some(&ann), Some(&session), &message)
    };
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(mcp(&system, Some(&ann), Some(&session), &ready).0, 202);
    let (_, _, list) = ask("tools/list", json!({}));
    let names = list["result"]["tools"].as_array().unwrap().iter();
    let names = names.map(|tool| tool["name"].as_str().unwrap()).collect::<Vec<_>>();
    for name in ["calculator", "files_write", "search_kept", "assistant"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!names.contains(&"spawn"), "a call of the system is none of a program's");

    let call = |name: &str, arguments: Value| {
        ask("tools/call", json!({"name": name, "arguments": arguments})).2["result"].clone()
    };
    let result = call("calculator", json!({"expression": "6 * 7"}));
    assert!(result["content"][0]["text"].as_str().unwrap().contains("42"), "{result}");
    let result = call("assistant", json!({"task": "Say something."}));
    assert!(!result["content"][0]["text"].as_str().unwrap().is_empty(), "{result}");
    for (name, arguments, why) in [
        ("calculator", json!({"expression": "6 *"}), "at character 3"),
        ("calculator", json!({"expr": "6"}), "expr"),
        ("assistant", json!({"task": "x", "tools": ["nothing"]}), "there is no tool \"nothing\""),
        ("assistant", json!({"task": "x", "model": "other"}), "other"),
        ("assistant", json!({}), "task"),
    ] {
        let result = call(name, arguments);
        assert_eq!(result["isError"], true, "{result}");
        let said = result["content"][0]["text"].as_str().unwrap();
        assert!(said.contains(why), "{why}: {said}");
    }
    // Another user has neither the session nor the files.
    let list = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"});
    assert_eq!(mcp(&system, Some(&bob), Some(&session), &list).0, 404);
}

#[test]
fn a_library_is_filled_beside_a_running_system() {
    let folder = folder();
    let docs = folder.path().join("docs");
    std::fs::create_dir_all(docs.join(".hidden")).unwrap();
    for (name, text) in [
        ("peaks.md", "# Peaks\n\nYushan is 3952 metres high.\n"),
        ("lakes.csv", "name,area\nSun Moon Lake,7.93\n"),
        ("broken.pdf", "no PDF"),
        ("photo.png", "no text"),
        (".hidden/secret.md", "secret"),
    ] {
        std::fs::write(docs.join(name), text).unwrap();
    }
    let system = System::start(folder.path(), "--embed-model model");
    let docs = std::fs::canonicalize(docs).unwrap().display().to_string();
    let run = |arguments: &str| system.command(folder.path(), arguments);
    let (code, added, left_out) = run("library add docs --embed-model model");
    let both = format!("{docs}/lakes.csv\n{docs}/peaks.md\n");
    assert_eq!((code, added), (Some(0), both), "{left_out}");
    assert!(left_out.contains(&format!("left out: {docs}/broken.pdf: ")), "{left_out}");
    assert!(left_out.ends_with("2 added, 1 left out\n"), "{left_out}");
    let (_, found, _) = run("library search metres high");
    assert!(found.starts_with(&format!("peaks.md  {docs}/peaks.md\n    # Peaks\n")), "{found}");
    // What the assistant finds, by words and by meaning.
    let order = json!({"arguments": {"query": "lake"}, "space": "s"});
    let (status, result) = system.ask("/v1/tools/search_kept", Some(order), None);
    let said = result["parts"].to_string();
    assert!(status == 200 && said.contains("docs/lakes.csv"), "{result}");
    assert!(said.contains("docs/peaks.md"), "by its vector: {result}");

    assert_eq!(run("library remove docs/lakes.csv").0, Some(0));
    assert_eq!(run("library list").1, format!("{docs}/peaks.md\n"));
    assert_eq!(run("library add nowhere").0, Some(3));
    for (arguments, why) in [
        ("library remove docs/lakes.csv", "is not in it"),
        ("library add nowhere", "nowhere"),
        ("library add docs/photo.png", "nothing was added"),
        ("library add http://127.0.0.1/", "127.0.0.1"),
        ("library search x --embed-model other", "other"),
    ] {
        let (code, _, stderr) = run(arguments);
        assert!(code != Some(0) && stderr.contains(why), "{arguments}: {code:?} {stderr}");
    }
}
