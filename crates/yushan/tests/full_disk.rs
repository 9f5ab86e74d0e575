//! The operating system refuses: whichever write of a served session fails, with whichever words, once or
//! from then on, a client gets its answer or a clear error, what was acknowledged is there afterwards, and
//! what was refused has changed nothing.
//!
//! The built binary runs with a library that counts the calls by which it changes files and has the k-th
//! fail (`faults/faults.c`). It is preloaded as the dynamic linkers of Linux do it.

#![cfg(target_os = "linux")]

mod faults;
mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use faults::{Error, How, Plan};
use folder::{finish, folder, yushan};
use serde_json::{Value, json};
use tempfile::TempDir;
use yushan_abi::Disk;
use yushan_disk::Sqlite;

/// How long anything may take: longer is a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sessions between restarts.
const TOGETHER: i64 = 8;

/// So many sessions, one after the other, that do not come to the write that shall fail, are the end.
const BEYOND: usize = 12;

/// Words by which an error names what happened.
const WORDS: [&str; 6] =
    ["full", "o space left", "I/O error", "nput/output error", "its disk failed", "room"];

fn names_it(said: &str) -> bool {
    WORDS.iter().any(|word| said.contains(word))
}

/// A running system.
struct System {
    child: Child,
    address: String,
    agent: ureq::Agent,
    /// What it writes to stderr.
    lines: Receiver<String>,
}

impl System {
    /// Starts it, or gives what it said when it did not start.
    fn start(place: &Place) -> Result<System, String> {
        let mut command =
            yushan(place.folder.path(), "serve model.gguf -c 512 --port 0 --threads 1");
        place.plan.over(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut said = String::new();
        let mut system = System { child, address: String::new(), agent, lines };
        while let Ok(line) = system.lines.recv_timeout(PATIENCE) {
            if let Some(address) = line.strip_prefix("Ollama") {
                system.address = address.trim().into();
                return Ok(system);
            }
            said += &(line + "\n");
        }
        system.await_end();
        Err(said)
    }

    /// Status and text of an answer.
    fn send(&self, method: &str, path: &str, media: &str, key: &str, body: &str) -> (u16, String) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address))
            .header("content-type", media)
            .header("authorization", format!("Bearer {key}"));
        let answer = match body {
            "" => self.agent.run(request.body(()).unwrap()),
            body => self.agent.run(request.body(body).unwrap()),
        };
        let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let mut text = String::new();
        answer.body_mut().as_reader().read_to_string(&mut text).unwrap();
        (answer.status().as_u16(), text)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, "", "none", "")
    }

    /// What must be readable, whatever happens to writes.
    fn read(&self, path: &str) -> Value {
        let (status, text) = self.get(path);
        assert_eq!(status, 200, "{path}: {text}");
        parsed(&text)
    }

    /// Waits until something is so.
    fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.read(path);
            if is(&found) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "it hangs: {path}: {found}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn interrupt(&mut self) {
        let pid = self.child.id().to_string();
        let told = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(told.success());
        self.await_end();
    }

    fn await_end(&mut self) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// A data folder, and a plan of what fails in it.
struct Place {
    folder: TempDir,
    plan: Plan,
    _aside: TempDir,
}

impl Place {
    fn new() -> Place {
        let (folder, aside) = (folder(), tempfile::tempdir().unwrap());
        let plan = Plan::new(aside.path(), folder.path());
        plan.disarm();
        Place { folder, plan, _aside: aside }
    }

    /// The journal's chain is whole.
    fn verify(&self) {
        let disk = Sqlite::open(&self.folder.path().join("home/disk")).unwrap();
        disk.verify().unwrap();
    }
}

