//! Which servers there are, as the user configured them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yushan_abi::Effect;

use super::McpError;

/// A foreign server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct ServerConfig {
    /// What its tools are named after: small letters, digits and `-`, at most 20.
    pub name: String,
    /// How it is reached.
    #[serde(flatten)]
    pub connect: Connect,
    /// What calls of its tools do, by the server's names for them, as far as the user knows; all others are
    /// [`Effect::Irreversible`].
    pub effects: BTreeMap<String, Effect>,
    /// What one call may take.
    pub limits: Limits,
}

/// A server as it is written down: all fields beside each other, so that one which nobody knows is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    transport: String,
    program: Option<PathBuf>,
    arguments: Option<Vec<String>>,
    environment: Option<BTreeMap<String, String>>,
    jail: Option<JailConfig>,
    url: Option<String>,
    token: Option<String>,
    #[serde(default)]
    effects: BTreeMap<String, Effect>,
    #[serde(default)]
    limits: Limits,
}

impl TryFrom<Written> for ServerConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<ServerConfig, String> {
        let Written { name, transport, effects, limits, .. } = written;
        let stdio = [
            ("program", written.program.is_some()),
            ("arguments", written.arguments.is_some()),
            ("environment", written.environment.is_some()),
            ("jail", written.jail.is_some()),
        ];
        let http = [("url", written.url.is_some()), ("token", written.token.is_some())];
        let needs = |field| format!("{name}: transport {transport:?} needs `{field}`");
        let strange = |fields: &[(&str, bool)]| {
            let given = fields.iter().find(|(_, given)| *given);
            given.map(|(field, _)| format!("{name}: `{field}` is not for transport {transport:?}"))
        };
        let connect = match transport.as_str() {
            "stdio" => {
                strange(&http).map_or(Ok(()), Err)?;
                Connect::Stdio {
                    program: written.program.ok_or_else(|| needs("program"))?,
                    arguments: written.arguments.unwrap_or_default(),
                    environment: written.environment.unwrap_or_default(),
                    jail: written.jail,
                }
            }
            "http" => {
                strange(&stdio).map_or(Ok(()), Err)?;
                Connect::Http {
                    url: written.url.ok_or_else(|| needs("url"))?,
                    token: written.token,
                }
            }
            _ => {
                return Err(format!(
                    "{name}: transport {transport:?} is not known; expected stdio or http"
                ));
            }
        };
        Ok(ServerConfig { name, connect, effects, limits })
    }
}

/// How a server is reached.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "transport", rename_all = "snake_case")]
pub enum Connect {
    /// A program, spoken with over its standard input and output.
    Stdio {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
        /// Its environment, apart from `PATH`, `HOME` and `LANG`: nothing else of ours is passed on.
        environment: BTreeMap<String, String>,
        /// Whether it runs in the sandbox: no network, nothing to write but a scratch folder, and of the files only the
        /// system's and these.
        jail: Option<JailConfig>,
    },
    /// Streamable HTTP.
    Http {
        /// Its address, `https://…`, or `http://` to this machine.
        url: String,
        /// A token that is sent to this server alone, and never to where it redirects.
        token: Option<String>,
    },
}

/// What a program in the sandbox may see.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// Files and folders that it may read.
    #[serde(default)]
    pub readable: Vec<PathBuf>,
}

/// What one call may take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds from the call to its answer.
    pub call_seconds: u64,
    /// Seconds until a server has said what it offers.
    pub connect_seconds: u64,
    /// Bytes of the texts of an answer.
    pub text: usize,
    /// Bytes of one message.
    pub message: usize,
    /// Tools of a server.
    pub tools: usize,
    /// Bytes of a tool's description and schema.
    pub description: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            call_seconds: 60,
            connect_seconds: 20,
            text: 256 << 10,
            message: 16 << 20,
            tools: 128,
            description: 32 << 10,
        }
    }
}

impl Limits {
    /// From the call to its answer.
    pub fn call(&self) -> Duration {
        Duration::from_secs(self.call_seconds)
    }

    /// Until a server has said what it offers.
    pub fn connect(&self) -> Duration {
        Duration::from_secs(self.connect_seconds)
    }
}

/// Letters of a server's name.
const NAME: usize = 20;

impl ServerConfig {
    /// Whether it can be used.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), McpError> {
        let wrong = |why: &str| McpError::Config { name: self.name.clone(), why: why.into() };
        let fits = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-';
        if self.name.is_empty() || self.name.len() > NAME || !self.name.chars().all(fits) {
            return Err(wrong("its name must be 1 to 20 small letters, digits and -"));
        }
        if let Connect::Http { url, .. } = &self.connect {
            let address = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
            let host = address.host_str().unwrap_or_default();
            let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
            match address.scheme() {
                "https" => {}
                "http" if is_local => {}
                "http" => return Err(wrong("http:// is for this machine alone; use https://")),
                _ => return Err(wrong("its address must begin with https://")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_and_a_mistake_is_named() {
        let read = |text: &str| serde_json::from_str::<ServerConfig>(text);
        let one = read(
            r#"{"name": "files", "transport": "stdio", "program": "npx", "arguments": ["-y", "x"], "effects": {"a": "read"},
                "jail": {"readable": ["/srv"]}, "limits": {"call_seconds": 5}}"#,
        )
        .unwrap();
        assert_eq!((one.effects["a"], one.limits.call_seconds), (Effect::Read, 5));
        // What is written again is read again.
        assert_eq!(
            format!("{one:?}"),
            format!("{:?}", read(&serde_json::to_string(&one).unwrap()).unwrap())
        );
        let two = r#"{"name": "web", "transport": "http", "url": "https://example.org/mcp"}"#;
        assert!(matches!(read(two).unwrap().connect, Connect::Http { token: None, .. }));
        for (text, expected) in [
            (r#"{"name": "x", "transport": "stdio"}"#, "x: transport \"stdio\" needs `program`"),
            (r#"{"name": "x", "transport": "http"}"#, "needs `url`"),
            (r#"{"name": "x", "transport": "pipe"}"#, "expected stdio or http"),
            (
                r#"{"name": "x", "transport": "http", "url": "u", "program": "p"}"#,
                "`program` is not for",
            ),
            (
                r#"{"name": "x", "transport": "stdio", "program": "p", "token": "t"}"#,
                "`token` is not for",
            ),
            (
                r#"{"name": "x", "transport": "stdio", "program": "p", "args": []}"#,
                "unknown field `args`",
            ),
            (r#"{"name": "x"}"#, "missing field `transport`"),
        ] {
            let why = read(text).unwrap_err().to_string();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }
}
