//! A bar on stderr for whatever lasts longer than two seconds.
//!
//! Invariant: nothing is drawn unless stderr is a terminal, and nothing goes to stdout.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(2);

/// Counts towards a total, and shows itself once it is worth a look.
pub struct Progress {
    what: &'static str,
    total: u64,
    /// What is counted is bytes, whose rate is shown as well.
    is_bytes: bool,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(what: &'static str, total: u64) -> Self {
        Self::counting(what, total, false)
    }

    pub fn of_bytes(what: &'static str, total: u64) -> Self {
        Self::counting(what, total, true)
    }

    fn counting(what: &'static str, total: u64, is_bytes: bool) -> Self {
        Self { what, total, is_bytes, begun: Instant::now(), bar: None }
    }

    /// So much of the total is done.
    pub fn reached(&mut self, done: u64) {
        self.reached_of(done, self.total);
    }

    /// So much is done of a total that is known better by now.
    pub fn reached_of(&mut self, done: u64, total: u64) {
        self.total = total;
        if self.bar.is_none() && self.begun.elapsed() >= PATIENCE && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(self.total).with_message(self.what).with_elapsed(self.begun.elapsed());
            let style = match self.is_bytes {
                true => "{msg} {wide_bar} {percent} %, {binary_bytes_per_sec}, {eta} left",
                false => "{msg} {wide_bar} {percent} %, {eta} left",
            };
            self.bar = Some(bar.with_style(ProgressStyle::with_template(style).expect("the template is well formed")));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