/// What stands at a path, in few words: "gone", or what matters of it.
fn standing(system: &System, path: &str) -> String {
    let (status, text) = system.get(path);
    match status {
        404 => "gone".into(),
        200 if path.ends_with("/content") => text,
        200 => {
            let body = parsed(&text);
            let ids = body["data"].as_array().into_iter().flatten().map(|one| &one["id"]);
            match path {
                _ if path.contains("?q=") => json!(ids.collect::<Vec<_>>()).to_string(),
                _ if path.starts_with("/v1/responses") => answer(&body),
                _ if path.ends_with("/log") => kinds(&body),
                _ => body["messages"].to_string(),
            }
        }
        _ => panic!("{path}: {status} {text}"),
    }
}

/// The text of a response.
fn answer(response: &Value) -> String {
    response["output"][0]["content"][0]["text"].to_string()
}

/// What a journal tells of a process: the kinds of its entries.
fn kinds(log: &Value) -> String {
    let kinds = log["data"].as_array().unwrap().iter().map(|record| match &record["entry"] {
        Value::String(kind) => kind.clone(),
        entry => entry.as_object().unwrap().keys().next().unwrap().clone(),
    });
    kinds.collect::<Vec<_>>().join(" ")
}

/// What is known to have been acknowledged, and what may also stand there after a crash: a refused
/// change whose sync alone failed can be there then, whole.
#[derive(Default)]
struct Known {
    is: BTreeMap<String, String>,
    or: BTreeMap<String, Vec<String>>,
}

impl Known {
    fn now(&mut self, path: impl Into<String>, is: impl Into<String>) {
        let path = path.into();
        self.or.remove(&path);
        self.is.insert(path, is.into());
    }

    fn or(&mut self, path: &str, also: impl Into<String>) {
        self.or.entry(path.into()).or_default().push(also.into());
    }

    fn check(&self, system: &System, crashed: bool, context: &str) {
        for (path, is) in &self.is {
            let found = standing(system, path);
            let also = self.or.get(path).filter(|_| crashed);
            let allowed = also.is_some_and(|also| also.contains(&found));
            assert!(found == *is || allowed, "{context}: {path} is {found}, not {is}, or {also:?}");
        }
    }
}

/// One session after the other against one data folder.
struct Sessions {
    place: Place,
    system: Option<System>,
    known: Known,
    number: i64,
    /// The session whose words stand in the conversation that is kept.
    kept: i64,
    /// By what was asked: how often it was refused.
    refused: BTreeMap<&'static str, usize>,
    /// What is answered when nothing fails.
    texts: BTreeMap<&'static str, String>,
    /// Processes that were acknowledged, and how many of them ended well.
    processes: Vec<(u64, bool)>,
    /// Those that were held, or may be, and may not be killed.
    held: BTreeSet<u64>,
    context: String,
}

impl Sessions {
    fn new() -> Sessions {
        let place = Place::new();
        let system = Some(System::start(&place).unwrap());
        let mut sessions = Sessions {
            place,
            system,
            known: Known::default(),
            number: 0,
            kept: 0,
            refused: BTreeMap::new(),
            texts: BTreeMap::new(),
            processes: Vec::new(),
            held: BTreeSet::new(),
            context: "at first".into(),
        };
        sessions.session();
        assert!(sessions.refused.is_empty(), "{:?}", sessions.refused);
        sessions.check(false);
        sessions
    }

    fn system(&self) -> &System {
        self.system.as_ref().unwrap()
    }

    /// Whether an answer is good; else it must be a clear error, in OpenAI's form, and a fault's.
    fn taken(&mut self, what: &'static str, (status, text): &(u16, String)) -> bool {
        if *status == 200 {
            return true;
        }
        let error = &parsed(text)["error"];
        let said = error["message"].as_str().unwrap_or("");
        let clear = *status >= 500 && error["type"] == "server_error" && names_it(said);
        assert!(clear, "{}: {what}: {status} {text}", self.context);
        *self.refused.entry(what).or_default() += 1;
        false
    }

    fn ask(&mut self, what: &'static str, method: &str, path: &str, body: Value) -> Option<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.system().send(method, path, "application/json", "none", &body);
        self.taken(what, &answer).then(|| parsed(&answer.1))
    }

