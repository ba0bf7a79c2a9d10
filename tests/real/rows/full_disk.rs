//! A real file system that is full, and has room again.
//!
//! A victim appends to a store on an ext4 of 64 MB until there is no room. Appends must be turned away then, with the
//! reason, while all logs can be read; nothing is poisoned. When a file that has nothing to do with the store is
//! removed, appends must be acknowledged again without anybody's help. In the end the victim is killed, and everything
//! acknowledged must be there. On a disk that is full already, a store is not created, and nothing is left that looks
//! like one.

use super::hint;
use crate::real::disk::{FileSystem, Loop, Mount, call, check_machine};
use crate::real::line::{Line, Order};
use crate::real::oracle::Oracle;
use crate::real::process::{Running, Setting, was_killed};
use crate::real::{Counts, Random, Stop};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// Counted: appends that were turned away.
pub const TURNED_AWAY: &str = "appends turned away";
/// Counted: creations that were refused for want of room.
pub const REFUSED: &str = "creations refused";
/// Appends turned away before the disk is said to be full.
const FULL_AFTER: u64 = 10;
/// Acknowledgements that show a store at work again. Of what there is room for again, they take a small part.
const AT_WORK: u64 = 300;
/// A journal file of the victim's, in bytes.
const JOURNAL_FILE_BYTES: u64 = 512 << 10;
/// What the file system gives room in, in bytes.
const BLOCK: u64 = 4096;
/// The file whose removal makes room, in bytes.
const BALLAST_BYTES: u64 = 16 << 20;

/// The row. `count` is the number of disks that fill up.
///
/// # Errors
/// As every row.
pub fn run(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    check_machine()?;
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    for n in 0..count {
        let folder = scratch.join(format!("disk-{n}"));
        let io = ["auto", "posix", "buffered"][(n % 3) as usize];
        let done = once(&folder, io, &mut random, &mut counts);
        done.map_err(|told| Stop::Violation(format!("{io}: {told}\n{}", hint("full-disk", seed, &counts))))?;
        counts.runs += 1;
        progress(&counts);
        let _ = fs::remove_dir_all(&folder);
    }
    Ok(counts)
}

fn once(folder: &Path, io: &'static str, random: &mut Random, counts: &mut Counts) -> Result<(), String> {
    let told = |e: std::io::Error| format!("a file of the test's own cannot be made: {e}");
    fs::create_dir_all(folder).map_err(told)?;
    let image = folder.join("image");
    File::create(&image).and_then(|file| file.set_len(FileSystem::Ext4.bytes_min())).map_err(told)?;
    let device = Loop::attach(&image)?;
    FileSystem::Ext4.make(&device.device)?;
    let mount = Mount::new(FileSystem::Ext4, &device.device, &folder.join("mounted"))?;
    let ballast = mount.folder.join("ballast");
    fill(&ballast, BALLAST_BYTES)?;

    let mut setting = Setting::new(&mount.folder.join("store"), io, random.draw(), folder);
    setting.sizes = vec![format!("--journal-file-bytes={JOURNAL_FILE_BYTES}").into()];
    // Sparse frames fill the journal before memory is full, dense ones the other way round.
    let dense = random.below(2) == 0;
    let record_bytes = if dense { 2000 } else { 50 };
    let mut oracle = Oracle::default();
    let mut command = setting.write();
    command.args(["--create", "--record-bytes", &record_bytes.to_string()]);
    command.args(["--threads", if dense { "4" } else { "1" }]);
    let mut victim = setting.start(command)?;
    if !dense {
        // Sparse frames would take minutes to fill a disk: somebody else does.
        acknowledged(&mut victim, &mut oracle, AT_WORK)?;
        fill_up(&mount.folder.join("more"))?;
    }
    full(&mut victim, &mut oracle, counts)?;
    fs::remove_file(&ballast).map_err(told)?;
    acknowledged(&mut victim, &mut oracle, AT_WORK)?;
    victim.kill();
    let status = victim.rest(|line| oracle.told(line))?;
    if !was_killed(status) {
        return Err(victim.ended(&format!("the victim ended by itself with {status}")));
    }
    drop(victim);
    counts.acknowledgements_checked += setting.ask(&mut oracle)?;

    fill_up(&mount.folder.join("most"))?;
    setting.data = mount.folder.join("another");
    refused(&setting, &mount, random, counts)?;
    mount.end()
}

