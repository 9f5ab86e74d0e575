//! Descriptions that were agreed to, by their hash.
//!
//! The first list of a server is agreed to by configuring it. From then on a tool that is new, or whose name, description,
//! schema or hints changed, waits for consent: what a model reads about a tool can be an instruction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use yushan_abi::{Disk, Document};

use super::McpError;

/// The kind of the document; its key is the server's name.
const KIND: &str = "mcp_server";

/// A tool as a server describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// For the model.
    pub description: String,
    /// JSON schema of the arguments.
    pub schema: Value,
    /// Of all that the server said of it, in hexadecimal.
    pub hash: String,
}

impl Described {
    /// From what a server said of a tool: an object with `description`, `inputSchema` and more.
    pub fn of(tool: &Value) -> Described {
        let digest = Sha256::digest(canonical(tool).as_bytes());
        Described {
            description: tool["description"].as_str().unwrap_or_default().to_string(),
            schema: tool["inputSchema"].clone(),
            hash: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// JSON with the fields of each object in order: the same whatever order a server sends them in.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let fields = sorted.into_iter().map(|(name, value)| {
                format!("{}:{}", Value::from(name.as_str()), canonical(value))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// The tools of a server that were agreed to, by the server's names for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pins {
    /// As they were described.
    pub tools: BTreeMap<String, Described>,
}

/// A description that waits for consent.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// The server's name for the tool.
    pub tool: String,
    /// What was agreed to before; none: the tool is new.
    pub before: Option<Described>,
    /// What the server says now.
    pub now: Described,
}

impl Pins {
    /// Those of a server; none: it was never used.
    ///
    /// # Errors
    /// The disk does not answer, or its document does not read.
    pub fn load(disk: &dyn Disk, server: &str) -> Result<Option<Pins>, McpError> {
        let wrong = |why: String| McpError::Disk { name: server.to_string(), why };
        let document = disk.get(KIND, server).map_err(|error| wrong(error.to_string()))?;
        document
            .map(|document| serde_json::from_str(&document.body))
            .transpose()
            .map_err(|error| wrong(error.to_string()))
    }

    /// Keeps them.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, disk: &dyn Disk, server: &str) -> Result<(), McpError> {
        let wrong = |why: String| McpError::Disk { name: server.to_string(), why };
        let body = serde_json::to_string(self).map_err(|error| wrong(error.to_string()))?;
        let document = Document {
            kind: KIND.into(),
            key: server.into(),
            owner: String::new(),
            created_ms: crate::space::now(),
            body,
        };
        disk.put(&document).map_err(|error| wrong(error.to_string()))
    }

    /// Whether exactly this was agreed to.
    pub fn agrees(&self, tool: &str, now: &Described) -> bool {
        self.tools.get(tool).is_some_and(|pinned| pinned.hash == now.hash)
    }

    /// What waits for consent.
    pub fn pending(&self, now: &BTreeMap<String, Described>) -> Vec<Pending> {
        let waiting = now.iter().filter(|(tool, described)| !self.agrees(tool, described));
        waiting
            .map(|(tool, described)| Pending {
                tool: tool.clone(),
                before: self.tools.get(tool).cloned(),
                now: described.clone(),
            })
            .collect()
    }
}
