//! A foreign server as drivers: one for each of its tools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yushan_abi::{Disk, Effect, Invocation, Tool, ToolResult, ToolSpec};

use super::McpError;
use super::client::{CallError, Connection};
use super::config::ServerConfig;
use super::pins::{Described, Pending, Pins};
use super::reply;
use crate::arguments::refused;
use crate::space::driver::failed;
use crate::space::{self, Space};

/// Letters of a name that every model's grammar takes.
const NAME: usize = 64;

/// One foreign server: its connection, what it offers, and what was agreed to.
pub struct Bridge {
    config: ServerConfig,
    disk: Arc<dyn Disk>,
    /// Opened again when it is needed and gone.
    connection: Mutex<Option<Arc<Connection>>>,
    /// What the server offers, by its names, as it was said last.
    offered: RwLock<BTreeMap<String, Described>>,
}

impl Bridge {
    /// Connects, and agrees to what is offered if this server was never used before.
    ///
    /// # Errors
    /// The server is not configured well or does not answer, or the disk refuses.
    pub fn open(config: ServerConfig, disk: Arc<dyn Disk>) -> Result<Arc<Bridge>, McpError> {
        config.check()?;
        let bridge = Bridge {
            config,
            disk,
            connection: Mutex::new(None),
            offered: RwLock::new(BTreeMap::new()),
        };
        bridge.connected()?;
        if Pins::load(&*bridge.disk, &bridge.config.name)?.is_none() {
            let tools = bridge.offered.read().unwrap_or_else(PoisonError::into_inner).clone();
            Pins { tools }.save(&*bridge.disk, &bridge.config.name)?;
        }
        Ok(Arc::new(bridge))
    }

