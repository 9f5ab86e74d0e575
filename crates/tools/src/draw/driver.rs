//! The tool: `draw`, into the caller's space.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use yushan_abi::{Disk, Effect, Invocation, Label, ParamRole, Part, Sources, ToolResult, ToolSpec};

use super::draw;
use crate::arguments::{read, refused, spec};
use crate::space::Space;
use crate::space::driver::{failed, tool_in_a_space};

/// The driver.
pub struct Draw {
    spec: ToolSpec,
    disk: Arc<dyn Disk>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    path: String,
    scene: Value,
}

const DESCRIPTION: &str = "Draws a diagram or a chart as an SVG file. `scene`: {width, height, background, items: […]}. \
    Each item has a `kind`: rect (x, y, width, height, radius), circle (cx, cy, r), ellipse (cx, cy, rx, ry), line (x1, y1, \
    x2, y2), polyline or polygon (points: [[x, y], …]), path (d), text (x, y, text, size, anchor: start|middle|end, bold, \
    rotate), group (items, translate: [x, y], scale, rotate, opacity), chart (type: bar|line|scatter|pie, title, x_label, \
    y_label, labels: […], series: [{name, values: […], x: […], color}], and x, y, width, height of its place). Shapes and \
    texts take fill, stroke, stroke_width, opacity, dash. Colours are names or #rrggbb. x grows to the right, y downwards.";

impl Draw {
    /// Draws into spaces on this disk.
    pub fn new(disk: Arc<dyn Disk>) -> Draw {
        let spec = spec(
            "draw",
            DESCRIPTION,
            Effect::Write,
            json!({
                "path": {"type": "string", "description": "The file to write; it ends with .svg."},
                "scene": {
                    "type": "object",
                    "properties": {
                        "width": {"type": "number"},
                        "height": {"type": "number"},
                        "background": {"type": "string"},
                        "items": {"type": "array", "items": {"type": "object"}},
                    },
                    "required": ["items"],
                },
            }),
            &["path", "scene"],
            &[("path", ParamRole::Target), ("scene", ParamRole::Payload)],
        );
        Draw { spec, disk }
    }

    fn run(&self, invocation: &Invocation<'_>, space: &Space) -> Result<ToolResult, ToolResult> {
        let arguments: Arguments = read(invocation.arguments)?;
        if !arguments.path.to_ascii_lowercase().ends_with(".svg") {
            return Err(refused("`path` must end with .svg: drawings are SVG files"));
        }
        // What it says is made of the arguments, and of nothing else.
        let svg = draw(&arguments.scene)
            .map_err(|error| ToolResult::failed(error.to_string(), invocation.label.clone()))?;
        let file = space
            .write(&arguments.path, svg.as_bytes(), invocation.label)
            .map_err(|error| failed(&error, invocation))?;
        let text = format!("Drew {} ({} bytes).", file.path, file.size);
        let label = Label::of(Sources::SYSTEM).join(invocation.label);
        Ok(ToolResult {
            parts: vec![Part { text, label }],
            failed: false,
            files: vec![file],
            ..ToolResult::default()
        })
    }
}

tool_in_a_space!(Draw);
