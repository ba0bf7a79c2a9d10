//! The engine beside a plain map: random sequences of everything that a caller can ask of a store, each answer compared
//! with what the promises say (`map.rs`).
//!
//! The disk is honest and nothing crashes but the process, between two requests whose answers are known: what a crash
//! may take is the business of the target `worlds`. Forks, cursors, conditions and producers are tried here in all the
//! combinations that chance finds. A failing case is shrunk and printed, and kept in `proptest-regressions.txt`, which
//! the next run tries first. `PROPTEST_CASES=n` sets the number of cases.

mod map;
mod ops;
mod resolve;
mod run;
mod watch;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

/// Cases of a run, if PROPTEST_CASES does not say otherwise.
const CASES: u32 = 2000;
/// Things that happen in a case at most.
const OPS_MAX: usize = 70;

fn config() -> Config {
    let set = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config::default();
    Config {
        cases: if set { config.cases } else { CASES },
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/model/proptest-regressions.txt"
        )))),
        ..config
    }
}

mod simulated {
    use super::*;

    #[test]
    fn every_answer_of_the_engine_is_the_maps() {
        let mut tally = run::Tally::default();
        let mut runner = proptest::test_runner::TestRunner::new(config());
        let cases = (ops::settings(), ops::ops(OPS_MAX));
        let told = std::cell::RefCell::new(&mut tally);
        let outcome = runner.run(&cases, |(settings, ops)| {
            let done = run::run(settings, &ops).map_err(TestCaseError::fail)?;
            told.borrow_mut().add(&done);
            Ok(())
        });
        if let Err(failure) = outcome {
            panic!("{failure}\nto run it again: cargo test -p everlog-tests --test model");
        }
        eprintln!("{tally:?}");
        tally.assert_varied(config().cases);
    }
}
