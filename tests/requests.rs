//! Each request to a cold store meets each fault, one at a time.
//!
//! One life of a store is fixed: it opens, is appended to, shipped, flushed and shipped again; its process is killed and
//! it opens once more; another node is restored and takes it over, while the first one goes on until it is told. That makes
//! so many requests, which are counted. Then the same life is lived again for each request and each fault that it can meet,
//! with exactly that there, on one cold store and on two.
//!
//! What must hold is what the fleet's oracle asks (`sim/fleet/mod.rs`), here at each stage, with a drill of each cold store:
//! what was told to be cold comes back from what lies there, byte for byte, so that nothing was called verified that is
//! not there as it was sent; what was not shipped is where it was acknowledged; and in the end, with no more than the one
//! fault behind it, every store is level, the old owner is fenced, and everything comes back from each cold store.
//!
//! One thing asks for a person: a cold store's first object that was spoilt on its way is told as damaged until it is taken
//! away. `EVERLOG_STRIKE=stores,store,request,fault,luck` lives one life alone, as a failure tells.

use everlog::RestoreMode;
use everlog_tests::oracle::Violation;
use everlog_tests::sim::Crash;
use everlog_tests::sim::cold::{Method, Misfortune, Strike, Trace};
use everlog_tests::sim::fleet::{Fleet, Opening};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the life follows from.
const SEED: u64 = 11;
/// Attempts after which what one fault hindered has to succeed.
const ATTEMPTS: usize = 3;
/// Where chance has a say in a fault, so many of its outcomes are met.
const LUCKS: u64 = 2;
/// Lines of a failing life's trace that are printed.
const TRACE_LINES: usize = 120;

/// The faults, by what they are called; for each method what it meets, if there is such a thing.
const FAULTS: [(&str, [Option<Misfortune>; 3]); 8] = {
    use Misfortune::{AnswerLost, Fails, Flipped, Hollow, Late, Stale, Truncated, Unavailable};
    [
        ("time-out, nothing done", [Some(Fails), Some(Fails), Some(Fails)]),
        ("time-out, done", [Some(AnswerLost), None, None]),
        ("5xx", [Some(Unavailable), Some(Unavailable), Some(Unavailable)]),
        ("error in a 200", [Some(Hollow), Some(Hollow), Some(Hollow)]),
        ("truncated", [Some(Truncated), Some(Truncated), Some(Truncated)]),
        ("one bit flipped", [Some(Flipped), Some(Flipped), Some(Flipped)]),
        ("old listing", [None, None, Some(Stale)]),
        ("late duplicate", [Some(Late), None, None]),
    ]
};
const METHODS: [(&str, Method); 3] = [("put", Method::Put), ("get", Method::Get), ("list", Method::List)];

/// A life to be lived: on how many cold stores, which of them is struck, how, and by which of [`FAULTS`].
#[derive(Clone, Copy, Debug)]
struct Case {
    stores: usize,
    struck: usize,
    method: Method,
    fault: usize,
    strike: Strike,
}

impl Case {
    fn again(&self) -> String {
        let Self { stores, struck, fault, strike, .. } = self;
        format!("EVERLOG_STRIKE={stores},{struck},{},{fault},{}", strike.request, strike.luck)
    }
}

/// What came of a life: what each store was asked, and how often the fault was met.
struct Lived {
    result: Result<(), Violation>,
    asked: Vec<Vec<Method>>,
    met: u64,
    trace: Vec<String>,
}

fn live(stores: usize, strike: Option<(usize, Strike)>) -> Lived {
    let trace = Trace::default();
    let fleet = Fleet::unopened(SEED, stores, &trace);
    let mut fleet = fleet.unwrap_or_else(|violation| panic!("before anything was asked: {violation}"));
    if let Some((n, strike)) = strike {
        fleet.cold(n).strike(strike);
    }
    let lived = life(&mut fleet, stores);
    // What is asked from here on is asked in no life but the end of each.
    let asked = (0..stores).map(|n| fleet.cold(n).asked()).collect();
    let result = lived.and_then(|()| end(&mut fleet));
    let met = strike.map_or(0, |(n, strike)| fleet.cold(n).met(strike.kind));
    Lived { result, met, asked, trace: fleet.trace() }
}

