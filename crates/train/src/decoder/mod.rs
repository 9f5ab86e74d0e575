//! The decoder that is trained.

mod layout;
mod shape;

pub use layout::{Kind, Tensor, layout};
pub use shape::{IGNORE, Shape};
