//! Block devices out of files, for tests that run as root: one whose requests are logged, and one that is looked at.
//!
//! The logged device is a file behind qemu's `blklogwrites`, shown through FUSE and attached to a loop device. Every
//! handle undoes what it did when it is dropped, in whatever state the rest is; nothing here is a singleton, so that
//! two runs do not meet. What this does not do: it knows nothing of what is on a device.
//!
//! Invariant: the logged device takes one request at a time, so that the order of the log is the order of completion,
//! and a flush in it covers every write before it. The loop device goes through the page cache of the FUSE file for
//! that: the kernel then passes on each write before it completes it, one after another, under the file's lock, and a
//! flush after it. (With direct requests it would pass on several at once, which this export of qemu before 10.1 also
//! corrupts: it takes the next request into the buffer of one that is still being written.) The file is read once
//! first, so that no read of the device later gets between two writes.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::states::Pieces;

/// How long a file system may be in use by what has ended.
const IN_USE_FOR_MAX: Duration = Duration::from_secs(10);

/// A file system that stores lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its defaults, in blocks of 4 KiB.
    Ext4,
    /// XFS with its defaults.
    Xfs,
}

impl FileSystem {
    /// Its name, as mount knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// How a report counts what happened on it.
    #[must_use]
    pub fn in_report(self) -> &'static str {
        match self {
            Self::Ext4 => "on ext4",
            Self::Xfs => "on XFS",
        }
    }

    /// Makes an empty one in the file `image`, which is made `bytes` long.
    ///
    /// # Errors
    /// The program failed, or is missing.
    pub fn make(self, image: &Path, bytes: u64) -> io::Result<()> {
        File::create(image)?.set_len(bytes)?;
        let mut command = match self {
            // Nothing is left for a thread of the kernel to do later: it would fill the log.
            Self::Ext4 => {
                tool("mkfs.ext4", &["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => tool("mkfs.xfs", &["-q", "-f"]),
        };
        run(command.arg(image)).map(drop)
    }

    /// What it can take of a disk whose power failed.
    #[must_use]
    pub fn pieces(self) -> Pieces {
        match self {
            Self::Ext4 => Pieces::SectorsOfExt4,
            Self::Xfs => Pieces::Blocks,
        }
    }

    fn options(self) -> Option<CString> {
        match self {
            Self::Ext4 => None,
            // The logged file system and the states made from it carry the same id.
            Self::Xfs => Some(CString::new("nouuid").expect("a word without zeroes")),
        }
    }
}

/// A loop device; detached when dropped.
#[derive(Debug)]
pub struct Loop {
    device: PathBuf,
}

impl Loop {
    /// Attaches `file` to a free loop device.
    ///
    /// # Errors
    /// `losetup` failed.
    pub fn attach(file: &Path) -> io::Result<Self> {
        let told = run(tool("losetup", &["--find", "--show", "--direct-io=off"]).arg(file))?;
        Ok(Self { device: PathBuf::from(told.trim()) })
    }

    /// The device's file.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Forgets what the kernel remembers of the device's content, after its file was written to.
    ///
    /// # Errors
    /// `blockdev` failed.
    pub fn forget(&self) -> io::Result<()> {
        run(tool("blockdev", &["--flushbufs"]).arg(&self.device)).map(drop)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is still mounted detaches once it is not; there is nobody to tell about a failure.
        let _ = run(tool("losetup", &["--detach"]).arg(&self.device));
    }
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts what is on `device` at the folder `at`, which lets the file system recover.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn mount(system: FileSystem, device: &Path, at: &Path) -> io::Result<Self> {
        mount(device, at, system.name(), MountFlags::empty(), system.options().as_deref())
            .map_err(|e| failed_at("mounting", at, e))?;
        Ok(Self { at: at.to_owned() })
    }
}

impl Mounted {
    /// Unmounts it, so that nothing of it is left in the kernel: what a device's file holds may be changed then.
    ///
    /// # Errors
    /// It is in use, also after a while.
    pub fn unmount(self) -> io::Result<()> {
        let done = self.wait_and_unmount();
        // Done, or to be tried once more by whoever drops it.
        if done.is_ok() {
            std::mem::forget(self);
        }
        done
    }

    fn wait_and_unmount(&self) -> io::Result<()> {
        let deadline = Instant::now() + IN_USE_FOR_MAX;
        loop {
            match unmount(&self.at, UnmountFlags::empty()) {
                // The kernel lets go of the files of a ring some time after the process with the ring was waited for,
                // and there is nothing to wait for that would tell.
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                done => return done.map_err(|e| failed_at("unmounting", &self.at, e)),
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.wait_and_unmount().is_err() {
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
    }
}

/// A device whose requests are logged.
#[derive(Debug)]
pub struct Logged {
    // Dropped in this order, which is the one in which each still works.
    device: Loop,
    _export: Export,
    log: File,
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
        Ok(Self { device: Loop::attach(&shown)?, _export: export, log: file })
    }

    /// The device's file.
    #[must_use]
    pub fn device(&self) -> &Path {
        self.device.device()
    }

    /// How long the log is now: whatever is complete stands before that.
    ///
    /// # Errors
    /// The system does not say.
    pub fn log_bytes(&self) -> io::Result<u64> {
        Ok(self.log.metadata()?.len())
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
        let mut command = tool("setpriv", &["--pdeathsig", "KILL", "qemu-storage-daemon"]);
        for (name, path) in [("image", image), ("log", log)] {
            command.args(["--blockdev", &format!("driver=file,node-name={name},filename={}", path.display())]);
        }
        command.args(["--blockdev", "driver=blklogwrites,node-name=logged,file=image,log=log", "--export", &export]);
        // It greets on this channel once all before it in the command is done: the file is shown then.
        command.args(["--chardev", "stdio,id=greeting", "--monitor", "chardev=greeting"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = command.spawn().map_err(|e| failed(&command, &e.to_string()))?;
        let mut export = Self { process, shown: shown.to_owned() };
        let mut greeting = String::new();
        BufReader::new(export.process.stdout.as_mut().expect("it is piped")).read_line(&mut greeting)?;
        if !greeting.contains("QMP") {
            // It has ended, or is about to.
            let _ = export.process.kill();
            let told = io::read_to_string(export.process.stderr.take().expect("it is piped"))?;
            return Err(failed(&command, &told));
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

/// A program of the system's administrator, whose folder a user's path may lack.
fn tool(name: &str, args: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").args(args);
    command
}

fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output().map_err(|e| failed(command, &e.to_string()))?;
    if !output.status.success() {
        return Err(failed(command, &format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn failed_at(what: &str, at: &Path, e: Errno) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {}: {e}", at.display()))
}

fn failed(command: &Command, why: &str) -> io::Error {
    io::Error::other(format!("{command:?}: {}", why.trim()))
}
