//! Starting a system in this process: models, kernel, disk, accounts and the server over them.
//!
//! The key decision: `serve` and `chat` start the same thing, and whoever owns the data folder writes the
//! address into its lock, so that the other commands find the system wherever it listens. One system has a data
//! folder to itself: two would both go on with the same processes.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use yushan_abi::{Complete, Disk, DiskError, Document, Index, Keep};
use yushan_kernel::runtime::clock;
use yushan_kernel::{Kernel, Loaded, Options, Price, Stock, SwapFile, World};
use yushan_model::Error;
use yushan_model::engine::available_memory;
use yushan_server::Server;

use crate::accounts::{Accounts, Storing, open_disk};
use crate::drivers::{Asked, Folders, Tools};
use crate::exit::{BadFile, BadUsage};
use crate::offer::Offered;
use crate::remote::{self, Remote, Route};
use crate::shelf::{Files, Pulled};
use crate::spans::Spans;
use crate::{flags, hub, wire};

/// Threads for what blocks: keys and documents on the disk, prompts brought into tokens. They are not held while
/// requests wait, so the queue may be longer.
const BLOCKING: usize = 64;
/// How often, and for how long each, a system waits for one that is just ending to leave the data folder.
const TRIES: usize = 20;
const TRY: Duration = Duration::from_millis(100);
/// The kind and the key of the document that keeps the price.
const PRICE: &str = "price";
/// Bytes of an address in the lock, at most.
const ADDRESS: u64 = 64;

/// Which models, and what they may take.
#[derive(Clone)]
pub(crate) struct Models {
    /// Those to hold in memory: files, names, hubs' names; addresses of other servers.
    pub(crate) names: Vec<String>,
    /// Bytes that all in memory may take; if not given, nine tenths of what is free.
    pub(crate) memory: Option<u64>,
    /// How long an unused one stays.
    pub(crate) keep: Keep,
    pub(crate) engine: flags::Engine,
}

/// What tokens cost.
#[derive(Clone, Default, clap::Args)]
struct Costs {
    /// What a million tokens read cost, in millionths of any currency: for budgets and `top`
    #[arg(long = "price-read", value_name = "MILLIONTHS", default_value_t = 0)]
    read: u64,
    /// What a million tokens written cost
    #[arg(long = "price-written", value_name = "MILLIONTHS", default_value_t = 0)]
    written: u64,
}

/// How much of everything there may be.
#[derive(Clone, clap::Args)]
pub(crate) struct Bounds {
    /// Whether callers on this machine need a key too
    #[arg(long)]
    require_key: bool,
    /// Conversations that are written at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = flags::positive)]
    slots: usize,
    /// Requests that may wait or be answered; more are refused until there is room
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = flags::positive)]
    queue: usize,
    #[command(flatten)]
    price: Option<Costs>,
    #[command(flatten)]
    tools: Tools,
    /// Memory for the keys and values of conversations that wait for their place, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = flags::count)]
    swap_memory: usize,
    /// Room for them in a file in the data folder beyond that, in MiB; 0: no file
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = flags::count)]
    swap_file: usize,
}

impl Bounds {
    /// For one person at this terminal.
    pub(crate) fn personal() -> Bounds {
        Bounds {
            require_key: false,
            slots: 2,
            queue: 64,
            price: None,
            tools: Tools::default(),
            swap_memory: 512,
            swap_file: 0,
        }
    }

