//! Zeroed bytes on 64-byte boundaries; weights stand together on huge pages.
//!
//! The key decision: weights live in anonymous memory that was mapped, not allocated, and matrices are
//! cut one after another from mappings of hundreds of megabytes. So all of them stand on huge pages
//! (a page fault each 2 MiB at load, few misses of the address cache while they stream), what a kernel
//! fetches ahead past the end of a matrix is the next one, and zeroes are free. A mapping goes back
//! when the last matrix in it is dropped.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Size and boundary of a huge page.
const HUGE: usize = 2 << 20;

/// Addresses reserved for matrices at once; memory is taken when they are written.
const TOGETHER: usize = 256 << 20;

/// A zero-initialised, 64-byte aligned run of bytes.
pub struct AlignedBytes {
    start: *mut u8,
    length: usize,
    /// Keeps the addresses mapped.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: the bytes are owned and have no interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `length` zero bytes in a mapping of their own.
    ///
    /// # Panics
    /// When the operating system has no memory left, like any allocation.
    pub fn zeroed(length: usize) -> Self {
        if length == 0 {
            return Self { start: std::ptr::without_provenance_mut(64), length, _mapping: None };
        }
        let mapping = Arc::new(Mapping::new(length));
        Self { start: mapping.at(0), length, _mapping: Some(mapping) }
    }

    /// `length` zero bytes right behind those that were asked for before.
    ///
    /// # Panics
    /// As [`AlignedBytes::zeroed`].
    pub fn together(length: usize) -> Self {
        /// The mapping that is being filled, and how much of it is given away.
        static CURRENT: Mutex<(Weak<Mapping>, usize)> = Mutex::new((Weak::new(), 0));
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (mapping, used) = &mut *current;
        let mapping = match mapping.upgrade() {
            Some(mapping) if mapping.room() - *used >= length => mapping,
            _ => {
                let fresh = Arc::new(Mapping::new(length.max(TOGETHER)));
                (*mapping, *used) = (Arc::downgrade(&fresh), 0);
                fresh
            }
        };
        let start = mapping.at(*used);
        // Given away once: the bytes are as fresh as the mapping, and nobody else's.
        *used = (*used + length).next_multiple_of(64).min(mapping.room());
        Self { start, length, _mapping: Some(mapping) }
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

/// Zeroed floats on 64-byte boundaries, on huge pages when they are many.
#[derive(Default)]
pub struct Floats(AlignedBytes);

impl Floats {
    /// `length` zeros. Memory is taken when they are written.
    ///
    /// # Panics
    /// As [`AlignedBytes::zeroed`].
    pub fn zeroed(length: usize) -> Self {
        Self(AlignedBytes::zeroed(length.checked_mul(4).expect("a length that fits memory")))
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Anonymous memory.
struct Mapping {
    start: *mut u8,
    length: usize,
    /// Where the first huge page starts.
    skip: usize,
}

// SAFETY: an address range; what is read and written in it is up to the owners of its parts.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(length: usize) -> Self {
        // A mapping that huge pages gain nothing for need not be aligned to them.
        let huge = length >= HUGE;
        let length = if huge { length.saturating_add(HUGE) } else { length };
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
        if huge {
            // SAFETY: advice on our own mapping; a refusal changes nothing.
            unsafe { libc::madvise(start, length, libc::MADV_HUGEPAGE) };
        }
        let skip = if huge { start.cast::<u8>().align_offset(HUGE) } else { 0 };
        Self { start: start.cast(), length, skip }
    }

    fn room(&self) -> usize {
        self.length - self.skip
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.room());
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.start.add(self.skip + offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped, once; nobody holds a part of it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `length` initialised bytes as long as the mapping lives.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_zero_aligned_and_apart() {
        let mut runs: Vec<AlignedBytes> =
            [1, 0, 63, 4096, 3 << 20, 5, TOGETHER, 7].map(AlignedBytes::together).into();
        runs.push(AlignedBytes::zeroed(100));
        for (i, run) in runs.iter_mut().enumerate() {
            assert_eq!(run.as_ptr() as usize % 64, 0);
            assert!(run.iter().take(8192).all(|&byte| byte == 0), "run {i}");
            run.iter_mut().take(8192).for_each(|byte| *byte = i as u8 + 1);
        }
        for (i, run) in runs.iter().enumerate() {
            assert!(run.iter().take(8192).all(|&byte| byte == i as u8 + 1), "run {i}");
        }
    }
}
