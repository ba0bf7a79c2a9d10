//! File systems of a test's own, on devices that fail on demand: what needs root.
//!
//! A device is a file behind nbdkit, whose filters let writes or flushes fail while a file called `inject` is there,
//! shown as a file by nbdfuse and as a block device by a loop. Names are the scratch folder's, so that several tests
//! run side by side. Invariant: what is started, attached or mounted here ends with its handle, in the opposite order.

use super::Stop;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::geteuid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a file system may be in use by what has ended.
const IN_USE_FOR_MAX: Duration = Duration::from_secs(10);

/// The programs that are called here, each with the package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("nbdkit", "nbdkit"),
    ("nbdfuse", "libnbd-bin"),
    ("fusermount3", "fuse3"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("losetup", "mount"),
    ("qemu-storage-daemon", "qemu-utils"),
    ("setpriv", "util-linux"),
    ("blockdev", "util-linux"),
];

/// Whether this machine can give a test disks of its own.
///
/// # Errors
/// [`Stop::Lacking`].
pub fn check_machine() -> Result<(), Stop> {
    if !geteuid().is_root() {
        return Err(Stop::Lacking("File systems are mounted, which root alone may.\nRun it as root.".to_owned()));
    }
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !folders.iter().any(|folder| folder.join(program).is_file()))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        let packages = missing.join(" ");
        let remedy = format!("apt-get install --yes --no-install-recommends {packages}");
        return Err(Stop::Lacking(format!("It needs {packages}.\nInstall them: {remedy}.")));
    }
    if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        let cause =
            "The kernel offers no FUSE or no loop devices.\nLoad them (modprobe fuse loop), or leave the container.";
        return Err(Stop::Lacking(cause.to_owned()));
    }
    Ok(())
}

/// Runs a command to its end.
///
/// # Errors
/// It could not be started, or did not succeed: with what it said.
pub fn call(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?} cannot be started: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{command:?} failed, {}: {} {}", output.status, text(&output.stdout), text(&output.stderr)))
}

/// How a device fails while it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Writes fail, as on a disk whose sectors go bad.
    Writes,
    /// Writes are taken into a cache and flushes fail, as on a disk that is torn from its cable: the cache is lost when
    /// the device is taken down.
    Flushes,
}

/// A disk of a test's own, in a folder of its own.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    failing: Failing,
    /// Where to start nbdkit's socket: the path of one may have about a hundred bytes.
    sockets: tempfile::TempDir,
    device: Option<Device>,
}

/// A device that is up. The fields are given up in their order.
#[derive(Debug)]
struct Device {
    attached: Loop,
    _shown: Fuse,
    _served: Process,
}

impl Disk {
    /// A disk of `bytes`, empty and not up yet, that keeps its files in `folder`, which is made.
    ///
    /// # Errors
    /// In words.
    pub fn new(folder: &Path, bytes: u64, failing: Failing) -> Result<Self, String> {
        let told = |e: std::io::Error| format!("{} cannot be made: {e}", folder.display());
        std::fs::create_dir_all(folder.join("shown")).map_err(told)?;
        File::create(folder.join("image")).and_then(|file| file.set_len(bytes)).map_err(told)?;
        let sockets = tempfile::Builder::new().prefix("nbd").tempdir().map_err(told)?;
        Ok(Self { folder: folder.to_owned(), failing, sockets, device: None })
    }

    /// Brings it up. What an earlier time left in its cache is gone.
    ///
    /// # Errors
    /// In words.
    pub fn up(&mut self) -> Result<(), String> {
        self.down();
        let (socket, listens) = (self.sockets.path().join("s"), self.folder.join("nbdkit.pid"));
        for file in [&socket, &listens] {
            let _ = std::fs::remove_file(file);
        }
        let mut nbdkit = Command::new("nbdkit");
        // The socket is there before anybody listens on it; the file with the process's number comes afterwards.
        nbdkit.args(["--exit-with-parent", "-f", "-U"]).arg(&socket).arg("-P").arg(&listens);
        if self.failing == Failing::Flushes {
            nbdkit.arg("--filter=cache");
        }
        nbdkit.args(["--filter=error", "file"]).arg(self.folder.join("image"));
        if self.failing == Failing::Flushes {
            nbdkit.arg("cache=writeback");
        }
        nbdkit.args(["error-pwrite=EIO", "error-pwrite-rate=100%"]);
        nbdkit.arg(format!("error-pwrite-file={}", self.inject().display()));
        let served = Process::start(&mut nbdkit, &self.folder.join("nbdkit.stderr"))?;
        served.wait_for(&listens)?;
        let shown = self.folder.join("shown");
        let pid_file = self.folder.join("nbdfuse.pid");
        let _ = std::fs::remove_file(&pid_file);
        let mut nbdfuse = Command::new("nbdfuse");
        nbdfuse.arg("-P").arg(&pid_file).arg(shown.join("disk"));
        nbdfuse.arg(format!("nbd+unix:///?socket={}", socket.display()));
        let process = Process::start(&mut nbdfuse, &self.folder.join("nbdfuse.stderr"))?;
        let shown = Fuse { folder: shown, process };
        shown.process.wait_for(&pid_file)?;
        let attached = Loop::attach(&shown.folder.join("disk"))?;
        self.device = Some(Device { attached, _shown: shown, _served: served });
        Ok(())
    }

    /// Takes it down, without a flush.
    pub fn down(&mut self) {
        self.device = None;
    }

