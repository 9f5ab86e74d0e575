//! The system that the conversations are held with.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yushan_abi::{Complete, Disk, FileRef, Index, Label, Message, Role, Tool};
use yushan_disk::Sqlite;
use yushan_kernel::{Kernel, Options, World};
use yushan_server::{Access, Caller, Denial, Fault, Keys, Library, Progress, Server, Spaces, Turn};
use yushan_tools::archive::driver::{ArchiveExtract, ArchiveList};
use yushan_tools::calculator::Calculator;
use yushan_tools::convert::driver::Convert;
use yushan_tools::draw::driver::Draw;
use yushan_tools::files::Files;
use yushan_tools::python::{Limits, Python, discover};
use yushan_tools::search::library::Library as Kept;
use yushan_tools::search::{Providers, Search};
use yushan_tools::space::Space;
use yushan_tools::web::chromium::Chromium;
use yushan_tools::web::fetch::Fetcher;
use yushan_tools::web::guard::Guard;
use yushan_tools::web::held::Held;
use yushan_tools::web::reader::Reader;

use super::conversations::{Conversation, Said, Within, all};
use super::{ledger, scripted, site};

/// The running system.
pub(crate) struct Stage {
    address: SocketAddr,
    site: SocketAddr,
    /// How many conversations were held: each has a space of its own.
    played: AtomicU64,
    _home: tempfile::TempDir,
}

/// What came of a conversation.
pub(crate) struct Outcome {
    /// What was said last.
    pub(crate) text: String,
    /// Answered calls, in order.
    pub(crate) answers: Vec<Value>,
    /// Calls that the user was asked about, by their names.
    pub(crate) asked: Vec<String>,
    /// Verdicts on code.
    pub(crate) checked: Vec<String>,
    /// The space that this one was forked from; its own otherwise.
    origin: String,
    stage: (SocketAddr, String),
}

impl Outcome {
    /// The text that a call got.
    pub(crate) fn answer(&self, at: usize) -> &str {
        self.answers.get(at).and_then(|answer| answer["text"].as_str()).unwrap_or("(no answer)")
    }

    /// The bytes of a file of the conversation.
    pub(crate) fn file(&self, path: &str) -> Vec<u8> {
        let (address, space) = &self.stage;
        let url = format!("http://{address}/v1/spaces/{space}/files/{path}");
        let mut body = ureq::get(&url).call().expect("the file is there");
        body.body_mut().read_to_vec().expect("it is read")
    }
}

/// What the model says: the script of the conversation that the first message names.
fn part(messages: &[Message]) -> String {
    let users = messages.iter().filter(|message| message.role == Role::User);
    let first = users.map(Message::text).next().unwrap_or_default();
    let name = first.trim_start_matches('[').split(']').next().unwrap_or_default();
    let conversation = all().find(|one| one.name == name);
    let turns = messages.iter().filter(|message| message.role == Role::Assistant).count();
    let tools = messages.iter().filter(|message| message.role == Role::Tool);
    let last = tools.map(Message::text).next_back().unwrap_or_default();
    // A site has another port each time; its address stands in what the user wrote.
    let site = first.split_whitespace().find_map(|word| word.strip_prefix("http://"));
    let site = site.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    match conversation.and_then(|one| one.turns.get(turns)) {
        Some(turn) => {
            let last: String = last.chars().filter(char::is_ascii).collect();
            turn.replace("{last}", last.trim()).replace("SITE", site)
        }
        None => "nothing more".into(),
    }
}

impl Stage {
    pub(crate) fn build() -> Stage {
        let home = tempfile::tempdir().expect("a folder");
        let sqlite = Arc::new(Sqlite::open(home.path()).expect("a disk"));
        let (disk, index): (Arc<dyn Disk>, Arc<dyn Index>) = (sqlite.clone(), sqlite);
        let site = site::serve();
        let world = World {
            disk: Some(disk.clone()),
            index: Some(index.clone()),
            tools: tools(&disk, &index, site),
            ..World::default()
        };
        let options = Options { most: 64, ..Options::default() };
        let kernel = Arc::new(Kernel::start_in(world, vec![scripted::model(part)], options));
        let complete: Arc<dyn Complete> = kernel.clone();
        let mut server =
            Server::new(complete, disk.clone(), Arc::new(NoLibrary), Arc::new(Anybody));
        server.kernel = Some(kernel);
        server.index = Some(index);
        server.spaces = Some(Arc::new(Folders(disk)));
        Stage { address: serve(server), site, played: AtomicU64::new(0), _home: home }
    }

