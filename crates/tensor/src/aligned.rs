//! Zeroed bytes on 64-byte boundaries; large ones ask for huge pages.
//!
//! The key decision: weights live in anonymous memory that was mapped, not allocated, so that huge
//! pages can be asked for (a page fault each 2 MiB instead of each 4 KiB at load) and zeroes are free.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};

/// Below this many bytes huge pages gain nothing.
const HUGE: usize = 4 << 20;

/// A zero-initialised, 64-byte aligned run of bytes.
pub struct AlignedBytes {
    start: *mut u8,
    length: usize,
}

// SAFETY: the bytes are owned and have no interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `length` zero bytes.
    ///
    /// # Panics
    /// When the operating system has no memory left, like any allocation.
    pub fn zeroed(length: usize) -> Self {
        if length == 0 {
            return Self { start: std::ptr::without_provenance_mut(64), length };
        }
        // SAFETY: a fresh anonymous mapping aliases nothing; the result is checked.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(start != libc::MAP_FAILED, "out of memory: {length} bytes");
        #[cfg(target_os = "linux")]
        if length >= HUGE {
            // SAFETY: advice on our own mapping; a refusal changes nothing.
            unsafe { libc::madvise(start, length, libc::MADV_HUGEPAGE) };
        }
        Self { start: start.cast(), length }
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: unmaps exactly what `zeroed` mapped, once.
            unsafe { libc::munmap(self.start.cast(), self.length) };
        }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `length` initialised bytes as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}
