//! From the thread that computes to the task that answers: a queue of events.
//!
//! The key decision: the queue is bounded by what its writer is told, not by losing or blocking. Every event
//! that is pushed is taken; at [`ROOM`] waiting ones the writer hears "full" and stops making tokens for
//! this answer alone. Dropping [`Events`] shows as "gone" at the next push, which cancels; so does a reader
//! that takes nothing for [`STALL`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use yushan_abi::{Complete, Event, Flow, Refusal, Request, Sink};

use crate::fault::Fault;
use crate::watch::Watch;

/// Events that may wait for a slow reader.
const ROOM: usize = 256;
/// A writer that does not stop when it hears "full" is cut off here.
const OVERRUN: usize = 1 << 18;
/// A reader that takes nothing for so long is gone.
const STALL: Duration = Duration::from_secs(120);

/// The writer's end, of one of the answers to a request.
struct Pipe {
    choice: usize,
    sender: UnboundedSender<(usize, Event)>,
    waiting: Arc<AtomicUsize>,
    full_since: Option<Instant>,
}

impl Pipe {
    fn flow(&mut self) -> Flow {
        let waiting = self.waiting.load(Ordering::Acquire);
        if self.sender.is_closed() || waiting >= OVERRUN {
            return Flow::Gone;
        }
        if waiting < ROOM {
            self.full_since = None;
            return Flow::More;
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if since.elapsed() > STALL { Flow::Gone } else { Flow::Full }
    }
}

impl Sink for Pipe {
    fn push(&mut self, event: Event) -> Flow {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.sender.send((self.choice, event)).is_err() {
            return Flow::Gone;
        }
        self.flow()
    }

    fn is_ready(&mut self) -> Flow {
        self.flow()
    }
}

/// The reader's end of all answers to one request.
pub(crate) struct Events {
    receiver: UnboundedReceiver<(usize, Event)>,
    /// Of each answer, what waits.
    waiting: Vec<Arc<AtomicUsize>>,
    /// Which answers have not ended.
    open: Vec<bool>,
    /// Read already, to see whether it would be refused.
    first: Option<(usize, Event)>,
    watch: Watch,
}

impl Events {
    /// Begins `n` answers whose seeds follow each other, and waits until the first was admitted.
    pub(crate) async fn start(
        complete: &Arc<dyn Complete>,
        watch: Watch,
        request: Request,
        n: usize,
    ) -> Result<Events, Fault> {
        Events::begin(complete, watch, request, n).await?.admitted().await
    }

    /// Begins them. What is durable is so on return.
    pub(crate) async fn begin(
        complete: &Arc<dyn Complete>,
        watch: Watch,
        request: Request,
        n: usize,
    ) -> Result<Events, Fault> {
        let (sender, mut events) = Events::empty(watch, n);
        let pipes: Vec<_> = events.waiting.iter().cloned().enumerate().collect();
        let complete = complete.clone();
        let begin = move || {
            for (choice, waiting) in pipes {
                let mut request = request.clone();
                request.sampling.seed = request.sampling.seed.wrapping_add(choice as u64);
                let pipe = Pipe { choice, sender: sender.clone(), waiting, full_since: None };
                complete.complete(request, Box::new(pipe))?;
            }
            Ok(())
        };
        if let Err(refusal) = blocking(begin).await? {
            let refusal: Refusal = refusal;
            let fault = Fault::from(refusal);
            events.watch.refused(&fault);
            return Err(fault);
        }
        Ok(events)
    }

    /// Waits until the first was admitted.
    pub(crate) async fn admitted(mut self) -> Result<Events, Fault> {
        match self.next().await {
            Some((_, Event::Failed(refusal))) => Err(refusal.into()),
            first => {
                self.first = first;
                Ok(self)
            }
        }
    }

    /// It does not begin.
    pub(crate) fn refused(&mut self, fault: &Fault) {
        self.watch.refused(fault);
    }

