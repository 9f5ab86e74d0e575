//! Numbers: dtypes, quantized blocks, SIMD kernels with a scalar twin each, the thread pool.
//!
//! The key decision: one arithmetic, many instruction sets. Every kernel is defined by its scalar
//! twin, and every SIMD version gives the same bits; so the tokens of a model do not depend on the
//! processor's vector width, the number of threads or the shape of the batch.

pub mod dtype;
pub mod kv;
pub mod quant;

pub use dtype::DType;
pub use kv::{KvLayout, KvSlab, KvType};
pub use quant::dequantize_row;
