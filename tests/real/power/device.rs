//! A block device whose requests are logged, out of a file.
//!
//! The device is a file behind qemu's `blklogwrites`, shown through FUSE and attached to a loop device. The
//! handle undoes what it did when it is dropped. What this does not do: it knows nothing of what is on the device.
//!
//! Invariant: the logged device takes one request at a time, so that the order of the log is the order of completion,
//! and a flush in it covers every write before it. The loop device goes through the page cache of the FUSE file for
//! that: the kernel then passes on each write before it completes it, one after another, under the file's lock, and a
//! flush after it. (With direct requests it would pass on several at once, which this export of qemu before 10.1 also
//! corrupts: it takes the next request into the buffer of one that is still being written.) The file is read once
//! first, so that no read of the device later gets between two writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::mount::{UnmountFlags, unmount};

use crate::real::disk::Loop;

/// A device whose requests are logged.
#[derive(Debug)]
pub struct Logged {
    // Dropped in this order, which is the one in which each still works.
    device: Loop,
    _export: Export,
    log: Arc<File>,
}

impl Logged {
    /// A device that holds what the file `image` does, and changes it, and logs into `log`, a new file. `scratch` is an
    /// empty folder for its own files.
    ///
    /// # Errors
    /// One of the programs failed, or is missing.
    pub fn start(image: &Path, log: &Path, scratch: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(log)?;
        let shown = scratch.join("disk");
        let export = Export::start(image, log, &shown)?;
        io::copy(&mut File::open(&shown)?, &mut io::sink())?;
        Ok(Self { device: Loop::attach(&shown).map_err(io::Error::other)?, _export: export, log: Arc::new(file) })
    }

    /// The device's file.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device.device
    }

    /// Says, as often as it is asked, how long the log is at that moment: whatever is complete stands before that.
    pub fn log_bytes(&self) -> impl Fn() -> u64 + Send + use<> {
        let log = Arc::clone(&self.log);
        move || log.metadata().expect("it is an open file, and the system knows its length").len()
    }
}

/// The process that logs, and the file it shows.
#[derive(Debug)]
struct Export {
    process: Child,
    shown: PathBuf,
}

impl Export {
    fn start(image: &Path, log: &Path, shown: &Path) -> io::Result<Self> {
        File::create_new(shown)?;
        let export = format!("type=fuse,id=export,node-name=logged,mountpoint={},writable=on", shown.display());
        // It would not notice that this process is gone.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-storage-daemon"]);
        for (name, path) in [("image", image), ("log", log)] {
            command.args(["--blockdev", &format!("driver=file,node-name={name},filename={}", path.display())]);
        }
        command.args(["--blockdev", "driver=blklogwrites,node-name=logged,file=image,log=log", "--export", &export]);
        // It greets on this channel once all before it in the command is done: the file is shown then.
        command.args(["--chardev", "stdio,id=greeting", "--monitor", "chardev=greeting"]);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let failed = |why: &str| io::Error::other(format!("{command:?}: {}", why.trim()));
        let process = started.map_err(|e| failed(&e.to_string()))?;
        let mut export = Self { process, shown: shown.to_owned() };
        let mut greeting = String::new();
        BufReader::new(export.process.stdout.as_mut().expect("it is piped")).read_line(&mut greeting)?;
        if !greeting.contains("QMP") {
            // It has ended, or is about to.
            let _ = export.process.kill();
            let told = io::read_to_string(export.process.stderr.take().expect("it is piped"))?;
            return Err(failed(&told));
        }
        Ok(export)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Every request is in the log once it is complete, so there is nothing to end in good order. It is dead before
        // the mount goes, because it does not notice an end from that side.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = unmount(&self.shown, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.shown);
    }
}