    /// Holds a conversation and looks at what came of it.
    pub(crate) fn play(&self, conversation: &Conversation) -> Outcome {
        let begun = Instant::now();
        let task = conversation.task.replace("SITE", &self.site.to_string());
        let task = format!("[{}] {task}", conversation.name);
        let mut messages = vec![json!({ "role": "user", "content": task })];
        let own = format!("space-{}", self.played.fetch_add(1, Ordering::Relaxed));
        let mut origin = own.clone();
        let mut space = own.clone();
        if let Some(name) = conversation.earlier {
            let earlier = all().find(|one| one.name == name).expect("an earlier one");
            let earlier = self.play(earlier);
            if !matches!(conversation.within, Within::Apart) {
                messages.push(json!({ "role": "assistant", "content": earlier.text }));
                messages.push(json!({ "role": "user", "content": "Go on." }));
            }
            match conversation.within {
                Within::Own | Within::Apart => {}
                Within::Fork => {
                    origin.clone_from(&earlier.stage.1);
                    let url = format!("http://{}/v1/spaces/{origin}", self.address);
                    let fork = json!({ "fork": own }).to_string();
                    let forked = ureq::post(&url).content_type("application/json").send(fork);
                    assert_eq!(forked.expect("it is forked").status(), 200);
                }
                Within::Origin => {
                    space.clone_from(&earlier.origin);
                    origin.clone_from(&space);
                }
            }
        }
        for (path, bytes) in conversation.files {
            let url = format!("http://{}/v1/spaces/{space}/files/{path}", self.address);
            ureq::put(&url).send(*bytes).expect("the file is taken");
        }
        let mut outcome = Outcome {
            text: String::new(),
            answers: Vec::new(),
            asked: Vec::new(),
            checked: Vec::new(),
            origin,
            stage: (self.address, space.clone()),
        };
        let tools: Vec<Value> = conversation
            .tools
            .iter()
            .map(|name| json!({ "type": "system", "name": name }))
            .collect();
        let mut request = json!({
            "model": "m", "space": space, "tools": tools,
            "messages": messages,
            "budget": { "wall_ms": 120_000 },
        });
        if let Some(says) = conversation.says {
            request["attended"] = json!(true);
            let (address, done) = (self.address, Arc::new(AtomicBool::new(false)));
            let over = done.clone();
            let user = std::thread::spawn(move || answer_questions(address, says, &over));
            self.ask(&request, &mut outcome);
            done.store(true, Ordering::Release);
            user.join().expect("the user is heard");
        } else {
            if let Some(examples) = conversation.check {
                request["check_code"] = json!({ "examples": examples });
            }
            self.ask(&request, &mut outcome);
        }
        (conversation.then)(&outcome);
        assert!(begun.elapsed() < Duration::from_secs(120), "it took too long");
        outcome
    }

    fn ask(&self, request: &Value, outcome: &mut Outcome) {
        let url = format!("http://{}/v1/chat/completions", self.address);
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let sent = agent.post(&url).content_type("application/json").send(request.to_string());
        let text = sent.expect("an answer").body_mut().read_to_string().expect("it is read");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{text}");
        outcome.text = choice["message"]["content"].as_str().unwrap_or_default().to_string();
        for step in choice["steps"].as_array().into_iter().flatten() {
            if step["answered"].is_object() {
                outcome.answers.push(step["answered"].clone());
            }
            outcome.asked.extend(step["asks"]["name"].as_str().map(str::to_string));
            outcome.checked.extend(step["checked"].as_str().map(str::to_string));
        }
    }
}

