//! Makes the golden stores anew: `cargo xtask golden` runs it.
//!
//! It decides nothing; what the stores hold is said in `tests/golden/stores.rs`, and what must be said of damage in
//! `tests/golden/cases.rs`. Invariant: what is there is replaced as a whole.

use everlog_tests::golden::fixture;

fn main() -> std::io::Result<()> {
    fixture::regenerate()?;
    eprintln!("the golden stores in {} are new", fixture::dir().display());
    Ok(())
}