    /// The text is what it always is.
    fn same(&mut self, what: &'static str, text: String) {
        let expected = self.texts.entry(what).or_insert_with(|| text.clone());
        assert_eq!(text, *expected, "{}: {what}", self.context);
    }

    /// A command of the system that may be refused: whether it was done, and its output.
    fn command(&mut self, what: &'static str, arguments: &str) -> Option<String> {
        let mut command = yushan(self.place.folder.path(), arguments);
        self.place.plan.over(&mut command);
        command.env("YUSHAN_SERVER", &self.system().address);
        let (code, out, err) = finish(command);
        if code == Some(0) {
            return Some(out);
        }
        let clear = code == Some(1) && err.starts_with("error: ") && names_it(&err);
        assert!(clear && out.is_empty(), "{}: {arguments}: {code:?} {out}{err}", self.context);
        *self.refused.entry(what).or_default() += 1;
        None
    }

    /// Everything that a client can have kept.
    fn session(&mut self) {
        self.number += 1;
        self.keys();
        self.chat();
        self.responses();
        self.conversations();
        self.files();
        self.work();
    }

    fn keys(&mut self) {
        let made = self.command("keys new", "keys new ann");
        if let Some(key) = made {
            let (status, text) = self.system().send("GET", "/v1/models", "", key.trim(), "");
            assert_eq!(status, 200, "{}: {text}", self.context);
        }
        let (status, _) = self.system().send("GET", "/v1/models", "", "ysk-0000", "");
        assert_eq!(status, 401);
    }

    fn chat(&mut self) {
        let asked = json!({
            "model": "model", "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 4, "temperature": 0, "logit_bias": {"2": -100},
        });
        // It writes nothing, so nothing can refuse it.
        let answer = self.ask("chat", "POST", "/v1/chat/completions", asked);
        let answer = answer.unwrap_or_else(|| panic!("{}: a chat was refused", self.context));
        self.same("chat", answer["choices"][0]["message"]["content"].to_string());
    }

    fn responses(&mut self) {
        let asked = |more: Value| {
            let mut asked = json!({
                "model": "model", "input": "hi", "temperature": 0, "max_output_tokens": 3,
            });
            asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            asked
        };
        let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
        let made = self.ask("response", "POST", "/v1/responses", asked(json!({})));
        if let Some(made) = made {
            self.same("response", answer(&made));
            self.known.now(path(&made), answer(&made));
            let deleted = self.ask("response deleted", "DELETE", &path(&made), Value::Null);
            match deleted {
                Some(_) => self.known.now(path(&made), "gone"),
                None => self.known.or(&path(&made), "gone"),
            }
        }
        self.streamed(&asked(json!({"stream": true})));
        let queued = self.ask(
            "background response",
            "POST",
            "/v1/responses",
            asked(json!({"background": true})),
        );
        if let Some(queued) = queued {
            let over = |response: &Value| {
                !["queued", "in_progress"].contains(&response["status"].as_str().unwrap())
            };
            let ended = self.system().until(&path(&queued), over);
            self.ended(&path(&queued), &ended);
        }
    }

    /// A background response has the right text, or says that the disk failed, and has it later.
    fn ended(&mut self, path: &str, ended: &Value) {
        if ended["status"] == "failed" {
            let said = ended["error"]["message"].as_str().unwrap();
            assert!(names_it(said), "{}: {ended}", self.context);
            *self.refused.entry("background response ended").or_default() += 1;
            let right = self.texts["background"].clone();
            self.known.now(path, "null");
            self.known.or(path, right);
        } else {
            self.same("background", answer(ended));
            self.known.now(path, answer(ended));
        }
    }