/// Hears appends turned away until there is no doubt, and has everything read.
fn full(victim: &mut Running, oracle: &mut Oracle, counts: &mut Counts) -> Result<(), String> {
    let mut wanted = FULL_AFTER;
    let lives = victim.until(|line| {
        oracle.told(line);
        let turned_away = u64::from(matches!(line, Line::TurnedAway(_)));
        counts.add(TURNED_AWAY, turned_away);
        wanted -= turned_away;
        wanted == 0
    })?;
    if !lives {
        return Err(victim.ended("the victim ended when the disk was full"));
    }
    victim.order(Order::Read)?;
    let lives = victim.until(|line| {
        oracle.told(line);
        matches!(line, Line::ReadsOk(_))
    })?;
    if lives { Ok(()) } else { Err(victim.ended("the logs could not be read when the disk was full")) }
}

fn acknowledged(victim: &mut Running, oracle: &mut Oracle, mut wanted: u64) -> Result<(), String> {
    let lives = victim.until(|line| {
        oracle.told(line);
        wanted -= u64::from(matches!(line, Line::Acked { .. }));
        wanted == 0
    })?;
    if lives { Ok(()) } else { Err(victim.ended("the victim ended instead of going on")) }
}

/// Tries to create a store where there is too little room for one, and looks at what is left: with no room at all, with
/// less than a journal file takes, and with about as much, which may be enough.
fn refused(setting: &Setting, mount: &Mount, random: &mut Random, counts: &mut Counts) -> Result<(), String> {
    let create = || {
        let mut command = setting.write();
        command.args(["--create", "--appends", "1"]);
        setting.start(command)
    };
    let blocks = JOURNAL_FILE_BYTES / BLOCK;
    let mut room = 0;
    for more in [0, 1 + random.below(blocks - 10), blocks + random.below(8)] {
        make_room(&mount.folder.join("most"), (more.max(room) - room) * BLOCK)?;
        room = more.max(room);
        let mut victim = create()?;
        let status = victim.rest(|_| {})?;
        if room >= blocks && status.success() {
            break;
        }
        let said = victim.ended(&format!("a store was to be created with {room} blocks of room; {status}"));
        if status.code() != Some(5) {
            return Err(said);
        }
        let words = said.to_lowercase();
        if !words.contains("no space left") || !words.contains("free space on that file system") {
            return Err(format!("{said}\nneither cause nor remedy is told"));
        }
        if setting.data.join("IDENTITY").exists() {
            return Err(format!("{said}\nwhat is left looks like a store"));
        }
        counts.add(REFUSED, 1);
    }
    // What is left is no obstacle once there is room.
    for name in ["most", "more"] {
        let _ = fs::remove_file(mount.folder.join(name));
    }
    let mut victim = create()?;
    let status = victim.rest(|_| {})?;
    if status.success() { Ok(()) } else { Err(victim.ended("a store could not be created when there was room")) }
}

/// Gives back so many bytes of a file.
fn make_room(path: &Path, bytes: u64) -> Result<(), String> {
    let file = File::options().write(true).open(path).map_err(|e| format!("{} is not there: {e}", path.display()))?;
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    file.set_len(len - bytes).and_then(|()| file.sync_all()).map_err(|e| format!("no room could be made: {e}"))
}

fn fill(path: &Path, bytes: u64) -> Result<(), String> {
    call(Command::new("fallocate").arg("-l").arg(bytes.to_string()).arg(path)).map(drop)
}

/// Takes all the room there is, down to the last block.
fn fill_up(path: &Path) -> Result<(), String> {
    let mut command = Command::new("dd");
    command.arg("if=/dev/zero").arg(format!("of={}", path.display())).args(["bs=4096", "oflag=append", "conv=notrunc"]);
    match call(&mut command) {
        Ok(_) => Err("a disk has no end".to_owned()),
        Err(told) if told.contains("No space left") => Ok(()),
        Err(told) => Err(told),
    }
}
