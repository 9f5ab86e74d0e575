//! A whole system in this process: kernel, server and a port on loopback, around any executor.
// Each program that includes this file uses a part of it.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;
use yushan_abi::{Complete, Counts};
use yushan_kernel::{Kernel, Loaded, Options};
use yushan_server::{Access, Caller, Denial, Fault, Keys, Library, Progress, Server, Turn, serve};

/// A system that serves until it is dropped.
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    pub(crate) kernel: Arc<Kernel>,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Host {
    /// Starts it with the threads that `yushan serve` gives its server.
    pub(crate) fn start(loaded: Vec<Loaded>, options: Options) -> std::io::Result<Host> {
        // Both ends of every connection are here.
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
        let kernel = Arc::new(Kernel::start(loaded, options));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(16)
            .thread_name("server")
            .enable_all()
            .build()?;
        let disk = Arc::new(yushan_disk::Memory::default());
        let complete: Arc<dyn Complete> = kernel.clone();
        let server = Server::new(complete, disk, Arc::new(Nothing), Arc::new(Open));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(serve(listener, Arc::new(server), async {
            let _ = stopped.await;
        }));
        Ok(Host { address, kernel, stop: Some(stop), runtime: Some(runtime) })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Everybody may come in.
struct Open;

impl Keys for Open {
    fn admit(&self, _: Option<&str>, _: Option<IpAddr>, _: Access) -> Result<Caller, Denial> {
        Ok(Caller::new("", ""))
    }

    fn begin(&self, _: &Caller) -> Result<Turn, Denial> {
        Ok(Turn { requests: None, tokens: None, held: Box::new(()) })
    }

    fn charge(&self, _: &Caller, _: Counts) {}
}

/// No models to fetch.
struct Nothing;

impl Library for Nothing {
    fn pull(
        &self,
        name: &str,
        _: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        Err(Fault::NoModel(name.into()))
    }

    fn delete(&self, name: &str) -> Result<(), Fault> {
        Err(Fault::NoModel(name.into()))
    }
}
