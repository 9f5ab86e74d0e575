//! From a foreign server's answer to a result with labels and files.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use sha2::{Digest, Sha256};
use yushan_abi::{Invocation, Label, Part, Sources, ToolResult};

use super::config::Limits;
use crate::space::Space;

/// Files of one answer.
const FILES: usize = 16;

/// The label of all that a server says to this caller.
pub(super) fn label(server: &str, invocation: &Invocation<'_>) -> Label {
    let mut label = Label::of(Sources::MCP).for_reader(invocation.owner);
    label.origins.insert(format!("mcp:{server}"));
    // It may answer with what it was told.
    label.join(invocation.label)
}

/// Texts become parts, everything else files in the caller's space.
pub(super) fn result(
    reply: CallToolResult,
    server: &str,
    limits: &Limits,
    invocation: &Invocation<'_>,
    space: &Space,
) -> ToolResult {
    let label = label(server, invocation);
    let refused = |text: String| ToolResult::failed(text, label.clone());
    let (mut texts, mut files) = (Vec::new(), Vec::new());
    let is_empty = reply.content.is_empty();
    for block in reply.content {
        match read(block) {
            Some(Said::Text(text)) => texts.push(text),
            Some(Said::File(bytes, media_type)) => {
                if files.len() == FILES {
                    let why = format!("the server's answer holds more than {FILES} files");
                    return refused(format!("{why}; ask for fewer"));
                }
                let path = path(server, invocation.key, files.len() + 1, &media_type);
                match space.write(&path, &bytes, &label) {
                    Ok(file) => {
                        texts.push(format!("[file {}]", file.path));
                        files.push(file);
                    }
                    Err(error) => {
                        let why = format!("the server's file could not be kept: {error}");
                        return ToolResult::failed(why, label.join(&error.labels()));
                    }
                }
            }
            None => {
                let why = "the server's answer holds something of a kind that is not known, or a file that is not base64";
                return refused(why.into());
            }
        }
    }
    if let Some(value) = reply.structured_content
        && is_empty
    {
        texts.push(value.to_string());
    }
    let (size, most) = (texts.iter().map(String::len).sum::<usize>(), limits.text);
    if size > most {
        let why = format!("the server answered with {size} bytes of text, and {most} are allowed");
        return refused(format!("{why}; ask for less"));
    }
    let parts = texts.into_iter().enumerate().map(|(place, text)| Part {
        text: if place == 0 { text } else { format!("\n{text}") },
        label: label.clone(),
    });
    ToolResult {
        parts: parts.collect(),
        failed: reply.is_error.unwrap_or(false),
        files,
        ..ToolResult::default()
    }
}

/// A block of an answer.
enum Said {
    Text(String),
    /// Bytes and their media type.
    File(Vec<u8>, String),
}

fn read(block: ContentBlock) -> Option<Said> {
    let (data, media_type) = match block {
        ContentBlock::Text(text) => return Some(Said::Text(text.text)),
        ContentBlock::ResourceLink(link) => {
            return Some(Said::Text(format!("[link to {}: {}]", link.name, link.uri)));
        }
        ContentBlock::Resource(resource) => match resource.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => {
                return Some(Said::Text(format!("[{uri}]\n{text}")));
            }
            ResourceContents::BlobResourceContents { blob, mime_type, .. } => {
                (blob, mime_type.unwrap_or_default())
            }
            _ => return None,
        },
        ContentBlock::Image(image) => (image.data, image.mime_type),
        ContentBlock::Audio(audio) => (audio.data, audio.mime_type),
        _ => return None,
    };
    let bytes = BASE64_STANDARD.decode(data.as_bytes()).ok()?;
    Some(Said::File(bytes, media_type))
}

/// Named by the call, so that a call that is repeated writes the same file.
fn path(server: &str, key: &str, place: usize, media_type: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("mcp/{server}/{name}-{place}.{}", extension(media_type))
}

fn extension(media_type: &str) -> &'static str {
    match media_type.split(';').next().unwrap_or_default().trim() {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/svg+xml" => "svg",
        "audio/wav" | "audio/x-wav" => "wav",
        "audio/mpeg" => "mp3",
        "application/pdf" => "pdf",
        "application/json" => "json",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/plain" => "txt",
        _ => "bin",
    }
}
