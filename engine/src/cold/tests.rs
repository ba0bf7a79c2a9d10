//! What each cold store does alike, and how numbered objects are found.

use super::testing::MemCold;
use super::{ColdStore, DirStore, PART_BYTES, Part, Put, Source, fetch, search};
use crate::error::{ErrorKind, Result};
use crate::sync::plain::Mutex;
use std::ops::Range;

fn each(test: impl Fn(&dyn ColdStore)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    test(&DirStore::new(dir.path().join("not").join("there yet")));
    test(&MemCold::new("cold"));
}

#[test]
fn an_object_is_put_once_and_comes_back_in_parts() {
    each(|cold| {
        let bytes: Vec<u8> = (0..PART_BYTES + 10_000).map(|at| (at / 3) as u8).collect();
        let get = |range: std::ops::Range<u64>| cold.get("a/b", range).expect("reached");
        assert_eq!(get(0..10), None);
        assert_eq!(cold.put("a/b", &&bytes[..]).expect("reached"), Put::Created);
        assert_eq!(cold.put("a/b", &&b"other"[..]).expect("reached"), Put::Exists);
        let len = bytes.len() as u64;
        for range in [0..1, 0..len, 5000..5001, 4095..8193, len - 1..len + 5, len..len + 1, len + 9..len + 10] {
            let part = get(range.clone()).expect("it is there");
            let start = range.start.min(len);
            let end = range.end.clamp(start, len).min(start + PART_BYTES as u64);
            let expected = &bytes[start as usize..end as usize];
            assert!(part.len == len && part.bytes == expected, "{range:?} of {}", cold.url());
        }
        assert_eq!(fetch::whole(cold, "a/b", len).expect("reached"), Some(bytes.clone()));
        assert_eq!(fetch::whole(cold, "a/b", len - 1).expect_err("too long").kind(), ErrorKind::Damaged);
        assert_eq!(fetch::whole(cold, "a/c", len).expect("reached"), None);
    });
}

#[test]
fn an_empty_object_is_an_object() {
    each(|cold| {
        assert_eq!(cold.put("empty", &&b""[..]).expect("reached"), Put::Created);
        assert_eq!(fetch::whole(cold, "empty", 0).expect("reached"), Some(Vec::new()));
        let digest = *blake3::hash(b"").as_bytes();
        assert!(fetch::proved(cold, "empty", 0, &digest, &mut |_| Ok(())).expect("as it was put"));
    });
}

#[test]
fn what_is_read_back_is_proved_by_length_and_digest() {
    each(|cold| {
        let bytes = vec![7; 2 * PART_BYTES + 5];
        cold.put("segment/1", &&bytes[..]).expect("reached");
        let (len, digest) = (bytes.len() as u64, *blake3::hash(&bytes).as_bytes());
        let mut read = Vec::new();
        let proved = |len, digest: &[u8; 32], read: &mut Vec<u8>| {
            fetch::proved(cold, "segment/1", len, digest, &mut |part| {
                read.extend(part);
                Ok(())
            })
        };
        assert!(proved(len, &digest, &mut read).expect("as it was put"));
        assert_eq!(read, bytes);
        for (len, digest) in [(len - 1, digest), (len + 1, digest), (len, [0; 32])] {
            assert_eq!(proved(len, &digest, &mut read).expect_err("another").kind(), ErrorKind::Damaged);
        }
        assert!(!fetch::proved(cold, "segment/2", len, &digest, &mut |_| Ok(())).expect("reached"));
    });
}

#[test]
fn a_listing_goes_on_where_the_one_before_ended() {
    each(|cold| {
        let keys: Vec<String> = (0..7).map(|n| format!("tail/{n}")).collect();
        for key in &keys {
            cold.put(key, &&b"x"[..]).expect("reached");
        }
        cold.put("tailor/1", &&b"x"[..]).expect("reached");
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let listed = cold.list("tail/", &after).expect("reached");
            let Some(last) = listed.last() else { break };
            after.clone_from(last);
            all.extend(listed);
        }
        assert_eq!(all, keys);
        assert!(cold.list("nothing/", "").expect("reached").is_empty());
    });
}

