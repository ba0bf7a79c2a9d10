//! Looking: the store is recovered and read whole, and each record of it is proved.

use clap::Args;
use everlog::{ReadLimit, Store};
use everlog_server::failure::Failure;
use everlog_tests::real::content;
use everlog_tests::real::line::Line;

use crate::{StoreArgs, say, wrong};

#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// End without closing the store
    #[arg(long)]
    no_close: bool,
}

/// Says what the store holds.
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let store = args.store.open(false, None)?;
    let mut newest_us = 0;
    for name in names(&store)? {
        let Read { first, next, newest_us: of_log } = read_log(&store, args.store.seed, &name)?;
        newest_us = newest_us.max(of_log);
        say(&Line::Holds { log: name, first, next });
    }
    say(&Line::Newest(newest_us));
    if args.no_close {
        std::process::exit(0);
    }
    Ok(store.close()?)
}

/// The names of all logs.
fn names(store: &Store) -> everlog::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let some = store.list(content::PREFIX, names.last().map(String::as_str), 1000)?;
        if some.is_empty() {
            return Ok(names);
        }
        names.extend(some.into_iter().map(|log| log.name));
    }
}

/// What a log was found to hold.
pub struct Read {
    /// Its first seq.
    first: u64,
    /// Its next seq.
    pub next: u64,
    /// The time of its newest record.
    newest_us: u64,
}

/// Reads a log whole and proves each of its records.
pub fn read_log(store: &Store, seed: u64, name: &str) -> Result<Read, Failure> {
    let first = store.info(name)?.first_seq;
    let (mut next, mut newest_us) = (first, 0);
    loop {
        let page = store.read(name, next, ReadLimit::default())?;
        for record in &page.records {
            if record.seq != next {
                return Err(wrong(format!("log {name}: seq {} stands where {next} belongs", record.seq)));
            }
            content::check(seed, name, next, &record.payload).map_err(wrong)?;
            newest_us = record.time.0;
            next += 1;
        }
        if next != page.next_seq {
            return Err(wrong(format!("log {name}: a page ends at {next} and says {}", page.next_seq)));
        }
        if next == page.head {
            return Ok(Read { first, next, newest_us });
        }
    }
}
