//! Products of f32 matrices for training: forward, input gradient, weight gradient.
//!
//! The key decision: every element of C is defined by its shape alone. The sum over k is cut into
//! blocks of one length ([`block_length`]); a block is one chain of fused multiply-adds from zero, in
//! order, and the blocks are added onto the element in order. Tiles, panels, instruction sets and
//! threads split C, never a sum, so all of them give the same bits.
//!
//! How it runs (after Goto and van de Geijn 2008, "Anatomy of high-performance matrix
//! multiplication"): for a block of k, B is packed once into panels as wide as a tile of registers
//! (first region of the pool); then chunks of rows of C are handed out (second region), and each walks
//! over the panels: a panel lies in L1, the chunk's rows of A in L2. A is read where it stands, or
//! copied by the chunk where its stride would make the rows collide in the caches.
//!
//! What it does not do: other types than f32 (see [`crate::linear`] for quantized weights), batches of
//! products, activation functions.
#![allow(unsafe_code)]

mod kernel;
mod pack;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::Pool;
use crate::aligned::AlignedBytes;
use crate::isa::Isa;
use kernel::{Kernel, Panel};

/// Longest block of a sum: a panel of 16 columns is 18 KiB then, and stays in an L1 of 32 KiB beside the
/// rows of A of two tiles.
const BLOCK: usize = 288;

/// Columns of B that are packed at once: at most 6 MiB.
const COLUMNS: usize = 4096;

/// Floats of A that a chunk of rows has: less than half of an L2 of 512 KiB.
const CHUNK: usize = 48 << 10;

/// Tiles one above the other in a chunk at least: each panel of B comes to L1 once for them.
const FEW: usize = 8;

/// Columns of a chunk at least, and where its rows must be copied first.
const NARROW: usize = 96;
const WIDE: usize = 512;

/// Chunks for each thread, where the product is large enough: balance when a core is busy elsewhere.
const CHUNKS: usize = 8;

/// Panels that are packed together: some lines side by side in each row of the source.
const GROUP: usize = 8;

/// Multiply-adds below which a chunk is not made smaller, some 20 microseconds.
const SMALL: usize = 1 << 20;

/// Floats of a line of the caches.
const LINE: usize = 16;

/// Widest panel of any kernel.
const WIDEST: usize = 32;

/// A matrix as it stands in memory, row-major, and whether the product uses it transposed.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// At least `(rows - 1) * stride + columns` values.
    pub data: &'a [f32],
    /// Rows in memory.
    pub rows: usize,
    /// Columns in memory.
    pub columns: usize,
    /// Elements from one row to the next, at least `columns`.
    pub stride: usize,
    /// Whether the product uses the transpose.
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    /// A dense matrix `(rows, columns)`, row-major.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, stride: columns, transposed: false }
    }

    /// The same memory with `stride` elements from one row to the next.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The transpose of this matrix, `(columns, rows)`, without moving anything.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows and columns of the matrix that the product sees.
    pub fn shape(&self) -> (usize, usize) {
        let (rows, columns) = (self.rows, self.columns);
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }

    fn source(&self) -> Source {
        let needed = self.rows.saturating_sub(1) * self.stride + self.columns;
        let fits = self.stride >= self.columns && self.data.len() >= needed;
        let (rows, columns, stride) = (self.rows, self.columns, self.stride);
        assert!(
            fits || rows == 0,
            "({rows}, {columns}) with stride {stride} does not fit in {}",
            self.data.len()
        );
        let (row, column) = if self.transposed { (1, stride) } else { (stride, 1) };
        Source { start: self.data.as_ptr(), row, column }
    }
}

/// Where the product goes: C, row-major.
pub struct Target<'a> {
    /// At least `(m - 1) * stride + n` values.
    pub data: &'a mut [f32],
    /// Elements from one row to the next, at least `n`.
    pub stride: usize,
    /// What happens to the values that are there.
    pub store: Store,
}

