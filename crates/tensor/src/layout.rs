//! The packed layout of a weight matrix: panels of 16 rows, interleaved.
//!
//! The key decision: *lane = row*. A panel holds 16 rows; inside, the columns run in order, and each
//! step of the kernel loads the same few columns of all 16 rows. So no kernel ever adds across
//! lanes, an output is one sequence of fused multiply-adds over the columns, and every instruction
//! set, tile shape, batch and thread split gives the same bits.
//!
//! One block (32 or 256 columns) of a panel holds, in this order:
//!
//! | scheme | header | sub-blocks |
//! |---|---|---|
//! | `Block` | `d` f16 x 16, then `m` f16 x 16 if the type has minima | 1 |
//! | `Super32` | `d`, `dmin` f16 x 16; 8 x 16 scales u8; 4 x 16 pairs of minima u8 | 8 |
//! | `Super16` | `d` f16 x 16 (and `dmin`); 16 x 16 scales i8; (8 x 16 pairs of minima u8) | 8 |
//! | `Dense` | nothing; each column is 16 elements | – |
//!
//! A sub-block is 32 columns = 8 groups of 4. Its quants stand in bit planes of 64 bytes, 16 rows x 4
//! bytes: a byte plane holds 1 group, a nibble plane 2 (group `g` low, `g + 4` high), a 2-bit plane 4,
//! a 1-bit plane all 8.

use crate::DType;

/// Rows in a panel.
pub const PANEL: usize = 16;

/// Columns in a sub-block.
pub const SUB: usize = 32;

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// No scales: one element after another.
    Dense,
    /// One f16 scale for 32 columns.
    Block,
    /// f16 super-scales for 256 columns, an 8-bit scale (and minimum) for 32.
    Super32,
    /// f16 super-scales for 256 columns, an 8-bit scale (and minimum) for 16.
    Super16,
}

/// Everything the kernels need to know about a stored type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The type as stored in the file.
    pub dtype: DType,
    /// How scales are stored.
    pub scheme: Scheme,
    /// Bits in the low plane: 8, 4 or 2; bytes of an element for `Dense`.
    pub low: usize,
    /// Bits in the high plane: 0, 1 or 2.
    pub high: usize,
    /// Subtracted from a quant.
    pub zero: i32,
    /// Whether there are minima.
    pub minima: bool,
}

impl Layout {
    /// The layout of a type.
    pub const fn of(dtype: DType) -> Layout {
        use Scheme::{Block, Dense, Super16, Super32};
        let (scheme, low, high, zero, minima) = match dtype {
            DType::F32 => (Dense, 4, 0, 0, false),
            DType::F16 | DType::BF16 => (Dense, 2, 0, 0, false),
            DType::Q8_0 => (Block, 8, 0, 0, false),
            DType::Q4_0 => (Block, 4, 0, 8, false),
            DType::IQ4_NL => (Block, 4, 0, 0, false),
            DType::Q5_0 => (Block, 4, 1, 16, false),
            DType::Q4_1 => (Block, 4, 0, 0, true),
            DType::Q5_1 => (Block, 4, 1, 0, true),
            DType::Q4_K => (Super32, 4, 0, 0, true),
            DType::Q5_K => (Super32, 4, 1, 0, true),
            DType::Q6_K => (Super16, 4, 2, 32, false),
            DType::Q3_K => (Super16, 2, 1, 4, false),
            DType::Q2_K => (Super16, 2, 0, 0, true),
        };
        Layout { dtype, scheme, low, high, zero, minima }
    }

    /// Columns in a block: 1, 32 or 256.
    pub const fn block_columns(&self) -> usize {
        match self.scheme {
            Scheme::Dense => 1,
            Scheme::Block => SUB,
            Scheme::Super32 | Scheme::Super16 => 256,
        }
    }

    /// Bytes of the quants of one sub-block of a panel.
    pub const fn sub_bytes(&self) -> usize {
        64 * (self.low + self.high)
    }

    /// Where the scales of a super-block start.
    pub const fn scales_at(&self) -> usize {
        if self.minima { 64 } else { 32 }
    }

    /// Where the minima of a super-block start.
    pub const fn minima_at(&self) -> usize {
        match self.scheme {
            Scheme::Super32 => self.scales_at() + 8 * PANEL,
            _ => self.scales_at() + 16 * PANEL,
        }
    }

    /// Bytes of the header of a block.
    pub const fn header_bytes(&self) -> usize {
        match self.scheme {
            Scheme::Dense => 0,
            Scheme::Block => self.scales_at(),
            Scheme::Super32 => self.minima_at() + 8 * PANEL,
            Scheme::Super16 => self.minima_at() + if self.minima { 16 * PANEL } else { 0 },
        }
    }

    /// Bytes of one block of a panel.
    pub const fn block_bytes(&self) -> usize {
        match self.scheme {
            Scheme::Dense => PANEL * self.low,
            _ => self.header_bytes() + self.sub_bytes() * (self.block_columns() / SUB),
        }
    }
}
