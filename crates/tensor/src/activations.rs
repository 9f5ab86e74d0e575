//! The other operand: rows of activations, quantized and laid out for the kernels.
//!
//! The key decision: activations are cut into chunks of [`CHUNK`] columns (a column is one token), and
//! inside a chunk the blocks run outermost, so that a kernel that holds a block of weights in
//! registers walks the chunk's columns in memory order. A column's numbers depend on that column
//! alone.
//!
//! Quantization is to signed bytes, `d = max|x| / 127` in f32, round half to even.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use crate::isa::{Isa, multiversion};
use crate::layout::{Layout, SUB, Scheme};

/// Most columns in a chunk: a multiple of the tiles' 6, and no power of two, so that the blocks of
/// one column do not fall on the same few cache sets.
pub const CHUNK: usize = 60;

/// What a family of weight types wants its other operand to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// How the weights store scales: decides the block of the activations.
    pub scheme: Scheme,
    /// The weights' zero point, folded into `offsets`.
    pub zero: i32,
    /// Whether the weights have minima, which need sums of the activations.
    pub minima: bool,
}

impl Kind {
    /// What weights of this layout want.
    pub const fn of(layout: &Layout) -> Kind {
        Kind { scheme: layout.scheme, zero: layout.zero, minima: layout.minima }
    }

    /// Columns of weights that share one activation scale.
    pub const fn block(&self) -> usize {
        match self.scheme {
            Scheme::Dense => 1,
            Scheme::Block => 32,
            _ => 256,
        }
    }

    /// Columns of weights that share one offset.
    pub const fn group(&self) -> usize {
        match self.scheme {
            Scheme::Super16 => 16,
            _ => 32,
        }
    }

    /// What an integer dot with unsigned weights has too much, for each unit of activation: the zero
    /// point, or 128 where kernels add it to signed weights.
    pub const fn start(&self) -> i32 {
        match (self.scheme, self.minima, self.zero) {
            (Scheme::Block, false, 0) => 128,
            (_, _, zero) => zero,
        }
    }

    /// 32-bit words of sums a block.
    pub const fn sum_words(&self) -> usize {
        match (self.minima, self.scheme) {
            (false, _) | (_, Scheme::Dense) => 0,
            (true, Scheme::Block) => 1,
            (true, Scheme::Super32) => 4,
            (true, Scheme::Super16) => 8,
        }
    }
}

/// Quantized activations of up to the rows it was made for.
pub struct Activations {
    kind: Kind,
    length: usize,
    columns: usize,
    /// `[chunk][sub-block][column][32]`
    quants: Vec<i8>,
    /// `[chunk][block][column]`
    scales: Vec<f32>,
    /// `[chunk][group][column]`: two i16, `-zero` times the sums of the elements with `k % 4` in
    /// {0, 1} and in {2, 3}: what an i16 accumulator pair of a kernel starts from. Only where the
    /// instruction set adds pairs.
    offsets: Vec<u32>,
    /// `[chunk][group][column]`: `-start` times the sum: what a 32-bit accumulator starts from.
    starts: Vec<i32>,
    /// `[chunk][block][column][words]`: `Block`: `d * sum` as f32 bits; super-blocks: pairs of i16
    /// sums of neighbouring sub-blocks.
    sums: Vec<u32>,
}

/// Pointers to one chunk, as the kernels take it.
#[derive(Clone, Copy)]
pub struct ChunkView<'a> {
    /// Columns in this chunk.
    pub columns: usize,
    /// `[sub-block][column][32]`
    pub quants: &'a [i8],
    /// `[block][column]`
    pub scales: &'a [f32],
    /// `[group][column]`
    pub offsets: &'a [u32],
    /// `[group][column]`
    pub starts: &'a [i32],
    /// `[block][column][words]`
    pub sums: &'a [u32],
}

