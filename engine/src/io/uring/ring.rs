//! One io_uring instance and the thread it belongs to.
//!
//! A ring is made disabled and enabled by the thread that first uses it, which the kernel then holds it to
//! (SINGLE_ISSUER), completing operations only when that thread asks (DEFER_TASKRUN). So a ring that another thread
//! takes over is replaced by a new one; its operations in flight could not be.
//!
//! The thread is the kernel's, which no model of `sync.rs` stands in for.
//!
//! What this file does not do: it knows no buffer's owner; see `queue`. Invariant: entries are pushed and completions
//! taken by the owning thread alone.

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::thread::{ThreadId, current};
use std::time::Duration;

/// A ring.
pub(super) struct Ring {
    uring: IoUring,
    entries: u32,
    /// The thread that enabled it; None until one does.
    owner: Option<ThreadId>,
}

impl Ring {
    /// A ring, not yet used by any thread, for `entries` operations in flight.
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        Ok(Self { uring: build(entries)?, entries, owner: None })
    }

    /// Whether this thread may use the ring as it is.
    pub(super) fn is_mine(&self) -> bool {
        self.owner == Some(current().id())
    }

    /// Makes this thread the ring's owner. If another one was, the ring is a new one afterwards and everything in the
    /// old one is gone: the caller knows that nothing was in flight.
    pub(super) fn claim(&mut self) -> io::Result<()> {
        if self.owner.is_some() {
            self.uring = build(self.entries)?;
            self.owner = None;
        }
        self.uring.submitter().register_enable_rings()?;
        self.owner = Some(current().id());
        Ok(())
    }

    /// Sends one empty operation through: a sandbox may allow a ring and forbid its use.
    pub(super) fn try_out(&mut self) -> io::Result<()> {
        // SAFETY: a Nop refers to no memory.
        unsafe { self.push(&opcode::Nop::new().build()) };
        self.uring.submit_and_wait(1)?;
        match self.pop() {
            Some(end) if end.result() == 0 => Ok(()),
            Some(end) => Err(io::Error::from_raw_os_error(-end.result())),
            None => Err(io::Error::other("an empty operation did not complete")),
        }
    }

    /// Puts an entry into the submission queue; [`Ring::enter`] begins it. Panics beyond `entries`.
    ///
    /// # Safety
    /// What the entry points to stays as it is until its completion was taken, or the ring is gone without having
    /// entered the kernel since.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller's promise is the one that `push` asks for.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("the caller counts what is in flight");
    }

    /// The next completion.
    pub(super) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.uring.completion().next()
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn unsubmitted(&mut self) -> usize {
        self.uring.submission().len()
    }

    /// Whether entering the kernel would begin or complete something.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Begins what was pushed and completes what is done, without waiting. What the kernel is too busy to take now
    /// stays pushed.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.uring.submit().map(drop).or_else(|e| if is_passing(&e) { Ok(()) } else { Err(e) })
    }

    /// As [`Ring::enter`], then waits for a completion, or for `wait` at most. It may also return early.
    pub(super) fn enter_and_wait(&self, wait: Duration) -> io::Result<()> {
        // A wait beyond what the kernel's type holds would be refused; a year is long enough to look again.
        let wait = Timespec::from(wait.min(Duration::from_secs(365 * 24 * 3600)));
        let entered = self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&wait));
        match entered {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(()),
            Err(e) if is_passing(&e) => {
                // The kernel has no memory for the entry now and did not wait either; so that the caller's next
                // attempt does not become a busy loop, wait here.
                #[allow(clippy::disallowed_methods, reason = "not a synchronisation, but backing off from the kernel")]
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

/// Whether the kernel took an entry's begin as nothing, to be tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// A disabled ring with as many of the flags as the kernel knows, the newest first.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut refusal = None;
    for (single, defer, cooperative) in
        [(true, true, true), (true, false, true), (false, false, true), (false, false, false)]
    {
        let mut builder = IoUring::builder();
        builder.setup_r_disabled();
        if single {
            builder.setup_single_issuer();
        }
        if defer {
            builder.setup_defer_taskrun();
        }
        if cooperative {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        match builder.build(entries) {
            Ok(ring) if ring.params().is_feature_ext_arg() && ring.params().is_feature_nodrop() => return Ok(ring),
            Ok(_) => {
                let what = "the kernel's io_uring cannot wait with a time limit; it is older than 5.11";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refusal = Some(e),
            Err(e) => return Err(e),
        }
    }
    Err(refusal.expect("the loop ends only after a refusal"))
}