#[test]
fn the_end_of_what_is_numbered_is_found_from_anywhere_below_it() {
    let key = |n: u64| format!("n/{n:016x}");
    for count in (0..20).chain([100, 1000]) {
        let cold = MemCold::new("cold");
        for n in 0..count {
            cold.put(&key(n), &&b"x"[..]).expect("reached");
        }
        for from in [0, count / 2, count.saturating_sub(1), count] {
            assert_eq!(search::end(&cold, from, &key).expect("reached"), count, "from {from}");
        }
        assert_eq!(search::begin(&cold, "n/", 0, &key).expect("reached"), count.saturating_sub(1));
    }
}

#[test]
fn a_listing_that_is_old_or_wrong_only_says_where_to_begin() {
    let key = |n: u64| format!("n/{n:016x}");
    let cold = MemCold::new("cold");
    (1..9).for_each(|n| drop(cold.put(&key(n), &&b"x"[..])));
    // A name that says more than there is.
    cold.put("n/zzz", &&b"x"[..]).expect("reached");
    let begin = search::begin(&cold, "n/", 1, &key).expect("reached");
    assert_eq!(search::end(&cold, begin, &key).expect("reached"), 9);
    cold.objects.lock().remove(&key(8));
    assert_eq!(search::end(&cold, 1, &key).expect("reached"), 8);
}

/// One of whose answers to a get is the text of an error.
struct Lies {
    cold: MemCold,
    /// How many gets are answered before.
    after: Mutex<u64>,
}

impl ColdStore for Lies {
    fn url(&self) -> &str {
        self.cold.url()
    }

    fn put(&self, key: &str, source: &dyn Source) -> Result<Put> {
        self.cold.put(key, source)
    }

    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        let mut after = self.after.lock();
        *after = after.wrapping_sub(1);
        if *after == u64::MAX { Ok(Some(Part { bytes: b"<".to_vec(), len: 60 })) } else { self.cold.get(key, range) }
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>> {
        self.cold.list(prefix, after)
    }
}

#[test]
fn an_error_that_comes_as_an_object_leaves_no_gap_in_front_of_the_end() {
    let key = |n: u64| format!("n/{n:016x}");
    for count in [0, 1, 2, 5, 9] {
        for after in 0..12 {
            let lies = Lies { cold: MemCold::new("cold"), after: Mutex::new(after) };
            (0..count).for_each(|n| drop(lies.put(&key(n), &&b"x"[..])));
            match search::end(&lies, 0, &key) {
                Ok(end) => assert_eq!(end, count, "after {after} gets"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cold, "after {after} gets"),
            }
        }
    }
}

#[test]
fn a_folder_on_the_datas_device_depends_on_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cold = DirStore::new(dir.path().join("cold"));
    assert!(cold.depends_on(dir.path()).expect("both can be looked at"));
    if std::path::Path::new("/dev/shm").is_dir() {
        let elsewhere = DirStore::new("/dev/shm/everlog-cold".into());
        assert!(!elsewhere.depends_on(dir.path()).expect("both can be looked at"));
    }
}

#[test]
fn a_put_that_fails_leaves_no_object() {
    struct Failing;
    impl Source for Failing {
        fn len(&self) -> u64 {
            PART_BYTES as u64 + 1
        }
        fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
            if offset == 0 { Ok(vec![0; len]) } else { Err(crate::Error::new(ErrorKind::Io, "the disk fails")) }
        }
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cold = DirStore::new(dir.path().to_owned());
    assert_eq!(cold.put("a/b", &Failing).expect_err("its source fails").kind(), ErrorKind::Io);
    assert_eq!(cold.get("a/b", 0..1).expect("reached"), None);
    let left = std::fs::read_dir(dir.path().join("incoming")).expect("it was made").count();
    assert_eq!(left, 0, "what was written in vain is removed");
}
