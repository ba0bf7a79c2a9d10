//! The buffers that frames are made in, used again and again.
//!
//! A frame's buffer becomes the memtable's memory and comes back when a flush lets its records go. Given back to the
//! allocator it would return to the system, and the next frame would pay for fresh zeroed pages: under load that costs
//! more than the copying of the records. Buffers come in sizes of powers of two, so that what comes back fits. Once nothing
//! has been appended for a while, what waits is given back after all.
//!
//! Invariant: what is kept for later is bounded by `kept_max`. What is in use is bounded by twice the pool, since a
//! buffer is less than twice as long as what the pool counts of it.

use crate::io::AlignedBuf;
use crate::sync::Mutex;

/// The smallest buffer, in bytes.
pub const BUFFER_MIN: usize = 16 << 10;
/// A larger buffer is made when it is wanted and not kept.
pub const BUFFER_MAX: usize = 1 << 20;
const SIZES: usize = (BUFFER_MAX / BUFFER_MIN).trailing_zeros() as usize + 1;

/// Buffers that wait for their next use.
#[derive(Debug)]
pub struct Buffers {
    kept_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    /// By size, the smallest first.
    free: [Vec<AlignedBuf>; SIZES],
}

/// The place of the size that holds `bytes`; None beyond the largest.
fn size_of(bytes: usize) -> Option<usize> {
    let size = bytes.max(BUFFER_MIN).next_power_of_two();
    (size <= BUFFER_MAX).then(|| (size / BUFFER_MIN).trailing_zeros() as usize)
}

impl Buffers {
    /// None yet; at most `kept_max` bytes will wait for their next use.
    #[must_use]
    pub fn new(kept_max: usize) -> Self {
        Self { kept_max, kept: Mutex::new(Kept::default()) }
    }

    /// An empty buffer with room for at least `bytes`. It may hold what an earlier user left behind its length.
    #[must_use]
    pub fn take(&self, bytes: usize) -> AlignedBuf {
        let Some(at) = size_of(bytes) else { return AlignedBuf::with_capacity(bytes) };
        let mut kept = self.kept.lock();
        match kept.free[at].pop() {
            Some(mut buf) => {
                kept.bytes -= buf.capacity();
                drop(kept);
                buf.clear();
                buf
            }
            None => {
                drop(kept);
                AlignedBuf::with_capacity(BUFFER_MIN << at)
            }
        }
    }

    /// Takes a buffer back.
    pub fn give(&self, buf: AlignedBuf) {
        let Some(at) = size_of(buf.capacity()).filter(|at| BUFFER_MIN << at == buf.capacity()) else { return };
        let mut kept = self.kept.lock();
        while kept.bytes + buf.capacity() > self.kept_max {
            // The size of which most lies idle gives way, so that the load may change.
            let bytes = |size: usize| kept.free[size].len() * (BUFFER_MIN << size);
            let Some(most) = (0..SIZES).filter(|size| *size != at && bytes(*size) > 0).max_by_key(|size| bytes(*size))
            else {
                return;
            };
            kept.free[most].pop();
            kept.bytes -= BUFFER_MIN << most;
        }
        kept.bytes += buf.capacity();
        kept.free[at].push(buf);
    }

    /// Gives back to the allocator what waits for its next use.
    pub fn let_go(&self) {
        // Freed behind the lock.
        let _freed = std::mem::take(&mut *self.kept.lock());
    }

    /// Bytes that wait for their next use.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.kept.lock().bytes
    }

    /// Whether a buffer of `capacity` bytes is larger than one for `bytes` need be, or than twice that.
    #[must_use]
    pub fn is_wasteful(capacity: usize, bytes: usize) -> bool {
        size_of(bytes).map_or(capacity > 2 * bytes, |at| BUFFER_MIN << at < capacity)
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_shows_nothing_of_its_past() {
        let buffers = Buffers::new(1 << 20);
        let mut buf = buffers.take(20_000);
        assert_eq!(buf.capacity(), 32 << 10);
        buf.resize(20_000);
        buf.fill(7);
        let at = buf.as_ptr();
        buffers.give(buf);
        let mut buf = buffers.take(30_000);
        assert_eq!(buf.as_ptr(), at, "the same memory");
        assert!(buf.is_empty());
        buf.resize(30_000);
        assert!(buf.iter().all(|byte| *byte == 0), "the padding of a frame is zeros");
    }

    #[test]
    fn what_waits_is_bounded_and_odd_sizes_are_not_kept() {
        let buffers = Buffers::new(BUFFER_MIN * 2);
        for _ in 0..5 {
            buffers.give(AlignedBuf::with_capacity(BUFFER_MIN));
        }
        buffers.give(AlignedBuf::with_capacity(5 * 4096));
        buffers.give(AlignedBuf::with_capacity(2 * BUFFER_MAX));
        assert_eq!(buffers.kept_bytes(), BUFFER_MIN * 2);
        assert_eq!(buffers.take(3 * BUFFER_MAX).capacity(), 3 * BUFFER_MAX);
        assert_eq!(buffers.kept_bytes(), BUFFER_MIN * 2);
        buffers.give(AlignedBuf::with_capacity(2 * BUFFER_MIN));
        let kept = || buffers.kept.lock().free.each_ref().map(Vec::len);
        assert_eq!(kept()[..2], [0, 1], "another size takes their place");
        buffers.let_go();
        assert_eq!((kept().iter().sum::<usize>(), buffers.kept_bytes()), (0, 0));
        assert!(Buffers::is_wasteful(8 << 20, (1 << 20) + 1));
        assert!(Buffers::is_wasteful(64 << 10, 32 << 10));
        assert!(!Buffers::is_wasteful(64 << 10, (32 << 10) + 1));
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{Arc, check};
    use loom::thread::spawn;

    /// Two callers take buffers, fill them and give them back: nobody has another's, and no more wait than may.
    #[test]
    fn loom_a_buffer_has_one_user_at_a_time() {
        check(|| {
            let buffers = Arc::new(Buffers::new(BUFFER_MIN));
            let callers = [1, 2].map(|fill| {
                let buffers = Arc::clone(&buffers);
                spawn(move || {
                    for _ in 0..2 {
                        let mut buf = buffers.take(BUFFER_MIN);
                        assert!(buf.is_empty(), "it shows what another left");
                        buf.resize(16);
                        buf.fill(fill);
                        // Others have their turn here.
                        assert!(buffers.kept.lock().bytes <= BUFFER_MIN, "more waits than may");
                        assert!(buf.iter().all(|byte| *byte == fill), "another wrote into it");
                        buffers.give(buf);
                    }
                })
            });
            for caller in callers {
                caller.join().expect("no panic");
            }
            let kept = buffers.kept.lock();
            assert_eq!((kept.bytes, kept.free[0].len()), (BUFFER_MIN, 1), "more waits than may");
        });
    }
}
