//! io_uring: writes of the commit path are given to the kernel by one thread and complete in the background.
//!
//! Only queues have a ring, each its own; [`Io::run`] executes by blocking system calls, which need none. Files are
//! always opened as [`PosixIo`] opens them without `buffered`.
//!
//! What this folder does not do: it registers neither files nor buffers with the kernel, and links no operations. What
//! it needs of the kernel is in 5.11 and newer; newer kernels' cheaper completions are used where they are accepted.
//!
//! - `ring`: one io_uring instance and the thread it belongs to;
//! - `bell`: the waker and its protocol with the sleeping poller;
//! - `queue`: operations, their buffers and their ends.

mod bell;
mod queue;
mod ring;

use super::posix::PosixIo;
use super::{AlignedBuf, Done, File, Io, IoQueue, Map, Op};
use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The disk, by io_uring.
#[derive(Debug)]
pub struct UringIo {
    /// Executes what blocks.
    posix: PosixIo,
}

impl UringIo {
    /// Sets up a small ring and sends one empty operation through it.
    ///
    /// # Errors
    /// ENOSYS or EPERM where the system forbids io_uring, as containers do by default, and whatever else keeps a ring
    /// from working here; the caller then chooses another backend.
    pub fn probe() -> io::Result<Self> {
        let mut ring = ring::Ring::new(2)?;
        ring.claim()?;
        ring.try_out()?;
        Ok(Self { posix: PosixIo::new(false) })
    }
}

impl Io for UringIo {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        self.posix.run(op)
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        Ok(Box::new(queue::UringQueue::new(depth)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.posix.lock(path)
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.posix.lock_dir(path)
    }

    fn lock_holder(&self, path: &Path) -> Option<String> {
        self.posix.lock_holder(path)
    }

    fn is_in_place(&self, file: &File) -> bool {
        self.posix.is_in_place(file)
    }

    fn map(&self, file: &File) -> Option<Arc<dyn Map>> {
        self.posix.map(file)
    }

    fn reads_ahead(&self) -> bool {
        self.posix.reads_ahead()
    }

    fn will_need(&self, file: &File, offset: u64, len: usize) {
        self.posix.will_need(file, offset, len);
    }

    fn read_resident(&self, file: &File, offset: u64, buf: AlignedBuf) -> Result<AlignedBuf, AlignedBuf> {
        self.posix.read_resident(file, offset, buf)
    }
}
