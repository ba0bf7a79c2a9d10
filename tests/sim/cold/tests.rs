//! What a simulated cold store does, and what each misfortune does to a request.

use super::*;
use everlog::ErrorKind;

fn cold(seed: u64) -> SimCold {
    SimCold::new("cold", seed, &Trace::default())
}

fn put(cold: &SimCold, key: &str, bytes: &[u8]) -> Result<Put> {
    cold.put(key, &bytes)
}

fn get(cold: &SimCold, key: &str) -> Result<Option<Vec<u8>>> {
    Ok(cold.get(key, 0..PART_BYTES as u64)?.map(|part| part.bytes))
}

#[test]
fn a_sound_one_keeps_what_was_put_first() {
    let cold = cold(1);
    assert_eq!(put(&cold, "a/b", b"one").expect("reached"), Put::Created);
    assert_eq!(put(&cold.handle(2), "a/b", b"two").expect("reached"), Put::Exists);
    assert_eq!(get(&cold, "a/b").expect("reached"), Some(b"one".to_vec()));
    assert_eq!(cold.get("a/b", 1..2).expect("reached"), Some(Part { bytes: b"n".to_vec(), len: 3 }));
    assert_eq!(cold.get("a/b", 7..9).expect("reached"), Some(Part { bytes: Vec::new(), len: 3 }));
    assert_eq!(get(&cold, "a/c").expect("reached"), None);
    assert_eq!(cold.list("a/", "").expect("reached"), ["a/b"]);
    let copy = cold.copy();
    cold.wipe();
    assert!(!cold.holds("a/b") && copy.holds("a/b") && copy.url() == cold.url());
}

#[test]
fn a_late_put_lands_if_nothing_bears_its_key_by_then() {
    let cold = cold(2);
    cold.set_odds(Odds::default().with(Misfortune::Late, 1000));
    for key in ["a/1", "a/2"] {
        assert_eq!(put(&cold, key, b"late").expect_err("late").kind(), ErrorKind::Cold);
    }
    cold.set_odds(Odds::default());
    assert_eq!(get(&cold, "a/2").expect("reached").filter(|bytes| bytes != b"late"), None);
    put(&cold, "a/1", b"soon").expect("reached");
    for _ in 0..LATE_MAX {
        get(&cold, "a/3").expect("reached");
    }
    assert!(cold.holds("a/1") && cold.holds("a/2") && !cold.is_foul());
}

#[test]
fn each_misfortune_does_what_it_says() {
    use Misfortune::{AnswerLost, CutOff, Fails, Flipped, Hollow, Spoilt, Stale, Truncated, Unavailable};
    let only = |kind| {
        let cold = cold(3);
        put(&cold, "a/0", b"object").expect("reached");
        cold.set_odds(Odds::default().with(kind, 1000));
        cold
    };
    for kind in [Fails, Unavailable] {
        let cold = only(kind);
        assert!(put(&cold, "a/1", b"object").is_err() && get(&cold, "a/0").is_err() && cold.list("a/", "").is_err());
        assert!(!cold.holds("a/1") && cold.met(kind) == 3);
    }
    let lost = only(AnswerLost);
    assert!(put(&lost, "a/1", b"object").is_err() && lost.holds("a/1"));
    let hollow = only(Hollow);
    assert_eq!(put(&hollow, "a/1", b"object").expect("so it says"), Put::Created);
    assert!(!hollow.holds("a/1"));
    let spoilt = only(Spoilt);
    assert_eq!(put(&spoilt, "a/1", b"object").expect("so it says"), Put::Created);
    spoilt.set_odds(Odds::default());
    assert_ne!(get(&spoilt, "a/1").expect("reached"), Some(b"object".to_vec()));
    for kind in [Truncated, Flipped] {
        assert_ne!(get(&only(kind), "a/0").expect("reached"), Some(b"object".to_vec()));
    }
    assert!(only(Stale).list("a/", "").expect("reached").is_empty());
    let cut = cold(4);
    cut.cut_off(7, true);
    assert!(get(&cut.handle(7), "a/0").is_err() && get(&cut.handle(8), "a/0").is_ok());
    assert_eq!(cut.met(CutOff), 1);
    cut.heal();
    assert!(get(&cut.handle(7), "a/0").is_ok());
}

#[test]
fn a_strike_meets_the_one_request_of_its_number() {
    use Misfortune::{Flipped, Hollow, Truncated};
    let struck = |request, kind| {
        let cold = cold(3);
        cold.strike(Strike { request, kind, luck: 7 });
        put(&cold, "a/0", b"object").expect("so it says");
        let got = [get(&cold, "a/0"), get(&cold, "a/1")].map(|got| got.expect("so it says"));
        let listed = cold.list("a/", "").expect("so it says");
        assert_eq!(cold.asked(), [Method::Put, Method::Get, Method::Get, Method::List]);
        assert_eq!(cold.met(kind), 1, "{request}");
        (got, listed)
    };
    let well = ([Some(b"object".to_vec()), None], vec!["a/0".to_owned()]);
    for kind in [Hollow, Truncated, Flipped] {
        for request in [1, 2, 4] {
            assert_ne!(struck(request, kind), well, "{kind:?}");
        }
    }
    assert!(struck(3, Hollow).0[1].as_ref().is_some_and(|text| text.starts_with(b"<?xml")));
}

#[test]
fn the_newest_claim_that_can_be_read_says_whose_it_is() {
    let cold = cold(5);
    assert_eq!(cold.newest_owner(), None);
    put(&cold.handle(1), "epoch/1", b"claim").expect("reached");
    put(&cold.handle(2), "epoch/2", b"claim").expect("reached");
    cold.set_odds(Odds::default().with(Misfortune::Spoilt, 1000));
    put(&cold.handle(3), "epoch/3", b"claim").expect("so it says");
    assert_eq!(cold.newest_owner(), Some(2));
    assert_eq!((cold.stored(), cold.stored_by(3)), (3, 1));
}
