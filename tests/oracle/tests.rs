//! The oracle sees what it is for: histories that are wrong in one way each, and right ones that look odd.

use super::*;
use std::cell::Cell;
use std::rc::Rc;

fn part(log: &str, records: &[&str]) -> Part {
    let records = records.iter().map(|r| Rc::from(r.as_bytes())).collect();
    Part { log: log.to_owned(), records, ..Part::default() }
}

fn creation(log: &str, records: &[&str]) -> Part {
    Part { create: Some(Creation::New(b"about".to_vec())), ..part(log, records) }
}

fn ok(answers: &[(u64, u64, u64)]) -> Result<Vec<Answer>, ErrorKind> {
    Ok(answers.iter().map(|(first, next, lsn)| answer(*first, *next, *lsn, false)).collect())
}

fn answer(first: u64, next: u64, lsn: u64, duplicate: bool) -> Answer {
    Answer { first, next, lsn: Rc::new(Cell::new(lsn)), duplicate, first_ticket: None, last_record: None }
}

fn read(seq: u64, lsn: u64, payload: &str) -> Read {
    Read { seq, lsn, time: 100 + lsn, payload: payload.as_bytes().to_vec() }
}

fn live(first: u64, records: Vec<Read>) -> Shown {
    let next = first + records.len() as u64;
    Shown {
        phase: Phase::Live,
        first,
        next,
        closed: false,
        metadata: b"about".to_vec(),
        expires: false,
        records: Some(records),
    }
}

fn shown(logs: &[(&str, Shown)]) -> BTreeMap<String, Shown> {
    logs.iter().map(|(name, shown)| ((*name).to_owned(), shown.clone())).collect()
}

/// Log a holds "0", "1" (acknowledged); a batch of "2" to a and "0" to b is open.
fn history() -> Oracle {
    let mut oracle = Oracle::default();
    let one = oracle.submit(&[creation("a", &["0", "1"])]);
    oracle.answered(one, &ok(&[(0, 2, 3)])).expect("right");
    oracle.submit(&[part("a", &["2"]), creation("b", &["0"])]);
    oracle
}

fn a(payloads: &[&str]) -> Shown {
    live(0, payloads.iter().enumerate().map(|(i, p)| read(i as u64, i as u64 + 2, p)).collect())
}

fn complains(oracle: &mut Oracle, logs: &[(&str, Shown)], about: &str) {
    let violation = oracle.recovered(&shown(logs)).expect_err(about);
    assert!(violation.0.contains(about), "{violation} does not speak of {about:?}");
}

#[test]
fn an_open_batch_is_there_or_not() {
    let mut oracle = history();
    let fates = oracle.recovered(&shown(&[("a", a(&["0", "1"]))])).expect("it was lost");
    assert_eq!(fates, Fates { lost: vec![Ticket(2)], ..Fates::default() });
    let mut oracle = history();
    let both = [("a", a(&["0", "1", "2"])), ("b", live(0, vec![read(0, 6, "0")]))];
    let fates = oracle.recovered(&shown(&both)).expect("it was kept");
    assert_eq!(fates, Fates { settled: vec![Ticket(2)], ..Fates::default() });
    // What a recovery has shown stays.
    complains(&mut oracle, &[("a", a(&["0", "1"]))], "expected (0, 3, false)");
}

