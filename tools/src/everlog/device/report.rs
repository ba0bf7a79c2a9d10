//! What a sync did, in one line or one JSON object, and which exit code that is.
//!
//! Invariant: whatever was left out is named with its reason, and then the exit code is not 0.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::collection::Collection;
use everlog_server::failure::Failure;

/// As many items are named one by one; of the rest there is the number.
pub const NAMED_MAX: usize = 1000;
/// A server may call an item anything.
const TEXT_CHARS_MAX: usize = 300;

#[derive(Serialize, Default)]
pub struct Report {
    /// Files that went to the server.
    pub pushed: u64,
    /// Files that came from it.
    pub pulled: u64,
    /// Items of which both versions were kept.
    pub conflicts: u64,
    /// Deletions that went either way.
    pub deleted: u64,
    /// Items that are newer than what the server was taken back to on purpose.
    pub set_aside: u64,
    /// Where they are.
    #[serde(serialize_with = "shown")]
    pub set_aside_in: Option<PathBuf>,
    pub photo_bytes_uploaded: u64,
    pub photo_bytes_downloaded: u64,
    pub skipped: Vec<Skipped>,
    /// Left out like those, but too many to be named.
    pub skipped_more: usize,
    /// Whether any of them is damaged.
    #[serde(skip)]
    is_more_damaged: bool,
    /// What was found beside the items and is none.
    pub notes: Vec<Note>,
}

#[derive(Serialize)]
pub struct Note {
    pub collection: &'static str,
    pub name: String,
    pub why: &'static str,
}

#[derive(Serialize)]
pub struct Skipped {
    pub collection: &'static str,
    pub key: String,
    pub why: String,
    /// The record itself is bad or could not be had; else something here stands in its way.
    pub damaged: bool,
}

impl Report {
    /// Something here stands in the item's way.
    pub fn skip(&mut self, collection: Collection, key: &str, why: impl Into<String>) {
        self.add(collection, key, why.into(), false);
    }

    /// The record on the server is bad, or could not be had.
    pub fn damaged(&mut self, collection: Collection, key: &str, why: impl Into<String>) {
        self.add(collection, key, why.into(), true);
    }

    /// So many more records are bad, which are not named.
    pub fn damaged_more(&mut self, count: usize) {
        self.skipped_more += count;
        self.is_more_damaged |= count > 0;
    }

    /// Something lies beside the items that its user may take for one. It changes nothing.
    pub fn note(&mut self, collection: Collection, name: &str, why: &'static str) {
        let (collection, name) = (collection.name, printable(name));
        let is_new = !self.notes.iter().any(|other| (other.collection, &other.name) == (collection, &name));
        if is_new && self.notes.len() < NAMED_MAX {
            self.notes.push(Note { collection, name, why });
        }
    }

    fn add(&mut self, collection: Collection, key: &str, why: String, damaged: bool) {
        let (collection, key) = (collection.name, shortened(key));
        // Rounds repeat what they meet.
        if self.skipped.iter().any(|other| (other.collection, &other.key) == (collection, &key)) {
            return;
        }
        if self.skipped.len() < NAMED_MAX {
            self.skipped.push(Skipped { collection, key, why: printable(&why), damaged });
        } else {
            self.skipped_more += 1;
            self.is_more_damaged |= damaged;
        }
    }

