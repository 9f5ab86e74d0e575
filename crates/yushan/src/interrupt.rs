//! Ctrl-C as a flag that loops look at, so that a reply can stop without the program.
//!
//! The key decision: the second Ctrl-C before anyone looked ends the program at once, so that
//! nothing that forgets to look can hold a person's terminal. One that comes within a second of the first is
//! the same wish: `timeout` and service managers tell a process and its group, which is the process once more.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

/// How long a signal stands for those that follow it.
const ECHO: Duration = Duration::from_secs(1);

/// Whether Ctrl-C was pressed.
pub(crate) struct Interrupt {
    pressed: Arc<AtomicBool>,
    /// Times that a press was taken.
    taken: Arc<AtomicU64>,
}

impl Interrupt {
    /// From now on Ctrl-C sets the flag instead of ending the program.
    pub(crate) fn catch() -> io::Result<Interrupt> {
        Interrupt::of(&[SIGINT])
    }

    /// The same for what service managers send.
    pub(crate) fn catch_end() -> io::Result<Interrupt> {
        Interrupt::of(&[SIGINT, SIGTERM])
    }

    fn of(signals: &[i32]) -> io::Result<Interrupt> {
        let (pressed, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let waiting = Signals::new(signals)?;
        for &signal in signals {
            flag::register(signal, pressed.clone())?;
        }
        let seen = taken.clone();
        // On a thread, since a handler can ask no clock.
        std::thread::Builder::new()
            .name("interrupt".into())
            .spawn(move || end_when_impatient(waiting, &seen))?;
        Ok(Interrupt { pressed, taken })
    }

    /// Whether it was pressed since the last [`Interrupt::take`].
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// The same, and forgets it.
    pub(crate) fn take(&self) -> bool {
        let pressed = self.pressed.swap(false, Ordering::Relaxed);
        self.taken.fetch_add(u64::from(pressed), Ordering::Relaxed);
        pressed
    }

    /// What a callback answers: go on unless it was pressed.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.is_pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Ends the program at the second press that nobody took the first one of, if it is no echo of it.
fn end_when_impatient(mut signals: Signals, taken: &AtomicU64) {
    let mut first: Option<(u64, Instant)> = None;
    for signal in signals.forever() {
        let (round, now) = (taken.load(Ordering::Relaxed), Instant::now());
        match first {
            Some((of, at)) if of == round && now - at > ECHO => low_level::exit(128 + signal),
            Some((of, _)) if of == round => {}
            _ => first = Some((round, now)),
        }
    }
}
