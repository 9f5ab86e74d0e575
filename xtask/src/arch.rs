//! `cargo xtask arch`: the rooms and their doors.
//!
//! The key decision: the table of the design stands here as data, for crates that are yet to come
//! too, and every other edge is a fault; what the table allows is not required.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Report;
use crate::source::{CrateFolder, blanked, crates};

/// A crate of the workspace, by the name of its folder.
struct Room {
    name: &'static str,
    /// An edge goes to a lower layer.
    layer: u8,
    may_use: &'static [&'static str],
}

const fn room(name: &'static str, layer: u8, may_use: &'static [&'static str]) -> Room {
    Room { name, layer, may_use }
}

/// All rooms with their doors.
const ROOMS: &[Room] = &[
    room("abi", 0, &[]),
    room("tensor", 0, &[]),
    room("collective", 0, &[]),
    room("sandbox", 0, &[]),
    room("model", 1, &["abi", "tensor"]),
    room("disk", 1, &["abi", "tensor"]),
    room("kernel", 1, &["abi"]),
    room("gpts", 1, &["abi"]),
    room("reason", 1, &["abi"]),
    room("guard", 1, &["abi"]),
    room("tools", 1, &["abi", "sandbox"]),
    room("media", 2, &["abi", "tensor", "model"]),
    room("train", 2, &["abi", "tensor", "model", "collective"]),
    room("server", 2, &["abi", "kernel", "gpts"]),
    room(
        "yushan",
        3,
        &[
            "abi",
            "tensor",
            "collective",
            "sandbox",
            "model",
            "disk",
            "kernel",
            "gpts",
            "reason",
            "guard",
            "tools",
            "media",
            "train",
            "server",
        ],
    ),
    room("xtask", 0, &[]),
];

/// The crates that run a model, and how many crates of others they may need together.
const ENGINE: &[&str] = &["abi", "tensor", "model"];
const ENGINE_EXTERNAL: usize = 60;

/// The rooms that may use an async runtime.
const ASYNC: &[&str] = &["server", "tools", "yushan"];

/// Where `unsafe` may stand: a prefix of the path. Beyond them the lint forbids it.
const UNSAFE: &[&str] = &[
    "crates/tensor/src/",
    "crates/model/src/mmap.rs",
    "crates/collective/src/mpi.rs",
    "crates/sandbox/src/",
    // Allocators that count, for invariant 6 and for hostile files.
    "crates/model/tests/allocations.rs",
    "crates/model/tests/hostile.rs",
];
/// The crates that hold such places deny `unsafe` and allow it there; all others forbid it.
const DENIES: &[&str] = &["tensor", "model", "collective", "sandbox"];

/// Names that say nothing of a file's role.
const NAMELESS: &[&str] =
    &["utils", "util", "common", "helpers", "helper", "manager", "misc", "impl"];

/// Checks the workspace.
pub(crate) fn check(root: &Path) -> Result<Report> {
    let metadata = metadata(root, &["--no-deps"])?;
    let edges = edges(&metadata);
    let mut faults: Vec<String> =
        edges.iter().flat_map(|(from, to)| edge_faults(from, to)).collect();
    let folders = crates(root)?;
    for folder in &folders {
        faults.extend(source_faults(root, folder)?);
        let manifest = match folder.name.as_str() {
            "xtask" => "xtask/Cargo.toml".to_string(),
            name => format!("crates/{name}/Cargo.toml"),
        };
        let text = std::fs::read_to_string(root.join(&manifest)).context(manifest.clone())?;
        faults.extend(lint_fault(&folder.name, &text).map(|fault| format!("{manifest}: {fault}")));
    }
    let external = external(&self::metadata(root, &[])?);
    if external.len() > ENGINE_EXTERNAL {
        let names = external.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let count = external.len();
        faults.push(format!(
            "engine: {count} external crates; at most {ENGINE_EXTERNAL}: drop one of {names}"
        ));
    }
    faults.sort();
    let summary = format!(
        "arch: {} crates; engine with {} external crates of {ENGINE_EXTERNAL}",
        folders.len(),
        external.len()
    );
    Ok(Report { summary, faults })
}

fn metadata(root: &Path, options: &[&str]) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(options)
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {}", said.trim());
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// The name of a room: `yushan-tensor` is `tensor`.
fn room_name(package: &str) -> &str {
    package.strip_prefix("yushan-").unwrap_or(package)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// `(room, (name of the dependency, whether it lies in this workspace))`, tests' ones left out.
fn edges(metadata: &Value) -> Vec<(String, Dependency)> {
    let mut edges = Vec::new();
    for package in list(metadata, "packages") {
        let from = room_name(package["name"].as_str().unwrap_or_default());
        for dependency in list(package, "dependencies") {
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            let name = dependency["name"].as_str().unwrap_or_default().to_string();
            let inside = !dependency["path"].is_null();
            edges.push((from.to_string(), Dependency { name, inside, only_tests: kind == "dev" }));
        }
    }
    edges
}

struct Dependency {
    name: String,
    inside: bool,
    only_tests: bool,
}

fn edge_faults(from: &str, to: &Dependency) -> Option<String> {
    let Some(room) = ROOMS.iter().find(|room| room.name == from) else {
        return Some(format!("crate {from}: not a room of the design; see xtask/src/arch.rs"));
    };
    let runtime = ["tokio", "async-std", "smol"].contains(&to.name.as_str());
    if runtime && !ASYNC.contains(&from) {
        let name = &to.name;
        return Some(format!("{from} → {name}: an async runtime; only {} may", ASYNC.join(", ")));
    }
    let name = room_name(&to.name);
    // A test may look over the fence, but only downwards.
    let layer = |name: &str| ROOMS.iter().find(|room| room.name == name).map(|room| room.layer);
    let tested = to.only_tests && layer(name).is_some_and(|below| below < room.layer);
    if !to.inside || room.may_use.contains(&name) || tested {
        return None;
    }
    let doors = room.may_use.join(", ");
    Some(format!("{from} → {name}: no such door; {from} may use: {doors}"))
}

/// Crates of others that the engine's normal and build dependencies pull in on this platform.
fn external(metadata: &Value) -> BTreeSet<String> {
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        let needed = list(node, "deps").filter(|dependency| {
            list(dependency, "dep_kinds").any(|kind| kind["kind"].as_str() != Some("dev"))
        });
        let ids = needed.filter_map(|dependency| dependency["pkg"].as_str()).collect();
        nodes.insert(node["id"].as_str().unwrap_or_default(), ids);
    }
    let mut names = BTreeMap::new();
    let mut waiting = Vec::new();
    for package in list(metadata, "packages") {
        let (id, name) = (package["id"].as_str(), package["name"].as_str());
        let (id, name) = (id.unwrap_or_default(), name.unwrap_or_default());
        let inside = package["source"].is_null();
        names.insert(id, (name, inside));
        if inside && ENGINE.contains(&room_name(name)) {
            waiting.push(id);
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if seen.insert(id) {
            waiting.extend(nodes.get(id).into_iter().flatten());
        }
    }
    // Two versions of one crate are two crates.
    seen.into_iter()
        .filter(|id| names.get(id).is_some_and(|(_, inside)| !inside))
        .map(String::from)
        .collect()
}

/// `unsafe` outside its places, and names that say nothing.
fn source_faults(root: &Path, folder: &CrateFolder) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for path in &folder.files {
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let source = std::fs::read_to_string(path).with_context(|| name.clone())?;
        faults.extend(file_faults(&name, &source));
    }
    Ok(faults)
}

fn file_faults(name: &str, source: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for part in name.split('/') {
        let stem = part.strip_suffix(".rs").unwrap_or(part);
        if NAMELESS.contains(&stem) {
            faults.push(format!("{name}: {stem} says nothing of its role; name that"));
        }
    }
    if UNSAFE.iter().any(|place| name.starts_with(place)) {
        return faults;
    }
    for (at, line) in blanked(source).lines().enumerate() {
        let mut words = line.split(|char: char| !char.is_alphanumeric() && char != '_');
        if words.any(|word| word == "unsafe") {
            let place = at + 1;
            faults.push(format!("{name}:{place}: unsafe; it may stand in {}", UNSAFE.join(", ")));
        }
    }
    faults
}

/// What a crate's manifest must say of `unsafe_code`.
fn lint_fault(name: &str, manifest: &str) -> Option<String> {
    let mut section = "";
    let mut settings = manifest.lines().filter_map(|line| {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        Some((section, line.split_once('=')?))
    });
    let says = settings.any(|(section, (key, value))| {
        let (key, value) = (key.trim(), value.trim());
        (section == "[lints]" && key == "workspace" && value == "true")
            || (DENIES.contains(&name)
                && section == "[lints.rust]"
                && key == "unsafe_code"
                && value.starts_with("\"deny\""))
    });
    (!says).then(|| {
        "set [lints] workspace = true, which forbids unsafe code (or, where the design allows it, deny)"
            .to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_lead_down() {
        for room in ROOMS {
            for name in room.may_use {
                let to = ROOMS.iter().find(|room| room.name == *name);
                let to = to.unwrap_or_else(|| panic!("{name} is no room"));
                assert!(to.layer < room.layer, "{} → {name}", room.name);
            }
        }
    }

    #[test]
    fn only_the_doors_of_the_table_are_open() {
        for (from, to, inside, only_tests, open) in [
            ("model", "yushan-tensor", true, false, true),
            ("model", "yushan-disk", true, false, false),
            ("tensor", "yushan-abi", true, false, false),
            ("kernel", "yushan-model", true, false, false),
            ("kernel", "yushan-tensor", true, true, true),
            ("model", "yushan-server", true, true, false),
            ("cellar", "serde", false, false, false),
            ("model", "tokio", false, false, false),
            ("server", "tokio", false, false, true),
            ("model", "serde", false, false, true),
            ("yushan", "yushan-model", true, false, true),
            ("xtask", "yushan-model", true, false, false),
        ] {
            let dependency = Dependency { name: to.to_string(), inside, only_tests };
            let fault = edge_faults(from, &dependency);
            assert_eq!(fault.is_none(), open, "{from} → {to}: {fault:?}");
        }
    }

    #[test]
    fn unsafe_and_nameless_files_are_found() {
        for (name, source, count) in [
            ("crates/abi/src/lib.rs", "// unsafe\nfn f() {}", 0),
            ("crates/abi/src/lib.rs", "unsafe fn f() {}\nlet x = \"unsafe\";", 1),
            ("crates/abi/src/lib.rs", "#![deny(unsafe_code)]", 0),
            ("crates/tensor/src/pool.rs", "unsafe fn f() {}", 0),
            ("crates/model/src/mmap.rs", "unsafe fn f() {}", 0),
            ("crates/model/src/file.rs", "unsafe { f() }", 1),
            ("crates/model/src/utils.rs", "", 1),
            ("crates/model/src/common/mod.rs", "", 1),
        ] {
            assert_eq!(file_faults(name, source).len(), count, "{name}: {source}");
        }
    }

    #[test]
    fn every_crate_forbids_unsafe_code() {
        let inherits = "[lints]\nworkspace = true\n";
        let denies = "[lints.rust]\nunsafe_code = \"deny\"\n";
        for (name, manifest, good) in [
            ("abi", inherits, true),
            ("abi", denies, false),
            ("model", denies, true),
            ("model", "[dependencies]\nworkspace = true\n", false),
        ] {
            assert_eq!(lint_fault(name, manifest).is_none(), good, "{name}: {manifest}");
        }
    }

    #[test]
    fn external_crates_are_counted_by_what_the_engine_needs() {
        let metadata = serde_json::json!({
            "packages": [
                {"id": "m", "name": "yushan-model", "source": null},
                {"id": "y", "name": "yushan", "source": null},
                {"id": "a", "name": "a", "source": "r"}, {"id": "b", "name": "b", "source": "r"},
                {"id": "c", "name": "c", "source": "r"}, {"id": "d", "name": "d", "source": "r"},
            ],
            "resolve": {"nodes": [
                {"id": "m", "deps": [
                    {"pkg": "a", "dep_kinds": [{"kind": null}]},
                    {"pkg": "c", "dep_kinds": [{"kind": "dev"}]},
                ]},
                {"id": "y", "deps": [{"pkg": "d", "dep_kinds": [{"kind": null}]}]},
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": "build"}]}]},
            ]},
        });
        let names: Vec<_> = external(&metadata).into_iter().collect();
        assert_eq!(names, ["a", "b"]);
    }
}
