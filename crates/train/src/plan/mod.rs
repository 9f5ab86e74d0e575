//! What a run will cost, before it starts.
//!
//! The key decision: everything is computed from first principles (FLOPs, bytes, prices), and every
//! assumption that goes in is printed beside what comes out. Nothing is trained or downloaded here.

pub mod choice;
pub mod communication;
pub mod cost;
pub mod device;
pub mod dial;
pub mod optimum;
pub mod sizes;

pub use sizes::Convention;
