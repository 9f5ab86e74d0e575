//! `serve`: the system, until Ctrl-C.
//!
//! It says where the system listens. A model's name that is an address stands for the models of another server.

use std::net::IpAddr;

use anyhow::Result;
use yushan_abi::Keep;
use yushan_server::{Doors, Server};

use crate::boot::{Bounds, Models, System, reachable};
use crate::flags;
use crate::interrupt::Interrupt;
use crate::logs::Logs;

/// The height of the mountain in metres.
pub(crate) const PORT: u16 = 3952;

/// Start the system: models as processes, behind the OpenAI and Ollama interfaces
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// Models to hold in memory: files, names that `models` lists, or hf:OWNER/REPO[:FILE]; http://HOST/v1
    /// adds the models of another server (its key: YUSHAN_REMOTE_KEY). All that were pulled are loaded
    /// when they are asked for
    models: Vec<String>,
    /// Bytes that all models in memory may take: 8GB, 512MiB [default: nine tenths of what is free]
    #[arg(long, value_name = "BYTES", value_parser = flags::bytes)]
    memory: Option<u64>,
    /// How long an unused model stays in memory: 5m, 1h30m, seconds, -1 (for ever)
    #[arg(long, value_name = "TIME", default_value = "5m", allow_hyphen_values = true)]
    keep_alive: Keep,
    /// The address to listen on; others than this machine's need keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = PORT)]
    port: u16,
    /// A further host name under which the server is called
    #[arg(long = "allow-host", value_name = "NAME")]
    hosts: Vec<String>,
    /// A page that may call the server from a browser, for example https://chat.example.org
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    #[command(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    logs: Logs,
    #[command(flatten)]
    engine: flags::Engine,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        self.logs.begin()?;
        let models = Models {
            names: self.models,
            memory: self.memory,
            keep: self.keep_alive,
            engine: self.engine,
        };
        let mut system = System::start(&models, &self.bounds, self.host)?;
        // A page can make a name of its own mean this machine, but no address.
        let own = match self.host {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let doors = self.hosts.iter().fold(Doors::default().host(own), Doors::host);
        let doors = self.origins.iter().fold(doors, |doors, origin| doors.origin(origin));
        system.server.doors = doors;
        let interrupt = Interrupt::catch_end()?;
        let stop = async {
            while interrupt.flow().is_continue() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        system.listen((self.host, self.port).into(), say, stop)
    }
}

/// What there is, and where.
fn say(address: std::net::SocketAddr, server: &Server) {
    if address.ip().is_unspecified() {
        eprintln!("It listens on all addresses; other machines need a name: --allow-host NAME");
    }
    let address = reachable(address);
    for model in server.complete.models() {
        let place = match (model.loaded, model.architecture.as_str()) {
            (Some(_), _) => "in memory",
            (None, "remote") => "on another server",
            (None, _) => "loaded when asked for",
        };
        eprintln!("model   {}, context of {} tokens, {place}", model.name, model.context);
    }
    eprintln!("chat    http://{address}/");
    eprintln!("OpenAI  http://{address}/v1");
    eprintln!("Ollama  http://{address}");
}