impl Activations {
    /// Room for `columns` columns of `length` elements.
    pub fn new(kind: Kind, length: usize, columns: usize) -> Self {
        let quantized = kind.scheme != Scheme::Dense;
        let blocks = if quantized { length / kind.block() } else { 0 };
        let groups = if quantized && kind.zero != 0 { length / kind.group() } else { 0 };
        let starts = if quantized && kind.start() != 0 { length / kind.group() } else { 0 };
        Self {
            kind,
            length,
            columns: 0,
            quants: vec![0; if quantized { length * columns } else { 0 }],
            scales: vec![0.0; blocks * columns],
            offsets: vec![0; groups * columns],
            starts: vec![0; starts * columns],
            sums: vec![0; blocks * columns * kind.sum_words()],
        }
    }

    /// What these activations are for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Columns now held.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements in a column.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.columns.div_ceil(CHUNK)
    }

    /// One chunk.
    pub fn chunk(&self, chunk: usize) -> ChunkView<'_> {
        let first = chunk * CHUNK;
        let columns = CHUNK.min(self.columns - first);
        let quantized = usize::from(self.kind.scheme != Scheme::Dense);
        let length = self.length * quantized;
        let blocks = length / self.kind.block();
        let groups = if self.kind.zero == 0 { 0 } else { length / self.kind.group() };
        let starts = if self.kind.start() == 0 { 0 } else { length / self.kind.group() };
        let words = blocks * self.kind.sum_words();
        ChunkView {
            columns,
            quants: &self.quants[first * length..][..columns * length],
            scales: &self.scales[first * blocks..][..columns * blocks],
            offsets: &self.offsets[first * groups..][..columns * groups],
            starts: &self.starts[first * starts..][..columns * starts],
            sums: &self.sums[first * words..][..columns * words],
        }
    }

    /// Takes `columns` columns; each is then filled by [`Activations::set`].
    pub fn resize(&mut self, columns: usize) {
        self.columns = columns;
    }

    /// A writer that several threads can use for different columns at once.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer {
            kind: self.kind,
            length: self.length,
            columns: self.columns,
            quants: self.quants.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            offsets: self.offsets.as_mut_ptr(),
            starts: self.starts.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            life: PhantomData,
        }
    }

    /// Quantizes `x`, `(length)`, into column `column`.
    pub fn set(&mut self, isa: Isa, column: usize, x: &[f32]) {
        // SAFETY: `&mut self` makes this the only writer.
        unsafe { self.writer().set(isa, column, x) };
    }
}

/// Writes columns; threads may share it as long as each column has one writer.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    kind: Kind,
    length: usize,
    columns: usize,
    quants: *mut i8,
    scales: *mut f32,
    offsets: *mut u32,
    starts: *mut i32,
    sums: *mut u32,
    life: PhantomData<&'a mut Activations>,
}

// SAFETY: the pointers stand for a `&mut Activations`; `set` asks its callers to keep columns apart.
unsafe impl Send for Writer<'_> {}
// SAFETY: as above.
unsafe impl Sync for Writer<'_> {}

