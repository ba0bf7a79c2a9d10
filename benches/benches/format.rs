//! The pure functions of the format that stand in the way of every append: an entry's encoding, a frame's seal, the
//! checksum under both.
//!
//! Nothing here touches a disk. Throughput is given in bytes of payload (entries) or of the whole (frames, checksum).
//! Invariant: what is measured as decoding was checked, before the clock started, to give back what was encoded.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::format::bytes::Reader;
use everlog::format::entry::{Entry, Kind};
use everlog::format::frame::{FrameHeader, HEADER_LEN, salted_crc};
use everlog::types::{FrameNo, JournalId, LogId, Lsn, Seq, StoreId};
use everlog_benches::Random;
use std::hint::black_box;

const SALT: u32 = 0x5eed_5a17;
const LOG: LogId = LogId([7; 16]);

fn entries(c: &mut Criterion) {
    for len in [256, 4 << 10] {
        let payload = Random::new(1).bytes(len);
        let entry = Entry {
            kind: Kind::Record,
            seq: Seq(1000),
            cipher: 0,
            key_id: 0,
            producer: None,
            tag: None,
            payload: &payload,
        };
        let mut encoded = Vec::new();
        let body_at = entry.encode(LOG, &mut encoded);
        assert_eq!(Entry::decode(LOG, &encoded[body_at..]), Ok(entry), "an entry comes back");
        assert_eq!(Reader::new(&encoded).left(), entry.encoded_len());

        let mut group = c.benchmark_group("entry");
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("encode/{len}"), |b| {
            let mut out: Vec<u8> = Vec::with_capacity(entry.encoded_len());
            b.iter(|| {
                out.clear();
                black_box(&entry).encode(LOG, &mut out)
            });
        });
        group.bench_function(format!("decode/{len}"), |b| {
            b.iter(|| Entry::decode(LOG, black_box(&encoded[body_at..])).map(|e| e.seq));
        });
        group.finish();
    }
}

/// A frame of `len` bytes, full of payload.
fn frame(len: usize) -> (FrameHeader, Vec<u8>) {
    let mut bytes = vec![0; HEADER_LEN];
    bytes.extend(Random::new(2).bytes(len - HEADER_LEN));
    let header = FrameHeader {
        depth: 2,
        store: StoreId([1; 16]),
        journal: JournalId(7),
        position: 8192,
        frame: FrameNo(3),
        first_lsn: Lsn(10),
        entries: 1,
        batches: 1,
        payload_len: u32::try_from(len - HEADER_LEN).expect("a frame's length has 32 bits"),
        frame_len: u32::try_from(len).expect("a frame's length has 32 bits"),
        ..FrameHeader::default()
    };
    (header, bytes)
}

fn frames(c: &mut Criterion) {
    for len in [4 << 10, 64 << 10, 1 << 20] {
        let (header, mut bytes) = frame(len);
        header.seal(&mut bytes, SALT);
        assert!(header.payload_intact(&bytes, SALT), "a sealed frame is intact");

        let mut group = c.benchmark_group("frame");
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("seal/{len}"), |b| b.iter(|| header.seal(black_box(&mut bytes), SALT)));
        group.bench_function(format!("decode_and_check/{len}"), |b| {
            b.iter(|| {
                let bytes = black_box(&bytes[..]);
                let read = FrameHeader::decode(bytes, header.store, header.journal, SALT, header.position);
                read.is_ok_and(|read| read.payload_intact(bytes, SALT))
            });
        });
        group.finish();
    }
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("salted_crc");
    for len in [256, 4 << 10, 1 << 20] {
        let bytes = Random::new(3).bytes(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| b.iter(|| salted_crc(SALT, black_box(&bytes))));
    }
    group.finish();
}

criterion_group!(benches, entries, frames, checksum);
criterion_main!(benches);
