//! What is to run, and within which limits.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How strong the walls are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Namespaces, a root of its own, Landlock, the filter and the limits.
    Full,
    /// Landlock, the filter and the limits: where there are no user namespaces. The command sees other
    /// processes' numbers, and shares the network's and the host's names, though it can open no socket.
    Narrow,
}

/// What a command may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From start to end.
    pub wall: Duration,
    /// Seconds of processor time, for each process.
    pub cpu_seconds: u64,
    /// Bytes of address space, for each process, and of memory for all together: by a cgroup, or, where there is none, by
    /// looking twenty times a second.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Open files, for each process.
    pub files: u64,
    /// Bytes that it may keep in its scratch folder, and of one file.
    pub scratch: u64,
    /// Bytes that are kept of each of its outputs.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall: Duration::from_secs(60),
            cpu_seconds: 60,
            memory: 2 << 30,
            processes: 64,
            files: 256,
            scratch: 256 << 20,
            output: 1 << 20,
        }
    }
}

/// A command and its walls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jail {
    /// The program, as it is called outside; it must lie below one of `readable`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All of its environment.
    pub environment: Vec<(String, String)>,
    /// Files and folders that it may read and run, under the names that they have outside.
    pub readable: Vec<PathBuf>,
    /// The folder it may write to where it cannot get one of its own ([`Tier::Narrow`]). On [`Tier::Full`] it
    /// writes to `/scratch`, which lives in memory and is gone with it.
    pub scratch: Option<PathBuf>,
    /// What it may use.
    pub limits: Limits,
    /// How strong the walls must be.
    pub tier: Tier,
}

impl Jail {
    /// A program with the system's libraries to read.
    pub fn new(program: impl Into<PathBuf>, tier: Tier) -> Jail {
        let system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"];
        Jail {
            program: program.into(),
            arguments: Vec::new(),
            environment: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("LANG".into(), "C.UTF-8".into()),
            ],
            readable: system.into_iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
            scratch: None,
            limits: Limits::default(),
            tier,
        }
    }
}

/// Which walls stand, as the process found that built them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Namespaces and a root of its own.
    pub namespaces: bool,
    /// What Landlock enforces: `full`, `partial`, `none`.
    pub landlock: String,
    /// Cgroup controllers that limit it.
    pub groups: Vec<String>,
    /// Whether only processes of this very command count for its limit of processes.
    pub own_user: bool,
}
