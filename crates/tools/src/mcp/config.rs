//! Which servers there are, as the user configured them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yushan_abi::Effect;

use super::McpError;

/// A foreign server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// What its tools are named after: small letters, digits and `-`, at most 20.
    pub name: String,
    /// How it is reached.
    #[serde(flatten)]
    pub connect: Connect,
    /// What calls of its tools do, by the server's names for them, as far as the user knows; all others are
    /// [`Effect::Irreversible`].
    #[serde(default)]
    pub effects: BTreeMap<String, Effect>,
    /// What one call may take.
    #[serde(default)]
    pub limits: Limits,
}

/// How a server is reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "snake_case")]
pub enum Connect {
    /// A program, spoken with over its standard input and output.
    Stdio {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        #[serde(default)]
        arguments: Vec<String>,
        /// Its environment, apart from `PATH`, `HOME` and `LANG`: nothing else of ours is passed on.
        #[serde(default)]
        environment: BTreeMap<String, String>,
        /// Whether it runs in the sandbox: no network, nothing to write but a scratch folder, and of the files only the
        /// system's and these.
        #[serde(default)]
        jail: Option<JailConfig>,
    },
    /// Streamable HTTP.
    Http {
        /// Its address, `https://…`, or `http://` to this machine.
        url: String,
        /// A token that is sent to this server alone, and never to where it redirects.
        #[serde(default)]
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