impl Writer<'_> {
    /// Quantizes `x`, `(length)`, into column `column`.
    ///
    /// # Safety
    /// No other thread writes this column at the same time.
    pub unsafe fn set(&self, isa: Isa, column: usize, x: &[f32]) {
        assert!(column < self.columns && x.len() == self.length);
        let first = column - column % CHUNK;
        let width = CHUNK.min(self.columns - first);
        let at = column - first;
        let block = self.kind.block();
        if self.kind.scheme == Scheme::Dense {
            return;
        }
        let mut quants = [0i8; 256];
        let mut sums = [0i32; 16];
        for (b, values) in x.chunks_exact(block).enumerate() {
            let quants = &mut quants[..block];
            let d = quantize(isa, values, quants, &mut sums);
            // SAFETY: every index is below columns x (its share of length): see `chunk`, which cuts
            // the same arrays with bounds checks.
            unsafe {
                let blocks = self.length / block;
                *self.scales.add(first * blocks + b * width + at) = d;
                for (s, sub) in quants.as_chunks::<SUB>().0.iter().enumerate() {
                    let sub_at = first * self.length + ((b * block / SUB + s) * width + at) * SUB;
                    self.quants.add(sub_at).cast::<[i8; SUB]>().write(*sub);
                }
                if isa.adds_pairs() {
                    self.set_offsets(quants, b, (first, width, at));
                }
                self.set_sums(&sums[..block / 16], b, d, (first, width, at));
            }
        }
    }

    /// The offsets of one block; `place` is (first column, columns, column) of the chunk.
    ///
    /// # Safety
    /// As `set`.
    unsafe fn set_offsets(&self, quants: &[i8], b: usize, place: (usize, usize, usize)) {
        let (first, width, at) = place;
        let (block, group) = (self.kind.block(), self.kind.group());
        if self.kind.zero == 0 {
            return;
        }
        let groups = self.length / group;
        for (g, values) in quants.chunks_exact(group).enumerate() {
            let mut pair = [0i16; 2];
            for four in values.chunks_exact(4) {
                pair[0] += i16::from(four[0]) + i16::from(four[1]);
                pair[1] += i16::from(four[2]) + i16::from(four[3]);
            }
            let pair = pair.map(|sum| sum.wrapping_mul(-self.kind.zero as i16));
            let to = first * groups + (b * (block / group) + g) * width + at;
            // SAFETY: as in `set`.
            unsafe { *self.offsets.add(to) = pair_bits(pair) };
        }
    }

    /// Starts and sums of one block from the sums of 16 quants each.
    ///
    /// # Safety
    /// As `set`.
    unsafe fn set_sums(&self, sums: &[i32], b: usize, d: f32, place: (usize, usize, usize)) {
        let (first, width, at) = place;
        let (block, group) = (self.kind.block(), self.kind.group());
        if self.kind.start() != 0 {
            let groups = self.length / group;
            for (g, sums) in sums.chunks_exact(group / 16).enumerate() {
                let to = first * groups + (b * (block / group) + g) * width + at;
                // SAFETY: as in `set`.
                unsafe { *self.starts.add(to) = -self.kind.start() * sums.iter().sum::<i32>() };
            }
        }
        let words = self.kind.sum_words();
        let to = first * (self.length / block) * words + (b * width + at) * words;
        for w in 0..words {
            let word = match self.kind.scheme {
                Scheme::Block => (d * (sums[0] + sums[1]) as f32).to_bits(),
                Scheme::Super32 => {
                    let four = &sums[4 * w..][..4];
                    pair_bits([(four[0] + four[1]) as i16, (four[2] + four[3]) as i16])
                }
                _ => pair_bits([sums[2 * w] as i16, sums[2 * w + 1] as i16]),
            };
            // SAFETY: as in `set`.
            unsafe { *self.sums.add(to + w) = word };
        }
    }
}

fn pair_bits(pair: [i16; 2]) -> u32 {
    u32::from(pair[0] as u16) | u32::from(pair[1] as u16) << 16
}

multiversion! {
    /// Quantizes one block; gives its scale and the sums of 16 quants each. Rounds half to even by
    /// adding and taking away 1.5 * 2^23, which every instruction set does alike.
    fn quantize(x: &[f32], quants: &mut [i8], sums: &mut [i32; 16]) -> f32 {
        const MAGIC: f32 = 12_582_912.0;
        let mut lanes = [0f32; 32];
        for part in x.as_chunks::<32>().0 {
            for (lane, v) in lanes.iter_mut().zip(part) {
                let size = v.abs();
                *lane = if size > *lane { size } else { *lane };
            }
        }
        for half in [16, 8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
            }
        }
        let peak = lanes[0];
        let inverse = if peak > 0.0 { 127.0 / peak } else { 0.0 };
        // Where 127 / max overflows (max below 4e-37) or max is infinite the block counts as zero.
        let inverse = if inverse.is_finite() && peak.is_finite() { inverse } else { 0.0 };
        for (q, v) in quants.iter_mut().zip(x) {
            *q = (v * inverse + MAGIC).to_bits() as i8;
        }
        for (sum, quants) in sums.iter_mut().zip(quants.as_chunks::<16>().0) {
            *sum = quants.iter().map(|&q| i32::from(q)).sum();
        }
        if inverse == 0.0 { 0.0 } else { peak / 127.0 }
    }
}
