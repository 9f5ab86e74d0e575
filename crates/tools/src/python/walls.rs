//! Whether the sandbox holds on this machine: what the attempts to get out came to, remembered.

use serde::{Deserialize, Serialize};
use yushan_abi::{Disk, Document};
use yushan_sandbox::{Tier, probes};

use crate::space::now;

/// The kind and the key of the document.
const KIND: &str = "sandbox";
const KEY: &str = "verdict";

/// What the attempts came to, on one tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which tier.
    pub tier: Tier,
    /// How many attempts were made; 0: nothing can be started on it.
    pub made: usize,
    /// Those that were not contained, or why nothing could be started.
    pub failed: Vec<String>,
}

impl Verdict {
    /// Whether untrusted code may run on it.
    pub fn holds(&self) -> bool {
        self.made > 0 && self.failed.is_empty()
    }
}

/// As it is kept: it counts for the very kernel and program that it was made with.
#[derive(Serialize, Deserialize)]
struct Kept {
    machine: String,
    verdicts: Vec<Verdict>,
}

/// Makes all attempts on a tier; `progress` hears of each. Takes ten seconds or more.
pub fn examine(tier: Tier, progress: impl FnMut(&probes::Finding)) -> Verdict {
    match probes::run(tier, progress) {
        Ok(findings) => {
            let failed = findings.iter().filter(|finding| !finding.contained);
            let failed = failed.map(|finding| format!("{}: {}", finding.name, finding.why));
            Verdict { tier, made: findings.len(), failed: failed.collect() }
        }
        Err(error) => Verdict { tier, made: 0, failed: vec![error.to_string()] },
    }
}

/// The strongest tier that holds here. What was found before, by the same program on the same kernel, is believed; else it is
/// found out now.
///
/// # Errors
/// None does, and why.
pub fn strongest(disk: &dyn Disk) -> Result<Tier, String> {
    let mut verdicts = known(disk);
    for tier in [Tier::Full, Tier::Narrow] {
        if !verdicts.iter().any(|verdict| verdict.tier == tier) {
            verdicts.push(examine(tier, |_| {}));
            keep(disk, &verdicts);
        }
        if verdicts.iter().any(|verdict| verdict.tier == tier && verdict.holds()) {
            return Ok(tier);
        }
    }
    let whys = verdicts.iter().flat_map(|verdict| &verdict.failed).map(String::as_str);
    let whys: Vec<&str> = whys.take(3).collect();
    Err(format!("no sandbox holds on this machine ({})", whys.join("; ")))
}

/// What was found before on this very machine.
pub fn known(disk: &dyn Disk) -> Vec<Verdict> {
    let document = disk.get(KIND, KEY).ok().flatten();
    let kept = document.and_then(|document| serde_json::from_str::<Kept>(&document.body).ok());
    kept.filter(|kept| kept.machine == machine()).map(|kept| kept.verdicts).unwrap_or_default()
}

/// Remembers what was found. Where it cannot be kept it is found out again.
pub fn keep(disk: &dyn Disk, verdicts: &[Verdict]) {
    let kept = Kept { machine: machine(), verdicts: verdicts.to_vec() };
    let Ok(body) = serde_json::to_string(&kept) else { return };
    let (kind, key, owner) = (KIND.into(), KEY.into(), String::new());
    let _ = disk.put(&Document { kind, key, owner, created_ms: now(), body });
}

/// The kernel, the user and this program: walls depend on all of them.
fn machine() -> String {
    let of = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
    let kernel = of("/proc/sys/kernel/osrelease") + &of("/proc/sys/kernel/version");
    let status = of("/proc/self/status");
    let user = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    format!("{} {} {version}", kernel.replace('\n', " ").trim(), user.replace('\t', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDisk;

    fn verdict(tier: Tier, failed: &[&str]) -> Verdict {
        Verdict { tier, made: 63, failed: failed.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn the_strongest_tier_that_held_is_taken_and_none_that_did_not() {
        let (full, narrow) = (Tier::Full, Tier::Narrow);
        for (verdicts, expected) in [
            (vec![verdict(full, &[])], Ok(full)),
            (vec![verdict(full, &[]), verdict(narrow, &["ptrace: got out"])], Ok(full)),
            (vec![verdict(full, &["raw socket: got out"]), verdict(narrow, &[])], Ok(narrow)),
            (vec![verdict(full, &["a: b"]), verdict(narrow, &["c: d"])], Err("(a: b; c: d)")),
            (vec![Verdict { made: 0, ..verdict(full, &[]) }, verdict(narrow, &[])], Ok(narrow)),
        ] {
            let disk = MemoryDisk::default();
            keep(&disk, &verdicts);
            assert_eq!(known(&disk), verdicts);
            match (strongest(&disk), expected) {
                (Ok(tier), Ok(expected)) => assert_eq!(tier, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn what_was_found_on_another_machine_does_not_count() {
        let disk = MemoryDisk::default();
        let kept = Kept { machine: "another".into(), verdicts: vec![verdict(Tier::Full, &[])] };
        let body = serde_json::to_string(&kept).unwrap();
        let (kind, key, owner) = (KIND.into(), KEY.into(), String::new());
        disk.put(&Document { kind, key, owner, created_ms: 0, body }).unwrap();
        // It is tried again. The program of this test cannot build sandboxes, so nothing holds.
        assert!(strongest(&disk).unwrap_err().contains("no sandbox holds on this machine"));
        assert_eq!(known(&disk).len(), 2);
    }
}