    /// The price. The last one that was named is kept: processes whose budgets are of money go on with it in a
    /// system that is told none.
    fn price(&self, disk: &dyn Disk) -> Result<Price> {
        let kept = disk.get(PRICE, PRICE)?.map(|kept| serde_json::from_str(&kept.body));
        let kept: Option<(u64, u64)> = kept.transpose().context("the price that is kept")?;
        let named = self.price.as_ref().map(|costs| (costs.read, costs.written));
        let (read, written) = named.or(kept).unwrap_or_default();
        if kept.unwrap_or_default() != (read, written) {
            disk.put(&Document {
                kind: PRICE.into(),
                key: PRICE.into(),
                owner: String::new(),
                created_ms: clock(),
                body: serde_json::to_string(&(read, written))?,
            })?;
        }
        Ok(Price { read, written })
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
}

/// A system that is ready to listen. It gives the data folder back when it is dropped.
pub(crate) struct System {
    pub(crate) server: Server,
    kernel: Arc<Kernel>,
    lock: File,
    storing: Storing,
    _spans: Option<Spans>,
}

impl System {
    /// Loads the models and starts the kernel. Beyond this machine no system starts without keys.
    pub(crate) fn start(models: &Models, bounds: &Bounds, host: IpAddr) -> Result<System> {
        let lock = alone()?;
        let spans = Spans::begin()?;
        let sqlite = Arc::new(open_disk()?);
        let disk: Arc<dyn Disk> = sqlite.clone();
        let index: Arc<dyn Index> = sqlite;
        let accounts = Arc::new(Accounts::new(disk.clone(), bounds.require_key, Arc::new(clock)));
        if !host.is_loopback() && !accounts.exist()? {
            let why = "to listen beyond this machine there must be a key: yushan keys new NAME";
            return Err(BadUsage(why.into()).into());
        }
        let (loaded, stock) = models.stock(bounds.slots)?;
        let storing = Storing::start(accounts.usage.clone())?;
        let options = Options {
            slots: bounds.slots,
            most: bounds.queue,
            swap_bytes: (bounds.swap_memory as u64) << 20,
            swap_file: bounds.swap()?,
            ..Options::default()
        };
        let asked = Asked::default();
        let world = World {
            disk: Some(disk.clone()),
            index: Some(index.clone()),
            price: bounds.price(disk.as_ref())?,
            tools: bounds.tools.start(&disk, &index, &asked)?,
            billing: Some(accounts.clone()),
        };
        let kernel = Arc::new(Kernel::with_stock(world, loaded, stock, options));
        let pulled = Arc::new(Pulled(kernel.clone()));
        let complete = models.complete(kernel.clone(), bounds.queue);
        let _ = asked.set(Arc::downgrade(&complete)); // set here alone
        if let Some(name) = bounds.tools.embed_model() {
            let known: Vec<String> = complete.models().into_iter().map(|one| one.name).collect();
            if !known.iter().any(|one| one == name) {
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                let why =
                    format!("--embed-model {name}: there is no such model; there are: {known}");
                return Err(BadUsage(why).into());
            }
        }
        let files = disk.clone();
        let mut server = Server::new(complete, disk, pulled, accounts);
        server.kernel = Some(kernel.clone());
        server.index = Some(index);
        server.mcp = Some(Arc::new(Offered::new(kernel.clone(), files.clone())));
        server.spaces = Some(Arc::new(Folders(files)));
        let of = kernel.clone();
        server.seats = Box::new(move || Some(of.seats()));
        server.traces = spans.as_ref().map(Spans::traces);
        Ok(System { server, kernel, lock, storing, _spans: spans })
    }

    /// Listens there until `stop` is done; `ready` hears the address, with what there is to say.
    pub(crate) fn listen(
        self,
        address: SocketAddr,
        ready: impl FnOnce(SocketAddr, &Server),
        stop: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let System { server, kernel, mut lock, storing, _spans } = self;
        let served: Result<()> = runtime()?.block_on(async {
            let listener = tokio::net::TcpListener::bind(address).await;
            let why = || format!("{address} (another server may be running; see --port)");
            let listener = listener.with_context(why)?;
            let address = listener.local_addr()?;
            let server = Arc::new(server);
            let served = async {
                // Before anybody can begin a process: those that go on have their names.
                let resumed = server.resume().context("what was under way cannot be read")?;
                if let Err(error) = publish(&mut lock, address) {
                    let _ = lock.set_len(0); // half an address would lead astray
                    eprintln!("commands need --server: {}", crate::exit::line(&error));
                }
                ready(address, &server);
                match resumed {
                    0 => {}
                    1 => eprintln!("resumed 1 process or background response"),
                    many => eprintln!("resumed {many} processes and background responses"),
                }
                check_journal(server.disk.clone())?;
                yushan_server::serve(listener, server, stop).await;
                Ok(())
            };
            let served = served.await;
            // Before the tasks of this runtime go: who waits for a durable answer hears that the system
            // stops, and does not let go of it.
            kernel.stop();
            served
        });
        kernel.stop(); // where it could not listen either: nothing is charged or noted any more
        drop(storing); // stores the last charges
        drop(lock); // the next system may come
        served
    }
}

fn runtime() -> Result<Runtime> {
    let files = getrlimit(Resource::Nofile);
    // Every connection is an open file. If there may be no more, fewer connections are taken at once.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    tokio::runtime::Builder::new_multi_thread()
        // The engine has all processors; a second thread would mostly be woken to find nothing to do.
        .worker_threads(1)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .context("the server's threads")
}

impl Models {
    /// The models to hold in memory, loaded, and those that can be.
    fn stock(&self, slots: usize) -> Result<(Vec<Loaded>, Stock)> {
        let free = || available_memory().map(|bytes| bytes / 10 * 9);
        let memory = self.memory.or_else(free);
        let files = Arc::new(Files::new(self.given()?, self.engine.clone(), slots));
        let loaded = files.load_given()?;
        check_room(&loaded, memory)?;
        Ok((loaded, Stock { shelf: files, memory, keep: self.keep }))
    }

