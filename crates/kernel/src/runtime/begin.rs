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
use crate::billing::{Billing, Payer};
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
    pub(super) billing: Option<Arc<dyn Billing>>,
}

impl Beginner {
    /// A process that can begin; `life` if it has a program, `payer` if it has none and is charged by the
    /// kernel. Its place is taken before any work is done for it: refusing is cheap, and waits for no
    /// step.
    pub(super) fn prepared(
        &self,
        request: &Request,
        sink: Box<dyn Sink>,
        life: Option<Life>,
        payer: Option<Payer>,
    ) -> Result<(Box<Job>, Box<Spawn>), Refusal> {
        let place = self.places.take()?;
        let pays = payer.clone().unwrap_or_else(|| Payer::of(request));
        let fresh = self.fresh(request, &[], &pays)?;
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
        job.payer = job.payer.or(payer);
        job.turn_to(fresh);
        Ok((Box::new(job), Box::new(spawn)))
    }

    /// Whether another turn may begin at this payer's expense.
    pub(super) fn may_begin(&self, payer: &Payer) -> Result<(), Refusal> {
        self.billing.as_ref().map_or(Ok(()), |billing| billing.may_begin(payer))
    }

    /// A turn, made ready, of which so much was written before. If a summary is needed, `payer` pays for it.
    pub(super) fn fresh(
        &self,
        request: &Request,
        written: &[u32],
        payer: &Payer,
    ) -> Result<Fresh, Refusal> {
        let lease = self.models.lease(&request.model)?;
        let asks = |request: Request, sink| {
            let (job, spawn) = self.prepared(&request, sink, None, Some(payer.clone()))?;
            self.commands.send(Command::Start(job, spawn, None)).map_err(|_| stopped())
        };
        Fresh::new(lease, request, written, &asks)
    }
}