#[test]
fn it_sees_what_was_lost_doubled_reordered_halved_or_made_up() {
    complains(&mut history(), &[("a", a(&["0"]))], "expected (0, 2, false)");
    complains(&mut history(), &[], "it is Absent");
    complains(&mut history(), &[("a", a(&["0", "1", "1"]))], "record 2");
    complains(&mut history(), &[("a", a(&["1", "0"]))], "record 0");
    complains(&mut history(), &[("a", a(&["0", "1", "2"]))], "log b: it is Absent");
    complains(&mut history(), &[("a", a(&["0", "1"])), ("b", live(0, vec![read(0, 6, "0")]))], "log b is made up");
    complains(&mut history(), &[("a", a(&["0", "1"])), ("c", live(0, vec![]))], "log c is made up");
    complains(&mut history(), &[("a", a(&["0", "x"]))], "record 1");
    let mut hole = a(&["0", "1"]);
    hole.records = Some(vec![read(0, 2, "0"), read(2, 3, "1")]);
    complains(&mut history(), &[("a", hole)], "seq 2 where 1 belongs");
    let mut short = a(&["0", "1"]);
    short.records = Some(vec![read(0, 2, "0")]);
    complains(&mut history(), &[("a", short)], "1 records, expected 2");
    let mut moved = a(&["0", "1"]);
    moved.records = Some(vec![read(0, 3, "0"), read(1, 4, "1")]);
    complains(&mut history(), &[("a", moved)], "it was 3 before");
    let mut renamed = a(&["0", "1"]);
    renamed.metadata = b"other".to_vec();
    complains(&mut history(), &[("a", renamed)], "metadata");
}

#[test]
fn what_a_reader_was_shown_must_survive_and_what_is_not_there_is_not_shown() {
    let page = |records, head| Ok(Page { records, head, closed: false });
    let mut oracle = history();
    oracle.read("a", 1, &page(vec![read(1, 3, "1")], 2)).expect("the open batch is not visible yet");
    oracle.read("a", 1, &page(vec![read(1, 3, "1"), read(2, 4, "2")], 3)).expect("now it is");
    oracle.read("a", 1, &page(vec![read(1, 3, "1")], 2)).expect_err("and it does not go away again");
    oracle.read("b", 0, &Err(ErrorKind::NotFound)).expect_err("its other half is visible too");
    complains(&mut oracle, &[("a", a(&["0", "1"]))], "expected (0, 3, false)");
    oracle.read("a", 0, &page(vec![], 3)).expect_err("an empty page, and no end");
    oracle.read("a", 3, &page(vec![], 3)).expect("an empty page at the end");
    oracle.read("a", 4, &Err(ErrorKind::Invalid)).expect("beyond it");
}

#[test]
fn an_acknowledgement_holds_for_all_batches_before_it() {
    let mut oracle = Oracle::default();
    oracle.submit(&[creation("a", &["0"])]);
    let second = oracle.submit(&[creation("b", &[])]);
    oracle.answered(second, &ok(&[(0, 0, 3)])).expect("right");
    complains(&mut oracle, &[("b", live(0, vec![]))], "log a: it is Absent");
    oracle.answered(second, &ok(&[(0, 0, 3)])).expect_err("answered twice");
}

#[test]
fn a_wrong_answer_is_seen() {
    for wrong in [ok(&[(0, 3, 3)]), ok(&[(1, 2, 3)]), ok(&[]), ok(&[(0, 2, 0)]), Err(ErrorKind::Exists)] {
        let mut oracle = Oracle::default();
        let ticket = oracle.submit(&[creation("a", &["0", "1"])]);
        oracle.answered(ticket, &wrong).expect_err("it is wrong");
    }
    let mut oracle = history();
    let again = oracle.submit(&[creation("a", &[])]);
    oracle.answered(again, &ok(&[(0, 0, 9)])).expect_err("it exists");
}

