//! Chunks whose copy in the page cache is damaged, and the disk's is not.

use super::*;

/// A segment of logs 7, 8 and 9, of which the page cache has nothing right: one chunk, several in a short read, and a long one.
fn rotten() -> (Disk, Arc<Segment>) {
    let records = |count, len| (0..count).map(|_| Step::Record { len, noise: true }).collect::<Vec<_>>();
    let model = model(&[(7, 5, records(1, 5000)), (8, 5, records(6, 16 << 10)), (9, 5, records(40, 16 << 10))], 1);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let segment = open(&disk, &meta).expect("intact");
    (disk, segment)
}

fn chunks(disk: &Disk, segment: &Segment, log: u64) -> Vec<IndexEntry> {
    disk.rotten.lock().expect("no panic").clear();
    let chunks = segment.chunks(log_id(log), Seq(0)).expect("intact");
    *disk.rotten.lock().expect("no panic") = (0..segment.meta().bytes / BLOCK as u64).collect();
    disk.take_reads();
    chunks
}

/// Opens the chunks of one read; gives how many they are.
fn run(segment: &Segment, chunks: &[IndexEntry]) -> Result<usize> {
    let (run, count) = segment.run(chunks, usize::MAX, usize::MAX)?;
    chunks[..count].iter().try_for_each(|entry| run.chunk(entry).map(drop))?;
    Ok(count)
}

#[test]
fn what_the_page_cache_alone_has_wrong_comes_from_the_disk() {
    let (disk, segment) = rotten();
    for log in [7, 8] {
        let chunks = chunks(&disk, &segment, log);
        let count = run(&segment, &chunks).expect("intact on the disk");
        assert_eq!((count, chunks.len() > 1), (chunks.len(), log == 8));
        assert_eq!(disk.take_reads().len(), 1 + count, "once through the page cache, then each past it");
    }
}

#[test]
fn a_long_read_goes_past_the_page_cache_at_once() {
    let (disk, segment) = rotten();
    let chunks = chunks(&disk, &segment, 9);
    assert!(run(&segment, &chunks).expect("intact on the disk") > 1);
    assert_eq!(disk.take_reads().len(), 1);
}

/// Otherwise the scrub would call a segment intact of which only memory has a good copy.
#[test]
fn a_check_reads_chunks_from_the_disk() {
    let (disk, segment) = rotten();
    let chunks = chunks(&disk, &segment, 7);
    segment.reading().chunk(&chunks[0]).expect("intact on the disk");
    assert_eq!(disk.take_reads().len(), 1);
}

#[test]
fn what_the_disk_has_wrong_is_damage() {
    let (disk, segment) = rotten();
    let chunks = chunks(&disk, &segment, 7);
    disk.flip(&file(), chunks[0].offset + 100, 1);
    let error = run(&segment, &chunks).expect_err("damaged on the disk");
    let seqs = chunks[0].first_seq.0..chunks[0].next_seq().0;
    assert_eq!((error.kind(), error.seq_range()), (ErrorKind::Damaged, Some(seqs)));
}
