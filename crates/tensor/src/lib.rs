//! Numbers: dtypes, quantized blocks, SIMD kernels with a scalar twin each, the thread pool.
//!
//! The key decision: one arithmetic, many instruction sets. Every kernel is defined by its scalar
//! twin, and every SIMD version gives the same bits; so the tokens of a model do not depend on the
//! processor's vector width, the number of threads or the shape of the batch.

pub mod activations;
pub mod aligned;
pub mod attention;
pub mod dtype;
pub mod gemm;
pub mod isa;
pub mod kv;
mod lanes;
pub mod layout;
pub mod limits;
pub mod linear;
mod matmul;
pub mod ops;
pub mod ops_backward;
pub mod pack;
pub mod pool;
pub mod quant;
pub mod regions;
pub mod train_attention;
pub mod train_rows;
mod train_tile;
pub mod update;

pub use activations::Activations;
pub use dtype::DType;
pub use isa::Isa;
pub use kv::{KvLayout, KvSlab, KvType};
pub use pack::{Matrix, PackError};
pub use pool::Pool;
pub use quant::{dequantize_row, quantize_row};
