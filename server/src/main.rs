//! `everlogd`: the server as a program. Everything else is in the library.
#![forbid(unsafe_code)]

use clap::Parser;
use everlog_server::config::Cli;
use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// Connections that wait hold buffers of which they touch little; with the C library's allocator these share pages with what
/// is touched, and a connection takes a third more memory (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // A mapped file that is cut short under the process ends it with a line that names the file.
    if let Err(e) = everlog::io::view::install_sigbus_handler() {
        eprintln!("the handler for damaged mappings could not be installed: {e}");
    }
    everlog_server::failure::exit(everlog_server::run::run(&Cli::parse()))
}
