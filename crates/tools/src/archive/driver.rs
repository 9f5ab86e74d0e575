//! The tools `archive_list` and `archive_extract`, in the space of a process.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use yushan_abi::{Disk, Effect, Invocation, Label, ParamRole, Part, Sources, ToolResult, ToolSpec};

use super::{Limits, list, unpack};
use crate::arguments::{read, spec};
use crate::space::driver::{failed, tool_in_a_space};
use crate::space::{Edit, Space};

/// Names that are shown of a long list.
const SHOWN: usize = 200;

/// Looks into an archive.
pub struct ArchiveList {
    spec: ToolSpec,
    disk: Arc<dyn Disk>,
    limits: Limits,
}

/// Unpacks an archive.
pub struct ArchiveExtract {
    spec: ToolSpec,
    disk: Arc<dyn Disk>,
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    path: String,
    #[serde(default)]
    folder: String,
}

const PATH: &str = "The archive: .zip, .tar or .tar.gz.";

impl ArchiveList {
    /// Works on the files of spaces on this disk.
    pub fn new(disk: Arc<dyn Disk>, limits: Limits) -> ArchiveList {
        let spec = spec(
            "archive_list",
            "Lists the files in an archive (zip, tar, tar.gz) with their sizes.",
            Effect::Read,
            json!({"path": {"type": "string", "description": PATH}}),
            &["path"],
            &[("path", ParamRole::Selector)],
        );
        ArchiveList { spec, disk, limits }
    }

    fn run(&self, invocation: &Invocation<'_>, space: &Space) -> Result<ToolResult, ToolResult> {
        let arguments: Arguments = read(invocation.arguments)?;
        let content = space.read(&arguments.path).map_err(|error| failed(&error, invocation))?;
        let label = content.label.join(invocation.label);
        let entries = list(&content.bytes, &self.limits)
            .map_err(|error| ToolResult::failed(error.to_string(), label.clone()))?;
        let mut text = format!("{} files:\n", entries.len());
        for entry in entries.iter().take(SHOWN) {
            let _ = writeln!(text, "{} ({} bytes)", entry.path, entry.size);
        }
        if entries.len() > SHOWN {
            let _ = writeln!(text, "… and {} more", entries.len() - SHOWN);
        }
        Ok(ToolResult::new(text, label))
    }
}

impl ArchiveExtract {
    /// Works on the files of spaces on this disk.
    pub fn new(disk: Arc<dyn Disk>, limits: Limits) -> ArchiveExtract {
        let spec = spec(
            "archive_extract",
            "Unpacks all files of an archive (zip, tar, tar.gz) into a folder. All or nothing; links and paths that lead \
             out of the folder are refused.",
            Effect::Write,
            json!({
                "path": {"type": "string", "description": PATH},
                "folder": {"type": "string", "description": "Where to: a folder."},
            }),
            &["path", "folder"],
            &[("path", ParamRole::Selector), ("folder", ParamRole::Target)],
        );
        ArchiveExtract { spec, disk, limits }
    }

    fn run(&self, invocation: &Invocation<'_>, space: &Space) -> Result<ToolResult, ToolResult> {
        let arguments: Arguments = read(invocation.arguments)?;
        let content = space.read(&arguments.path).map_err(|error| failed(&error, invocation))?;
        let label = content.label.join(invocation.label);
        let entries = unpack(&content.bytes, &self.limits)
            .map_err(|error| ToolResult::failed(error.to_string(), label.clone()))?;
        let folder = arguments.folder.trim_matches('/');
        let place = |path: &str| match folder {
            "" | "." => path.to_string(),
            folder => format!("{folder}/{path}"),
        };
        let edits: Vec<Edit> = entries
            .into_iter()
            .map(|entry| Edit {
                path: place(&entry.path),
                bytes: Some(entry.bytes),
                label: label.clone(),
            })
            .collect();
        let paths: Vec<String> = edits.iter().map(|edit| edit.path.clone()).collect();
        // One change, which is undone as one. Names of the archive may stand in what is refused.
        let versions = space
            .change(edits, Vec::new())
            .map_err(|error| ToolResult::failed(error.to_string(), label.join(&error.labels())))?;
        let files = versions.into_iter().filter_map(|version| version.after);
        let files = files.map(|entry| entry.file).take(SHOWN).collect();
        let text = format!("Unpacked {} files.", paths.len());
        let mut parts =
            vec![Part { text, label: Label::of(Sources::SYSTEM).join(invocation.label) }];
        if !paths.is_empty() {
            let names = paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
            parts.push(Part { text: format!("\n{names}"), label });
        }
        Ok(ToolResult { parts, failed: false, files, ..ToolResult::default() })
    }
}

tool_in_a_space!(ArchiveList);
tool_in_a_space!(ArchiveExtract);
