//! One object of a cold store as a file that can only be read, so that a segment is checked there by the code that checks it here.

use crate::cold::{ColdStore, PART_BYTES};
use crate::error::Error;
use crate::io::{Done, File, Io, IoQueue, Op};
use crate::sync::Arc;
use std::any::Any;
use std::io;
use std::path::Path;

/// A disk whose every file is that object.
pub struct Object {
    cold: Arc<dyn ColdStore>,
    key: String,
}

impl Object {
    /// The object under `key`.
    #[must_use]
    pub fn new(cold: Arc<dyn ColdStore>, key: String) -> Self {
        Self { cold, key }
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<(Vec<u8>, u64)> {
        let (mut bytes, end) = (Vec::new(), offset + len as u64);
        loop {
            let at = offset + bytes.len() as u64;
            let range = at..end.min(at + PART_BYTES as u64);
            let part =
                self.cold.get(&self.key, range.clone()).map_err(|error: Error| io::Error::other(error.to_string()))?;
            let Some(part) = part else { return Err(io::ErrorKind::NotFound.into()) };
            let expected = range.end.min(part.len).saturating_sub(range.start);
            if part.bytes.len() as u64 != expected {
                return Err(io::Error::other("a part of the object came truncated"));
            }
            bytes.extend_from_slice(&part.bytes);
            if range.end >= end.min(part.len) {
                return Ok((bytes, part.len));
            }
        }
    }
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "an object is only read"))
}

impl Io for Object {
    fn name(&self) -> &'static str {
        "cold"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        match op {
            Op::Open { .. } => {
                self.read(0, 1)?;
                Ok(Done::File(File { path: Path::new(&self.key).into(), inner: Arc::new(()) }))
            }
            Op::Read { offset, mut buf, .. } => {
                let (bytes, _) = self.read(offset, buf.capacity())?;
                buf.resize(bytes.len());
                buf.copy_from_slice(&bytes);
                Ok(Done::Buf(buf))
            }
            Op::Len { .. } => Ok(Done::Len(self.read(0, 1)?.1)),
            _ => unsupported(),
        }
    }

    fn queue(&self, _depth: usize) -> io::Result<Box<dyn IoQueue>> {
        unsupported()
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        unsupported()
    }
}
