//! `everlog clock`: how far the clock that grace and expiry go by is behind the wall clock, and letting it catch up.
//!
//! It never moves that clock back. Invariant: nothing is changed without `--confirm`, and a running store never is, since
//! its lock is held.

use std::path::PathBuf;
use std::time::Duration;

use everlog::clock::{Clock, SystemClock};
use everlog::{Config, ReadOnly, Store};
use serde::Serialize;

use crate::bench::Io;
use crate::moment;
use crate::output;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog clock ./store
  everlog clock ./store --confirm

What was deleted, trimmed or is to expire waits by a clock of the store's own. It stands still while the store is closed
and never jumps with the machine's clock, so that a wrong date ends nothing early. After a long pause it is behind: see
that the machine's date is right, then confirm it. The store must not be running for that.";

#[derive(clap::Args)]
pub struct Args {
    /// The store
    dir: PathBuf,
    /// The machine's clock is right: move the store's clock forward to it
    #[arg(long)]
    confirm: bool,
    /// The backend that talks to the disk
    #[arg(long, value_enum, default_value = "auto")]
    io: Io,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    /// The store's clock, and the machine's.
    store: String,
    machine: String,
    store_us: u64,
    machine_us: u64,
    behind_seconds: u64,
    ahead_seconds: u64,
    moved: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let machine = SystemClock::default().wall();
    let (store, moved) = if args.confirm {
        // Nothing is to be given back meanwhile by another grace than the store is served with.
        let store = Store::open(&args.dir, Config { grace: Duration::MAX, io: args.io.into(), ..Config::default() })?;
        let (before, after) = store.catch_up_with_the_wall_clock()?;
        store.close()?;
        (after, before < after)
    } else {
        (ReadOnly::open(&args.dir)?.summary().steady, false)
    };
    let report = Report {
        store: moment::shown(store),
        machine: moment::shown(machine),
        store_us: store.0,
        machine_us: machine.0,
        behind_seconds: machine.0.saturating_sub(store.0) / 1_000_000,
        ahead_seconds: store.0.saturating_sub(machine.0) / 1_000_000,
        moved,
    };
    output::print(&report, args.json)?;
    Ok(())
}
