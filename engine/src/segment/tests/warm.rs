//! What is looked up in a segment of which memory holds the filters.

use super::*;

fn many() -> (Disk, Model, SegmentMeta) {
    let logs: Vec<_> = (0..3000).map(|n| (n, 5, vec![Step::Record { len: 10, noise: true }])).collect();
    let (model, disk) = (model(&logs, 1), Disk::default());
    let meta = write(&disk, &model);
    (disk, model, meta)
}

fn warm(disk: &Disk, meta: &SegmentMeta) -> Arc<Segment> {
    let mut segment = open(disk, meta).expect("footer and root are intact");
    Arc::get_mut(&mut segment).expect("nobody else's").warm();
    segment
}

#[test]
fn memory_says_no_without_a_read_and_never_of_a_log_that_is_there() {
    let (disk, model, meta) = many();
    let segment = warm(&disk, &meta);
    assert_eq!(segment.stripes.len(), 2);
    disk.take_reads();
    let passed = (10_000..20_000).filter(|n| {
        let log = log_id(*n);
        let ahead = segment.look_ahead(log).and_then(|place| segment.look_closer(place, log));
        assert_eq!(segment.head(log).expect("intact"), None);
        ahead.is_some()
    });
    let (passed, reads) = (passed.count(), disk.take_reads().len());
    assert!(passed < 150 && reads <= 2 * passed, "{passed} of 10000 were let through, with {reads} reads");
    for (id, log) in &model {
        assert!(segment.look_ahead(*id).and_then(|place| segment.look_closer(place, *id)).is_some(), "{id}");
        check_log(&segment, *id, log).expect("intact");
    }
}

#[test]
fn memory_holds_nothing_of_filters_that_cannot_be_proved_intact() {
    let (disk, model, meta) = many();
    let at = open(&disk, &meta).expect("intact").stripes[1].lookup * BLOCK as u64 + 100;
    disk.flip(&file(), at, 1);
    let segment = warm(&disk, &meta);
    assert!(segment.members.is_none());
    for (id, log) in &model {
        check_log(&segment, *id, log).expect("no lookup block is needed");
    }
}
