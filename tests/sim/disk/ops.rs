//! What each operation does to the simulated disk, well or badly, and what is refused at once as the kernel would.
//!
//! How an operation goes was decided before ([`Course`]); what survives a crash is decided after ([`super::SimDisk::reboot`]).
//! Invariant: an operation that is refused is not counted and changes nothing.

use super::file::Content;
use super::names::{Names, Node};
use super::{Course, Flight, Handle, State, dead, eio};
use everlog::io::{AlignedBuf, Done, File, Op, OpenMode};
use everlog::types::BLOCK;
use std::io;
use std::path::Path;
use std::sync::Arc;

impl State {
    pub(super) fn open(&mut self, path: &Path, mode: OpenMode, boot: u64, buffered: bool) -> io::Result<Handle> {
        self.faults.check_descriptors(self.ops)?;
        let creates = matches!(mode, OpenMode::Create | OpenMode::CreateDirect);
        let content = match (self.names.get(path), creates) {
            (Some(Node::File(content)), false) => content,
            (Some(Node::Dir), false) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(_), true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (None, true) => self.create_file(path)?,
        };
        Ok(Handle { path: Arc::from(path), content, boot, mode, buffered })
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<u64> {
        if !self.names.has_parent(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let course = self.begin(|| format!("create {}", path.display()))?;
        self.faults.check_space(self.ops)?;
        self.contents_made += 1;
        let content = self.contents_made;
        self.name_change(course, |names| names.create(path, Node::File(content)))?;
        self.contents.insert(content, Content::default());
        Ok(content)
    }

    /// A change of names is done wholly or not at all, also when it is cut off.
    fn name_change(&mut self, course: Course, change: impl FnOnce(&mut Names)) -> io::Result<()> {
        match course {
            Course::Well => change(&mut self.names),
            Course::Unheard => {
                change(&mut self.names);
                // The file may be empty, and it is there: its content has to exist although nobody has it open.
                for content in self.names.contents() {
                    self.contents.entry(content).or_default();
                }
                return Err(dead());
            }
            Course::Torn => return Err(dead()),
            Course::Fails(_) => return Err(eio()),
        }
        Ok(())
    }

    pub(super) fn run(&mut self, op: Op, boot: u64, buffered: bool) -> io::Result<Done> {
        self.alive(boot)?;
        match op {
            Op::Open { path, mode } => {
                let handle = self.open(&path, mode, boot, buffered)?;
                Ok(Done::File(File { path: handle.path.clone(), inner: Arc::new(handle) }))
            }
            Op::Read { file, offset, buf } => self.read(self.handle(&file)?, offset, buf).map(Done::Buf),
            Op::Write { file, offset, buf, durable } => {
                let flight = self.check_write(&file, offset, buf, durable)?;
                let course = self.begin(|| flight.describe("write"))?;
                let flight = Flight { submitted: self.ops, ..flight };
                self.land(flight, course).map(Done::Buf)
            }
            Op::Sync { file } => {
                let file = self.handle(&file)?;
                let course = self.begin(|| format!("sync {}", file.path.display()))?;
                let broken = self.faults.is_broken(file.content);
                self.sync(&file, course);
                nothing(course).and_then(|done| if broken { Err(eio()) } else { Ok(done) })
            }
            Op::Allocate { file, len } => {
                let file = self.handle(&file)?;
                let course = self.begin(|| format!("allocate {} {len}", file.path.display()))?;
                if matches!(course, Course::Well | Course::Unheard) {
                    self.grow(&file, len)?;
                    let content = self.contents.get_mut(&file.content).expect("an open file's content is kept");
                    content.lengthen(len as usize);
                }
                nothing(course)
            }
            Op::Len { file } => Ok(Done::Len(self.contents[&self.handle(&file)?.content].shown().len() as u64)),
            Op::List { path } => match self.names.get(&path) {
                Some(Node::Dir) => Ok(Done::Names(self.names.list(&path))),
                Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            op => self.run_on_names(&op),
        }
    }

    fn run_on_names(&mut self, op: &Op) -> io::Result<Done> {
        match op {
            Op::Rename { from, to } => {
                if from.parent() != to.parent() {
                    return Err(io::ErrorKind::CrossesDevices.into());
                }
                self.expect_file(from)?;
                let course = self.begin(|| format!("rename {} {}", from.display(), to.display()))?;
                self.name_change(course, |names| names.rename(from, to))?;
            }
            Op::Remove { path } => {
                self.expect_file(path)?;
                let course = self.begin(|| format!("remove {}", path.display()))?;
                self.name_change(course, |names| names.remove(path))?;
            }
            Op::CreateDir { path } => match self.names.get(path) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None if !self.names.has_parent(path) => return Err(io::ErrorKind::NotFound.into()),
                None => {
                    let course = self.begin(|| format!("create {}/", path.display()))?;
                    self.name_change(course, |names| names.create(path, Node::Dir))?;
                }
            },
            Op::SyncDir { path } => {
                if self.names.get(path) != Some(Node::Dir) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let course = self.begin(|| format!("sync {}/", path.display()))?;
                if matches!(course, Course::Well | Course::Unheard) {
                    self.names.sync(path);
                }
                return nothing(course);
            }
            op => unreachable!("{op:?} does not change names"),
        }
        Ok(Done::Nothing)
    }

    fn expect_file(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::File(_)) => Ok(()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn handle(&self, file: &File) -> io::Result<Handle> {
        let handle = file.inner.downcast_ref::<Handle>().expect("a file of this disk was opened on it");
        self.alive(handle.boot)?;
        Ok(handle.clone())
    }

    pub(super) fn read(&self, file: Handle, offset: u64, mut buf: AlignedBuf) -> io::Result<AlignedBuf> {
        if bypasses_cache(file.mode) && !offset.is_multiple_of(BLOCK as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let shown = self.contents[&file.content].shown();
        let at = (offset as usize).min(shown.len());
        let end = (at + buf.capacity()).min(shown.len());
        buf.set_len(end - at);
        buf.copy_from_slice(&shown[at..end]);
        Ok(buf)
    }

    /// What the kernel would refuse at once.
    pub(super) fn check_write(&self, file: &File, offset: u64, buf: AlignedBuf, durable: bool) -> io::Result<Flight> {
        let file = self.handle(file)?;
        let aligned = offset.is_multiple_of(BLOCK as u64) && buf.len().is_multiple_of(BLOCK);
        match file.mode {
            OpenMode::Read | OpenMode::ReadDirect => return Err(io::ErrorKind::PermissionDenied.into()),
            mode if bypasses_cache(mode) && !aligned => return Err(io::ErrorKind::InvalidInput.into()),
            _ => {}
        }
        let place = offset..offset + buf.len() as u64;
        let overlaps = |f: &Flight| {
            f.file.content == file.content && f.offset < place.end && place.start < f.offset + f.buf.len() as u64
        };
        assert!(
            !self.in_flight.iter().any(overlaps),
            "two writes in flight to one place have no order: {} {place:?}",
            file.path.display()
        );
        Ok(Flight { queue: 0, id: 0, file, offset, buf, durable, submitted: 0 })
    }
}

fn nothing(course: Course) -> io::Result<Done> {
    match course {
        Course::Well => Ok(Done::Nothing),
        Course::Torn | Course::Unheard => Err(dead()),
        Course::Fails(_) => Err(eio()),
    }
}

/// Whether offsets and lengths must be aligned.
fn bypasses_cache(mode: OpenMode) -> bool {
    matches!(mode, OpenMode::ReadDirect | OpenMode::WriteDirect | OpenMode::CreateDirect)
}
