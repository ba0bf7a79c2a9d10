//! Files mapped for reading, and what happens when a mapped file loses its bytes.
//!
//! A page of a mapped file that cannot be had (the file was cut by someone, or its disk fails) is told to the process
//! as SIGBUS. No engine goes on from there, but an operator must learn which file it was: each mapping is noted in a
//! fixed table, and a handler that a binary may install names the file and ends the process with [`SIGBUS_EXIT`].
//!
//! A prefetch stands here too, for mappings and for memory of any other kind, since it takes unsafe code.
//!
//! What this file does not do: it checks no content; who reads a mapping checks each block, or part of one, that it uses. The library
//! never installs the handler by itself. Invariant: a mapping is in the table from before it is handed out until
//! before it is unmapped; one that finds no room there is not made.
//!
//! The atomics here are the standard library's and not those of `sync.rs`: the table is a static that a signal handler
//! reads, and a model of it could neither be static nor run in a handler.

use super::Map;
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering, fence};

/// What the process exits with after a SIGBUS in a mapped file.
pub const SIGBUS_EXIT: i32 = 5;
/// Files mapped at a time; beyond them, files are read instead.
const MAPS_MAX: usize = 1024;
/// Bytes of a path that are kept for the message; of a longer path the last ones, which hold the file's name.
const PATH_BYTES: usize = 256;

/// Bytes that a processor brings from memory at once.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// One mapping, as the handler sees it.
struct Slot {
    /// The first byte's address; [`FREE`] or [`CLAIMED`], which are no addresses, while there is none. Stored last
    /// with Release when a mapping is noted, so that who loads it with Acquire sees the other fields.
    start: AtomicUsize,
    len: AtomicUsize,
    path_len: AtomicUsize,
    path: [AtomicU8; PATH_BYTES],
}

const FREE: usize = 0;
const CLAIMED: usize = 1;

impl Slot {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(FREE),
            len: AtomicUsize::new(0),
            path_len: AtomicUsize::new(0),
            path: [const { AtomicU8::new(0) }; PATH_BYTES],
        }
    }

    /// Notes a mapping in a free slot; None if there is none.
    fn note(start: usize, len: usize, path: &Path) -> Option<&'static Self> {
        let claim =
            |slot: &&Self| slot.start.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let slot = TABLE.iter().find(claim)?;
        let path = path.as_os_str().as_bytes();
        let path = &path[path.len().saturating_sub(PATH_BYTES)..];
        for (to, from) in slot.path.iter().zip(path) {
            to.store(*from, Ordering::Relaxed);
        }
        slot.path_len.store(path.len(), Ordering::Relaxed);
        slot.len.store(len, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Some(slot)
    }

    fn forget(&self) {
        self.start.store(FREE, Ordering::Release);
    }

    /// Copies the path to `to` and gives its length and the offset in the file, if `address` lies in this mapping.
    ///
    /// Async-signal-safe. Another thread may be giving the slot to another mapping meanwhile; `start` read again after
    /// the rest, and unchanged, says that it was not. (A slot given away and noted again at the very same start would
    /// give another file's name, but a mapping that is being touched is not unmapped, so it is never this one's.)
    fn find(&self, address: usize, to: &mut [u8; PATH_BYTES]) -> Option<(usize, usize)> {
        let start = self.start.load(Ordering::Acquire);
        let offset = address.checked_sub(start)?;
        if start == FREE || start == CLAIMED || offset >= self.len.load(Ordering::Relaxed) {
            return None;
        }
        let len = self.path_len.load(Ordering::Relaxed).min(PATH_BYTES);
        for (to, from) in to.iter_mut().zip(&self.path[..len]) {
            *to = from.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        (self.start.load(Ordering::Relaxed) == start).then_some((len, offset))
    }
}

static TABLE: [Slot; MAPS_MAX] = [const { Slot::new() }; MAPS_MAX];

/// A mapping.
struct View {
    bytes: memmap2::Mmap,
    slot: &'static Slot,
}

impl Map for View {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn prefetch(&self, part: std::ops::Range<usize>) {
        self.bytes.get(part).unwrap_or_default().chunks(CACHE_LINE).for_each(|line| prefetch(&line[0]));
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Before the field is dropped and with it unmapped, after which the addresses may become another mapping's.
        self.slot.forget();
    }
}

