//! raft-engine 0.4.2, each log a raft group: as it is shipped, and tuned for this work.
//!
//! Its protobuf entry is written by hand, with the two fields that an entry of a log needs: an index and data. That
//! spares the build protoc, and the engine the rest of raft's own `Entry`. The data borrow the pool, so that there is
//! no copy before raft-engine's own encoding.
//! Invariant: a group's indexes go up by one from 1, as raft-engine demands.

use crate::contender::{Contender, Outcome, Payload};
use ::raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use protobuf::reflect::MessageDescriptor;
use protobuf::wire_format::WireType;
use protobuf::{Clear, CodedInputStream, CodedOutputStream, Message, ProtobufResult, UnknownFields, rt};
use std::any::Any;
use std::borrow::Cow;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

/// The version measured; Cargo.toml demands exactly it.
pub const VERSION: &str = "0.4.2";

/// What its users are told about the settings as shipped.
pub const SETTINGS: &str = "`Config { dir, ..Default::default() }` (128 MB files, recycled once purged; batches beyond 8 KB \
     go through LZ4); `write(batch, true)`, that is fdatasync before the acknowledgement; `purge_expired_files` once a \
     second from a thread beside the appends, which below its threshold of 10 GB has nothing to purge; no log is \
     compacted, since every record is to be kept; system allocator";

/// And tuned.
pub const TUNED_SETTINGS: &str = "as above, with `prefill_for_recycle` and a `prefill_limit` of all that the run will write, \
     so that from its second file of 128 MB on it overwrites what was written before the clock starts (the first is a new \
     one), and `batch_compression_threshold` 0: nothing goes through LZ4";

/// raft-engine and its threads; `TUNED` says how it is set.
pub struct Raft<const TUNED: bool> {
    engine: Engine,
}

/// Buffers that are used again.
pub struct Session {
    batch: LogBatch,
    entries: Vec<Entry>,
}

impl<const TUNED: bool> Contender for Raft<TUNED> {
    type Session = Session;
    type Pending = ();

    fn open(dir: &Path, _logs: u32, bytes: u64) -> Outcome<Self> {
        let dir = dir.to_str().ok_or("raft-engine wants a directory whose name is UTF-8")?.to_owned();
        let mut config = Config { dir, ..Default::default() };
        if TUNED {
            config.prefill_for_recycle = true;
            config.prefill_limit = Some(ReadableSize(bytes + bytes / 8));
            config.batch_compression_threshold = ReadableSize(0);
        }
        Ok(Self { engine: Engine::open(config).map_err(told)? })
    }

    fn session(&self) -> Session {
        Session { batch: LogBatch::default(), entries: Vec::new() }
    }

    fn begin(&self, session: &mut Session, log: u32, held: u64, payloads: &[Payload], _waits: bool) -> Outcome<()> {
        session.write(&self.engine, log, held, payloads, true)
    }

    fn wait(&self, (): ()) -> Outcome<()> {
        Ok(())
    }

    fn load(&self, session: &mut Session, log: u32, held: u64, payloads: &[Payload]) -> Outcome<()> {
        session.write(&self.engine, log, held, payloads, false)
    }

    fn sync(&self, session: &mut Session) -> Outcome<()> {
        // Its own `sync` writes an empty batch, which is done before it is synced.
        session.batch.put(NO_LOG, b"sync".to_vec(), Vec::new()).map_err(told)?;
        self.engine.write(&mut session.batch, true).map(drop).map_err(told)
    }

    fn drain(&self) -> Outcome<Instant> {
        Ok(Instant::now())
    }

    fn read(&self, log: u32, records: u64) -> Outcome<(u64, u64)> {
        let mut entries = Vec::with_capacity(records as usize);
        self.engine.fetch_entries_to::<Entries>(group(log), 1, records + 1, None, &mut entries).map_err(told)?;
        Ok((entries.len() as u64, entries.iter().map(|entry| entry.data.len() as u64).sum()))
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        Ok(self.engine.last_index(group(log)).unwrap_or(0))
    }

    fn tend(&self) -> Outcome<()> {
        // It answers which groups should be compacted, that is have records dropped; none may be.
        self.engine.purge_expired_files().map(drop).map_err(told)
    }

    fn close(self) -> Outcome<()> {
        drop(self.engine);
        Ok(())
    }
}

impl Session {
    fn write(&mut self, engine: &Engine, log: u32, held: u64, payloads: &[Payload], sync: bool) -> Outcome<()> {
        self.entries.clear();
        self.entries.extend((held + 1..).zip(payloads).map(|(index, data)| Entry::new_with(index, data)));
        self.batch.add_entries::<Entries>(group(log), &self.entries).map_err(told)?;
        engine.write(&mut self.batch, sync).map(drop).map_err(told)
    }
}

/// The group that is no log's.
const NO_LOG: u64 = 0;

/// Group 0 is left alone: raft's own ids begin at 1.
fn group(log: u32) -> u64 {
    u64::from(log) + 1
}

fn told(error: ::raft_engine::Error) -> String {
    format!("raft-engine: {error}")
}

/// Tells raft-engine where an entry's index is.
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// `message Entry { uint64 index = 1; bytes data = 2; }`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    index: u64,
    data: Cow<'static, [u8]>,
    unknown: UnknownFields,
}

impl Entry {
    const INDEX: u32 = 1;
    const DATA: u32 = 2;

    fn new_with(index: u64, data: Payload) -> Self {
        Self { index, data: Cow::Borrowed(data), unknown: UnknownFields::default() }
    }
}

impl Clear for Entry {
    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Entry {
    fn descriptor(&self) -> &'static MessageDescriptor {
        unreachable!("a descriptor serves reflection and text output, which raft-engine has no use for")
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn merge_from(&mut self, input: &mut CodedInputStream<'_>) -> ProtobufResult<()> {
        while !input.eof()? {
            match input.read_tag_unpack()? {
                (Self::INDEX, WireType::WireTypeVarint) => self.index = input.read_uint64()?,
                (Self::DATA, WireType::WireTypeLengthDelimited) => self.data = Cow::Owned(input.read_bytes()?),
                (_, other) => input.skip_field(other)?,
            }
        }
        Ok(())
    }

    fn write_to_with_cached_sizes(&self, output: &mut CodedOutputStream<'_>) -> ProtobufResult<()> {
        output.write_uint64(Self::INDEX, self.index)?;
        output.write_bytes(Self::DATA, &self.data)
    }

    fn compute_size(&self) -> u32 {
        rt::value_size(Self::INDEX, self.index, WireType::WireTypeVarint) + rt::bytes_size(Self::DATA, &self.data)
    }

    fn get_cached_size(&self) -> u32 {
        self.compute_size()
    }

    fn get_unknown_fields(&self) -> &UnknownFields {
        &self.unknown
    }

    fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
        &mut self.unknown
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn new() -> Self {
        Self::default()
    }

    fn default_instance() -> &'static Self {
        static EMPTY: LazyLock<Entry> = LazyLock::new(Entry::default);
        &EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_from_its_bytes_and_its_size_is_right() {
        for (index, data) in [(1, &b""[..]), (300, &[7; 300][..]), (u64::MAX, &b"x"[..])] {
            let entry = Entry::new_with(index, data);
            let bytes = entry.write_to_bytes().expect("writing into memory");
            assert_eq!(bytes.len(), entry.compute_size() as usize);
            assert_eq!(Entry::parse_from_bytes(&bytes).expect("what was just written"), entry);
        }
    }
}
