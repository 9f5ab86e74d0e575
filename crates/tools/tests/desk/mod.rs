//! A conversation with the code interpreter.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use yushan_abi::{Cancel, Disk, Invocation, Label, Sources, Tool, ToolResult};
use yushan_sandbox::Tier;
use yushan_tools::python::discover::{self, Found};
use yushan_tools::python::{Limits, Python};
use yushan_tools::space::Space;

use crate::memory::MemoryDisk;

pub(crate) struct Desk {
    pub(crate) memory: Arc<MemoryDisk>,
    pub(crate) python: Arc<Python>,
    tier: Tier,
    limits: Limits,
    space: String,
    owner: String,
}

/// The interpreter that `./test` sets up with packages, else the system's.
pub(crate) fn found() -> Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    FOUND.get_or_init(find).clone()
}

fn find() -> Found {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python");
    let own = std::env::var_os("YUSHAN_PYTHON").map_or(own, Into::into);
    let own = own.is_file().then_some(own);
    discover::find(own.as_deref()).expect("these tests need Python 3")
}

/// Says so if there are none: `./test` makes that an error where it must not be.
pub(crate) fn has_packages() -> bool {
    let install = found().install();
    if let Some(install) = &install {
        eprintln!("skipped: numpy, pandas or matplotlib is missing; {install}");
    }
    install.is_none()
}

/// Generous: other tests may keep the processors busy.
pub(crate) fn limits() -> Limits {
    Limits { wall: Duration::from_secs(120), cpu: Duration::from_secs(100), ..Limits::default() }
}

impl Desk {
    pub(crate) fn new(tier: Tier) -> Desk {
        Desk::with(tier, limits())
    }

    pub(crate) fn with(tier: Tier, limits: Limits) -> Desk {
        let memory = Arc::new(MemoryDisk::default());
        let disk = Arc::clone(&memory) as Arc<dyn Disk>;
        let python = Arc::new(Python::on(disk, found(), limits.clone(), Ok(tier)));
        Desk { memory, python, tier, limits, space: "talk".into(), owner: "ann".into() }
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.memory) as Arc<dyn Disk>
    }

    /// The same disk, and nothing else of it.
    pub(crate) fn restarted(&self) -> Desk {
        self.with_python(Python::on(self.disk(), found(), self.limits.clone(), Ok(self.tier)))
    }

    pub(crate) fn with_python(&self, python: Python) -> Desk {
        Desk { python: Arc::new(python), ..self.in_space(&self.space) }
    }

    pub(crate) fn in_space(&self, space: &str) -> Desk {
        let (memory, python) = (Arc::clone(&self.memory), Arc::clone(&self.python));
        let (limits, owner) = (self.limits.clone(), self.owner.clone());
        Desk { memory, python, tier: self.tier, limits, space: space.into(), owner }
    }

    pub(crate) fn of_owner(&self, owner: &str) -> Desk {
        Desk { owner: owner.into(), ..self.in_space(&self.space) }
    }

    pub(crate) fn space(&self) -> Space {
        Space::open(self.disk(), &self.owner, &self.space).unwrap()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.space().list().unwrap().into_iter().map(|entry| entry.file.path).collect()
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        self.space().read(path).unwrap().bytes
    }

    pub(crate) fn disk_bytes(&self, sha256: &str) -> Vec<u8> {
        self.memory.get_bytes(sha256).unwrap().unwrap()
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8], label: &Label) {
        self.space().write(path, bytes, label).unwrap();
    }

    pub(crate) fn call_as(&self, arguments: &Value, key: &str, cancel: Cancel) -> ToolResult {
        let label = Label::of(Sources::USER);
        let (space, owner) = (self.space.as_str(), self.owner.as_str());
        self.python.call(&Invocation { arguments, key, space, owner, label: &label, cancel })
    }

    pub(crate) fn call(&self, arguments: &Value) -> ToolResult {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let key = format!("call {}", KEYS.fetch_add(1, Ordering::Relaxed));
        self.call_as(arguments, &key, Cancel::default())
    }

    pub(crate) fn run(&self, code: &str) -> ToolResult {
        self.call(&json!({"code": code}))
    }

    pub(crate) fn says(&self, code: &str, expected: &str) {
        let result = self.run(code);
        assert_eq!((result.text().as_str(), result.failed), (expected, false), "{code}");
    }

    pub(crate) fn fails(&self, code: &str, expected: &str) -> String {
        let result = self.run(code);
        let text = result.text();
        assert!(result.failed && text.contains(expected), "{code}: {text}");
        text
    }
}

/// Processes, other than this one, whose command line has this word.
pub(crate) fn alive(word: &str) -> usize {
    let has = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(word).then_some(())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(has).count()
}

/// Folders for interpreters of this process.
pub(crate) fn folders() -> usize {
    let prefix = format!("yushan-python-{}-", std::process::id());
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).count()
}

/// Cgroups for sandboxes of this process, in every hierarchy.
pub(crate) fn groups() -> usize {
    let prefix = format!("yushan-{}-", std::process::id());
    let mut count = 0;
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            count += usize::from(entry.file_name().to_string_lossy().starts_with(&prefix));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    count
}
