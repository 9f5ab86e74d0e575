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

use crate::Pool;
use crate::aligned::AlignedBytes;
use crate::isa::Isa;
use kernel::{Kernel, Panel};

/// Longest block of a sum: a panel of 16 columns is 24 KiB then and stays in an L1 of 32 KiB.
const BLOCK: usize = 384;

/// Columns of B that are packed at once: 6 MiB with the longest block.
const COLUMNS: usize = 4096;

/// Floats of A that a chunk of rows may have: half of an L2 of 512 KiB.
const CHUNK: usize = 64 << 10;

/// Columns of C below which a chunk is not split further: packing its rows must pay.
const NARROW: usize = 256;

/// Chunks for each thread, where the product is large enough: balance when a core is busy elsewhere.
const CHUNKS: usize = 8;

/// Multiply-adds below which a chunk is not made smaller, some 20 microseconds.
const SMALL: usize = 1 << 20;

/// Widest panel of any kernel.
const WIDEST: usize = 32;

/// Floats of scratch that [`gemm_serial`] needs.
pub const SCRATCH: usize = BLOCK * WIDEST;

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
    /// Panels of B: at most 6 MiB.
    b: AlignedBytes,
    /// A run of [`ROWS_SPACE`] floats for each thread.
    a: AlignedBytes,
}

/// Floats for the rows of A of one thread: a chunk, and as much as a kernel writes over its end.
const ROWS_SPACE: usize = CHUNK + 32 * BLOCK;

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
    let Some(mut product) = Product::new(isa, a, b, c) else { return };
    let threads = pool.threads();
    let Workspace { b: b_space, a: a_space } = space;
    let (n, k) = (product.n, product.k);
    let length = block_length(k);
    let width = product.kernel.columns;
    let panels = n.min(COLUMNS).div_ceil(width);
    let b_floats = grown(b_space, panels * width * length);
    let a_floats = Shared(grown(a_space, threads * ROWS_SPACE));
    for n0 in (0..n).step_by(COLUMNS) {
        let columns = (n - n0).min(panels * width);
        for k0 in (0..k.max(1)).step_by(length) {
            product.region = Region { n0, columns, k0, k: (k - k0).min(length) };
            let packed = Shared(b_floats);
            let product = &product;
            product.pack(pool, packed);
            let (rows, columns) = product.chunks(threads);
            let row_chunks = product.m.div_ceil(rows);
            let column_chunks = product.region.columns.div_ceil(columns);
            pool.run(row_chunks * column_chunks, &|chunk, thread| {
                let (i, j) = (chunk / column_chunks, chunk % column_chunks);
                let (m0, j0) = (i * rows, j * columns);
                let rows = m0..product.m.min(m0 + rows);
                let columns = j0..product.region.columns.min(j0 + columns);
                // SAFETY: a thread runs one chunk at a time, so its run of `a_space` is its own.
                let own = unsafe { a_floats.get().add(thread * ROWS_SPACE) };
                // SAFETY: `pack` filled the panels; chunks are disjoint pieces of C.
                unsafe { product.chunk(rows, columns, packed.get(), own) };
            });
        }
    }
}

