//! `everlog init`: creates a store, which is an explicit act. A directory that holds anything is refused.

use std::io::Write;
use std::path::Path;

use everlog::{Config, Store};

use everlog_server::failure::Failure;

pub fn run(dir: &Path) -> Result<(), Failure> {
    let id = Store::create(dir, &Config::default())?;
    writeln!(std::io::stdout(), "created store {id} in {}", dir.display())?;
    Ok(())
}