    fn streamed(&mut self, asked: &Value) {
        let json = "application/json";
        let asked = asked.to_string();
        let (status, text) = self.system().send("POST", "/v1/responses", json, "none", &asked);
        assert_eq!(status, 200, "{}: {text}", self.context);
        let events = text.lines().filter_map(|line| line.strip_prefix("data: ")).map(parsed);
        let events: Vec<Value> = events.collect();
        let id = events.iter().find_map(|event| event["response"]["id"].as_str());
        // An error takes the place of events that were not sent yet.
        let path = id.map_or("/v1/responses/none".into(), |id| format!("/v1/responses/{id}"));
        let last = events.last().unwrap();
        if last["type"] == "error" {
            assert!(names_it(last["message"].as_str().unwrap()), "{}: {text}", self.context);
            *self.refused.entry("streamed response").or_default() += 1;
            self.known.now(&*path, "gone");
            self.known.or(&path, self.texts["response"].clone());
        } else {
            self.same("response", answer(&last["response"]));
            self.known.now(path, answer(&last["response"]));
        }
    }

    /// One conversation is kept over and over, beside a new one, and written to a file; one is deleted.
    fn conversations(&mut self) {
        let number = self.number;
        let messages = |name: &str| {
            json!([
                {"role": "user", "content": format!("word{number}of{name}")},
                {"role": "assistant", "content": "yes"},
            ])
        };
        let names = ["talk".to_string(), format!("talk{number}")];
        let chat = |name: &String| json!({"id": name, "messages": messages(name)});
        let chats = json!({"conversations": names.iter().map(chat).collect::<Vec<_>>()});
        let kept = self.ask("conversations", "POST", "/v1/chats", chats).is_some();
        for name in &names {
            let path = format!("/v1/chats/{name}");
            let found = format!("/v1/chats?q=word{number}of{name}");
            if kept {
                self.known.now(&*path, messages(name).to_string());
                self.known.now(found, format!("[\"{name}\"]"));
            } else {
                self.known.is.entry(path.clone()).or_insert("gone".into());
                self.known.or(&path, messages(name).to_string());
                self.known.now(&*found, "[]");
                self.known.or(&found, format!("[\"{name}\"]"));
            }
        }
        if kept {
            let before = format!("/v1/chats?q=word{}oftalk", self.kept);
            self.known.now(before, "[]");
            self.kept = number;
            let path = format!("/v1/chats/{}", names[1]);
            let found = format!("/v1/chats?q=word{number}of{}", names[1]);
            match self.ask("conversation deleted", "DELETE", &path, Value::Null) {
                Some(_) => {
                    self.known.now(path, "gone");
                    self.known.now(found, "[]");
                }
                None => {
                    self.known.or(&path, "gone");
                    self.known.or(&found, "[]");
                }
            }
        }
        let file = self.place.folder.path().join("talk.json");
        let before = std::fs::read_to_string(&file).ok();
        let exported = self.command("export", "export talk --out talk.json").is_some();
        let after = std::fs::read_to_string(&file).ok();
        if exported {
            let whole = parsed(&after.unwrap());
            let held = whole["conversations"][0]["messages"].to_string();
            assert_eq!(Some(&held), self.known.is.get("/v1/chats/talk"), "{}", self.context);
        } else {
            assert_eq!(after, before, "{}: a file that was refused changed", self.context);
        }
    }

    fn files(&mut self) {
        let content = format!("content {}", self.number);
        let form = format!(
            "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n--x\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{content}\r\n--x--\r\n"
        );
        let media = "multipart/form-data; boundary=x";
        let answer = self.system().send("POST", "/v1/files", media, "none", &form);
        if !self.taken("file", &answer) {
            return;
        }
        let path = format!("/v1/files/{}", parsed(&answer.1)["id"].as_str().unwrap());
        let read = format!("{path}/content");
        self.known.now(&*read, content);
        if self.number % 2 == 0 {
            match self.ask("file deleted", "DELETE", &path, Value::Null) {
                Some(_) => self.known.now(read, "gone"),
                None => self.known.or(&read, "gone"),
            }
        }
    }

