//! The tool: `convert`, from one file of the caller's space to another.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use yushan_abi::{Disk, Effect, Invocation, Label, ParamRole, Part, Sources, ToolResult, ToolSpec};

use super::{Format, Limits, Options, convert_unless};
use crate::arguments::{read, refused, spec};
use crate::space::Space;
use crate::space::driver::{failed, tool_in_a_space};

/// The driver.
pub struct Convert {
    spec: ToolSpec,
    disk: Arc<dyn Disk>,
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    path: String,
    to_path: String,
    from: Option<String>,
    to: Option<String>,
    encoding: Option<String>,
    sheet: Option<String>,
}

impl Convert {
    /// Works on the files of spaces on this disk.
    pub fn new(disk: Arc<dyn Disk>, limits: Limits) -> Convert {
        let spec = spec(
            "convert",
            "Converts a file to another format. Tables: csv, tsv, json, jsonl, parquet, xlsx (also to md, html, txt). \
             Documents: md, html, txt; pdf to text. Pictures: png, jpg, webp, gif, bmp, tiff, ico, ppm, qoi. \
             Formats are told by the extensions of the paths.",
            Effect::Write,
            json!({
                "path": {"type": "string", "description": "The file to read."},
                "to_path": {"type": "string", "description": "The file to write."},
                "from": {"type": "string", "description": "The format of `path`, if its extension does not tell."},
                "to": {"type": "string", "description": "The format of `to_path`, if its extension does not tell."},
                "encoding": {"type": "string", "description": "Character encoding of a text file, for example big5."},
                "sheet": {"type": "string", "description": "The sheet of a workbook; the first if left out."},
            }),
            &["path", "to_path"],
            &[
                ("path", ParamRole::Selector),
                ("to_path", ParamRole::Target),
                ("from", ParamRole::Opaque),
                ("to", ParamRole::Opaque),
                ("encoding", ParamRole::Opaque),
                ("sheet", ParamRole::Opaque),
            ],
        );
        Convert { spec, disk, limits }
    }

    fn run(&self, invocation: &Invocation<'_>, space: &Space) -> Result<ToolResult, ToolResult> {
        let arguments: Arguments = read(invocation.arguments)?;
        let from = format(arguments.from.as_deref(), &arguments.path, "from")?;
        let to = format(arguments.to.as_deref(), &arguments.to_path, "to")?;
        let content = space.read(&arguments.path).map_err(|error| failed(&error, invocation))?;
        // What is made of a file is no better than the file, nor than who chose what to make of it.
        let label = content.label.join(invocation.label);
        let options = Options { encoding: arguments.encoding, sheet: arguments.sheet };
        let is_cancelled = || invocation.cancel.is_cancelled();
        let made = convert_unless(&is_cancelled, &content.bytes, from, to, &options, &self.limits);
        // Errors and notes quote the file.
        let made = made.map_err(|error| ToolResult::failed(error.to_string(), label.clone()))?;
        if invocation.cancel.is_cancelled() {
            return Err(refused("cancelled; nothing was written"));
        }
        let file = space
            .write(&arguments.to_path, &made.bytes, &label)
            .map_err(|error| failed(&error, invocation))?;
        let text = format!("Wrote {} ({}, {} bytes).", file.path, file.media_type, file.size);
        let mut parts =
            vec![Part { text, label: Label::of(Sources::SYSTEM).join(invocation.label) }];
        if !made.notes.is_empty() {
            let text = format!("\nNote: {}.", made.notes.join(". "));
            parts.push(Part { text, label });
        }
        Ok(ToolResult { parts, failed: false, files: vec![file], ..ToolResult::default() })
    }
}

fn format(named: Option<&str>, path: &str, parameter: &str) -> Result<Format, ToolResult> {
    let found = match named {
        Some(name) => Format::named(name),
        None => Format::of_path(path),
    };
    found.ok_or_else(|| {
        let shown = named.unwrap_or(path);
        if shown.to_ascii_lowercase().ends_with("svg") {
            return refused(format!(
                "{shown:?}: drawings in SVG are not converted; a plot of the tool python can be a PNG at once"
            ));
        }
        refused(format!(
            "{shown:?} names no format that is known; say `{parameter}`: csv, tsv, json, jsonl, parquet, xlsx, md, html, \
             txt, pdf, png, jpg, webp, gif, bmp, tiff, ico, ppm or qoi"
        ))
    })
}

tool_in_a_space!(Convert);
