//! Cgroups, where this process may make them: a bound for all processes of a command together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Limits;

const ROOT: &str = "/sys/fs/cgroup";
/// How often, and for how long each, a group that still has dying processes is tried to be removed.
const TRIES: u32 = 100;
const TRY: Duration = Duration::from_millis(5);

/// The groups of one command; removed when dropped.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) controllers: Vec<String>,
}

impl Groups {
    /// Makes what can be made. None is no error: the resource limits hold without.
    pub(crate) fn create(limits: &Limits) -> Groups {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("yushan-{}-{number}", std::process::id());
        let mut groups = Groups::default();
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let below =
                |folder: &str| Path::new(ROOT).join(folder).join(path.trim_start_matches('/'));
            let memory = limits.memory.to_string();
            let pids = (limits.processes + 3).to_string();
            match controllers {
                "memory" => groups.add(
                    "memory",
                    below("memory").join(&name),
                    &[("memory.limit_in_bytes", &memory)],
                ),
                "pids" => groups.add("pids", below("pids").join(&name), &[("pids.max", &pids)]),
                "" => {
                    let settings = [
                        ("memory.max", memory.as_str()),
                        ("pids.max", &pids),
                        ("memory.swap.max", "0"),
                    ];
                    groups.add("memory and pids", below("").join(&name), &settings);
                }
                _ => {}
            }
        }
        groups
    }

    fn add(&mut self, controller: &str, folder: PathBuf, settings: &[(&str, &str)]) {
        if fs::create_dir(&folder).is_err() {
            return;
        }
        // The first is what the group is for.
        let set = |(file, value): &(&str, &str)| write_existing(&folder.join(file), value);
        if settings.iter().map(set).next().is_none_or(|first| first.is_err()) {
            let _ = fs::remove_dir(&folder); // it is empty
            return;
        }
        for setting in &settings[1..] {
            let _ = set(setting); // not on every kernel
        }
        self.folders.push(folder);
        self.controllers.push(controller.to_string());
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for folder in &self.folders {
            for _ in 0..TRIES {
                match fs::remove_dir(folder) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(TRY)
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Puts the calling process into a group.
pub(crate) fn join(folder: &Path) -> io::Result<()> {
    write_existing(&folder.join("cgroup.procs"), "0")
}

fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}
