//! Cold stores, asked without a store beside them.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use everlog::cold::ColdStore;
use everlog_server::failure::Failure;
use everlog_tests::real::contract;

use crate::wrong;

#[derive(Args)]
pub struct ColdArgs {
    /// The cold store
    #[arg(long)]
    cold: String,
}

/// The cold store of that URL.
pub fn connect(url: &str) -> Result<Arc<dyn ColdStore>, Failure> {
    let here = std::env::current_dir()?;
    Ok(everlog::cold::connect(url, &here)?)
}

/// Asks for all that a cold store owes.
pub fn contract(args: &ColdArgs) -> Result<(), Failure> {
    contract::check(&*connect(&args.cold)?).map_err(wrong)
}

/// Asks one that cannot be had.
pub fn out_of_reach(args: &ColdArgs) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut told = Ok(());
    let mut failed = |what: &str, error: &everlog::Error| {
        if told.is_ok() {
            told = writeln!(out, "{what} failed: {error}\n{error:?}");
        }
    };
    contract::check_out_of_reach(&*connect(&args.cold)?, &mut failed).map_err(wrong)?;
    Ok(told?)
}
