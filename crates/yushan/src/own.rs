//! A system for one conversation, in this process.
//!
//! The key decision: it is the same system as `serve` starts, on a free port of this machine, so that `ps`, `top` and
//! the other commands see it too, and what is said in it is kept.

use std::net::{IpAddr, Ipv4Addr};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use tokio::sync::oneshot;
use yushan_abi::Keep;

use crate::boot::{Bounds, Models, System};
use crate::flags;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A system that runs beside the conversation and ends when it is dropped.
pub(crate) struct Own {
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Own {
    /// Holds this model in memory, for ever, and loads others that were pulled when they are asked for.
    pub(crate) fn start(model: Option<String>, engine: &flags::Engine) -> Result<Own> {
        let models = Models {
            names: model.into_iter().collect(),
            memory: None,
            keep: Keep::Forever,
            engine: engine.clone(),
        };
        let system = System::start(&models, &Bounds::personal(), HOST)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, listens) = std::sync::mpsc::channel();
        let serve = move || {
            let ready = |address, _: &_| {
                let _ = ready.send(address); // whoever waits for it waits below
            };
            // A sender that is dropped stops it too.
            system.listen((HOST, 0).into(), ready, async { drop(stopped.await) })
        };
        let thread = std::thread::Builder::new().name("system".into()).spawn(serve)?;
        let mut own = Own { address: String::new(), stop: Some(stop), thread: Some(thread) };
        match listens.recv() {
            Ok(address) => own.address = format!("http://{address}"),
            Err(_) => own.end()?,
        }
        Ok(own)
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        let thread = self.thread.take().map(JoinHandle::join);
        thread.unwrap_or(Ok(Ok(()))).map_err(|_| anyhow!("the system in this process broke"))?
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("error: {error:#}");
        }
    }
}
