//! `serve`: the system, until Ctrl-C.
//!
//! It loads the models that are named, puts those that were pulled on the shelf, starts the kernel and the
//! server, and says where they are. A name that is an address stands for the models of another server.
//! Off this machine it does not listen without keys. One system has a data folder to itself.

use std::fs::{File, TryLockError};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use yushan_abi::{Complete, Disk, Keep};
use yushan_kernel::runtime::clock;
use yushan_kernel::{Kernel, Loaded, Options, Price, Stock, SwapFile, World};
use yushan_model::Error;
use yushan_model::engine::available_memory;
use yushan_server::{Doors, Server};

use crate::accounts::{Accounts, Storing, open_disk};
use crate::exit::{BadFile, BadUsage};
use crate::interrupt::Interrupt;
use crate::logs::Logs;
use crate::remote::{self, Remote, Route};
use crate::shelf::{Files, Pulled};
use crate::spans::Spans;
use crate::{flags, hub, wire};

/// The height of the mountain in metres.
pub(crate) const PORT: u16 = 3952;

/// Threads for what blocks: keys and documents on the disk, prompts brought into tokens. They are not held while
/// requests wait, so the queue may be longer.
const BLOCKING: usize = 64;

/// How often, and for how long each, a system waits for one that is just ending to leave the data folder.
const TRIES: usize = 20;
const TRY: Duration = Duration::from_millis(100);

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
        let _alone = alone()?;
        let spans = Spans::begin()?;
        let sqlite = Arc::new(open_disk()?);
        let disk: Arc<dyn Disk> = sqlite.clone();
        let accounts = Arc::new(Accounts::new(disk.clone(), self.require_key, Arc::new(clock)));
        if !self.host.is_loopback() && !accounts.exist()? {
            let why = "to listen beyond this machine there must be a key: yushan keys new NAME";
            return Err(BadUsage(why.into()).into());
        }
        let (loaded, stock) = self.stock()?;
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
        let kernel = Arc::new(Kernel::with_stock(world, loaded, stock, options));
        let doors = self.hosts.iter().fold(Doors::default(), |doors, name| doors.host(name));
        let doors = self.origins.iter().fold(doors, |doors, origin| doors.origin(origin));
        let pulled = Arc::new(Pulled(kernel.clone()));
        let mut server = Server::new(self.complete(kernel.clone()), disk, pulled, accounts);
        server.kernel = Some(kernel.clone());
        server.index = Some(sqlite);
        server.seats = Box::new(move || Some(kernel.seats()));
        server.doors = doors;
        server.traces = spans.as_ref().map(Spans::traces);
        self.listen(server)
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

    /// The models to hold in memory, loaded, and those that can be.
    fn stock(&self) -> Result<(Vec<Loaded>, Stock)> {
        let free = || available_memory().map(|bytes| bytes / 10 * 9);
        let memory = self.memory.or_else(free);
        let files = Arc::new(Files::new(self.given()?, self.engine.clone(), self.slots));
        let loaded = files.load_given()?;
        check_room(&loaded, memory)?;
        Ok((loaded, Stock { shelf: files, memory, keep: self.keep_alive }))
    }

    /// The models to hold in memory: the name that clients give, and where each lies.
    fn given(&self) -> Result<Vec<(String, PathBuf)>> {
        if self.models.is_empty() && hub::list()?.is_empty() {
            let how = "no model: give a file or a name on a hub, for example \
                       yushan serve hf:HuggingFaceTB/SmolLM2-135M-Instruct";
            return Err(BadFile(how.into()).into());
        }
        let mut given: Vec<(String, PathBuf)> = Vec::new();
        for argument in self.models.iter().filter(|name| !remote::is_address(name)) {
            let name = wire::short_name(argument);
            if given.iter().any(|(other, _)| *other == name) {
                let why = format!("two models would be called {name:?}: rename one of the files");
                return Err(BadUsage(why).into());
            }
            given.push((name, hub::resolve(argument)?));
        }
        Ok(given)
    }

    /// The kernel, and other servers after it.
    fn complete(&self, kernel: Arc<Kernel>) -> Arc<dyn Complete> {
        let key = std::env::var(remote::KEY).ok().filter(|key| !key.is_empty());
        let addresses = self.models.iter().filter(|name| remote::is_address(name));
        let remotes = addresses.map(|address| {
            Arc::new(Remote::new(address, key.clone(), self.queue)) as Arc<dyn Complete>
        });
        let mut all: Vec<Arc<dyn Complete>> = remotes.collect();
        if all.is_empty() {
            return kernel;
        }
        all.insert(0, kernel);
        Arc::new(Route(all))
    }

    fn listen(&self, server: Server) -> Result<()> {
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
            let server = Arc::new(server);
            match server.resume() {
                Ok(0) => {}
                Ok(count) => eprintln!("resumed {count} processes"),
                Err(error) => eprintln!("the journal cannot be read: {error}"),
            }
            let kernel = server.kernel.clone();
            yushan_server::serve(listener, server, interrupted(&interrupt)).await;
            // Before the tasks of this runtime go: who waits for a durable answer hears that the system
            // stops, and does not let go of it.
            if let Some(kernel) = kernel {
                kernel.stop();
            }
            Ok(())
        })
    }
}

/// Takes the data folder: held as long as the file is open, and let go by the operating system however this ends.
fn alone() -> Result<File> {
    let home = hub::home()?;
    let path = home.join("serve.lock");
    let why = || path.display().to_string();
    std::fs::create_dir_all(&home).with_context(why)?;
    let file = File::options().create(true).append(true).open(&path).with_context(why)?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY),
            Err(TryLockError::Error(error)) => return Err(error).with_context(why),
        }
    }
    Err(BadUsage(format!(
        "another yushan serve uses the data folder {}: end it, or set YUSHAN_HOME to another folder",
        home.display()
    ))
    .into())
}

async fn interrupted(interrupt: &Interrupt) {
    while interrupt.flow().is_continue() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What is to stay in memory has to fit.
fn check_room(loaded: &[Loaded], memory: Option<u64>) -> Result<()> {
    let asked = loaded.iter().map(|model| model.info.memory).sum();
    match memory {
        Some(limit) if asked > limit => Err(Error::Memory {
            what: "the models to hold in memory".into(),
            asked,
            limit,
            hint: "give fewer of them, a smaller --context or --slots, or more --memory".into(),
        }
        .into()),
        _ => Ok(()),
    }
}