    pub fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            return writeln!(out, "{}", serde_json::to_value(self).map_err(io::Error::other)?);
        }
        writeln!(out, "{}", self.line())?;
        let mut errors = io::stderr().lock();
        if let Some(folder) = self.set_aside_in.as_ref().filter(|_| self.set_aside > 0) {
            let (what, folder) = (items(self.set_aside as usize), folder.display());
            writeln!(
                errors,
                "The server was taken back to an earlier moment on purpose: {what} newer than that set aside."
            )?;
            writeln!(errors, "Look into {folder}, and copy back what is still wanted.")?;
        }
        self.skipped.iter().try_for_each(|item| {
            writeln!(errors, "Skipped {}/{}: {}.", item.collection, printable(&item.key), item.why)
        })?;
        if self.skipped_more > 0 {
            writeln!(errors, "Skipped {} more.", self.skipped_more)?;
        }
        self.notes.iter().try_for_each(|note| {
            writeln!(errors, "Note: {}/{} is not synced: {}.", note.collection, note.name, note.why)
        })
    }

    fn line(&self) -> String {
        let set_aside = if self.set_aside > 0 { format!(", set aside {}", self.set_aside) } else { String::new() };
        format!(
            "pushed {}, pulled {}, conflicts {}, deleted {}, photo bytes uploaded {}, downloaded {}, skipped {}{set_aside}",
            self.pushed,
            self.pulled,
            self.conflicts,
            self.deleted,
            self.photo_bytes_uploaded,
            self.photo_bytes_downloaded,
            self.skipped.len() + self.skipped_more
        )
    }

    /// The first that was left out, and how many more there are.
    pub fn left_out(&self) -> Option<String> {
        let item = self.skipped.first()?;
        let more = match self.skipped.len() - 1 + self.skipped_more {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!("{}/{} was not synced: {}{more}", item.collection, printable(&item.key), item.why))
    }

    /// Done, unless something was left out.
    pub fn verdict(&self) -> Result<(), Failure> {
        let damaged = self.skipped.iter().filter(|item| item.damaged).count();
        let damaged = damaged + if self.is_more_damaged { self.skipped_more } else { 0 };
        if damaged > 0 {
            let cause = format!("{} could not be had from the server; all others were synced", items(damaged));
            return Err(Failure::new(4, cause, "see above which and why, and sync again once that is mended"));
        }
        let skipped = self.skipped.len() + self.skipped_more;
        if skipped == 0 {
            return Ok(());
        }
        let cause = format!("{} skipped; all others were synced", items(skipped));
        Err(Failure::new(1, cause, "see above which and why, and sync again once that is mended"))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// Text of others' making as it can be shown on a terminal, which it could control otherwise.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().take(TEXT_CHARS_MAX).map(shown).collect()
}

fn shown<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_some(&path.as_ref().map(|path| path.to_string_lossy()))
}

/// What a failure says of its cause, as a clause.
pub fn cause(failure: &Failure) -> String {
    failure.to_string().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// The same failure, with more to say about what it means.
pub fn and(failure: &Failure, more: &str) -> Failure {
    let told = failure.to_string();
    let remedy = told.lines().nth(1).unwrap_or_default();
    Failure::new(failure.code(), format!("{}; {more}", cause(failure)), remedy)
}

fn items(count: usize) -> String {
    if count == 1 { "one item".to_owned() } else { format!("{count} items") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::collection::ALL;

    #[test]
    fn a_failure_can_say_more() {
        let failure = and(&Failure::new(1, "it broke", "mend it"), "two wait");
        assert_eq!((failure.code(), failure.to_string()), (1, "It broke; two wait.\nMend it.".to_owned()));
    }

    #[test]
    fn what_is_left_out_decides_the_code() {
        let mut report = Report::default();
        assert!(report.verdict().is_ok());
        report.skip(ALL[0], "a", "it is odd");
        report.skip(ALL[0], "a", "it is odd");
        assert_eq!(report.skipped.len(), 1);
        assert_eq!(report.verdict().expect_err("one is left out").code(), 1);
        report.note(ALL[0], "A.VCF", "it is none");
        assert_eq!(report.verdict().expect_err("one is left out").code(), 1);
        report.damaged(ALL[1], "a", "it is bad");
        assert_eq!(report.verdict().expect_err("one is bad").code(), 4);
    }

    #[test]
    fn however_much_is_left_out_the_report_stays_short() {
        let mut report = Report::default();
        (0..NAMED_MAX + 5).for_each(|i| report.skip(ALL[0], &i.to_string(), "it is odd"));
        assert_eq!((report.skipped.len(), report.skipped_more), (NAMED_MAX, 5));
        assert!(report.line().ends_with("skipped 1005"));
        report.damaged_more(7);
        assert_eq!(report.verdict().expect_err("some are bad").code(), 4);
    }

    #[test]
    fn what_a_server_says_does_not_control_the_terminal() {
        let mut report = Report::default();
        report.damaged(ALL[0], "a", "its type is \u{1b}[2J\n instead of contact");
        assert_eq!(report.skipped[0].why, "its type is \\u{1b}[2J\\n instead of contact");
        report.damaged(ALL[0], &"b".repeat(1 << 20), "c".repeat(1 << 20));
        assert!(report.skipped[1].key.len() + report.skipped[1].why.len() == 2 * TEXT_CHARS_MAX);
    }
}