    /// A process that ends by itself, and one that is held, moved and killed.
    fn work(&mut self) {
        let process = |tokens: u64| json!({"model": "model", "task": "x", "max_tokens": tokens});
        let asked = self.ask("process", "POST", "/v1/processes", process(3));
        if let Some(pid) = asked.map(|process| process["pid"].as_u64().unwrap()) {
            let path = format!("/v1/processes/{pid}");
            let over = self.system().until(&path, |now| !now["process"]["exit"].is_null());
            let exit = &over["process"]["exit"];
            let well = *exit == "done";
            if !well {
                assert!(names_it(&exit.to_string()), "{}: {exit}", self.context);
                *self.refused.entry("process ended").or_default() += 1;
            }
            self.processes.push((pid, well));
        }
        let asked = self.ask("process", "POST", "/v1/processes", process(400));
        if let Some(pid) = asked.map(|process| process["pid"].as_u64().unwrap()) {
            let path = format!("/v1/processes/{pid}");
            self.held.insert(pid);
            self.tell("held", &path, json!({"signal": "stop"}));
            self.tell("nice", &path, json!({"nice": ["batch", 2]}));
            if self.tell("killed", &path, json!({"signal": "kill"})) {
                let log = standing(self.system(), &format!("{path}/log"));
                assert!(log.ends_with(" exited"), "{}: {log}", self.context);
                self.known.now(format!("{path}/log"), log);
                self.held.remove(&pid);
            }
        }
    }

    /// Tells a process something; whether it was taken. One that ended meanwhile is not there.
    fn tell(&mut self, what: &'static str, path: &str, order: Value) -> bool {
        let json = "application/json";
        let answer = self.system().send("POST", path, json, "none", &order.to_string());
        if answer.0 == 404 {
            let now = self.system().read(path);
            assert!(!now["process"]["exit"].is_null(), "{}: {what}: {answer:?}", self.context);
            return false;
        }
        self.taken(what, &answer)
    }

    /// What was acknowledged is there.
    fn check(&mut self, crashed: bool) {
        let system = self.system();
        self.known.check(system, crashed, &self.context);
        for &(pid, well) in &self.processes {
            let log = standing(system, &format!("/v1/processes/{pid}/log"));
            let right = match (well, crashed) {
                (true, _) => log == "began said exited",
                (false, false) => "began said exited".starts_with(&log) || log == "began exited",
                (false, true) => ["began said exited", "began exited"].contains(&&*log),
            };
            assert!(right, "{}: process {pid}, well {well}: {log}", self.context);
        }
    }

    /// Ends the system, with the disk as it is, and starts it with a good one.
    fn restart(&mut self, interrupted: bool) {
        if interrupted && let Some(system) = &mut self.system {
            system.interrupt();
        }
        self.system = None;
        self.place.plan.disarm();
        self.place.verify();
        let system = System::start(&self.place);
        self.system = Some(system.unwrap_or_else(|said| panic!("{}: {said}", self.context)));
        // Those that are held and could not be killed are held still.
        let over = |process: &Value| !process["exit"].is_null();
        let all = self.system().until("/v1/processes", |all| {
            let all = all["data"].as_array().unwrap();
            all.iter().all(|process| over(process) || process["stopped"] == true)
        });
        for held in all["data"].as_array().unwrap().iter().filter(|process| !over(process)) {
            assert!(self.held.remove(&held["pid"].as_u64().unwrap()), "{}: {held}", self.context);
            assert!(self.tell(
                "killed",
                &format!("/v1/processes/{}", held["pid"]),
                json!({"signal": "kill"})
            ));
        }
        self.held.clear();
        // What did not end before is told of anew.
        let unended: Vec<String> = self
            .known
            .is
            .iter()
            .filter(|(path, is)| path.starts_with("/v1/responses") && *is == "null")
            .map(|(path, _)| path.clone())
            .collect();
        for path in unended {
            let over = |response: &Value| {
                !["queued", "in_progress"].contains(&response["status"].as_str().unwrap())
            };
            self.system().until(&path, over);
        }
        self.check(true);
        // What was checked stays as it is; only the conversation that is written over is looked at again.
        let talk = standing(self.system(), "/v1/chats/talk");
        (self.known, self.processes) = Default::default();
        self.known.now("/v1/chats/talk", talk);
    }