/// Has the line of the processor's cache that `item` begins in brought from memory, and does not wait for it.
pub fn prefetch<T>(item: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86_64, and a prefetch has no effect that a program can see: no fault either.
        unsafe { _mm_prefetch(std::ptr::from_ref(item).cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = item;
}

/// Maps the whole of `file` for reading. `path` is what the handler names it by.
///
/// # Errors
/// The operating system's; [`io::ErrorKind::QuotaExceeded`] if 1024 files are mapped already.
pub(super) fn map_file(file: &File, path: &Path) -> io::Result<Arc<dyn Map>> {
    // SAFETY: the caller maps only files that are sealed: everlog does not write to them again, and removes but never
    // truncates them. That another process does not either is what the store's directory being ours means; a file cut
    // all the same ends the process by SIGBUS and never shows as bytes.
    let bytes = unsafe { memmap2::Mmap::map(file)? };
    // Single blocks are read at random places; reading ahead would only fill the memory. Advice may be declined.
    let _ = bytes.advise(memmap2::Advice::Random);
    let slot = Slot::note(bytes.as_ptr() as usize, bytes.len(), path).ok_or_else(|| {
        io::Error::new(io::ErrorKind::QuotaExceeded, format!("{MAPS_MAX} files are mapped, which is the most"))
    })?;
    Ok(Arc::new(View { bytes, slot }))
}

/// Makes a SIGBUS in a mapped file end the process with [`SIGBUS_EXIT`] after one line on standard error that names the
/// file and the offset. A SIGBUS from elsewhere ends the process as it would have without this. For binaries alone: a
/// library has no business with its process's signals.
///
/// # Errors
/// The operating system's.
pub fn install_sigbus_handler() -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction; the handler has the signature that SA_SIGINFO asks for and calls only
    // what is async-signal-safe. SA_ONSTACK uses the thread's alternate stack where it has one.
    let result = unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = on_sigbus as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_sigbus(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo; the address is only compared, and only for a code
    // above 0, which means that the kernel sent the signal for a fault.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let mut path = [0; PATH_BYTES];
    if code > 0
        && let Some((len, offset)) = TABLE.iter().find_map(|slot| slot.find(address, &mut path))
    {
        let mut line = Line { bytes: [0; 512], len: 0 };
        line.put(b"everlog: a page of the mapped file ");
        line.put(&path[..len]);
        line.put(b" cannot be had, at offset ");
        line.put_number(offset);
        line.put(b": the file was cut or its disk fails; check both, then restore the file\n");
        // SAFETY: both calls are async-signal-safe; the buffer holds `len` bytes.
        unsafe {
            libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len);
            libc::_exit(SIGBUS_EXIT);
        }
    }
    // SAFETY: both calls are async-signal-safe. The raised signal waits until this handler returns and then meets the
    // default action, which ends the process.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::raise(libc::SIGBUS);
    }
}

/// A line of text built without allocating; what does not fit is left out.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn put(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(bytes) {
            *to = *from;
            self.len += 1;
        }
    }

    fn put_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::in_child;
    use crate::types::BLOCK;
    use std::os::unix::process::ExitStatusExt;

    fn mapped(dir: &Path) -> (File, Arc<dyn Map>) {
        let path = dir.join("some-segment");
        std::fs::write(&path, [7; 3 * BLOCK]).expect("the temporary directory takes a file");
        let file = File::options().read(true).write(true).open(&path).expect("it was just written");
        let map = map_file(&file, &path).expect("a file system that maps");
        (file, map)
    }

    #[test]
    fn a_mapped_file_shows_its_bytes_and_leaves_the_table() {
        // In a process of its own: another test's mapping could take over the slot and the address.
        let output = in_child("io::view::tests::a_mapped_file_shows_its_bytes_and_leaves_the_table", |dir| {
            let (_file, map) = mapped(dir);
            assert_eq!(map.bytes(), [7; 3 * BLOCK]);
            let start = map.bytes().as_ptr() as usize;
            let find = |address| {
                let mut path = [0; PATH_BYTES];
                let (len, offset) = TABLE.iter().find_map(|slot| slot.find(address, &mut path))?;
                Some((String::from_utf8_lossy(&path[..len]).into_owned(), offset))
            };
            let (path, offset) = find(start + 5).expect("it is in the table");
            assert!(path.ends_with("some-segment"), "{path}");
            assert_eq!(offset, 5);
            assert_eq!(find(start + 3 * BLOCK - 1).expect("its last byte too").1, 3 * BLOCK - 1);
            assert_eq!(find(start + 3 * BLOCK), None);
            assert_eq!(find(start - 1), None);
            drop(map);
            assert_eq!(find(start), None, "unmapped, so not in the table");
        });
        let Some(output) = output else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_file_cut_under_its_mapping_is_named() {
        let output = in_child("io::view::tests::a_file_cut_under_its_mapping_is_named", |dir| {
            let (file, map) = mapped(dir);
            install_sigbus_handler().expect("a signal may be handled");
            file.set_len(0).expect("it is open for writing");
            std::hint::black_box(std::hint::black_box(map.bytes())[BLOCK + 1]);
        });
        let Some(output) = output else { return };
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(SIGBUS_EXIT), "{told}");
        assert!(told.contains("some-segment cannot be had, at offset 4097:"), "{told}");
    }

    #[test]
    fn a_sigbus_from_elsewhere_still_kills() {
        let output = in_child("io::view::tests::a_sigbus_from_elsewhere_still_kills", |dir| {
            let _mapped = mapped(dir);
            install_sigbus_handler().expect("a signal may be handled");
            // SAFETY: raising a signal touches no memory.
            unsafe { libc::raise(libc::SIGBUS) };
        });
        let Some(output) = output else { return };
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
