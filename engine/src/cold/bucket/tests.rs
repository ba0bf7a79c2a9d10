//! A bucket over the client's own store in memory, and what is told of failures.

use super::*;
use crate::cold::keys;
use crate::format::manifest::SegmentMeta;
use object_store::memory::InMemory;

fn bucket(prefix: &str) -> Bucket {
    let place = Place { scheme: "mem".to_owned(), name: "bucket".to_owned(), prefix: prefix.to_owned() };
    Bucket::over(&place, Ok(InMemory::new())).expect("the system has a thread")
}

#[test]
fn an_object_is_put_once_and_read_by_ranges() {
    for prefix in ["", "a/b/"] {
        let cold = bucket(prefix);
        assert_eq!(cold.put("tail/1", &&b"12345"[..]).expect("reached"), Put::Created);
        assert_eq!(cold.put("tail/1", &&b"other"[..]).expect("reached"), Put::Exists);
        for (range, expected) in [(0..2, "12"), (3..99, "45"), (5..6, ""), (70..80, ""), (2..2, "")] {
            let part = cold.get("tail/1", range.clone()).expect("reached").expect("it is there");
            assert_eq!((part.len, part.bytes), (5, expected.as_bytes().to_vec()), "{range:?}");
        }
        assert_eq!(cold.put("empty", &&b""[..]).expect("reached"), Put::Created);
        assert_eq!(cold.get("empty", 0..9).expect("reached"), Some(Part { bytes: Vec::new(), len: 0 }));
        assert_eq!(cold.get("tail/2", 0..1).expect("reached"), None);
        assert_eq!(cold.get("tail/2", 1..1).expect("reached"), None);
    }
}

#[test]
fn a_long_segment_goes_in_parts_and_comes_in_parts() {
    assert!(keys::segment(&SegmentMeta::default(), 0).starts_with(SEGMENTS));
    let (cold, bytes) = (bucket("p/"), vec![7_u8; 2 * PART_BYTES + 5]);
    assert_eq!(cold.put("segment/1", &&bytes[..]).expect("reached"), Put::Created);
    assert_eq!(cold.put("segment/1", &&bytes[..]).expect("reached"), Put::Exists);
    let part = cold.get("segment/1", 0..u64::MAX).expect("reached").expect("it is there");
    assert_eq!((part.len, part.bytes.len()), (bytes.len() as u64, PART_BYTES), "no more than a part at once");
    let part = cold.get("segment/1", part.len - 6..part.len).expect("reached").expect("it is there");
    assert_eq!(part.bytes, [7; 6]);
}

#[test]
fn a_source_that_fails_leaves_nothing() {
    struct Failing;
    impl Source for Failing {
        fn len(&self) -> u64 {
            PART_BYTES as u64 + 1
        }

        fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
            if offset == 0 { Ok(vec![0; len]) } else { Err(Error::new(ErrorKind::Io, "the disk fails")) }
        }
    }
    let cold = bucket("");
    assert_eq!(cold.put("segment/1", &Failing).expect_err("its source fails").kind(), ErrorKind::Io);
    assert_eq!(cold.get("segment/1", 0..1).expect("reached"), None);
}

#[test]
fn keys_are_listed_in_order_without_the_prefix_of_the_bucket() {
    let cold = bucket("a/b/");
    for n in (0..LISTED_MAX + 3).rev() {
        cold.put(&format!("tail/{n:016x}"), &&b"x"[..]).expect("reached");
    }
    cold.put("tailor/1", &&b"x"[..]).expect("reached");
    let first = cold.list("tail/", "").expect("reached");
    assert_eq!((first.len(), first[0].as_str()), (LISTED_MAX, "tail/0000000000000000"));
    let rest = cold.list("tail/", &first[LISTED_MAX - 1]).expect("reached");
    assert_eq!(rest, [1000, 1001, 1002].map(|n| format!("tail/{n:016x}")));
    assert!(cold.list("tail/", &rest[2]).expect("reached").is_empty());
}

#[test]
fn it_can_be_used_and_dropped_on_a_thread_of_another_runtime() {
    let outer = Builder::new_current_thread().build().expect("a runtime");
    outer.block_on(async {
        let cold = bucket("");
        assert_eq!(cold.put("epoch/1", &&b"x"[..]).expect("reached"), Put::Created);
        drop(cold);
    });
}

#[test]
fn of_an_answer_the_status_and_the_code_alone_are_told() {
    let not_found = |text: &str| Failure::NotFound { path: "p".to_owned(), source: text.to_owned().into() };
    let answer = "Server returned non-2xx status code: 404 Not Found: <Error><Code>NoSuchBucket</Code>\
        <StringToSign>secret</StringToSign></Error>";
    assert_eq!(told(&not_found(answer)), "it answered 404 NoSuchBucket");
    assert!(!is_missing(&not_found(answer)));
    let answer = answer.replace("NoSuchBucket", "NoSuchKey");
    assert!(is_missing(&not_found(&answer)) && is_missing(&not_found("Server returned non-2xx status code: 404 ")));
    assert_eq!(told(&not_found("failed to parse \"secret\" as boolean")), "failed to parse … as boolean");
    assert_eq!(told(&not_found("Server returned error response: secret")), "it answered an error");
}

#[cfg(feature = "s3")]
#[test]
fn keys_come_from_the_profile_that_is_named() {
    let text = "[default]\naws_access_key_id = A\n aws_secret_access_key=B=\n\n[ other ]\naws_access_key_id=C\n\
        aws_secret_access_key = D\naws_session_token = E\n[none]\naws_access_key_id = F\n";
    let keys = |profile| profile::of(text, profile).map(|keys| (keys.id, keys.secret, keys.token));
    let own = str::to_owned;
    assert_eq!(keys("default"), Some((own("A"), own("B="), None)));
    assert_eq!(keys("other"), Some((own("C"), own("D"), Some(own("E")))));
    assert_eq!((keys("none"), keys("absent")), (None, None));
}
