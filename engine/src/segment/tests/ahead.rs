//! What a cursor reads, and when.

use super::*;

/// A segment of one log with so many records of `len` bytes that do not compress, and its data's end.
fn long(records: usize, len: usize) -> (Disk, Arc<Segment>, u64) {
    let model = model(&[(2, 3, vec![Step::Record { len, noise: true }; records])], 2);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let segment = open(&disk, &meta).expect("intact");
    let data_end = segment.stripes[0].index().first * BLOCK as u64;
    disk.take_reads();
    (disk, segment, data_end)
}

#[test]
fn a_cursor_begins_each_read_before_it_needs_it_and_reads_everything_once() {
    let (disk, segment, data_end) = long(100, 40_000);
    assert_eq!(segment.stripes.len(), 1);
    let mut cursor = Cursor::new(Arc::clone(&segment)).expect("intact");
    let (mut reads, mut read) = (disk.take_reads(), cursor.take_read());
    assert_eq!(reads.len(), 2, "the index, and the first piece");
    while cursor.log().is_some() {
        let (entry, _) = cursor.next(|_| Ok(())).expect("intact");
        reads.extend(disk.take_reads());
        read += cursor.take_read();
        let reached = |(at, len): &(u64, usize)| at + *len as u64;
        let reached = reads[1..].iter().map(reached).max().expect("there was one");
        let begun = reached - (entry.offset + u64::from(entry.len));
        assert!(reached == data_end || begun >= 128 << 10, "{begun} bytes are begun behind the chunk");
    }
    let bytes: usize = reads.iter().map(|(_, len)| len).sum();
    assert_eq!(read, bytes as u64, "what was begun was needed");
    // Pieces begin at the block in which a chunk begins.
    let once = segment.footer.places.stripes.end() * BLOCK as u64;
    assert!((read as i64 - once as i64).unsigned_abs() < reads.len() as u64 * BLOCK as u64, "{read} bytes of {once}");
}

#[test]
fn what_cannot_be_read_ahead_is_told_of_when_it_is_needed() {
    let (disk, segment, data_end) = long(100, 40_000);
    let bad = data_end / 2 / BLOCK as u64;
    disk.bad.lock().expect("no panic").push(bad);
    let mut cursor = Cursor::new(segment).expect("the index is intact");
    let mut given = 0;
    let error = loop {
        assert!(cursor.log().is_some(), "the error is lost");
        match cursor.next(|_| Ok(())) {
            Ok((entry, _)) => given = entry.offset + u64::from(entry.len),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(given <= bad * BLOCK as u64 && given > 256 << 10, "all pieces before are given: {given}");
    assert!(cursor.next(|_| Ok(())).is_err(), "and it stays so");
    disk.bad.lock().expect("no panic").clear();
    cursor.next(|_| Ok(())).expect("it can be read again");
}

#[test]
fn a_cursor_holds_no_long_chunk_beside_another_and_begins_nothing_while_it_is_paused() {
    let (disk, segment, _) = long(4, 400_000);
    let mut cursor = Cursor::new(segment).expect("intact");
    for chunk in 0..4 {
        assert_eq!(disk.take_reads().len(), usize::from(chunk == 0), "the index alone is read ahead");
        cursor.next(|_| Ok(())).expect("intact");
        assert_eq!(disk.take_reads().len(), 1, "chunk {chunk}");
    }
    let (disk, segment, _) = long(100, 40_000);
    let mut cursor = Cursor::new(segment).expect("intact");
    let bytes = |cursor: &mut Cursor| -> u64 {
        while cursor.log().is_some() {
            cursor.next(|_| Ok(())).expect("intact");
        }
        cursor.take_read()
    };
    disk.take_reads();
    cursor.pause();
    cursor.next(|_| Ok(())).expect("intact");
    assert_eq!(disk.take_reads().len(), 2, "what was begun is read again, and then it goes on as before");
    let read = bytes(&mut cursor);
    let (_, segment, _) = long(100, 40_000);
    assert_eq!(read, bytes(&mut Cursor::new(segment).expect("intact")), "once each");
}
