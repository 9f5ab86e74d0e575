//! From a request to a process of its own, from whatever thread.
//!
//! The key decision: whoever brings a conversation into tokens may have to ask a model for a summary of it,
//! and that is a process like any other. So it holds what is needed to begin one, and never runs on the
//! engine's thread.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use yushan_abi::{Label, Refusal, Request, Sink, Sources};

use super::places::Places;
use super::{Command, Models, stopped, title};
use crate::job::{Fresh, Job};
use crate::life::Life;
use crate::process::{Budget, Pid, Price, Spawn, Spent};

/// Begins processes.
#[derive(Clone)]
pub(super) struct Beginner {
    pub(super) commands: SyncSender<Command>,
    pub(super) models: Arc<Models>,
    pub(super) places: Places,
    pub(super) price: Price,
    /// Whose children they are.
    pub(super) parent: Option<Pid>,
}

impl Beginner {
    /// A process that can begin; `life` if it has a program. Its place is taken before any work is done
    /// for it: refusing is cheap, and waits for no step.
    pub(super) fn prepared(
        &self,
        request: &Request,
        sink: Box<dyn Sink>,
        life: Option<Life>,
    ) -> Result<(Box<Job>, Box<Spawn>), Refusal> {
        let place = self.places.take()?;
        let fresh = self.fresh(request, &[])?;
        let spawn = match &life {
            Some(life) => super::spawn_of(life, self.price),
            None => Spawn {
                parent: self.parent,
                title: title(request),
                model: request.model.clone(),
                tenant: request.tenant.clone(),
                class: request.class,
                weight: request.weight,
                budget: Budget::default(),
                price: self.price,
                spent: Spent::default(),
                label: Label::of(Sources::USER).for_reader(request.tenant.clone()),
                prompt: 0,
            },
        };
        let spawn = Spawn { prompt: fresh.tokens.len(), ..spawn };
        let mut job = Job::new(request, sink, life);
        job.place = Some(place);
        job.turn_to(fresh);
        Ok((Box::new(job), Box::new(spawn)))
    }

    /// A turn, made ready, of which so much was written before.
    pub(super) fn fresh(&self, request: &Request, written: &[u32]) -> Result<Fresh, Refusal> {
        let lease = self.models.lease(&request.model)?;
        let asks = |request: Request, sink| {
            let (job, spawn) = self.prepared(&request, sink, None)?;
            self.commands.send(Command::Start(job, spawn, None)).map_err(|_| stopped())
        };
        Fresh::new(lease, request, written, &asks)
    }
}
