//! `serve`: the system, until Ctrl-C.
//!
//! It loads the models, starts the kernel and the server, and says where they are. Off this machine
//! it does not listen without keys.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use yushan_abi::{Complete, Disk};
use yushan_kernel::runtime::clock;
use yushan_kernel::{Kernel, Options, Price, SwapFile, World};
use yushan_server::{Doors, Fault, Library, Progress, Server};

use crate::accounts::{Accounts, Storing, open_disk};
use crate::exit::{BadFile, BadUsage};
use crate::interrupt::Interrupt;
use crate::logs::Logs;
use crate::spans::Spans;
use crate::{flags, hub, wire};

/// The height of the mountain in metres.
pub(crate) const PORT: u16 = 3952;

/// Threads for what blocks: keys and documents on the disk, prompts brought into tokens. They are not held while
/// requests wait, so the queue may be longer.
const BLOCKING: usize = 64;

/// Start the system: models as processes, behind the OpenAI and Ollama interfaces
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// Models: files, names that `models` lists, or hf:OWNER/REPO[:FILE] [default: the only one pulled]
    models: Vec<String>,
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
    /// Whether callers on this machine need a key too
    #[arg(long)]
    require_key: bool,
    /// Conversations that are written at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = flags::positive)]
    slots: usize,
    /// Requests that may wait or be answered; more are refused until there is room
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = flags::positive)]
    queue: usize,
    /// What a million tokens read cost, in millionths of any currency: for budgets and `top`
    #[arg(long, value_name = "MILLIONTHS", default_value_t = 0)]
    price_read: u64,
    /// What a million tokens written cost
    #[arg(long, value_name = "MILLIONTHS", default_value_t = 0)]
    price_written: u64,
    /// Memory for the keys and values of conversations that wait for their place, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = flags::count)]
    swap_memory: usize,
    /// Room for them in a file in the data folder beyond that, in MiB; 0: no file
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = flags::count)]
    swap_file: usize,
    #[command(flatten)]
    logs: Logs,
    #[command(flatten)]
    engine: flags::Engine,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        self.logs.begin()?;
        let spans = Spans::begin()?;
        let sqlite = Arc::new(open_disk()?);
        let disk: Arc<dyn Disk> = sqlite.clone();
        let accounts = Arc::new(Accounts::new(disk.clone(), self.require_key, Arc::new(clock)));
        if !self.host.is_loopback() && !accounts.exist()? {
            let why = "to listen beyond this machine there must be a key: yushan keys new NAME";
            return Err(BadUsage(why.into()).into());
        }
        let names = match self.models.is_empty() {
            true => vec![only_model()?],
            false => self.models.clone(),
        };
        let mut loaded = Vec::new();
        for name in &names {
            loaded.push(wire::load(name, &self.engine, self.slots)?);
        }
        let _storing = Storing::start(accounts.usage.clone())?;
        let options = Options {
            slots: self.slots,
            most: self.queue,
            swap_bytes: (self.swap_memory as u64) << 20,
            swap_file: self.swap()?,
            ..Options::default()
        };
        let world = World {
            disk: Some(disk.clone()),
            index: Some(sqlite.clone()),
            price: Price { read: self.price_read, written: self.price_written },
            tools: Vec::new(),
        };
        let kernel = Arc::new(Kernel::start_in(world, loaded, options));
        let doors = self.hosts.iter().fold(Doors::default(), |doors, name| doors.host(name));
        let doors = self.origins.iter().fold(doors, |doors, origin| doors.origin(origin));
        let mut server = Server::new(kernel.clone(), disk, Arc::new(Shelf), accounts);
        server.kernel = Some(kernel.clone());
        server.index = Some(sqlite);
        let seats = kernel.clone();
        server.seats = Box::new(move || Some(seats.seats()));
        server.doors = doors;
        server.traces = spans.as_ref().map(Spans::traces);
        self.listen(server, &kernel)
    }

    /// A file without a name, so that it is gone with the system, however that ends.
    fn swap(&self) -> Result<Option<SwapFile>> {
        if self.swap_file == 0 {
            return Ok(None);
        }
        let home = hub::home()?;
        let file = std::fs::create_dir_all(&home).and_then(|()| tempfile::tempfile_in(&home));
        let why = || format!("a file to swap to in {} (see --swap-file)", home.display());
        Ok(Some(SwapFile { file: file.with_context(why)?, bytes: (self.swap_file as u64) << 20 }))
    }

    fn listen(&self, server: Server, kernel: &Kernel) -> Result<()> {
        let interrupt = Interrupt::catch()?;
        let files = getrlimit(Resource::Nofile);
        // Every connection is an open file. If there may be no more, fewer connections are taken at once.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // The engine has all processors; a second thread would mostly be woken to find nothing to do.
            .worker_threads(1)
            .max_blocking_threads(BLOCKING)
            .enable_all()
            .build()
            .context("the server's threads")?;
        runtime.block_on(async {
            let address = (self.host, self.port);
            let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
                format!("{}:{} (another server may be running; see --port)", self.host, self.port)
            })?;
            let address = listener.local_addr()?;
            for model in kernel.models() {
                eprintln!("model   {}, context of {} tokens", model.name, model.context);
            }
            eprintln!("chat    http://{address}/");
            eprintln!("OpenAI  http://{address}/v1");
            eprintln!("Ollama  http://{address}");
            let server = Arc::new(server);
            match server.resume() {
                Ok(0) => {}
                Ok(count) => eprintln!("resumed {count} processes"),
                Err(error) => eprintln!("the journal cannot be read: {error}"),
            }
            yushan_server::serve(listener, server, interrupted(&interrupt)).await;
            Ok(())
        })
    }
}

async fn interrupted(interrupt: &Interrupt) {
    while interrupt.flow().is_continue() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// The only model that is here, if there is one and no other.
fn only_model() -> Result<String> {
    let held = hub::list()?;
    match &held[..] {
        [model] => Ok(model.name.clone()),
        [] => Err(BadFile(
            "no model: give a file or a name on a hub, for example \
             yushan serve hf:HuggingFaceTB/SmolLM2-135M-Instruct"
                .into(),
        )
        .into()),
        _ => {
            let names: Vec<&str> = held.iter().map(|model| model.name.as_str()).collect();
            Err(BadUsage(format!("which model? Here are {}", names.join(", "))).into())
        }
    }
}

/// Models on the hub and on the disk. What is pulled can be served after the next start.
struct Shelf;

impl Library for Shelf {
    fn pull(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let status = |status: &str| Progress { status: status.into(), ..Progress::default() };
        if progress(status("pulling manifest")).is_break() {
            return Ok(());
        }
        hub::pull(name).map_err(fault)?;
        let _ = progress(status("success"));
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), Fault> {
        hub::remove(name).map(|_| ()).map_err(fault)
    }
}

fn fault(error: anyhow::Error) -> Fault {
    let detail = crate::exit::line(&error);
    match error.is::<BadUsage>() {
        true => Fault::invalid("model", detail),
        false => Fault::NotFound { what: "model", name: detail },
    }
}