#[test]
fn a_producers_retry_gets_the_first_answer_and_settles_it() {
    let sent = |number, record: &str| {
        let producer = Some((b"p".to_vec(), 1, number));
        [Part { producer, ..part("a", &[record]) }]
    };
    let mut oracle = history();
    let first = oracle.submit(&sent(0, "p0"));
    let gap = oracle.submit(&sent(2, "p2"));
    let conflict = oracle.submit(&sent(0, "other"));
    let again = oracle.submit(&sent(0, "p0"));
    oracle.answered(gap, &Err(ErrorKind::ProducerGap)).expect("a gap");
    oracle.answered(conflict, &Err(ErrorKind::ProducerConflict)).expect("a conflict");
    oracle.answered(first, &ok(&[(3, 4, 8)])).expect("right");
    oracle.answered(again, &Ok(vec![answer(3, 4, 9, true)])).expect_err("another LSN than the first time");
    let again = oracle.submit(&sent(0, "p0"));
    oracle.answered(again, &Ok(vec![answer(3, 4, 8, true)])).expect("the first answer again");
    assert_eq!(oracle.expected()["a"].next, 4, "and no second copy");
    complains(&mut oracle, &[("a", a(&["0", "1"]))], "expected (0, 4, false)");
}

#[test]
fn a_duplicate_that_is_answered_settles_the_open_batch_that_it_repeats() {
    let producer = Some((b"p".to_vec(), 0, 0));
    let batch = [Part { producer, ..creation("b", &["x"]) }];
    let mut oracle = Oracle::default();
    oracle.submit(&batch);
    let again = oracle.submit(&batch);
    oracle.answered(again, &Ok(vec![answer(0, 1, 2, true)])).expect("right");
    complains(&mut oracle, &[], "log b: it is Absent");
}

#[test]
fn a_log_created_again_goes_on_behind_a_gap_and_shows_nothing_old() {
    let mut oracle = history();
    for parts in [[Part { then: Some(Then::Delete), ..part("a", &[]) }], [creation("a", &["n"])]] {
        oracle.submit(&parts);
    }
    assert_eq!((oracle.expected()["a"].trim, oracle.expected()["a"].next), (4, 5));
    let b = ("b", live(0, vec![read(0, 6, "0")]));
    let old = a(&["0", "1", "2", "n"]);
    complains(&mut oracle, &[("a", old), b.clone()], "expected (4, 5, false)");
    oracle.read("a", 1, &Err(ErrorKind::Trimmed)).expect("trimmed, once it is created again");
    let deleted = Shown { phase: Phase::Deleted, records: None, ..a(&["0", "1", "2"]) };
    complains(&mut oracle, &[("a", deleted), b.clone()], "it is Deleted");
    oracle.recovered(&shown(&[("a", live(4, vec![read(4, 9, "n")])), b])).expect("right");
}

#[test]
fn a_batch_turned_away_leaves_nothing() {
    let mut oracle = history();
    let ticket = oracle.submit(&[part("a", &["never"])]);
    oracle.turned_away(ticket);
    complains(
        &mut oracle,
        &[("a", a(&["0", "1", "2", "never"])), ("b", live(0, vec![read(0, 6, "0")]))],
        "(0, 4, false)",
    );
}

#[test]
fn what_may_have_ended_by_itself_is_found_either_way_and_then_stays_so() {
    for ended in [false, true] {
        let mut oracle = Oracle::default();
        let expire = Part { then: Some(Then::Expire(Some(std::time::Duration::from_secs(1)))), ..part("a", &[]) };
        let tickets = [oracle.submit(&[creation("a", &["0", "1", "2"])]), oracle.submit(&[expire])];
        let found = Shown { expires: true, ..a(&["0", "1", "2"]) };
        let gone = Shown { phase: Phase::Deleted, records: None, ..found.clone() };
        let shown = |log: &Shown| shown(&[("a", log.clone())]);
        let fates = oracle.recovered(&shown(&found)).expect("both are there");
        assert_eq!(fates.settled, tickets);
        oracle.recovered(&shown(&gone)).expect_err("it is too early");
        oracle.let_lapse();
        let after = if ended { gone.clone() } else { found.clone() };
        oracle.recovered(&shown(&after)).expect("it may have ended");
        assert_eq!(oracle.lapse(|_| ended), u64::from(ended));
        let other = if ended { found } else { gone };
        oracle.recovered(&shown(&other)).expect_err("that is known by now");
    }
}
