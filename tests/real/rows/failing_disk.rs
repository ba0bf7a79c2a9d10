//! A real file system on a disk that begins to fail: its writes, or its flushes with all that was written since the
//! last one.
//!
//! In each run a victim appends to a store on ext4 or XFS, by io_uring, by blocking calls or through the page cache,
//! and at a random moment the disk begins to fail. The victim must notice, acknowledge nothing more, go on reading and
//! say so with exit code 5. Then the disk is mended and the file system mounted anew, so that no page cache hides what
//! is there, and everything acknowledged must be. Where flushes fail, the disk loses its cache as well: what was
//! acknowledged before its flush would be gone.

use super::hint;
use crate::real::disk::{Disk, Failing, FileSystem, Mount, check_machine};
use crate::real::line::Line;
use crate::real::oracle::Oracle;
use crate::real::process::{Running, Setting};
use crate::real::{Counts, Random, Stop};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Counted: victims that stopped by themselves and said why.
pub const STOPPED: &str = "stopped with exit code 5";
/// Counted: stores on which logs were read after the failure.
pub const READ: &str = "read after the failure";
/// Counted: file systems that gave nothing to read after the failure.
pub const SHUT_DOWN: &str = "shut down by XFS";
/// Backends and file systems, in the order in which runs take them.
const KINDS: [(FileSystem, &str); 6] = [
    (FileSystem::Ext4, "auto"),
    (FileSystem::Xfs, "posix"),
    (FileSystem::Ext4, "buffered"),
    (FileSystem::Xfs, "auto"),
    (FileSystem::Ext4, "posix"),
    (FileSystem::Xfs, "buffered"),
];
/// Acknowledgements before the failure, at most.
const APPENDS_MAX: u64 = 600;

/// The row of writes that fail. `count` is how often a disk fails, each time another.
///
/// # Errors
/// As every row.
pub fn writes(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    run("failing-writes", Failing::Writes, seed, count, scratch, progress)
}

/// The row of flushes that fail.
///
/// # Errors
/// As every row.
pub fn flushes(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    run("failing-flushes", Failing::Flushes, seed, count, scratch, progress)
}

fn run(
    row: &str, failing: Failing, seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts),
) -> Result<Counts, Stop> {
    check_machine()?;
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    for n in 0..count {
        let (file_system, io) = KINDS[(n % KINDS.len() as u64) as usize];
        let folder = scratch.join(format!("disk-{n}"));
        once(&folder, failing, file_system, io, &mut random, &mut counts).map_err(|told| {
            let hint = hint(row, seed, &counts);
            Stop::Violation(format!("{file_system:?}, {io}: {told}\n{hint}"))
        })?;
        counts.runs += 1;
        progress(&counts);
        let _ = fs::remove_dir_all(&folder);
    }
    Ok(counts)
}

fn once(
    folder: &Path, failing: Failing, file_system: FileSystem, io: &'static str, random: &mut Random,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut disk = Disk::new(folder, file_system.bytes_min(), failing)?;
    disk.up()?;
    file_system.make(disk.device())?;
    let mount = Mount::new(file_system, disk.device(), &folder.join("mounted"))?;
    let setting = Setting::new(&mount.folder.join("store"), io, random.draw(), folder);
    let mut oracle = Oracle::default();
    let mut command = setting.write();
    command.arg("--create");
    let victim = setting.start(command)?;
    stop(victim, &disk, file_system, &mut oracle, random, counts)?;

    match failing {
        Failing::Writes => {
            // The file system may write what it has to while it goes, since the disk is sound again.
            disk.mend();
            mount.end()?;
        }
        Failing::Flushes => {
            // It cannot: what it writes is lost with the cache.
            mount.end()?;
            disk.down();
            disk.mend();
            disk.up()?;
        }
    }
    file_system.repair(disk.device())?;
    let mount = Mount::new(file_system, disk.device(), &folder.join("mounted"))?;
    counts.acknowledgements_checked += setting.ask(&mut oracle)?;
    mount.end()
}

/// Lets the disk fail while the victim appends, and hears how it stops.
fn stop(
    mut victim: Running, disk: &Disk, file_system: FileSystem, oracle: &mut Oracle, random: &mut Random,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut wanted = 1 + random.below(APPENDS_MAX);
    let lives = victim.until(|line| {
        oracle.told(line);
        wanted -= u64::from(matches!(line, Line::Acked { .. }));
        wanted == 0
    })?;
    if !lives {
        return Err(victim.ended("the victim ended while the disk was sound"));
    }
    std::thread::sleep(Duration::from_micros(random.below(3_000)));
    disk.fail()?;
    // Once the failure was told, no append that is made then may be acknowledged; which the victim itself tries to have.
    // One that was acknowledged just before may be told of after it, since each thread speaks for itself.
    let mut after = BTreeSet::new();
    let (mut failed, mut unknown, mut read, mut refused, mut late) = (false, false, false, false, false);
    let mut said = Vec::new();
    let status = victim.rest(|line| {
        oracle.told(line);
        said.push(line.to_string());
        match line {
            Line::Failed { kind, .. } => {
                failed |= kind == "Poisoned";
                unknown |= kind == "Unknown";
            }
            Line::ReadsOk(_) => read = true,
            Line::ReadsFailed(_) => refused = true,
            Line::Sent { log, next } if failed => drop(after.insert((log.clone(), *next))),
            Line::Acked { log, next } => late |= after.contains(&(log.clone(), *next)),
            _ => {}
        }
    })?;
    if late {
        return Err(victim.ended("an append was acknowledged after another was told that the store stopped"));
    }
    // XFS shuts down when it cannot write its own log, and gives out nothing any more, to nobody. A page of a segment that
    // is mapped ends the process then, perhaps before it could say more than that it stopped.
    let lost_page = file_system == FileSystem::Xfs && victim.told("a page of the mapped file");
    if status.code() != Some(5) || !(failed || unknown && lost_page) {
        let last = said[said.len().saturating_sub(40)..].join("\n");
        return Err(victim.ended(&format!("the disk failed and the victim ended with {status}; it said last:\n{last}")));
    }
    let shut_down = lost_page || refused && file_system == FileSystem::Xfs;
    if !read && !shut_down {
        return Err(victim.ended("the store could not be read any more when it had stopped"));
    }
    counts.add(STOPPED, 1);
    counts.add(if read { READ } else { SHUT_DOWN }, 1);
    Ok(())
}
