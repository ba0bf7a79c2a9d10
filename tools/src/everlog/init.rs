//! `everlog init`: creates a store, which is an explicit act. A directory that holds anything is refused, and so
//! is one whose cold store holds a store: the directory may only have been lost.

use std::io::Write;
use std::path::Path;

use everlog::{ColdConfig, Config, Store};

use everlog_server::failure::Failure;

pub fn run(dir: &Path, cold: &[String]) -> Result<(), Failure> {
    let here = std::env::current_dir()?;
    let stores = cold.iter().map(|url| everlog::cold::connect(url, &here)).collect::<Result<_, _>>()?;
    let cold = ColdConfig { stores, ..ColdConfig::default() };
    let id = Store::create_shipping(dir, &Config::default(), &cold)?;
    writeln!(std::io::stdout(), "created store {id} in {}", dir.display())?;
    Ok(())
}
