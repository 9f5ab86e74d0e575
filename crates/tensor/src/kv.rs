//! The slab of KV pages: bytes by page number.
//!
//! The key decision: a page holds the keys and values of [`KvLayout::page_tokens`] tokens for *all*
//! layers, so that sharing, copying and writing to disk handle one number and one run of bytes.
//! What the bytes mean is known to the attention kernels alone; who owns a page is known to the
//! cache alone.

use crate::aligned::AlignedBytes;

/// Sizes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Transformer blocks.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Tokens in a page; a multiple of 16.
    pub page_tokens: usize,
    /// How keys and values are stored.
    pub dtype: KvType,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision.
    #[default]
    F16,
    /// Eight bits, one scale for 32 elements of a head.
    Q8_0,
    /// Nothing rounded: twice the memory, for comparisons with other implementations.
    F32,
}

impl KvLayout {
    /// Bytes of the keys (or of the values) of one head in one layer of a page.
    pub fn head_bytes(&self) -> usize {
        match self.dtype {
            KvType::F16 => self.page_tokens * self.padded_head() * 2,
            KvType::Q8_0 => self.page_tokens * (self.padded_head() / 32) * 34,
            KvType::F32 => self.page_tokens * self.padded_head() * 4,
        }
    }

    /// Elements a head takes in a page: whole lanes of 16 (floats) or whole blocks of 32 (bytes).
    pub fn padded_head(&self) -> usize {
        match self.dtype {
            KvType::F16 | KvType::F32 => self.head_dim.next_multiple_of(16),
            KvType::Q8_0 => self.head_dim.next_multiple_of(32),
        }
    }

    /// Where the keys of a head in a layer start in a page; its values follow the keys of all heads.
    pub fn keys_at(&self, layer: usize, head: usize) -> usize {
        (layer * 2 * self.kv_heads + head) * self.head_bytes()
    }

    /// Where the values of a head in a layer start in a page.
    pub fn values_at(&self, layer: usize, head: usize) -> usize {
        self.keys_at(layer, head) + self.kv_heads * self.head_bytes()
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.layers * 2 * self.kv_heads * self.head_bytes()
    }
}

/// Pages by number, in one reserved run of addresses. Memory is taken when a page is first written
/// and never exceeds the bound given.
pub struct KvSlab {
    layout: KvLayout,
    pages: usize,
    page_bytes: usize,
    data: AlignedBytes,
}

impl KvSlab {
    /// A slab of `pages` pages; only addresses are taken yet.
    pub fn new(layout: KvLayout, pages: usize) -> Self {
        let page_bytes = layout.page_bytes().next_multiple_of(64);
        Self { layout, pages, page_bytes, data: AlignedBytes::zeroed(page_bytes * pages) }
    }

    /// The sizes of a page.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// How many pages there are.
    pub fn capacity(&self) -> usize {
        self.pages
    }

    /// Bytes from one page to the next.
    pub fn page_stride(&self) -> usize {
        self.page_bytes
    }

    /// The bytes of a page. What was never written is zero.
    pub fn page(&self, page: u32) -> &[u8] {
        &self.data[page as usize * self.page_bytes..][..self.page_bytes]
    }

    /// The bytes of a page.
    pub fn page_mut(&mut self, page: u32) -> &mut [u8] {
        &mut self.data[page as usize * self.page_bytes..][..self.page_bytes]
    }

    /// All pages, [`KvSlab::page_stride`] apart.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Copies one page onto another.
    pub fn copy(&mut self, from: u32, to: u32) {
        let from = from as usize * self.page_bytes;
        self.data.copy_within(from..from + self.page_bytes, to as usize * self.page_bytes);
    }
}