    /// The drivers of all tools that were agreed to, as they were described then. A tool that is new is not among them
    /// before somebody consents.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn tools(self: &Arc<Self>) -> Result<Vec<Arc<dyn Tool>>, McpError> {
        let pins = Pins::load(&*self.disk, &self.config.name)?.unwrap_or_default();
        let offered = self.offered.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut names = BTreeSet::new();
        let agreed = pins.tools.into_iter().filter(|(remote, _)| offered.contains_key(remote));
        let tools = agreed.map(|(remote, described)| {
            let mut name = local_name(&self.config.name, &remote);
            if !names.insert(name.clone()) {
                name = hashed_name(&self.config.name, &remote);
                names.insert(name.clone());
            }
            let spec = self.spec(&name, &remote, &described);
            let hash = described.hash;
            Arc::new(Foreign { bridge: Arc::clone(self), remote, hash, spec }) as Arc<dyn Tool>
        });
        Ok(tools.collect())
    }

    /// What waits for consent: new tools and changed descriptions. Asks the server again.
    ///
    /// # Errors
    /// The server or the disk does not answer.
    pub fn pending(&self) -> Result<Vec<Pending>, McpError> {
        self.connected()?;
        let pins = Pins::load(&*self.disk, &self.config.name)?.unwrap_or_default();
        Ok(pins.pending(&self.offered.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Agrees to a description, by its hash: what was looked at, not what the server may say by now. The drivers are to
    /// be asked for again then ([`Bridge::tools`]).
    ///
    /// # Errors
    /// Nothing of this hash is offered, or the disk refuses.
    pub fn consent(&self, tool: &str, hash: &str) -> Result<(), McpError> {
        let offered = self.offered.read().unwrap_or_else(PoisonError::into_inner);
        let Some(described) = offered.get(tool).filter(|described| described.hash == hash) else {
            let why = format!("offers no tool {tool:?} of this description any more; look again");
            return Err(McpError::Connection { name: self.config.name.clone(), why });
        };
        let mut pins = Pins::load(&*self.disk, &self.config.name)?.unwrap_or_default();
        pins.tools.insert(tool.to_string(), described.clone());
        pins.save(&*self.disk, &self.config.name)
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    fn spec(&self, name: &str, remote: &str, described: &Described) -> ToolSpec {
        // What a server says of its tools' effects is not asked.
        let effect = self.config.effects.get(remote).copied().unwrap_or(Effect::Irreversible);
        let schema = match &described.schema {
            Value::Object(fields) if fields.get("type") == Some(&json!("object")) => {
                described.schema.clone()
            }
            _ => json!({"type": "object"}),
        };
        ToolSpec {
            name: name.to_string(),
            description: described.description.clone(),
            schema,
            effect,
            // All parameters are targets: where a foreign tool's arguments go is not known.
            roles: BTreeMap::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, opened if it is gone; the list of tools is as new as the server's last word.
    fn connected(&self) -> Result<Arc<Connection>, McpError> {
        let mut held = self.lock();
        if let Some(connection) = held.as_ref().filter(|connection| connection.is_open()) {
            if connection.has_changed() {
                self.offer(connection.tools()?);
            }
            return Ok(Arc::clone(connection));
        }
        *held = None;
        let connection = Arc::new(Connection::open(&self.config)?);
        self.offer(connection.tools()?);
        *held = Some(Arc::clone(&connection));
        Ok(connection)
    }

    fn offer(&self, tools: BTreeMap<String, Described>) {
        *self.offered.write().unwrap_or_else(PoisonError::into_inner) = tools;
    }
}

/// `server__tool`, in letters that every model's grammar takes.
pub(super) fn local_name(server: &str, remote: &str) -> String {
    let fits = |one: char| one.is_ascii_alphanumeric() || one == '_' || one == '-';
    if !remote.is_empty() && remote.chars().all(fits) {
        let name = format!("{server}__{remote}");
        if name.len() <= NAME {
            return name;
        }
    }
    hashed_name(server, remote)
}

/// With a part of its hash, for names that do not fit or that two tools would have.
fn hashed_name(server: &str, remote: &str) -> String {
    let digest = Sha256::digest(remote.as_bytes());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let room = NAME - server.len() - "__".len() - "_".len() - hash.len();
    let plain = |one: char| if one.is_ascii_alphanumeric() || one == '-' { one } else { '_' };
    let shown: String = remote.chars().map(plain).take(room).collect();
    format!("{server}__{shown}_{hash}")
}

/// One tool of a foreign server.
struct Foreign {
    bridge: Arc<Bridge>,
    /// The server's name for it.
    remote: String,
    /// Of what the model was told of it.
    hash: String,
    spec: ToolSpec,
}

impl Foreign {
    fn run(&self, invocation: &Invocation<'_>) -> Result<ToolResult, ToolResult> {
        let server = &self.bridge.config.name;
        let Some(arguments) = invocation.arguments.as_object() else {
            return Err(refused("the arguments must be an object"));
        };
        let unreached = |error: McpError| {
            // What a program complains about is quoted.
            ToolResult::failed(
                format!("{error}; nothing was called"),
                reply::label(server, invocation),
            )
        };
        let connection = self.bridge.connected().map_err(unreached)?;
        self.agreed()?;
        let space = Space::open(Arc::clone(&self.bridge.disk), invocation.owner, invocation.space)
            .map_err(|error| failed(&error, invocation))?;
        let answer = connection.call(&self.remote, arguments.clone(), &invocation.cancel);
        let label = || reply::label(server, invocation);
        let limits = &self.bridge.config.limits;
        match answer {
            Ok(answer) => Ok(reply::result(answer, server, limits, invocation, &space)),
            Err(CallError::Refused(words)) => {
                let words: String = words.chars().take(limits.text).collect();
                Err(ToolResult::failed(
                    format!("the MCP server {server} refused: {words}"),
                    label(),
                ))
            }
            Err(CallError::Broken(why)) => {
                // It is opened again for the next call.
                *self.bridge.lock() = None;
                Err(ToolResult::failed(
                    format!(
                        "the MCP server {server} did not answer: {why}; whether the call was made is not known"
                    ),
                    label(),
                ))
            }
            Err(CallError::Deadline) => Err(refused(format!(
                "the MCP server {server} did not answer within {} s; whether the call was made is not known",
                limits.call_seconds
            ))),
            Err(CallError::Cancelled) => {
                Err(refused("cancelled; whether the call was made is not known"))
            }
        }
    }

    /// Whether what the model was told is what the server says and what was agreed to.
    fn agreed(&self) -> Result<(), ToolResult> {
        let server = &self.bridge.config.name;
        let pins = Pins::load(&*self.bridge.disk, server)
            .map_err(|error| refused(error.to_string()))?
            .unwrap_or_default();
        let offered = self.bridge.offered.read().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = offered.get(&self.remote) else {
            return Err(refused(format!("the MCP server {server} no longer offers this tool")));
        };
        if !pins.agrees(&self.remote, now) {
            return Err(refused(format!(
                "the MCP server {server} changed the description of this tool; it can be called again when the user has \
                 looked at the new one and agreed to it"
            )));
        }
        if now.hash != self.hash {
            return Err(refused(
                "the description of this tool has changed since it was read; look at the list of tools again",
            ));
        }
        Ok(())
    }
}

impl Tool for Foreign {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, invocation: &Invocation<'_>) -> ToolResult {
        self.run(invocation).unwrap_or_else(|refusal| refusal)
    }

    fn forked(&self, from: &str, to: &str) -> Result<(), String> {
        space::fork(&*self.bridge.disk, from, to).map_err(|error| error.to_string())
    }

    fn released(&self, space: &str) {
        space::kept::released(&self.bridge.disk, space);
    }
}
