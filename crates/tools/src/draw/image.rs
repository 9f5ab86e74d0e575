//! The tool: `image`, a picture from a text, by whatever [`Senses`] there are.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use yushan_abi::{
    Disk, Effect, Invocation, Label, ParamRole, Part, Senses, Sources, ToolResult, ToolSpec, Wish,
};

use crate::arguments::{read, refused, spec};
use crate::space::Space;
use crate::space::driver::{failed, tool_in_a_space};

/// Bytes of a prompt.
const PROMPT: usize = 8_000;
/// Sizes that image models have, the first is taken if none is said.
const SIZES: [(&str, u32, u32); 5] = [
    ("1024x1024", 1024, 1024),
    ("1536x1024", 1536, 1024),
    ("1024x1536", 1024, 1536),
    ("512x512", 512, 512),
    ("256x256", 256, 256),
];

/// The driver.
pub struct Image {
    spec: ToolSpec,
    disk: Arc<dyn Disk>,
    senses: Arc<dyn Senses>,
    /// Who draws, for the label of what comes.
    origin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    prompt: String,
    path: String,
    size: Option<String>,
}

impl Image {
    /// Draws by `senses`, which are called `origin`, into spaces on this disk. `effect`: what a wish does to the world,
    /// [`Effect::Egress`] where it leaves this machine, [`Effect::Write`] where it does not.
    pub fn new(
        disk: Arc<dyn Disk>,
        senses: Arc<dyn Senses>,
        effect: Effect,
        origin: impl Into<String>,
    ) -> Image {
        let sizes: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
        let spec = spec(
            "image",
            "Makes a picture from a text, by an image model, and keeps it as a file. For diagrams and charts use `draw`.",
            effect,
            json!({
                "prompt": {"type": "string", "description": "What is to be seen."},
                "path": {"type": "string", "description": "The file to write, without an extension."},
                "size": {"type": "string", "enum": sizes},
            }),
            &["prompt", "path"],
            &[
                ("prompt", ParamRole::Payload),
                ("path", ParamRole::Target),
                ("size", ParamRole::Opaque),
            ],
        );
        Image { spec, disk, senses, origin: origin.into() }
    }

    fn run(&self, invocation: &Invocation<'_>, space: &Space) -> Result<ToolResult, ToolResult> {
        let arguments: Arguments = read(invocation.arguments)?;
        let prompt = arguments.prompt.trim();
        if prompt.is_empty() || prompt.len() > PROMPT {
            let size = prompt.len();
            return Err(refused(format!("`prompt` has {size} bytes; 1 to {PROMPT} are expected")));
        }
        let size = arguments.size.as_deref().unwrap_or(SIZES[0].0);
        let Some(&(_, width, height)) = SIZES.iter().find(|(name, ..)| *name == size) else {
            let sizes: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
            return Err(refused(format!("`size` must be one of {}", sizes.join(", "))));
        };
        let mut label = Label::of(Sources::MODEL).join(invocation.label);
        label.origins.insert(self.origin.clone());
        let wish = Wish { prompt, width, height, cancel: invocation.cancel.clone() };
        // What an endpoint says is its own.
        let picture = self.senses.draw(&wish).map_err(|error| {
            ToolResult::failed(format!("no picture was made: {error}"), label.clone())
        })?;
        let extension = match picture.media_type.as_str() {
            "image/png" => "png",
            "image/jpeg" => "jpg",
            "image/webp" => "webp",
            "image/svg+xml" => "svg",
            _ => "img",
        };
        let path = format!("{}.{extension}", without_extension(&arguments.path));
        let file = space
            .write(&path, &picture.bytes, &label)
            .map_err(|error| failed(&error, invocation))?;
        let text = format!("Made {} ({}, {} bytes).", file.path, file.media_type, file.size);
        let said = Label::of(Sources::SYSTEM).join(invocation.label);
        Ok(ToolResult {
            parts: vec![Part { text, label: said }],
            failed: false,
            files: vec![file],
            ..ToolResult::default()
        })
    }
}

fn without_extension(path: &str) -> &str {
    let lower = path.to_ascii_lowercase();
    let known = [".png", ".jpg", ".jpeg", ".webp", ".svg"];
    let found = known.iter().find(|extension| lower.ends_with(*extension));
    found.map_or(path, |extension| &path[..path.len() - extension.len()])
}

tool_in_a_space!(Image);
