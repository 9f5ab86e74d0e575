//! Ctrl-C as a flag that loops look at, so that a reply can stop without the program.
//!
//! The key decision: the second Ctrl-C before anyone looked ends the program at once, so that
//! nothing that forgets to look can hold a person's terminal.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether Ctrl-C was pressed.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C sets the flag instead of ending the program.
    pub(crate) fn catch() -> io::Result<Interrupt> {
        let pressed = Arc::new(AtomicBool::new(false));
        // Registered first, so it sees the flag as the press before left it.
        flag::register_conditional_shutdown(SIGINT, 130, pressed.clone())?;
        flag::register(SIGINT, pressed.clone())?;
        Ok(Interrupt(pressed))
    }

    /// The same for what service managers send.
    pub(crate) fn catch_end() -> io::Result<Interrupt> {
        let interrupt = Interrupt::catch()?;
        flag::register_conditional_shutdown(SIGTERM, 143, interrupt.0.clone())?;
        flag::register(SIGTERM, interrupt.0.clone())?;
        Ok(interrupt)
    }

    /// Whether it was pressed since the last [`Interrupt::take`].
    pub(crate) fn is_pressed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The same, and forgets it.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// What a callback answers: go on unless it was pressed.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.is_pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