/// A user who answers all that is asked.
fn answer_questions(address: SocketAddr, says: Said, over: &AtomicBool) {
    let url = format!("http://{address}/v1/approvals");
    while !over.load(Ordering::Acquire) {
        let list = ureq::get(&url).call().expect("a list").body_mut().read_to_string();
        let list: Value = serde_json::from_str(&list.expect("text")).expect("JSON");
        for open in list["data"].as_array().into_iter().flatten() {
            let told = match says {
                Said::Allow(allow) => {
                    json!({ "key": open["key"], "allow": allow, "hash": open["card"]["hash"] })
                }
                Said::Answer(text) => json!({ "key": open["key"], "answer": text }),
            };
            // It may have been answered in between.
            let _ = ureq::post(&url).content_type("application/json").send(told.to_string());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tools(disk: &Arc<dyn Disk>, index: &Arc<dyn Index>, site: SocketAddr) -> Vec<Arc<dyn Tool>> {
    // The one that `./test` has set up, with packages.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python");
    let own = std::env::var_os("YUSHAN_PYTHON").map_or(own, Into::into);
    let own = own.is_file().then_some(own);
    let found = discover::find(own.as_deref()).expect("Python 3: see yushan doctor");
    let mut tools: Vec<Arc<dyn Tool>> = vec![
        Arc::new(Calculator::new()),
        Arc::new(Python::new(disk.clone(), found, Limits::default())),
    ];
    tools.extend(Files::all(disk).into_iter().map(|tool| Arc::new(tool) as Arc<dyn Tool>));
    let guard = Guard::default().allow(&site.to_string()).expect("a place");
    let held = Held::new(disk.clone());
    let mut reader = Reader::new(Fetcher { guard, ..Fetcher::default() }, held.clone());
    if let Some(chromium) = Chromium::find(disk.clone()) {
        reader = reader.with_chromium(chromium);
    }
    tools.extend(reader.tools());
    tools.extend(ledger::tools(disk));
    tools.push(Arc::new(ArchiveList::new(disk.clone(), Default::default())));
    tools.push(Arc::new(ArchiveExtract::new(disk.clone(), Default::default())));
    tools.push(Arc::new(Convert::new(disk.clone(), Default::default())));
    tools.push(Arc::new(Draw::new(disk.clone())));
    let kept = Arc::new(Kept::new(index.clone(), disk.clone()));
    let page = yushan_tools::web::page::plain("The lodge at Paiyun has 116 beds for hikers.");
    let label = Label::of(yushan_abi::Sources::OWN_DATA);
    kept.add("", "notes/lodge", &page, &label).expect("it is kept");
    let kept = Arc::new(Providers::default().with(kept));
    tools.push(Arc::new(Search::new("search_kept", kept, held)));
    tools
}

fn serve(server: Server) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("an address")).expect("somebody waits");
            yushan_server::serve(listener, Arc::new(server), std::future::pending()).await;
        });
    });
    receiver.recv().expect("it listens")
}

struct Folders(Arc<dyn Disk>);

impl Folders {
    fn open(&self, owner: &str, space: &str) -> Result<Space, Fault> {
        Space::open(self.0.clone(), owner, space).map_err(|e| Fault::Internal(e.to_string()))
    }
}

impl Spaces for Folders {
    fn list(&self, owner: &str, space: &str) -> Result<Vec<FileRef>, Fault> {
        let list = self.open(owner, space)?.list().map_err(|e| Fault::Internal(e.to_string()))?;
        Ok(list.into_iter().map(|entry| entry.file).collect())
    }
    fn read(&self, owner: &str, space: &str, path: &str) -> Result<Vec<u8>, Fault> {
        let content = self.open(owner, space)?.read(path);
        Ok(content.map_err(|e| Fault::Internal(e.to_string()))?.bytes)
    }
    fn write(
        &self,
        owner: &str,
        space: &str,
        path: &str,
        bytes: &[u8],
        label: &Label,
    ) -> Result<FileRef, Fault> {
        let written = self.open(owner, space)?.write(path, bytes, label);
        written.map_err(|e| Fault::Internal(e.to_string()))
    }
    fn is_there(&self, space: &str) -> Result<bool, Fault> {
        yushan_tools::space::is_there(&*self.0, space).map_err(|e| Fault::Internal(e.to_string()))
    }

    fn remove(&self, owner: &str, space: &str, path: &str) -> Result<(), Fault> {
        let removed = self.open(owner, space)?.remove(path);
        removed.map_err(|e| Fault::Internal(e.to_string()))
    }
}

/// No models come or go.
struct NoLibrary;

impl Library for NoLibrary {
    fn pull(
        &self,
        name: &str,
        _: &mut dyn FnMut(Progress) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Fault> {
        Err(Fault::NotFound { what: "model", name: name.into() })
    }
    fn delete(&self, name: &str) -> Result<(), Fault> {
        Err(Fault::NotFound { what: "model", name: name.into() })
    }
}

/// Everybody may come in, and pays nothing.
struct Anybody;

impl Keys for Anybody {
    fn admit(
        &self,
        _: Option<&str>,
        _: Option<std::net::IpAddr>,
        _: Access,
    ) -> Result<Caller, Denial> {
        Ok(Caller::default())
    }
    fn begin(&self, _: &Caller) -> Result<Turn, Denial> {
        Ok(Turn { requests: None, tokens: None, held: Box::new(()) })
    }
    fn charge(&self, _: &Caller, _: yushan_abi::Counts) {}
}
