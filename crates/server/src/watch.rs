//! What is kept of the answers to one request while their events pass: counters, charges, a span, a line.
//!
//! The key decision: everybody who must know is told here, at one place, by the events that the client gets
//! too; so what is counted, charged and traced cannot differ. The prompt is charged when it was counted and
//! an answer when it ends; one that ends early, because nobody reads it any more, is charged for the pieces that were seen.
//! What goes on by itself the kernel charges, turn by turn and after a restart too; it is counted here alone.

use std::sync::{Arc, Mutex, PoisonError};

use yushan_abi::{Counts, Event, Flow, Refusal, Request, Sink};

use crate::Server;
use crate::doors::{Caller, Keys};
use crate::fault::Fault;
use crate::metrics::Meter;
use crate::traces::Trace;

/// Watches the answers to one request.
pub(crate) struct Watch {
    meter: Meter,
    keys: Arc<dyn Keys>,
    caller: Caller,
    /// Pieces of each answer that were seen; `None` when it has been charged.
    uncharged: Vec<Option<usize>>,
    prompt_charged: bool,
    /// Tokens of prompts that were told, and charged.
    read: usize,
    /// Whether it goes on after a restart, when the server stops.
    durable: bool,
    /// Whether the kernel charges it.
    billed: bool,
    trace: Option<Trace>,
}

impl Watch {
    /// Of `n` answers.
    pub(crate) fn new(server: &Server, caller: &Caller, request: &Request, n: usize) -> Watch {
        let parent = caller.visit.as_ref().and_then(|visit| visit.parent.as_ref());
        let traces = server.traces.as_ref();
        if let Some(visit) = &caller.visit {
            visit.asks(&request.model);
        }
        Watch {
            meter: Meter::new(server.metrics.clone(), n),
            keys: server.keys.clone(),
            caller: caller.clone(),
            uncharged: vec![Some(0); n],
            prompt_charged: false,
            read: 0,
            durable: false,
            billed: false,
            trace: traces.map(|traces| Trace::begin(traces, parent, request, n)),
        }
    }

    /// Of a process that begins and goes on by itself; `billed` if the kernel charges it.
    pub(crate) fn durable(
        server: &Server,
        caller: &Caller,
        request: &Request,
        billed: bool,
    ) -> Watch {
        let mut watch = Watch::new(server, caller, request, 1);
        (watch.durable, watch.billed) = (true, billed);
        watch
    }

    /// Of one that goes on from before the system stopped. Where the kernel does not charge it somebody else pays,
    /// for the answer: the prompt was charged before.
    pub(crate) fn again(server: &Server, payer: Option<Caller>) -> Watch {
        Watch {
            meter: Meter::new(server.metrics.clone(), 1),
            keys: server.keys.clone(),
            billed: payer.is_none(),
            caller: payer.unwrap_or_default(),
            uncharged: vec![Some(0)],
            prompt_charged: true,
            read: 0,
            durable: true,
            trace: None,
        }
    }

    /// An event of one of them passes.
    pub(crate) fn saw(&mut self, choice: usize, event: &Event) {
        self.meter.saw(choice, event);
        if let Some(trace) = &mut self.trace {
            trace.saw(choice, event);
        }
        match event {
            // As the usage that is told: a prompt costs once, however many answers it gets.
            Event::Started(counts) => {
                self.read = self.read.max(counts.prompt);
                if !std::mem::replace(&mut self.prompt_charged, true) {
                    self.charge(Counts { generated: 0, ..*counts });
                }
            }
            Event::Echo { .. }
            | Event::Embedding(_)
            | Event::Answered { .. }
            | Event::Asks { .. }
            | Event::Verified(_) => {}
            Event::Text { .. } | Event::Call { .. } => {
                if let Some(pieces) = &mut self.uncharged[choice] {
                    *pieces += 1;
                }
            }
            Event::Done { counts, .. } => {
                let generated = self.uncharged[choice].take().map_or(0, |_| counts.generated);
                let prompt = counts.prompt.saturating_sub(self.read);
                self.read += prompt;
                if generated + prompt > 0 {
                    self.charge(Counts { generated, prompt, ..Counts::default() });
                }
            }
            Event::Failed(refusal) => {
                if self.durable && *refusal == Refusal::Stopping {
                    // All of it is charged when it has ended, after the next start.
                    self.uncharged[choice] = None;
                }
                self.charge_pieces(choice);
                self.failed(&refusal.clone().into());
            }
        }
    }

    /// The request was refused before its first event.
    pub(crate) fn refused(&mut self, fault: &Fault) {
        self.meter.refused();
        self.failed(fault);
    }

    fn failed(&mut self, fault: &Fault) {
        if let Some(trace) = &mut self.trace {
            trace.failed(fault.word());
        }
        if let Some(visit) = &self.caller.visit {
            visit.failed(fault.clone());
        }
    }

    fn charge_pieces(&mut self, choice: usize) {
        if let Some(pieces @ 1..) = self.uncharged[choice].take() {
            self.charge(Counts { generated: pieces, ..Counts::default() });
        }
    }

    fn charge(&self, used: Counts) {
        if !self.billed {
            self.keys.charge(&self.caller, used);
        }
        if let Some(visit) = &self.caller.visit {
            visit.used(used);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for choice in 0..self.uncharged.len() {
            self.charge_pieces(choice);
        }
    }
}

/// A sink without a reader, for a process that goes on by itself: what it uses is counted.
#[derive(Clone)]
pub(crate) struct Unread(Arc<Mutex<Watch>>);

impl Unread {
    /// Of a process that begins.
    pub(crate) fn new(server: &Server, caller: &Caller, request: &Request) -> Unread {
        let watch = Watch::durable(server, caller, request, true);
        Unread(Arc::new(Mutex::new(watch)))
    }

    /// Of one that goes on from before the system stopped.
    pub(crate) fn again(server: &Server) -> Unread {
        Unread(Arc::new(Mutex::new(Watch::again(server, None))))
    }

    /// It does not begin.
    pub(crate) fn refused(&self, fault: &Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refused(fault);
    }
}

impl Sink for Unread {
    fn push(&mut self, event: Event) -> Flow {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saw(0, &event);
        Flow::More
    }

    fn is_ready(&mut self) -> Flow {
        Flow::More
    }
}