    /// The block device. Panics if the disk is down.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device.as_ref().expect("the disk is up").attached.device
    }

    /// Lets it fail from here on.
    ///
    /// # Errors
    /// In words.
    pub fn fail(&self) -> Result<(), String> {
        File::create(self.inject()).map(drop).map_err(|e| format!("no failure could be injected: {e}"))
    }

    /// Lets it work again.
    pub fn mend(&self) {
        let _ = std::fs::remove_file(self.inject());
    }

    fn inject(&self) -> PathBuf {
        self.folder.join("inject")
    }
}

/// A child process whose output goes to a file.
#[derive(Debug)]
struct Process {
    child: Child,
    shown: String,
    stderr: PathBuf,
}

impl Process {
    fn start(command: &mut Command, stderr: &Path) -> Result<Self, String> {
        let shown = format!("{command:?}");
        let errors = File::create(stderr).map_err(|e| format!("{} cannot be made: {e}", stderr.display()))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let child = child.map_err(|e| format!("{shown} cannot be started: {e}"))?;
        Ok(Self { child, shown, stderr: stderr.to_owned() })
    }

    /// Waits until the process has made a file, which says that it is ready.
    fn wait_for(&self, file: &Path) -> Result<(), String> {
        let until = Instant::now() + READY_WITHIN;
        while !file.exists() {
            if Instant::now() > until {
                let told = std::fs::read_to_string(&self.stderr).unwrap_or_default();
                return Err(format!("{} is not ready: {told}", self.shown));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file shown by nbdfuse.
#[derive(Debug)]
struct Fuse {
    folder: PathBuf,
    process: Process,
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Lazily: a loop device that is still being let go must not keep it there.
        let _ = call(Command::new("fusermount3").args(["-u", "-z"]).arg(&self.folder));
        // It ends by itself once nobody uses it; the process is ended in any case.
        let _ = &self.process;
    }
}

/// A loop device.
#[derive(Debug)]
pub struct Loop {
    /// Its path.
    pub device: PathBuf,
}

impl Loop {
    /// Attaches a file to a free one.
    ///
    /// # Errors
    /// In words.
    pub fn attach(file: &Path) -> Result<Self, String> {
        let device = call(Command::new("losetup").args(["-f", "--show", "--direct-io=off"]).arg(file))?;
        Ok(Self { device: device.into() })
    }

    /// Forgets what the kernel remembers of the device's content, after its file was written to.
    ///
    /// # Errors
    /// In words.
    pub fn forget(&self) -> Result<(), String> {
        call(Command::new("blockdev").arg("--flushbufs").arg(&self.device)).map(drop)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = call(Command::new("losetup").arg("-d").arg(&self.device));
    }
}

/// The file systems that are tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
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

    /// The smallest device it can be made on, in bytes.
    #[must_use]
    pub fn bytes_min(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    /// Makes it on a device.
    ///
    /// # Errors
    /// In words.
    pub fn make(self, device: &Path) -> Result<(), String> {
        let mut command = match self {
            Self::Ext4 => Command::new("mkfs.ext4"),
            Self::Xfs => Command::new("mkfs.xfs"),
        };
        command.args(match self {
            // Nothing is left for a thread of the kernel to do later: the log of a device would fill with it.
            Self::Ext4 => {
                ["-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"].as_slice()
            }
            Self::Xfs => &["-q", "-f"],
        });
        call(command.arg(device)).map(drop)
    }

    /// Mends what a failure left, as far as the file system does not do it when it is mounted.
    ///
    /// # Errors
    /// It cannot be mended.
    pub fn repair(self, device: &Path) -> Result<(), String> {
        if self == Self::Xfs {
            return Ok(());
        }
        let told = call(Command::new("e2fsck").args(["-f", "-y"]).arg(device));
        match told {
            // 1: errors were corrected.
            Err(told) if !told.contains("exit status: 1") => Err(told),
            _ => Ok(()),
        }
    }
}

/// A file system that is mounted.
#[derive(Debug)]
pub struct Mount {
    /// Where.
    pub folder: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts a device on a folder, which is made; the file system recovers then.
    ///
    /// # Errors
    /// In words.
    pub fn new(system: FileSystem, device: &Path, folder: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
        let options = match system {
            FileSystem::Ext4 => None,
            // A copy of a disk carries the same id.
            FileSystem::Xfs => Some(c"nouuid"),
        };
        mount(device, folder, system.name(), MountFlags::empty(), options)
            .map_err(|e| format!("{} cannot be mounted: {e}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), mounted: true })
    }

    /// Unmounts it, so that nothing of it is left in the kernel: what is on the device may be changed then.
    ///
    /// # Errors
    /// Something uses it still.
    pub fn end(mut self) -> Result<(), String> {
        self.unmount().map_err(|e| format!("{} cannot be unmounted: {e}", self.folder.display()))
    }

    fn unmount(&mut self) -> Result<(), Errno> {
        let until = Instant::now() + IN_USE_FOR_MAX;
        loop {
            match unmount(&self.folder, UnmountFlags::empty()) {
                // The kernel lets go of the files of a ring some time after the process with the ring was waited for,
                // and there is nothing to wait for that would tell.
                Err(Errno::BUSY) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                done => {
                    self.mounted = done.is_err();
                    return done;
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = unmount(&self.folder, UnmountFlags::DETACH);
        }
    }
}