/// The life.
fn life(fleet: &mut Fleet, stores: usize) -> Result<(), Violation> {
    open(fleet, 0)?;
    let old = fleet.id(0);
    fleet.write(0, 3)?;
    level(fleet, 0, stores)?;
    fleet.flush(0, true)?;
    level(fleet, 0, stores)?;
    fleet.write(0, 2)?;
    for n in 0..stores {
        fleet.ship(0, n)?;
    }
    fleet.crash(0, Crash::Process)?;
    open(fleet, 0)?;
    fleet.write(0, 2)?;
    level(fleet, 0, stores)?;
    // It stands still with something that is not shipped.
    fleet.write(0, 1)?;
    let at = restored(fleet, 0)?;
    open(fleet, at)?;
    fleet.write(at, 2)?;
    level(fleet, at, stores)?;
    let zombie = fleet.place(old).expect("it stands still");
    fleet.write(zombie, 1)?;
    for _ in 0..ATTEMPTS {
        if fleet.is_live(zombie) {
            fleet.ship(zombie, 0)?;
        }
    }
    if fleet.is_live(zombie) {
        return Err(Violation("the old owner is not told".to_owned()));
    }
    fleet.flush(at, true)?;
    level(fleet, at, stores)?;
    for n in 0..stores {
        let restored = restored(fleet, n)?;
        fleet.lose(restored);
    }
    Ok(())
}

/// Its end, in which nothing goes wrong any more.
fn end(fleet: &mut Fleet) -> Result<(), Violation> {
    fleet.finish()?;
    let tally = fleet.tally();
    let seen = ["told cold", "fenced", "take-overs", "drills"].iter().find(|what| tally.of(what) == 0);
    seen.map_or(Ok(()), |what| Err(Violation(format!("there was nothing {what}"))))
}

/// The node opens; what one fault kept it from is there at a later attempt.
fn open(fleet: &mut Fleet, at: usize) -> Result<(), Violation> {
    for _ in 0..ATTEMPTS {
        match fleet.open(at, false)? {
            Opening::Opened => return Ok(()),
            Opening::NotReached => drop(fleet.cold(0).remove_spoilt_home()),
            other => return Err(Violation(format!("a node that owns the store does not open: {other:?}"))),
        }
    }
    Err(Violation(format!("a node does not open in {ATTEMPTS} attempts")))
}

fn restored(fleet: &mut Fleet, from: usize) -> Result<usize, Violation> {
    fleet.restored(from, RestoreMode::Heal, false)?.ok_or_else(|| Violation(format!("nothing is restored from {from}")))
}

/// The node asks for what is cold and gets level; then everything comes back from each cold store.
fn level(fleet: &mut Fleet, at: usize, stores: usize) -> Result<(), Violation> {
    fleet.ask(at)?;
    for n in 0..stores {
        fleet.ship(at, n)?;
        fleet.cold(n).remove_spoilt_home();
    }
    fleet.level(at)?;
    for n in 0..stores {
        let back = fleet.drill(n)?.map_or(0, |batches| batches.len());
        if back < fleet.promised(n) || back == 0 {
            return Err(Violation(format!("a drill of {n} gives {back} batches of {}", fleet.promised(n))));
        }
    }
    Ok(())
}