/// `C = A B` or `C += A B` on this thread, for matrices that fit in its caches (the tiles of
/// attention): the same bits as [`gemm`]. `scratch`: at least [`SCRATCH`] floats, overwritten.
///
/// # Panics
/// As [`gemm`], and when the scratch is too short.
pub fn gemm_serial(isa: Isa, scratch: &mut [f32], a: Operand<'_>, b: Operand<'_>, c: Target<'_>) {
    assert!(scratch.len() >= SCRATCH, "scratch of {} floats, not {SCRATCH}", scratch.len());
    let Some(product) = Product::new(isa, a, b, c) else { return };
    let Product { kernel, m, n, k, a, b, .. } = product;
    let length = block_length(k);
    for k0 in (0..k.max(1)).step_by(length) {
        let block = (k - k0).min(length);
        for n0 in (0..n).step_by(kernel.columns) {
            let columns = (n - n0).min(kernel.columns);
            // SAFETY: inside both matrices by `Product::new`; the scratch holds the widest panel.
            // C has the rows and columns of the product.
            unsafe {
                let a = a.at(0, k0);
                (kernel.pack_b)(b.at(k0, n0), block, columns, scratch.as_mut_ptr());
                (kernel.multiply)(&Panel {
                    rows: m,
                    columns,
                    k: block,
                    a: a.start,
                    a_row: a.row,
                    a_step: a.column,
                    a_strip: a.row * kernel.rows,
                    b: scratch.as_ptr(),
                    b_step: kernel.columns,
                    c: product.c.add(n0),
                    c_stride: product.c_stride,
                    add: product.add(k0),
                });
            }
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

/// A pointer that chunks of a region share.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: an address; who writes what behind it is said where it is used.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// The part of a product that one pair of regions computes: columns of C, and a block of the sums.
#[derive(Clone, Copy, Default)]
struct Region {
    n0: usize,
    columns: usize,
    k0: usize,
    k: usize,
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
    region: Region,
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
            region: Region::default(),
        })
    }

    /// Whether a block that begins at `k0` is added to what is in C.
    fn add(&self, k0: usize) -> bool {
        k0 > 0 || self.store == Store::Add
    }

    /// Packs the region's part of B: panel after panel, each `(k, width)`.
    fn pack(&self, pool: &mut Pool, to: Shared) {
        let Region { n0, columns, k0, k } = self.region;
        let width = self.kernel.columns;
        // Some tens of kilobytes: what a thread packs at once is written while it is in L1.
        let group = 4;
        let panels = columns.div_ceil(width);
        pool.run(panels.div_ceil(group), &|chunk, _| {
            for panel in chunk * group..panels.min((chunk + 1) * group) {
                let at = panel * width;
                // SAFETY: inside B by `Product::new`; the workspace holds all panels of a region.
                unsafe {
                    let to = to.get().add(at * k);
                    (self.kernel.pack_b)(self.b.at(k0, n0 + at), k, (columns - at).min(width), to);
                }
            }
        });
    }

    /// Rows and columns of a chunk: as many rows as fit in L2, but enough chunks for all threads.
    fn chunks(&self, threads: usize) -> (usize, usize) {
        let Region { columns, k, .. } = self.region;
        let (m, unit, width) = (self.m, self.kernel.rows, self.kernel.columns);
        let work = m * columns * k.max(1);
        let wanted = (work / SMALL).clamp(1, CHUNKS * threads);
        let most = (CHUNK / k.max(1)).max(unit);
        // Columns are split where rows alone give too few chunks.
        let parts = (columns / NARROW).clamp(1, wanted.div_ceil(m.div_ceil(most)));
        let columns = columns.div_ceil(parts).next_multiple_of(width);
        let rows = m.div_ceil(wanted.div_ceil(parts)).min(most);
        // Chunks of whole strips, and all of them about equally long.
        let chunks = m.div_ceil((rows / unit).max(1) * unit);
        (m.div_ceil(chunks).next_multiple_of(unit), columns)
    }

    /// One piece of C.
    ///
    /// # Safety
    /// `rows` and `columns` (counted from the region's first) lie in C and nobody else touches them;
    /// `packed` holds the region's panels; `own` has room for [`ROWS_SPACE`] floats.
    unsafe fn chunk(
        &self,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        packed: *const f32,
        own: *mut f32,
    ) {
        let Region { n0, k0, k, .. } = self.region;
        let Kernel { rows: unit, columns: width, pack_a, multiply, .. } = self.kernel;
        // SAFETY: as the caller promises.
        unsafe {
            let a = self.a.at(rows.start, k0);
            let copied = self.collides();
            if copied {
                for (strip, m0) in rows.clone().step_by(unit).enumerate() {
                    let from = self.a.at(m0, k0).transposed();
                    pack_a(from, k, (rows.end - m0).min(unit), own.add(strip * unit * k));
                }
            }
            let mut panel = Panel {
                rows: rows.len(),
                columns: width,
                k,
                a: if copied { own } else { a.start },
                a_row: if copied { 1 } else { a.row },
                a_step: if copied { unit } else { a.column },
                a_strip: if copied { unit * k } else { unit * a.row },
                b: packed,
                b_step: width,
                c: self.c,
                c_stride: self.c_stride,
                add: self.add(k0),
            };
            for j in columns.clone().step_by(width) {
                panel.columns = (columns.end - j).min(width);
                panel.b = packed.add(j * k);
                panel.c = self.c.add(rows.start * self.c_stride + n0 + j);
                multiply(&panel);
            }
        }
    }

    /// Whether A is copied: its rows are so far apart that few sets of the caches would hold them.
    fn collides(&self) -> bool {
        self.a.row.max(self.a.column) % 256 == 0 || self.k > BLOCK
    }
}

/// At least `floats` floats.
fn grown(space: &mut AlignedBytes, floats: usize) -> *mut f32 {
    if space.len() < 4 * floats {
        *space = AlignedBytes::zeroed(4 * floats);
    }
    space.as_mut_ptr().cast()
}
