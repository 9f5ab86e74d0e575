//! The machine a run is on: what a figure of speed means nothing without.
//!
//! The key decision: what the system does not tell is left out, never guessed. Not here: the measuring of
//! the peak, which takes a second and is the caller's to do.

use serde::{Deserialize, Serialize};
use yushan_tensor::Isa;

/// A machine, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The processor's name.
    pub processor: Option<String>,
    /// Processors that this process may use.
    pub cores: Option<u64>,
    /// Threads that the run uses.
    pub threads: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Name and version of the operating system.
    pub system: Option<String>,
    /// Kernel and architecture.
    pub kernel: Option<String>,
    /// The instruction set of the kernels: `avx2`, …
    pub instructions: Option<String>,
    /// Measured f32 multiply-adds a second of `threads` threads, in floating-point operations a second.
    pub peak_f32: Option<f64>,
    /// The version of Yushan.
    pub version: Option<String>,
}

/// This machine. `peak_f32` is what was measured with `threads` threads, operations a second.
pub fn environment(threads: usize, peak_f32: Option<f64>) -> Environment {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    Environment {
        processor: read("/proc/cpuinfo").and_then(|text| processor(&text)),
        cores: std::thread::available_parallelism().ok().map(|n| n.get() as u64),
        threads: Some(threads as u64),
        memory: read("/proc/meminfo").and_then(|text| memory(&text)),
        system: read("/etc/os-release").and_then(|text| system(&text)).or(Some(os())),
        kernel: read("/proc/sys/kernel/osrelease")
            .map(|release| format!("{} {}", release.trim(), std::env::consts::ARCH)),
        instructions: Some(Isa::best().name().to_owned()),
        peak_f32,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
    }
}

fn os() -> String {
    std::env::consts::OS.to_owned()
}

/// x86 says `model name`; some boards say `Model` or `Hardware`.
fn processor(cpuinfo: &str) -> Option<String> {
    let value = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let found = ["model name", "Model", "Hardware", "cpu model"].into_iter().find_map(value);
    found.filter(|name| !name.is_empty())
}

fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn system(release: &str) -> Option<String> {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let name = line.trim().trim_matches('"');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags : a b\n\nmodel name : x\n";
        assert_eq!(processor(cpuinfo).as_deref(), Some("AMD EPYC 7B13"));
        assert_eq!(processor("processor : 0\nModel : Raspberry Pi 5\n").unwrap(), "Raspberry Pi 5");
        assert_eq!(processor("model name :\n"), None);
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:       16384 kB\n"), None.or(Some(16 << 20)));
        assert_eq!(memory("MemTotal: 99999999999999999999 kB\n"), None);
        assert_eq!(memory("MemTotal: 3 pages\n"), None);
        assert_eq!(system("ID=x\nPRETTY_NAME=\"Debian 13\"\n").as_deref(), Some("Debian 13"));
        assert_eq!(system("ID=x\n"), None);
    }

    #[test]
    fn this_machine_has_a_core_and_an_instruction_set() {
        let here = environment(2, Some(1e11));
        assert!(here.cores >= Some(1) && here.threads == Some(2), "{here:?}");
        assert_eq!(here.instructions.as_deref(), Some(Isa::best().name()));
        assert_eq!(here.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }
}
