//! `Policy`: a look at content that goes one way, and a verdict.

use crate::message::Message;

/// Which way content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To a model.
    In,
    /// To a user.
    Out,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it through.
    Allow,
    /// Let it through as this.
    Replace(Message),
    /// Hold it back, and why.
    Deny(String),
}

/// Looks at messages. Implementations: every guard; [`AllowAll`].
pub trait Policy: Send + Sync {
    /// Judges a message.
    fn judge(&self, direction: Direction, message: &Message) -> Verdict;
}

/// Lets everything through.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn judge(&self, _: Direction, _: &Message) -> Verdict {
        Verdict::Allow
    }
}