    /// The models to hold in memory: the name that clients give, and where each lies.
    fn given(&self) -> Result<Vec<(String, PathBuf)>> {
        if self.names.is_empty() && hub::list()?.is_empty() {
            let how = "no model: give a file or a name on a hub, for example \
                       hf:HuggingFaceTB/SmolLM2-135M-Instruct";
            return Err(BadFile(how.into()).into());
        }
        let mut given: Vec<(String, PathBuf)> = Vec::new();
        for argument in self.names.iter().filter(|name| !remote::is_address(name)) {
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
    fn complete(&self, kernel: Arc<Kernel>, queue: usize) -> Arc<dyn Complete> {
        let key = std::env::var(remote::KEY).ok().filter(|key| !key.is_empty());
        let addresses = self.names.iter().filter(|name| remote::is_address(name));
        let remotes = addresses
            .map(|address| Arc::new(Remote::new(address, key.clone(), queue)) as Arc<dyn Complete>);
        let mut all: Vec<Arc<dyn Complete>> = remotes.collect();
        if all.is_empty() {
            return kernel;
        }
        all.insert(0, kernel);
        Arc::new(Route(all))
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

/// Takes the data folder: held as long as the file is open, and let go by the operating system however this ends.
fn alone() -> Result<File> {
    let home = hub::home()?;
    let path = lock_path()?;
    let why = || path.display().to_string();
    std::fs::create_dir_all(&home).with_context(why)?;
    let file = File::options().read(true).append(true).create(true).open(&path);
    let file = file.with_context(why)?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).with_context(why)?; // the address of the one before
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY),
            Err(TryLockError::Error(error)) => return Err(error).with_context(why),
        }
    }
    let at = running().map_or_else(String::new, |address| format!(" ({address})"));
    Err(BadUsage(format!(
        "another system uses the data folder {}{at}: end it, or set YUSHAN_HOME to another folder",
        home.display()
    ))
    .into())
}

fn lock_path() -> Result<PathBuf> {
    Ok(hub::home()?.join("serve.lock"))
}

/// Checks the whole chain of the journal, beside everything else: what processes need that go on was checked before
/// they do, and what is older is read by `logs` alone.
fn check_journal(disk: Arc<dyn Disk>) -> Result<()> {
    let check = move || match disk.verify() {
        Ok(_) => {}
        Err(error @ DiskError::Damaged(_)) => {
            tracing::error!(%error, "the journal was changed: bring back a copy from before");
        }
        Err(error) => tracing::error!(%error, "the journal was not checked"),
    };
    std::thread::Builder::new().name("check".into()).spawn(check).context("a thread")?;
    Ok(())
}

/// The address under which this machine reaches what listens there.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(host, address.port())
}

/// Writes where this system listens into its lock.
fn publish(lock: &mut File, address: SocketAddr) -> Result<()> {
    let text = format!("http://{}", reachable(address));
    let written = lock.set_len(0).and_then(|()| lock.write_all(text.as_bytes()));
    written.with_context(|| "the address in serve.lock".to_string())
}

/// Where the system that holds the data folder listens, if one does.
pub(crate) fn running() -> Option<String> {
    let mut file = File::open(lock_path().ok()?).ok()?;
    let Err(TryLockError::WouldBlock) = file.try_lock_shared() else { return None };
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(ADDRESS).read_to_string(&mut text).ok()?;
    text.starts_with("http://").then_some(text)
}

#[cfg(test)]
mod tests {
    use yushan_disk::Memory;

    use super::*;

    #[test]
    fn a_system_that_is_told_no_price_keeps_the_last() {
        let disk = Memory::new();
        let told = |price: Option<(u64, u64)>| {
            let price = price.map(|(read, written)| Costs { read, written });
            let price = Bounds { price, ..Bounds::personal() }.price(&disk).unwrap();
            (price.read, price.written)
        };
        assert_eq!(told(None), (0, 0));
        assert_eq!(told(Some((3, 5))), (3, 5));
        assert_eq!(told(None), (3, 5));
        assert_eq!(told(Some((0, 0))), (0, 0));
        assert_eq!(told(None), (0, 0));
    }

    #[test]
    fn what_listens_everywhere_is_reached_here() {
        for (address, expected) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("192.0.2.2:3", "192.0.2.2:3")]
        {
            assert_eq!(reachable(address.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
