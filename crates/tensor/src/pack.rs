//! From rows as they stand in a file to panels as the kernels read them.
//!
//! The key decision: no number changes. Quants, scales and minima are moved (6-bit scales widened to
//! bytes), so a packed matrix is the file's matrix, exactly. Packing runs in parallel over panels and
//! is part of the load time; types whose bytes only need transposing (Q8_0, Q4_0, halves) do just that.
#![allow(unsafe_code)] // the dispatch inside `multiversion!` and the panels handed to threads

use crate::aligned::AlignedBytes;
use crate::isa::{Isa, multiversion};
use crate::layout::{Layout, PANEL, SUB, Scheme};
use crate::{DType, Pool};

/// A weight matrix in panels.
pub struct Matrix {
    layout: Layout,
    rows: usize,
    columns: usize,
    panel_bytes: usize,
    data: AlignedBytes,
}

/// Why a matrix could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Columns are no whole number of blocks.
    #[error("{columns} columns are no multiple of the {block} of a {dtype} block")]
    Columns {
        /// Columns given.
        columns: usize,
        /// Columns in a block.
        block: usize,
        /// The type.
        dtype: DType,
    },
    /// The bytes are not as many as the shape says.
    #[error("{rows} x {columns} of {dtype} need {expected} bytes, not {found}")]
    Bytes {
        /// Rows given.
        rows: usize,
        /// Columns given.
        columns: usize,
        /// The type.
        dtype: DType,
        /// Bytes the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

impl Matrix {
    /// Packs `rows` x `columns` elements of `data`, row after row as in a GGUF file.
    pub fn pack(
        dtype: DType,
        rows: usize,
        columns: usize,
        data: &[u8],
        pool: &mut Pool,
    ) -> Result<Matrix, PackError> {
        let block = dtype.block_elements();
        let row_bytes = dtype.bytes(columns).filter(|_| columns > 0);
        let row_bytes = row_bytes.ok_or(PackError::Columns { columns, block, dtype })?;
        let expected = row_bytes.saturating_mul(rows);
        if data.len() != expected {
            let found = data.len();
            return Err(PackError::Bytes { rows, columns, dtype, expected, found });
        }
        let layout = Layout::of(dtype);
        let panel_bytes = columns / layout.block_columns() * layout.block_bytes();
        let panels = rows.div_ceil(PANEL);
        let mut packed = AlignedBytes::together(panel_bytes * panels);
        let target = Panels { start: packed.as_mut_ptr() as usize, bytes: panel_bytes };
        let (chunks, isa) = (panels.min(64), Isa::best());
        pool.run(chunks, &|chunk, _| {
            for panel in panels * chunk / chunks..panels * (chunk + 1) / chunks {
                let first = panel * PANEL;
                let count = PANEL.min(rows - first);
                let rows = &data[first * row_bytes..][..count * row_bytes];
                // SAFETY-free: see `Panels::get`, which hands out disjoint panels.
                pack_panel(isa, &layout, rows, row_bytes, target.get(panel));
            }
        });
        Ok(Matrix { layout, rows, columns, panel_bytes, data: packed })
    }

    /// Bytes that `rows` x `columns` of this type take when packed.
    pub fn packed_bytes(dtype: DType, rows: usize, columns: usize) -> usize {
        let layout = Layout::of(dtype);
        let panel = (columns / layout.block_columns()).saturating_mul(layout.block_bytes());
        panel.saturating_mul(rows.div_ceil(PANEL))
    }

    /// How the elements are stored.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Panels of 16 rows; the last may be padded with zeros.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// One panel.
    pub fn panel(&self, panel: usize) -> &[u8] {
        &self.data[panel * self.panel_bytes..][..self.panel_bytes]
    }

    /// Some panels, one after the other.
    pub fn panels_at(&self, panels: std::ops::Range<usize>) -> &[u8] {
        &self.data[panels.start * self.panel_bytes..panels.end * self.panel_bytes]
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// Hands out disjoint panels of one buffer to the threads that fill them.
#[derive(Clone, Copy)]
struct Panels {
    start: usize,
    bytes: usize,
}

impl Panels {
    fn get(&self, panel: usize) -> &'static mut [u8] {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start + panel * self.bytes);
        // SAFETY: the buffer outlives the parallel region that calls this, and every panel is asked for
        // by exactly one chunk.
        unsafe { std::slice::from_raw_parts_mut(start, self.bytes) }
    }
}

multiversion! {
    /// Packs up to 16 rows.
    fn pack_panel(layout: &Layout, rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
        let from = layout.dtype.block_bytes();
        if layout.scheme == Scheme::Dense {
            match from {
                2 => pack_dense::<2>(rows, row_bytes, panel),
                _ => pack_dense::<4>(rows, row_bytes, panel),
            }
            return;
        }
        if layout.scheme == Scheme::Block && rows.len() == PANEL * row_bytes {
            match layout.dtype {
                DType::Q8_0 => pack_block::<34, 2, 8>(layout, rows, panel),
                DType::Q4_1 => pack_block::<20, 4, 4>(layout, rows, panel),
                DType::Q5_0 => pack_block::<22, 6, 4>(layout, rows, panel),
                DType::Q5_1 => pack_block::<24, 8, 4>(layout, rows, panel),
                _ => pack_block::<18, 2, 4>(layout, rows, panel), // Q4_0, IQ4_NL
            }
            return;
        }
        // Block by block over all rows: a block of the panel is written while it is in the cache.
        for (b, target) in panel.chunks_exact_mut(layout.block_bytes()).enumerate() {
            for (row, data) in rows.chunks_exact(row_bytes).enumerate() {
                let block = &data[b * from..][..from];
                match layout.scheme {
                    Scheme::Block => pack_short(layout, block, target, row),
                    _ => pack_super(layout, block, target, row),
                }
            }
        }
    }
}

/// Transposes up to 16 rows of elements of `SIZE` bytes.
#[inline(always)]
fn pack_dense<const SIZE: usize>(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    let (columns, count) = (row_bytes / SIZE, rows.len() / row_bytes);
    let panel = &mut panel.as_chunks_mut::<SIZE>().0.as_chunks_mut::<PANEL>().0[..columns];
    // Some columns at a time, so that a line of every row is read at once and stays in the cache.
    let mut first = 0;
    while first < columns {
        let part = &mut panel[first..columns.min(first + 64)];
        for row in 0..count {
            let data = &rows[row * row_bytes + first * SIZE..][..part.len() * SIZE];
            let data = &data.as_chunks::<SIZE>().0[..part.len()];
            for i in 0..part.len() {
                part[i][row] = data[i];
            }
        }
        first += 64;
    }
}

/// 16 rows of 32-column blocks of `BLOCK` bytes, whose quants are `WORDS` words from byte `AT` on.
#[inline(always)]
fn pack_block<const BLOCK: usize, const AT: usize, const WORDS: usize>(
    layout: &Layout,
    rows: &[u8],
    panel: &mut [u8],
) {
    let blocks = rows.len() / PANEL / BLOCK;
    let rows = &rows.as_chunks::<BLOCK>().0[..PANEL * blocks];
    for (b, target) in panel.chunks_exact_mut(layout.block_bytes()).enumerate() {
        let (header, planes) = target.split_at_mut(layout.header_bytes());
        let (planes, high) = planes.as_chunks_mut::<64>().0.split_at_mut(WORDS);
        for row in 0..PANEL {
            let block = &rows[row * blocks + b];
            header[2 * row..][..2].copy_from_slice(&block[..2]);
            if layout.minima {
                header[32 + 2 * row..][..2].copy_from_slice(&block[2..4]);
            }
            // Nibbles stand as the plane wants them already (columns k and k + 16 share a byte),
            // bytes too.
            for g in 0..WORDS {
                planes[g][4 * row..][..4].copy_from_slice(&block[AT + 4 * g..][..4]);
            }
            if layout.high == 1 {
                let word = [block[AT - 4], block[AT - 3], block[AT - 2], block[AT - 1]];
                high[0][4 * row..][..4].copy_from_slice(&fifth_bits(u32::from_le_bytes(word)));
            }
        }
    }
}

/// Bit `k` of the word belongs to column `k`; the plane wants bit `g` of byte `i` for column `4g + i`.
#[inline(always)]
fn fifth_bits(word: u32) -> [u8; 4] {
    std::array::from_fn(|i| {
        // Every fourth bit, brought together in three steps.
        let bits = word >> i & 0x1111_1111;
        let bits = (bits | bits >> 3) & 0x0303_0303;
        let bits = (bits | bits >> 6) & 0x000f_000f;
        (bits | bits >> 12) as u8
    })
}

/// One row of one 32-column block.
#[inline(always)]
fn pack_short(layout: &Layout, block: &[u8], target: &mut [u8], row: usize) {
    target[2 * row..][..2].copy_from_slice(&block[..2]);
    let mut at = 2;
    if layout.minima {
        target[32 + 2 * row..][..2].copy_from_slice(&block[2..4]);
        at = 4;
    }
    let planes = &mut target[layout.header_bytes()..];
    if layout.high == 1 {
        let word = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        at += 4;
        planes[4 * 64 + row * 4..][..4].copy_from_slice(&fifth_bits(word));
    }
    // Nibbles stand as the plane wants them already (columns k and k + 16 share a byte), bytes too.
    for (g, four) in block[at..].chunks_exact(4).enumerate() {
        planes[g * 64 + row * 4..][..4].copy_from_slice(four);
    }
}

/// One row of one 256-column super-block.
#[inline(always)]
fn pack_super(layout: &Layout, block: &[u8], target: &mut [u8], row: usize) {
    let Parts { d, dmin, scales, minima, quants } = parts(layout.dtype, block);
    target[2 * row..][..2].copy_from_slice(&d);
    if layout.minima {
        target[32 + 2 * row..][..2].copy_from_slice(&dmin);
    }
    let groups = if layout.scheme == Scheme::Super32 { 8 } else { 16 };
    for g in 0..groups {
        target[layout.scales_at() + g * PANEL + row] = scales[g];
        if layout.minima {
            target[layout.minima_at() + (g / 2 * PANEL + row) * 2 + g % 2] = minima[g];
        }
    }
    let subs = target[layout.header_bytes()..].chunks_exact_mut(layout.sub_bytes());
    for (quants, planes) in quants.as_chunks::<SUB>().0.iter().zip(subs) {
        pack_planes(layout, quants, planes.as_chunks_mut().0, row);
    }
}

/// Spreads 32 quants over the bit planes of a sub-block, four columns in a word.
#[inline(always)]
fn pack_planes(layout: &Layout, quants: &[u8; SUB], planes: &mut [[u8; 64]], row: usize) {
    let quants = quants.as_chunks::<4>().0;
    let words: [u32; 8] = std::array::from_fn(|g| u32::from_le_bytes(quants[g]));
    let mut put = |plane: usize, word: u32| {
        planes[plane].as_chunks_mut::<4>().0[row] = word.to_le_bytes();
    };
    // Bits from `from` on, `bits` of them a quant, of the words of a plane.
    let join = |words: &[u32], from: usize, bits: usize| {
        let mask = ((1u32 << bits) - 1) * 0x0101_0101;
        words.iter().rev().fold(0, |all, word| all << bits | (word >> from & mask))
    };
    match layout.low {
        4 => (0..4).for_each(|g| put(g, join(&[words[g], words[g + 4]], 0, 4))),
        _ => (0..2).for_each(|p| put(p, join(&words[4 * p..][..4], 0, 2))),
    }
    match layout.high {
        0 => {}
        1 => put(layout.low, join(&words, layout.low, 1)),
        _ => (0..2).for_each(|p| put(layout.low + p, join(&words[4 * p..][..4], layout.low, 2))),
    }
}

/// A super-block taken apart: quants without zero point taken off, in column order.
struct Parts {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 16],
    minima: [u8; 16],
    quants: [u8; 256],
}

/// Takes a super-block apart. Source of the layouts: ggml's block structures (`ggml-common.h`).
#[inline(always)]
fn parts(dtype: DType, block: &[u8]) -> Parts {
    let mut parts =
        Parts { d: [0; 2], dmin: [0; 2], scales: [0; 16], minima: [0; 16], quants: [0; 256] };
    let pair = |at: usize| [block[at], block[at + 1]];
    let q = &mut parts.quants;
    match dtype {
        DType::Q4_K | DType::Q5_K => {
            parts.d = pair(0);
            parts.dmin = pair(2);
            (parts.scales, parts.minima) = six_bit_pairs(&block[4..16]);
            let (high, low) = block[16..].split_at(block.len() - 16 - 128);
            four_or_five_bits(q, high, low);
        }
        DType::Q6_K => {
            let (low, rest) = block.split_at(128);
            let (high, rest) = rest.split_at(64);
            parts.scales.copy_from_slice(&rest[..16]);
            parts.d = [rest[16], rest[17]];
            for (part, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (h, quarter) = (part / 4, part % 4);
                let low = at32(low, h * 64 + quarter % 2 * 32);
                let high = at32(high, h * 32);
                for i in 0..32 {
                    let low = low[i] >> (4 * (quarter / 2)) & 15;
                    q[i] = low | (high[i] >> (2 * quarter) & 3) << 4;
                }
            }
        }
        DType::Q3_K => {
            let (mask, rest) = (at32(block, 0), &block[32..]);
            let (low, rest) = rest.split_at(64);
            parts.scales = three_k_scales(&rest[..12]);
            parts.d = [rest[12], rest[13]];
            for (part, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (h, quarter) = (part / 4, part % 4);
                let low = at32(low, h * 32);
                for i in 0..32 {
                    q[i] = low[i] >> (2 * quarter) & 3 | (mask[i] >> part & 1) << 2;
                }
            }
        }
        _ => {
            for (g, byte) in block[..16].iter().enumerate() {
                parts.scales[g] = byte & 15;
                parts.minima[g] = byte >> 4;
            }
            parts.d = pair(80);
            parts.dmin = pair(82);
            for (part, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (low, shift) = (*at32(block, 16 + part / 4 * 32), 2 * (part % 4));
                for i in 0..32 {
                    q[i] = low[i] >> shift & 3;
                }
            }
        }
    }
    parts
}

/// 32 bytes from `at` on, as an array: loops over it need no checks.
#[inline(always)]
fn at32(bytes: &[u8], at: usize) -> &[u8; 32] {
    bytes[at..].first_chunk().unwrap_or(&[0; 32])
}

/// Q4_K and Q5_K: the quants; `high` is empty or holds their fifth bits.
#[inline(always)]
fn four_or_five_bits(q: &mut [u8; 256], high: &[u8], low: &[u8]) {
    let quarters = q.as_chunks_mut::<64>().0.iter_mut().zip(low.as_chunks::<32>().0);
    let high = high.first_chunk::<32>().unwrap_or(&[0; 32]);
    for (pair, (q, low)) in quarters.enumerate() {
        for i in 0..32 {
            q[i] = low[i] & 15 | (high[i] >> (2 * pair) & 1) << 4;
            q[i + 32] = low[i] >> 4 | (high[i] >> (2 * pair + 1) & 1) << 4;
        }
    }
}

/// Q4_K and Q5_K: eight 6-bit scales and minima in 12 bytes.
fn six_bit_pairs(bytes: &[u8]) -> ([u8; 16], [u8; 16]) {
    let (mut scales, mut minima) = ([0; 16], [0; 16]);
    for j in 0..8 {
        (scales[j], minima[j]) = if j < 4 {
            (bytes[j] & 63, bytes[j + 4] & 63)
        } else {
            (bytes[j + 4] & 15 | (bytes[j - 4] >> 6) << 4, bytes[j + 4] >> 4 | (bytes[j] >> 6) << 4)
        };
    }
    (scales, minima)
}

/// Q3_K: sixteen 6-bit scales in 12 bytes, 32 taken off.
fn three_k_scales(bytes: &[u8]) -> [u8; 16] {
    std::array::from_fn(|g| {
        let low = bytes[g % 8] >> (4 * (g / 8)) & 15;
        let high = bytes[8 + g % 4] >> (2 * (g / 4)) & 3;
        (low | high << 4).wrapping_sub(32)
    })
}