/// What happens to the values of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `C = A B`.
    Set,
    /// `C += A B`: gradients of several micro-batches, residual connections.
    Add,
}

/// Packed panels: kept from one product to the next, so that the steady state allocates nothing.
#[derive(Default)]
pub struct Workspace {
    /// Panels of B.
    b: AlignedBytes,
    /// Rows of A.
    a: AlignedBytes,
}

/// `C = A B` or `C += A B` on all threads of the pool.
///
/// With `a` `(m, k)`, `b` `(k, n)`, C `(m, n)`, the three products of a layer `Y = X W^T`
/// (`W`: `(out, in)`) are `gemm(x, w.t())`, the gradient of its input `gemm(dy, w)` and of its weights
/// `gemm(dy.t(), x)` with [`Store::Add`].
///
/// # Panics
/// When the shapes do not agree, or a matrix is longer than its memory.
pub fn gemm(
    pool: &mut Pool,
    isa: Isa,
    space: &mut Workspace,
    a: Operand<'_>,
    b: Operand<'_>,
    c: Target<'_>,
) {
    let Some(product) = Product::new(isa, a, b, c) else { return };
    let Product { n, k, length, .. } = product;
    let plan = Plan::new(&product, pool.threads());
    let space = plan.space(&product, pool.threads(), space);
    for n0 in (0..n).step_by(plan.columns) {
        for k0 in (0..k.max(1)).step_by(length) {
            let region =
                Region { columns: n0..n.min(n0 + plan.columns), ks: k0..k.min(k0 + length) };
            product.pack(pool, &region, &space);
            product.multiply(pool, &plan, &region, &space);
        }
    }
}

/// The length of the blocks that a sum over `k` is cut into; the last one may be shorter. Part of the
/// definition of the result.
fn block_length(k: usize) -> usize {
    let blocks = k.div_ceil(BLOCK).max(1);
    k.max(1).div_ceil(blocks).next_multiple_of(8)
}

/// A matrix as a product sees it: element `(i, j)` is `start[i * row + j * column]`.
#[derive(Clone, Copy)]
struct Source {
    start: *const f32,
    row: usize,
    column: usize,
}

impl Source {
    /// The matrix from `(i, j)` on.
    ///
    /// # Safety
    /// `(i, j)` lies in the matrix or one behind its end.
    unsafe fn at(self, i: usize, j: usize) -> Source {
        // `wrapping_add`: of an empty matrix nothing is read.
        Source { start: self.start.wrapping_add(i * self.row + j * self.column), ..self }
    }

    fn transposed(self) -> Source {
        Source { row: self.column, column: self.row, ..self }
    }
}

/// Where panels lie: addresses that the chunks of a region share.
struct Space {
    b: *mut f32,
    /// A run of `own` floats for each thread.
    a: *mut f32,
    own: usize,
}
// SAFETY: addresses; who writes what behind them is said where they are used.
unsafe impl Sync for Space {}

/// What a pair of regions of the pool computes: columns of C, and a block of their sums.
struct Region {
    columns: Range<usize>,
    ks: Range<usize>,
}

/// How A is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Where it stands.
    There,
    /// Copied by each chunk, so that it lies in that thread's L2: it lies across k, or its rows are so far
    /// apart that few sets of the caches would hold them, or there are several blocks.
    Copied,
}

/// How a product is cut; for speed alone.
struct Plan {
    how: Rows,
    /// Columns of a region.
    columns: usize,
    /// Rows and columns of a chunk.
    chunk: (usize, usize),
}

