//! Runs one untrusted command under limits, and says truthfully which limits held.
//!
//! What a [`Jail`] describes runs behind walls that do not depend on each other: its own user, mount, process,
//! network, IPC, host-name and cgroup namespaces; a root that holds only what was named; no capabilities; Landlock; a
//! system-call filter that allows a list and refuses the rest; resource limits, and cgroups where they can be
//! had. Where namespaces are not to be had the rest still stands ([`Tier::Narrow`]); where Landlock is not either, nothing
//! runs.
//!
//! The key decision: the walls are built by a process that has just been started and has one thread. A program with
//! gigabytes of weights and many threads must not fork: its pages would have to be shared and copied, and its locks
//! may be held. So this program is started a second time under another name, and `main` begins with [`enter`].

mod confine;
mod error;
mod group;
mod init;
mod jail;
pub mod probes;
mod root;
mod run;
mod seccomp;
mod usage;

pub use error::Error;
pub use init::enter;
pub use jail::{Held, Jail, Limits, Tier};
pub use run::{End, Outcome, Prisoner};