    /// Has every write of a session fail in turn; how many there are.
    fn sweep(&mut self, how: How, error: Error) -> i64 {
        let (mut most, mut beyond) = (0, 0);
        for k in 1.. {
            self.context = format!("{error:?} {how:?} at {k}");
            self.place.plan.arm(k, how, error);
            self.session();
            let count = self.place.plan.count();
            let last = k % TOGETHER == 0;
            // Killed or interrupted while the disk still refuses.
            if last {
                self.restart(k % (2 * TOGETHER) == 0);
                self.context += ", after a restart";
            }
            self.place.plan.disarm();
            self.check(false);
            // Sessions differ by some writes: notes that come together are written together.
            (most, beyond) = (most.max(count), if count < k { beyond + 1 } else { 0 });
            if beyond == BEYOND {
                self.restart(true);
                break;
            }
        }
        most
    }
}

/// Does something in all ways of failing, side by side.
fn in_all_ways<T: Send>(sweep: impl Fn(How, Error) -> T + Sync) -> Vec<T> {
    let ways =
        [How::Once, How::From].map(|how| [Error::NoSpace, Error::InputOutput].map(|e| (how, e)));
    std::thread::scope(|scope| {
        let sweep = &sweep;
        let start = |&(how, error)| scope.spawn(move || sweep(how, error));
        let sweeps: Vec<_> = ways.as_flattened().iter().map(start).collect();
        sweeps.into_iter().map(|sweep| sweep.join().unwrap()).collect()
    })
}

#[test]
fn whichever_write_of_a_session_fails_nothing_is_lost() {
    let begun = Instant::now();
    let all = in_all_ways(|how, error| {
        let mut sessions = Sessions::new();
        let writes = sessions.sweep(how, error);
        let Sessions { number, refused, .. } = sessions;
        let seconds = begun.elapsed().as_secs();
        eprintln!(
            "{error:?} {how:?}: each of {writes} writes in {number} sessions, {seconds} s; {refused:?}"
        );
        refused
    });
    // Everything that writes was refused some time, so this test has seen what it is for.
    for what in [
        "background response",
        "background response ended",
        "conversation deleted",
        "conversations",
        "export",
        "file",
        "file deleted",
        "held",
        "keys new",
        "killed",
        "nice",
        "process",
        "process ended",
        "response",
        "response deleted",
        "streamed response",
    ] {
        assert!(all.iter().any(|refused| refused.contains_key(what)), "{what}: {all:?}");
    }
}

#[test]
fn whichever_write_of_a_start_or_an_end_fails_the_next_start_is_whole() {
    let begun = Instant::now();
    in_all_ways(|how, error| {
        let place = Place::new();
        let mut refused = 0;
        for k in 1.. {
            let context = format!("{error:?} {how:?} at {k}");
            // The first start of all in this folder.
            let _ = std::fs::remove_dir_all(place.folder.path().join("home")); // not there at first
            place.plan.arm(k, how, error);
            match System::start(&place) {
                Ok(mut system) => {
                    assert_eq!(system.get("/health").0, 200, "{context}");
                    system.interrupt();
                }
                Err(said) => {
                    assert!(said.contains("error: ") && names_it(&said), "{context}: {said}");
                    refused += 1;
                }
            }
            let count = place.plan.count();
            place.plan.disarm();
            let system = System::start(&place).unwrap_or_else(|said| panic!("{context}: {said}"));
            assert_eq!(system.get("/v1/processes").0, 200, "{context}");
            drop(system);
            place.verify();
            if count < k {
                assert!(refused > 0);
                let seconds = begun.elapsed().as_secs();
                eprintln!(
                    "{error:?} {how:?}: each of {} writes, {refused} starts refused, {seconds} s",
                    k - 1
                );
                return;
            }
        }
    });
}