    /// Events of a process with a program, and where it writes them.
    pub(crate) fn again(watch: Watch) -> (Events, Box<dyn Sink>) {
        let (sender, events) = Events::empty(watch, 1);
        let waiting = events.waiting[0].clone();
        (events, Box::new(Pipe { choice: 0, sender, waiting, full_since: None }))
    }

    fn empty(watch: Watch, n: usize) -> (UnboundedSender<(usize, Event)>, Events) {
        let (sender, receiver) = unbounded_channel();
        let waiting = (0..n).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        (sender, Events { receiver, waiting, open: vec![true; n], first: None, watch })
    }

    /// The next event; `None` when every answer has ended. An answer whose writer went away without a
    /// word fails.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if !self.open.contains(&true) {
            return None;
        }
        match self.receiver.recv().await {
            Some((choice, event)) => Some(self.took(choice, event)),
            None => self.lost(),
        }
    }

    /// The next event if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<(usize, Event)> {
        if self.first.is_some() {
            return self.first.take();
        }
        match self.receiver.try_recv() {
            Ok((choice, event)) => Some(self.took(choice, event)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    fn took(&mut self, choice: usize, event: Event) -> (usize, Event) {
        self.waiting[choice].fetch_sub(1, Ordering::AcqRel);
        self.watch.saw(choice, &event);
        if matches!(event, Event::Done { .. } | Event::Failed(_)) {
            self.open[choice] = false;
        }
        (choice, event)
    }

    fn lost(&mut self) -> Option<(usize, Event)> {
        let choice = self.open.iter().position(|open| *open)?;
        self.open[choice] = false;
        let why = "the answer broke off: the process that made it ended".to_string();
        let event = Event::Failed(Refusal::Internal(why));
        self.watch.saw(choice, &event);
        Some((choice, event))
    }

    /// How many answers there are.
    pub(crate) fn choices(&self) -> usize {
        self.open.len()
    }
}

/// Runs what may block on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| Fault::Internal(format!("a task ended early: {error}")))
}

/// Events that are sent in one piece because they are there already.
pub(crate) const TOGETHER: usize = 64;

/// Takes an event and what waits behind it.
pub(crate) fn together(events: &mut Events, first: (usize, Event)) -> VecDeque<(usize, Event)> {
    let mut taken = VecDeque::from([first]);
    while taken.len() < TOGETHER {
        let Some(next) = events.try_next() else { break };
        taken.push_back(next);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Pipe, UnboundedReceiver<(usize, Event)>) {
        let (sender, receiver) = unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        (Pipe { choice: 0, sender, waiting, full_since: None }, receiver)
    }

    fn word() -> Event {
        Event::Text { text: "word".to_string(), logprob: None }
    }

    #[test]
    fn a_full_queue_takes_all_and_says_so() {
        let (mut pipe, mut receiver) = pipe();
        for _ in 1..ROOM {
            assert_eq!(pipe.push(word()), Flow::More);
        }
        assert_eq!(pipe.push(word()), Flow::Full);
        assert_eq!(pipe.push(word()), Flow::Full);
        assert_eq!(pipe.is_ready(), Flow::Full);
        for _ in 0..2 {
            assert!(receiver.try_recv().is_ok());
            pipe.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        assert_eq!(pipe.is_ready(), Flow::More);
        pipe.waiting.store(OVERRUN, Ordering::Release);
        assert_eq!(pipe.is_ready(), Flow::Gone);
    }

    #[test]
    fn a_dropped_reader_is_gone() {
        let (mut pipe, receiver) = pipe();
        drop(receiver);
        assert_eq!(pipe.is_ready(), Flow::Gone);
        assert_eq!(pipe.push(word()), Flow::Gone);
    }

    #[test]
    fn a_reader_that_stalls_is_gone() {
        let (mut pipe, _receiver) = pipe();
        pipe.waiting.store(ROOM, Ordering::Release);
        assert_eq!(pipe.is_ready(), Flow::Full);
        pipe.full_since = Instant::now().checked_sub(STALL + Duration::from_secs(1));
        assert_eq!(pipe.is_ready(), Flow::Gone);
    }
}