/// Every life with one fault, on so many cold stores.
fn cases(stores: usize) -> Vec<Case> {
    let quiet = live(stores, None);
    let trace = quiet.trace;
    quiet.result.unwrap_or_else(|violation| panic!("nothing went wrong, and {violation}\n{}", trace.join("\n")));
    let mut cases = Vec::new();
    for (struck, asked) in quiet.asked.iter().enumerate() {
        for (request, method) in (1..).zip(asked) {
            for (fault, (_, kinds)) in FAULTS.iter().enumerate() {
                let Some(kind) = kinds[*method as usize] else { continue };
                let has_luck =
                    matches!(kind, Misfortune::Truncated | Misfortune::Flipped | Misfortune::Stale | Misfortune::Late);
                for luck in 0..if has_luck { LUCKS } else { 1 } {
                    let strike = Strike { request, kind, luck };
                    cases.push(Case { stores, struck, method: *method, fault, strike });
                }
            }
        }
    }
    cases
}

/// Counts of lives, and of those in which the request met its fault, by method and fault. An answer without a byte cannot be
/// cut short, nor a listing be old when nothing is new.
type Table = BTreeMap<(Method, usize), (u64, u64)>;

fn told(stores: usize, table: &Table) -> String {
    let mut text =
        format!("{stores} cold stores: lives with one fault (of them met), by method of the request\n{:<24}", "");
    for (name, _) in METHODS {
        let _infallible = write!(text, "{name:>16}");
    }
    for (fault, (name, _)) in FAULTS.iter().enumerate() {
        let _infallible = write!(text, "\n{name:<24}");
        for (_, method) in METHODS {
            let cell = table.get(&(method, fault)).map_or("-".to_owned(), |(lives, met)| format!("{lives} ({met})"));
            let _infallible = write!(text, "{cell:>16}");
        }
    }
    text
}

/// Lives all of these; the table of what was met, and what is to be said of those that failed.
fn live_all(cases: &[Case]) -> (Table, Vec<String>) {
    let next = AtomicUsize::new(0);
    let total = Mutex::new((Table::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let lived = live(case.stores, Some((case.struck, case.strike)));
                    let mut total = total.lock().expect("nobody panics with it");
                    let (lives, met) = total.0.entry((case.method, case.fault)).or_default();
                    (*lives, *met) = (*lives + 1, *met + u64::from(lived.met > 0));
                    if let Err(violation) = lived.result {
                        let (name, method) = (FAULTS[case.fault].0, case.method);
                        total.1.push(format!("{method:?}, {name}: {violation}\nagain: {}", case.again()));
                    }
                }
            });
        }
    });
    total.into_inner().expect("nobody panics with it")
}

/// The one life that the environment asks for, with its trace.
fn one(asked: &str) {
    let numbers: Vec<u64> = asked.split(',').map(|number| number.parse().expect("five numbers")).collect();
    let [stores, struck, request, fault, luck] = numbers[..] else { panic!("five numbers: {asked}") };
    let (stores, struck) = (stores as usize, struck as usize);
    let method = live(stores, None).asked[struck][request as usize - 1];
    let kind = FAULTS[fault as usize].1[method as usize].expect("the request can meet it");
    let lived = live(stores, Some((struck, Strike { request, kind, luck })));
    let tail = &lived.trace[lived.trace.len().saturating_sub(TRACE_LINES)..];
    lived.result.unwrap_or_else(|violation| panic!("{}\n{violation}", tail.join("\n")));
}

mod simulated {
    use super::*;

    #[test]
    fn each_request_meets_each_fault_and_nothing_is_lost_or_called_verified_that_is_not() {
        if let Ok(asked) = std::env::var("EVERLOG_STRIKE") {
            return one(&asked);
        }
        for stores in [1, 2] {
            let cases = cases(stores);
            let (table, failures) = live_all(&cases);
            eprintln!("{}", told(stores, &table));
            let shown = failures.iter().take(10).cloned().collect::<Vec<_>>().join("\n\n");
            assert!(failures.is_empty(), "{} of {} lives:\n{shown}", failures.len(), cases.len());
            for ((method, fault), (_, met)) in table {
                assert!(met > 0, "no {method:?} met: {}", FAULTS[fault].0);
            }
        }
    }
}
