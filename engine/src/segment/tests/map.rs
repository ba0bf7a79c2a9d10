//! What a segment does with a map of its file, and what may not touch it.

use super::*;

#[test]
fn damage_in_the_map_alone_is_healed_by_the_disk() {
    let (mut disk, model, meta) = small();
    disk.maps = true;
    let good = disk.content(&file());
    disk.put(&file(), &vec![0xff; good.len()]);
    // The map is a copy: made of nonsense for what is opened while the disk has it.
    let file_handle = (&disk as &dyn Io).open(&file(), OpenMode::ReadDirect).expect("there");
    let map = disk.map(&file_handle).expect("this disk maps");
    assert_eq!(map.bytes().len(), good.len());
    disk.put(&file(), &good);
    let mut segment = open(&disk, &meta).expect("intact");
    Arc::get_mut(&mut segment).expect("nobody else's").view.set_map(map);
    for _ in 0..2 {
        for (id, log) in &model {
            check_log(&segment, *id, log).expect("the disk is intact");
        }
    }
}

#[test]
fn no_flipped_byte_in_the_map_of_a_lookup_block_hides_a_log() {
    let (mut disk, model, meta) = small();
    disk.maps = true;
    let good = disk.content(&file());
    let mut segment = open(&disk, &meta).expect("intact");
    let unshared = Arc::get_mut(&mut segment).expect("nobody else's");
    unshared.warm();
    unshared.members = None;
    let begin = segment.stripes[0].lookup as usize * BLOCK;
    for at in begin..begin + BLOCK {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        disk.put(&file(), &bad);
        let file_handle = (&disk as &dyn Io).open(&file(), OpenMode::ReadDirect).expect("there");
        let map = disk.map(&file_handle).expect("this disk maps");
        disk.put(&file(), &good);
        Arc::get_mut(&mut segment).expect("nobody else's").view.set_map(map);
        for id in model.keys() {
            assert!(segment.head(*id).expect("the disk is intact").is_some(), "byte {at}: {id} is hidden");
        }
    }
}

/// A map whose pages lie on sectors that cannot be read: a touch ends the process.
struct Deadly;

impl crate::io::Map for Deadly {
    fn bytes(&self) -> &[u8] {
        panic!("the map was touched");
    }
}

#[test]
fn a_check_never_touches_the_map() {
    let (disk, _, meta) = small();
    let mut segment = open(&disk, &meta).expect("intact");
    Arc::get_mut(&mut segment).expect("nobody else's").view.set_map(Arc::new(Deadly));
    for _ in 0..2 {
        assert_eq!(segment.verify(&mut |_| {}), []);
    }
}
