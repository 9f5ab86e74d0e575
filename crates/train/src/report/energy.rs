//! Energy, from the processor's own counters (RAPL, under Linux' powercap).
//!
//! The key decision: only what the counters say is told. Where they are absent (most virtual machines) or closed to
//! this user (the usual case since CVE-2020-8694), there is a reason instead of a figure, and nothing is
//! estimated.
//!
//! The counters hold packages and their memory, not the whole machine: no disks, fans, or losses.

use std::path::{Path, PathBuf};

/// Where Linux shows them.
pub const ROOT: &str = "/sys/class/powercap";

/// Adds up joules from when it was opened.
#[derive(Debug)]
pub struct Energy {
    domains: Vec<Domain>,
    joules: f64,
}

#[derive(Debug)]
struct Domain {
    counter: PathBuf,
    /// Microjoules at which it begins anew.
    range: u64,
    last: u64,
}

impl Energy {
    /// Of this machine, or why it cannot be read.
    pub fn open() -> Result<Energy, String> {
        Energy::under(Path::new(ROOT))
    }

    /// Of the counters in a folder.
    pub fn under(root: &Path) -> Result<Energy, String> {
        let entries = std::fs::read_dir(root)
            .map_err(|_| format!("not readable here: no {}", root.display()))?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        let mut domains = Vec::new();
        for folder in folders {
            let read = |file: &str| std::fs::read_to_string(folder.join(file));
            let name = read("name").unwrap_or_default();
            // A core's or graphics' share is in its package already; memory is beside it.
            let counted = name.starts_with("package") || name.trim() == "dram";
            let place = folder.file_name().map(|name| name.to_string_lossy().into_owned());
            // The memory-mapped twin counts the same joules.
            if !counted || place.is_none_or(|place| place.starts_with("intel-rapl-mmio")) {
                continue;
            }
            let counter = folder.join("energy_uj");
            let last = number(&counter).map_err(|why| format!("not readable here: {why}"))?;
            let range = number(&folder.join("max_energy_range_uj")).unwrap_or(u64::MAX);
            domains.push(Domain { counter, range, last });
        }
        if domains.is_empty() {
            return Err(format!("not readable here: no package counter in {}", root.display()));
        }
        Ok(Energy { domains, joules: 0.0 })
    }

    /// Goes on from what an earlier start of the same work has counted.
    pub fn after(self, joules: f64) -> Energy {
        Energy { joules: self.joules + joules, ..self }
    }

    /// Joules since it was opened. To be asked more often than the counters run over (some forty minutes
    /// under full load): once a step.
    pub fn joules(&mut self) -> f64 {
        for domain in &mut self.domains {
            let Ok(now) = number(&domain.counter) else { continue };
            let used = match now.checked_sub(domain.last) {
                Some(used) => used,
                None => now.saturating_add(domain.range.saturating_sub(domain.last)),
            };
            domain.last = now;
            self.joules += used as f64 * 1e-6;
        }
        self.joules
    }
}

fn number(path: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{}: no number", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(root: &Path, folder: &str, name: &str, value: u64) {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        std::fs::write(folder.join("max_energy_range_uj"), "10000000\n").unwrap();
        std::fs::write(folder.join("energy_uj"), format!("{value}\n")).unwrap();
    }

    #[test]
    fn packages_and_memory_are_added_and_run_over() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        counter(root, "intel-rapl:0", "package-0", 9_000_000);
        counter(root, "intel-rapl:0:0", "core", 1_000_000);
        counter(root, "intel-rapl:0:1", "dram", 500_000);
        counter(root, "intel-rapl-mmio:0", "package-0", 9_000_000);
        let mut energy = Energy::under(root).unwrap();
        assert_eq!(energy.joules(), 0.0);
        counter(root, "intel-rapl:0", "package-0", 1_000_000);
        counter(root, "intel-rapl:0:0", "core", 8_000_000);
        counter(root, "intel-rapl:0:1", "dram", 750_000);
        assert!((energy.joules() - 2.25).abs() < 1e-9, "{energy:?}");
        std::fs::write(root.join("intel-rapl:0/energy_uj"), "broken").unwrap();
        assert!((energy.joules() - 2.25).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_read_has_a_reason() {
        let root = tempfile::tempdir().unwrap();
        for (name, reason) in [("", "no package counter"), ("nowhere", "nowhere")] {
            let error = Energy::under(&root.path().join(name)).unwrap_err();
            assert!(error.starts_with("not readable here") && error.contains(reason), "{error}");
        }
        counter(root.path(), "intel-rapl:0", "package-0", 1);
        std::fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        let error = Energy::under(root.path()).unwrap_err();
        assert!(error.contains("energy_uj"), "{error}");
    }
}
