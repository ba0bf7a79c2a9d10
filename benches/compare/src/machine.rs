//! What is known about the machine: its disk, its kernel, and the counters of what was written.
//!
//! Reads /proc and /sys and asks statfs; changes nothing (but see [`settle`]). What cannot be found is said to be unknown.

use crate::contender::Outcome;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const SECTOR_BYTES: u64 = 512;

/// Refuses a file system that keeps files in memory: a sync costs nothing there.
pub fn refuse_memory(dir: &Path) -> Outcome<()> {
    let stat = rustix::fs::statfs(dir).map_err(|e| format!("statfs of {}: {e}", dir.display()))?;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    match stat.f_type as i64 {
        TMPFS_MAGIC | RAMFS_MAGIC => Err(format!(
            "{} is on a file system in memory, where a sync costs nothing; choose a directory on a disk with --dir",
            dir.display()
        )),
        _ => Ok(()),
    }
}

/// Bytes that may still be written below `dir`.
pub fn free_bytes(dir: &Path) -> Outcome<u64> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| format!("statvfs of {}: {e}", dir.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Waits until the file system of `dir` has written what it put off, so that one run's removal is not paid for by the
/// next.
pub fn settle(dir: &Path) -> Outcome<()> {
    let opened = fs::File::open(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    rustix::fs::syncfs(&opened).map_err(|e| format!("syncfs of {}: {e}", dir.display()))
}

/// The counters of the block device under a directory.
pub struct Device {
    stat: PathBuf,
}

/// What was written up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Write requests that the device completed, those included that were merged into others.
    pub requests: u64,
    /// Bytes that the device wrote, for whomever.
    pub bytes: u64,
    /// Flushes of the device's cache that completed.
    pub flushes: u64,
    /// Bytes that this process caused to be written, by the kernel's account.
    pub own_bytes: u64,
}

impl Device {
    /// The device under `dir`. Refuses what has no counters, since a run that syncs nothing would not show.
    pub fn under(dir: &Path) -> Outcome<Self> {
        let dev = fs::metadata(dir).map_err(|e| format!("{}: {e}", dir.display()))?.dev();
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        let device = Self { stat };
        device.written().map_err(|e| {
            format!(
                "{e}; without the device's counters nothing would show that a run does not sync, so choose a \
                 directory directly on a disk with --dir"
            )
        })?;
        Ok(device)
    }

    /// The counters now.
    pub fn written(&self) -> Outcome<Written> {
        let text = fs::read_to_string(&self.stat).map_err(|e| format!("{}: {e}", self.stat.display()))?;
        let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        if fields.len() < 7 {
            return Err(format!("{}: fewer counters than expected: {text}", self.stat.display()));
        }
        // Documentation/admin-guide/iostats.rst: 4 writes completed, 5 merged, 6 sectors written, 15 flushes (from 5.5).
        let flushes = fields.get(15).copied().unwrap_or(0);
        let own_bytes = own_bytes()?;
        Ok(Written { requests: fields[4] + fields[5], bytes: fields[6] * SECTOR_BYTES, flushes, own_bytes })
    }

    /// The device in words.
    fn describe(&self) -> String {
        let parent = self.stat.parent().unwrap_or(Path::new("/"));
        // A partition's directory lies in its disk's, and has no queue of its own.
        let disk = fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
        let disk = if disk.join("queue").exists() { &*disk } else { disk.parent().unwrap_or(&disk) };
        let name = disk.file_name().map_or("?".into(), |n| n.to_string_lossy().into_owned());
        let queue = |what: &str| line(&disk.join("queue").join(what));
        format!("{name}, write cache: {}, scheduler: {}", queue("write_cache"), queue("scheduler"))
    }
}

impl Written {
    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            bytes: self.bytes - before.bytes,
            flushes: self.flushes - before.flushes,
            own_bytes: self.own_bytes - before.own_bytes,
        }
    }
}

fn own_bytes() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/self/io").map_err(|e| format!("/proc/self/io: {e}"))?;
    let value = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    value.and_then(|v| v.trim().parse().ok()).ok_or_else(|| "/proc/self/io has no write_bytes".into())
}

