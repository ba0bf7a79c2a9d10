//! What the kernel counts of this process: memory that is resident, processor time, and bytes read from devices.
//!
//! Invariant: a number that the kernel does not give is None and never 0.

use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::time::Duration;

/// Resident memory.
pub struct Memory {
    /// All of it (VmRSS), in bytes.
    pub rss_bytes: Option<u64>,
    /// Without mapped files (RssAnon), in bytes.
    pub heap_bytes: Option<u64>,
}

pub fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name| field(&status, name).map(|value| value * 1024);
    Memory { rss_bytes: kib("VmRSS:"), heap_bytes: kib("RssAnon:") }
}

/// Resident memory of another process, in bytes.
pub fn rss_bytes_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&status, "VmRSS:").map(|kib| kib * 1024)
}

/// Resident memory without mapped files of another process, in bytes.
pub fn heap_bytes_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&status, "RssAnon:").map(|kib| kib * 1024)
}

/// The files that another process has open, sockets included.
pub fn descriptors_of(pid: u32) -> Option<u64> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

/// Bytes that this process had read from devices so far: the page cache does not count.
pub fn device_read_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/io").ok()?, "read_bytes:")
}

/// The time that the processors spent on this process so far.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The bytes of all files below `dir`.
pub fn data_bytes(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { data_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_this_process() {
        let memory = memory();
        let (rss, heap) = (memory.rss_bytes.expect("VmRSS"), memory.heap_bytes.expect("RssAnon"));
        assert!(rss > 100_000 && heap > 10_000 && heap <= rss, "{rss} {heap}");
    }

    #[test]
    fn fields_are_found_by_their_name() {
        assert_eq!(field("VmHWM: 9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(field("", "VmRSS:"), None);
    }
}
