//! Who pays for a process: a user, by one of the user's keys.
//!
//! The key decision: whoever begins a process pays for all that comes of it, its children and theirs too. The
//! payer stands in the request of every program, and so in the journal, and is handed down with the program;
//! so nothing has to be looked up to know it, also after a restart. A turn is charged when the journal has it;
//! one that does not come to its end is charged for what was read and written of it. Whether a turn may begin is asked
//! before each but the first, which whoever let the request in has judged: as a request does, a turn begins while
//! anything is left. Who asks for a plain completion sees all of its events, and charges them himself; only what the
//! kernel adds to it, a summary, is charged here.

use yushan_abi::{Counts, Refusal, Request};

/// Who pays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Payer {
    /// The user; empty: callers without a key.
    pub tenant: String,
    /// Names the user's key; empty: none.
    pub account: String,
}

impl Payer {
    /// Whoever pays for a request.
    pub fn of(request: &Request) -> Payer {
        Payer { tenant: request.tenant.clone(), account: request.account.clone() }
    }
}

/// Keeps the accounts. Implementations: those of the binary, on the disk; the fake of the tests.
pub trait Billing: Send + Sync {
    /// Whether a turn may begin at this payer's expense. [`Refusal::Busy`] lets it wait,
    /// [`Refusal::Quota`] and all others end the process. May read a disk; never called by the engine's thread.
    fn may_begin(&self, payer: &Payer) -> Result<(), Refusal>;

    /// Charges what a turn has used. Never blocks.
    fn bill(&self, payer: &Payer, used: Counts);
}
