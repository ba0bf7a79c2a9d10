//! Golden stores, and random ones: both readers of the format read them, and find what the oracle says.

use everlog::{ReadOnly, Store};
use everlog_tests::golden::listing::{looked_at, opened_differs};
use everlog_tests::golden::maker::{DIR, in_memory, small};
use everlog_tests::golden::{Listing, random};
use everlog_tests::reader;
use everlog_tests::sim::SimClock;
use std::path::Path;
use std::sync::Arc;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("EVERLOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EVERLOG_SEEDS").unwrap_or(200),
    }
}

/// Where one of the readers differs from the oracle, or cannot read.
fn differs(files: &reader::Files, expected: &Listing) -> Result<Option<String>, String> {
    let contents = reader::read(files).map_err(|fault| format!("the second reader: {fault}"))?;
    if let Some(difference) = expected.difference(&Listing::from(&contents)) {
        return Ok(Some(format!("the second reader: {difference}")));
    }
    let io = in_memory(files);
    let look = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).map_err(|e| format!("a look: {e}"))?;
    let found = looked_at(&look, expected).map_err(|e| format!("a look: {e}"))?;
    if let Some(difference) = expected.clone().without_producers().difference(&found) {
        return Ok(Some(format!("a look: {difference}")));
    }
    let clock = Arc::new(SimClock::default());
    let opened = Store::open_stepped(Arc::new(io), clock, Path::new(DIR), small());
    let (store, _steps) = opened.map_err(|e| format!("the open: {e}"))?;
    if store.recovery().clean != contents.clean {
        return Ok(Some(format!("clean: the second reader says {}, the open does not", contents.clean)));
    }
    let found = opened_differs(&store, expected).map_err(|e| format!("the open: {e}"))?;
    Ok(found.map(|difference| format!("the open: {difference}")))
}

#[test]
fn both_readers_find_in_random_stores_what_the_oracle_says() {
    for seed in seeds() {
        let (files, expected) = random::store(seed);
        if let Some(difference) = differs(&files, &expected).unwrap_or_else(Some) {
            let again = format!("EVERLOG_SEED={seed} cargo test -p everlog-tests --test golden");
            panic!("seed {seed}: {difference}\nto run it again: {again}");
        }
    }
}
