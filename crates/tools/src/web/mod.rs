//! The web: fetching pages and reading them.

pub mod address;
pub mod chromium;
mod connection;
pub mod decode;
pub mod fetch;
pub mod guard;
pub mod held;
pub mod page;
mod proxy;
pub mod reader;
#[cfg(test)]
pub(crate) mod served;
pub mod text;
pub(crate) mod tidy;
mod walk;