/// Seconds of processor time that this process has used, to a hundredth.
pub fn cpu_seconds() -> Outcome<f64> {
    let text = fs::read_to_string("/proc/self/stat").map_err(|e| format!("/proc/self/stat: {e}"))?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields behind it, in units that
    // Linux has fixed at 100 a second for user space.
    let ticks = text
        .rsplit_once(')')
        .map_or(0, |(_, rest)| rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum());
    Ok(ticks as f64 / 100.0)
}

/// The most memory this process has held, in bytes, since it began; 0 if the kernel does not say.
pub fn peak_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|v| v.split_whitespace().next());
    kib.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Anonymous memory of this process, in bytes: its heap and stacks, and no file that is mapped or cached.
pub fn anonymous_bytes() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/self/status").map_err(|e| format!("/proc/self/status: {e}"))?;
    let kib = text.lines().find_map(|l| l.strip_prefix("RssAnon:")).and_then(|v| v.split_whitespace().next());
    kib.and_then(|v| v.parse::<u64>().ok()).map(|kib| kib << 10).ok_or_else(|| "the kernel tells no RssAnon".into())
}

/// Bytes of all files below `dir`, as they take of the disk.
pub fn bytes_of_files(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for_each_file(dir, &mut |path| {
        bytes += fs::metadata(path)?.blocks() * SECTOR_BYTES;
        Ok(())
    })
    .map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(bytes)
}

/// Drops all files below `dir` from the page cache, so far as they are not mapped; gives their bytes.
pub fn forget(dir: &Path) -> Outcome<u64> {
    settle(dir)?;
    for_each_file(dir, &mut |path| {
        let file = fs::File::open(path)?;
        Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
    })
    .map_err(|e| format!("{}: {e}", dir.display()))?;
    bytes_of_files(dir)
}

fn for_each_file(dir: &Path, each: &mut dyn FnMut(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            for_each_file(&entry.path(), each)?;
        } else {
            each(&entry.path())?;
        }
    }
    Ok(())
}

/// Machine, kernel and file system in words, one line each.
pub fn describe(dir: &Path, device: &Device) -> Vec<String> {
    let cpu = field("/proc/cpuinfo", "model name");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal");
    vec![
        format!("processor: {cpu}, {cores} threads; memory: {memory}"),
        format!("kernel: Linux {} {}", line(Path::new("/proc/sys/kernel/osrelease")), std::env::consts::ARCH),
        format!("directory: {} on {}", from_here(dir).display(), mount_of(dir)),
        format!("disk: {}", device.describe()),
        format!("load average at the start: {}", line(Path::new("/proc/loadavg"))),
    ]
}

/// A path as it is from the working directory, if it lies below that: where that lies is nobody's business.
fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned)).unwrap_or_else(|| path.to_owned())
}

/// The compiler in the path, and the commit of the working directory.
pub fn versions() -> (String, String) {
    let rustc = output("rustc", &["--version"]);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut commit = output("git", &["-C", root, "rev-parse", "--short=12", "HEAD"]);
    if !output("git", &["-C", root, "status", "--porcelain", "--untracked-files=no"]).is_empty() {
        commit.push_str(" with changes");
    }
    (rustc, commit)
}

fn output(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        _ => "unknown".into(),
    }
}

fn line(path: &Path) -> String {
    fs::read_to_string(path).map_or("unknown".into(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':'));
    value.map_or("unknown".into(), |(_, v)| v.trim().to_owned())
}

/// File system and options of the innermost mount that holds `dir`, from /proc/self/mountinfo.
fn mount_of(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = text.lines().filter_map(|l| {
        let (left, right) = l.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (point, options, kind) = (left.get(4)?, left.get(5)?, right.first()?);
        dir.starts_with(point).then(|| (point.len(), format!("{kind} ({options})")))
    });
    mounts.max_by_key(|(len, _)| *len).map_or("unknown".into(), |(_, words)| words)
}
