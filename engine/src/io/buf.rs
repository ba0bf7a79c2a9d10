//! Memory aligned to 4096 bytes, as O_DIRECT wants it.
//!
//! A buffer is a length within a fixed capacity, like a `Vec<u8>` that grows only when told to.
//! Invariant: the bytes below the length are initialised, and the capacity is a multiple of [`BLOCK`].

use crate::format::bytes::Sink;
use crate::types::BLOCK;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// An aligned buffer.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer owns its memory alone; sharing it gives only shared reads.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; every mutation needs `&mut`.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// An empty buffer with room for at least `bytes`, rounded up to a multiple of [`BLOCK`]. The memory is zeroed.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.next_multiple_of(BLOCK).max(BLOCK);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is at least one block, so not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, len: 0, capacity }
    }

    /// A buffer without any memory, to stand where one was taken away.
    #[must_use]
    pub const fn empty() -> Self {
        Self { start: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// A buffer that holds `bytes`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::with_capacity(bytes.len());
        buf.put(bytes);
        buf
    }

    /// A buffer of `len` zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::with_capacity(len);
        buf.len = len;
        buf
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK).expect("a capacity below isize::MAX, aligned to a power of two")
    }

    /// Room in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the content; the memory stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Shortens to `len` bytes, or appends zeros up to it. Panics beyond the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity, "a buffer does not grow by itself");
        if len > self.len {
            let old = self.len;
            self.len = len;
            self[old..].fill(0);
        }
        self.len = len;
    }

    /// Makes room for at least `capacity` bytes in all, keeping the content.
    pub fn grow(&mut self, capacity: usize) {
        if capacity > self.capacity {
            let mut larger = Self::with_capacity(capacity);
            larger.put(self);
            *self = larger;
        }
    }

    /// The start of the memory, for a backend that lets the kernel write up to the capacity.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Declares the first `len` bytes read into by the kernel. All memory is initialised from the start, so this only
    /// moves the length. Panics beyond the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "more bytes than the buffer has room for");
        self.len = len;
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity == 0 {
            return;
        }
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are allocated, initialised (zeroed at birth) and not mutated while borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Sink for AlignedBuf {
    fn put(&mut self, bytes: &[u8]) {
        let at = self.len;
        assert!(bytes.len() <= self.capacity - at, "a buffer does not grow by itself");
        self.len += bytes.len();
        self[at..].copy_from_slice(bytes);
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_its_content() {
        let mut buf = AlignedBuf::with_capacity(10);
        assert_eq!(buf.capacity(), BLOCK);
        assert_eq!(buf.as_mut_ptr() as usize % BLOCK, 0);
        buf.put(b"hello");
        buf.grow(3 * BLOCK);
        assert_eq!(&*buf, b"hello");
        buf.resize(8);
        assert_eq!(&*buf, b"hello\0\0\0");
        buf.clear();
        buf.resize(5);
        assert_eq!(&*buf, [0; 5], "what was there before does not show again");
    }
}
