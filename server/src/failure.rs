//! What goes wrong in a program: the sentence with the cause, the sentence with the remedy, the exit code.
//!
//! Invariant: each kind of the engine's errors has exactly one exit code, chosen here and nowhere else.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use everlog::ErrorKind;
use rustix::io::Errno;

/// Ends a program: with its exit code, and with what happened on stderr.
#[must_use]
pub fn exit(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // Whoever would read it may have gone.
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Why a program ended.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    cause: String,
    remedy: Option<String>,
    closed_pipe: bool,
}

impl Failure {
    /// With an exit code, what happened, and what to do about it.
    pub fn new(code: u8, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, cause: cause.into(), remedy: Some(remedy.into()), closed_pipe: false }
    }

    /// Damage was found, and has been told already, place by place.
    #[must_use]
    pub fn damage(found: usize) -> Self {
        let cause = if found == 1 { "one place is damaged".to_owned() } else { format!("{found} places are damaged") };
        Self::new(4, cause, "restore what the list above names, and look after the disk")
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Whoever read the output has gone, which is its right.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl From<everlog::Error> for Failure {
    fn from(error: everlog::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid => 2,
            ErrorKind::Refused | ErrorKind::Locked | ErrorKind::Fenced => 3,
            ErrorKind::Damaged => 4,
            ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::Unknown => 5,
            _ => 1,
        };
        let told = error.to_string();
        let (cause, remedy) = match error.advice() {
            Some(advice) => {
                (told.strip_suffix(&format!("; {advice}")).unwrap_or(&told).to_owned(), Some(advice.to_owned()))
            }
            None => (told, remedy(&error).map(str::to_owned)),
        };
        Self { code, cause, remedy, closed_pipe: false }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        let remedy = Some(remedy_of(&error).to_owned());
        Self { code: 5, cause: format!("writing the output failed: {error}"), remedy, closed_pipe }
    }
}

/// What to do about an error that does not say it itself.
fn remedy(error: &everlog::Error) -> Option<&'static str> {
    match (error.os_error(), error.kind()) {
        (Some(error), _) => Some(remedy_of(error)),
        (None, ErrorKind::Damaged) => Some("run everlog verify to see what is affected, and restore it from a copy"),
        _ => None,
    }
}

/// What to do about something that the operating system refused, where the engine does not say it.
fn remedy_of(error: &io::Error) -> &'static str {
    match (error.raw_os_error().map(Errno::from_raw_os_error), error.kind()) {
        (Some(Errno::MFILE | Errno::NFILE), _) => {
            "raise the limit of open files (ulimit -n, LimitNOFILE=), and start again"
        }
        (_, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => "free space on that file system",
        (_, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) => {
            "name a directory, in a place that exists"
        }
        _ => "see what the system's log says of that disk, mend it, and start again",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", sentence(&self.cause))?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n{}.", sentence(remedy))?;
        }
        Ok(())
    }
}

/// The text begun with a capital, without a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everlog::Error;

    #[test]
    fn an_error_becomes_two_sentences_and_a_code() {
        let error = Error::new(ErrorKind::Refused, "there is no store here").remedy("create one with `everlog init`");
        let failure = Failure::from(error);
        assert_eq!(failure.code(), 3);
        assert_eq!(failure.to_string(), "There is no store here.\nCreate one with `everlog init`.");
    }

    #[test]
    fn what_the_system_refused_has_a_remedy() {
        let remedy = |errno: Errno| {
            let error = io::Error::from(errno);
            let failure = Failure::from(Error::io("writing", std::path::Path::new("/data/journal-0000"), error));
            assert_eq!(failure.code(), 5);
            failure.to_string().lines().nth(1).map(str::to_owned).expect("a second sentence")
        };
        for (errno, word) in [
            (Errno::NOSPC, "free space"),
            (Errno::DQUOT, "free space"),
            (Errno::ACCESS, "right"),
            (Errno::ROFS, "for writing"),
            (Errno::MFILE, "open files"),
            (Errno::NFILE, "open files"),
            (Errno::NOTDIR, "directory"),
            (Errno::IO, "system's log"),
        ] {
            assert!(remedy(errno).to_lowercase().contains(word), "{errno:?}: {}", remedy(errno));
        }
    }

    #[test]
    fn each_class_has_its_code() {
        for (kind, code) in [
            (ErrorKind::Invalid, 2),
            (ErrorKind::Locked, 3),
            (ErrorKind::Fenced, 3),
            (ErrorKind::Damaged, 4),
            (ErrorKind::Io, 5),
            (ErrorKind::Poisoned, 5),
            (ErrorKind::NotFound, 1),
        ] {
            assert_eq!(Failure::from(Error::new(kind, "it failed")).code(), code, "{kind:?}");
        }
    }
}
