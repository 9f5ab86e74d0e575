//! What a process gives up before it becomes the command: rights, files, calls, resources.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::{Jail, Tier};

/// No program that is started can get a right back. While this process still may say so.
pub(crate) fn bound_capabilities() {
    for one in CapabilitySet::all().iter() {
        // One that this kernel does not know cannot be removed and need not be.
        let _ = remove_capability_from_bounding_set(one);
    }
}

/// No rights.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    Ok(())
}

/// Files and network by Landlock; says what it enforces.
pub(crate) fn restrict(jail: &Jail) -> Result<&'static str, landlock::RulesetError> {
    let abi = ABI::V7;
    let read = AccessFs::from_read(ABI::V1);
    let level = match jail.tier {
        Tier::Full => CompatLevel::BestEffort,
        // There it is the wall that keeps files apart: the kernel must have what came with its fourth version.
        Tier::Narrow => CompatLevel::HardRequirement,
    };
    let ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(ABI::V3))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let devices = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
    let keep = (AccessFs::from_all(abi) & !AccessFs::Execute) & !AccessFs::IoctlDev;
    let mut ruleset =
        ruleset.add_rules(path_beneath_rules(devices, AccessFs::ReadFile | AccessFs::WriteFile))?;
    ruleset = match (jail.tier, &jail.scratch) {
        // The root holds nothing but what may be read.
        (Tier::Full, _) => ruleset
            .add_rules(path_beneath_rules(["/"], read))?
            .add_rules(path_beneath_rules(["/scratch"], keep))?,
        (Tier::Narrow, scratch) => {
            let scratch = scratch.as_deref().unwrap_or(Path::new("/nonexistent"));
            ruleset
                .add_rules(path_beneath_rules(&jail.readable, read))?
                .add_rules(path_beneath_rules([scratch], keep))?
        }
    };
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}

/// Bounds of each process.
pub(crate) fn limit(jail: &Jail) -> io::Result<()> {
    let limits = &jail.limits;
    let bounds = [
        (Resource::As, limits.memory),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Nproc, limits.processes),
        (Resource::Nofile, limits.files),
        (Resource::Fsize, limits.scratch),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ];
    for (resource, most) in bounds {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