impl Plan {
    fn new(product: &Product, threads: usize) -> Plan {
        let &Product { kernel, m, n, k, length, a, .. } = product;
        let how = match a {
            Source { column, .. } if column != 1 => Rows::Copied,
            Source { row, .. } if row % 256 == 0 || k > length => Rows::Copied,
            _ => Rows::There,
        };
        let columns = n.min(COLUMNS);

        let work = m * columns * length;
        let wanted = (work / SMALL).clamp(1, CHUNKS * threads);
        // Rows that are copied should be used for many columns, unless threads would stand idle.
        let (few, most) = (FEW * kernel.rows, CHUNK / length);
        let patient = how == Rows::Copied && m.div_ceil(few) >= 2 * threads;
        let narrow = if patient { WIDE } else { NARROW };
        // Columns are split where rows alone would give too few chunks.
        let parts = wanted.div_ceil(m.div_ceil(most)).min(columns / narrow).max(1);
        let high = m.div_ceil(wanted.div_ceil(parts)).max(few).min(most);
        let even = |all: usize, part: usize, unit: usize| {
            all.div_ceil(all.div_ceil(part)).next_multiple_of(unit)
        };
        let chunk = (
            even(m, high / kernel.rows * kernel.rows, kernel.rows),
            even(columns, columns.div_ceil(parts), kernel.columns),
        );
        Plan { how, columns, chunk }
    }

    /// The workspace, as large as this plan needs it.
    fn space(&self, product: &Product, threads: usize, space: &mut Workspace) -> Space {
        let &Product { kernel, length, .. } = product;
        let b = self.columns.div_ceil(kernel.columns) * (kernel.apart_b)(length);
        let own = self.chunk.0.div_ceil(kernel.rows) * (kernel.apart_a)(length);
        let a = if self.how == Rows::Copied { threads * own } else { 0 };
        Space { b: grown(&mut space.b, b), a: grown(&mut space.a, a), own }
    }
}

/// A checked product.
struct Product {
    kernel: Kernel,
    m: usize,
    n: usize,
    k: usize,
    a: Source,
    b: Source,
    c: *mut f32,
    c_stride: usize,
    store: Store,
    /// See [`block_length`].
    length: usize,
}
// SAFETY: A and B are only read; of C every chunk writes its own piece.
unsafe impl Sync for Product {}

impl Product {
    /// `None`: C is empty.
    fn new(isa: Isa, a: Operand<'_>, b: Operand<'_>, c: Target<'_>) -> Option<Product> {
        let ((m, k), (inner, n)) = (a.shape(), b.shape());
        assert_eq!(k, inner, "({m}, {k}) times ({inner}, {n})");
        if m == 0 || n == 0 {
            return None;
        }
        let Target { data, stride, store } = c;
        let fits = stride >= n && data.len() >= (m - 1) * stride + n;
        assert!(fits, "({m}, {n}) with stride {stride} does not fit in {}", data.len());
        Some(Product {
            kernel: Kernel::of(isa),
            m,
            n,
            k,
            a: a.source(),
            b: b.source(),
            c: data.as_mut_ptr(),
            c_stride: stride,
            store,
            length: block_length(k),
        })
    }

    /// Whether a block that begins at `k0` is added to what is in C.
    fn add(&self, k0: usize) -> bool {
        k0 > 0 || self.store == Store::Add
    }

    /// Packs the region's part of B, panel after panel.
    fn pack(&self, pool: &mut Pool, region: &Region, space: &Space) {
        let Region { columns, ks } = region;
        let group = GROUP * self.kernel.columns;
        pool.run(columns.len().div_ceil(group), &|part, _| {
            let at = part * group;
            // SAFETY: inside B by `Product::new`; the space holds the panels of a region, and the parts
            // are disjoint.
            unsafe {
                let from = self.b.at(ks.start, columns.start + at);
                let to = space.b.add(part * GROUP * (self.kernel.apart_b)(ks.len()));
                (self.kernel.pack_b)(from, ks.len(), group.min(columns.len() - at), to);
            }
        });
    }

    /// Computes a region whose panels are packed.
    fn multiply(&self, pool: &mut Pool, plan: &Plan, region: &Region, space: &Space) {
        let (high, wide) = plan.chunk;
        let across = region.columns.len().div_ceil(wide);
        let chunks = self.m.div_ceil(high) * across;
        pool.run(chunks, &|chunk, thread| {
            let (m, n) = (chunk / across * high, chunk % across * wide);
            let rows = m..self.m.min(m + high);
            let columns = n..region.columns.len().min(n + wide);
            let later = self.later(region, &rows, (chunk, chunks));
            // SAFETY: the panels are packed; chunks are disjoint pieces of C, and a thread runs one at a
            // time.
            unsafe { self.chunk(plan.how, region, (rows, columns), later, (space, thread)) };
        });
    }

    /// What will be read from far memory soon, as starts and lines: a chunk fetches it on the way, its
    /// share of the next block's rows of A^T and B, or the next rows of A.
    fn later(
        &self,
        region: &Region,
        rows: &Range<usize>,
        (chunk, chunks): (usize, usize),
    ) -> [(*const f32, usize); 2] {
        let next = region.ks.end;
        // SAFETY: addresses only.
        unsafe {
            if next < self.k {
                let (a, b) =
                    (self.a.transposed().at(next, 0), self.b.at(next, region.columns.start));
                [a, b].map(|source| {
                    let lines = self.length.min(self.k - next) * source.row / LINE;
                    let (from, to) = (lines * chunk / chunks, lines * (chunk + 1) / chunks);
                    let lines = if source.column == 1 { to - from } else { 0 };
                    (source.start.wrapping_add(from * LINE), lines)
                })
            } else if self.k <= self.length && self.a.column == 1 {
                let lines = rows.len() * self.a.row / LINE;
                [(self.a.at(rows.end, 0).start, lines), (self.a.start, 0)]
            } else {
                [(self.a.start, 0); 2]
            }
        }
    }

    /// One piece of C.
    ///
    /// # Safety
    /// `rows` and `columns` (the latter counted from the region's first) lie in C and nobody else touches
    /// them; the panels of the region are packed; nobody else uses the thread's run of the space.
    unsafe fn chunk(
        &self,
        how: Rows,
        region: &Region,
        (rows, columns): (Range<usize>, Range<usize>),
        later: [(*const f32, usize); 2],
        (space, thread): (&Space, usize),
    ) {
        let Kernel { rows: unit, columns: width, pack_a, apart_a, apart_b, multiply, .. } =
            self.kernel;
        let (m0, k0, k) = (rows.start, region.ks.start, region.ks.len());
        // SAFETY: as the caller promises.
        unsafe {
            let there = self.a.at(m0, k0);
            let (a, a_row, a_strip) = match how {
                Rows::There => (there.start, there.row, unit * there.row),
                Rows::Copied => {
                    let own = space.a.add(thread * space.own);
                    pack_a(there.transposed(), k, rows.len(), own);
                    (own.cast_const(), 1, apart_a(k))
                }
            };
            let lines = rows.len().div_ceil(unit) * kernel::lines(k);
            let mut fetched = 0;
            for j in columns.clone().step_by(width) {
                let b = space.b.add(j / width * apart_b(k)).cast_const();
                let [first, second] = later;
                let later = if fetched < first.1 {
                    first.0.wrapping_add(fetched * LINE)
                } else if fetched < first.1 + second.1 {
                    second.0.wrapping_add((fetched - first.1) * LINE)
                } else {
                    b // is near
                };
                fetched += lines;
                multiply(&Panel {
                    rows: rows.len(),
                    columns: (columns.end - j).min(width),
                    k,
                    a,
                    packed: how == Rows::Copied,
                    a_row,
                    a_strip,
                    b,
                    later,
                    c: self.c.add(m0 * self.c_stride + region.columns.start + j),
                    c_stride: self.c_stride,
                    add: self.add(k0),
                });
            }
        }
    }
}

/// At least `floats` floats.
fn grown(space: &mut AlignedBytes, floats: usize) -> *mut f32 {
    if space.len() < 4 * floats {
        *space = AlignedBytes::zeroed(4 * floats);
    }
    space.as_mut_ptr().cast()
}
