//! What goes wrong in a program: the sentence with the cause, the sentence with the remedy, the exit code.
//!
//! Invariant: each kind of the engine's errors has exactly one exit code, chosen here and nowhere else.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use everlog::ErrorKind;

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
            ErrorKind::Refused | ErrorKind::Locked => 3,
            ErrorKind::Damaged => 4,
            ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::Unknown => 5,
            _ => 1,
        };
        let told = error.to_string();
        let (cause, remedy) = match error.advice() {
            Some(advice) => {
                (told.strip_suffix(&format!("; {advice}")).unwrap_or(&told).to_owned(), Some(advice.to_owned()))
            }
            None => (told, None),
        };
        Self { code, cause, remedy, closed_pipe: false }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { code: 5, cause: format!("writing the output failed: {error}"), remedy: None, closed_pipe }
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
    fn each_class_has_its_code() {
        for (kind, code) in [
            (ErrorKind::Invalid, 2),
            (ErrorKind::Locked, 3),
            (ErrorKind::Damaged, 4),
            (ErrorKind::Io, 5),
            (ErrorKind::Poisoned, 5),
            (ErrorKind::NotFound, 1),
        ] {
            assert_eq!(Failure::from(Error::new(kind, "it failed")).code(), code, "{kind:?}");
        }
    }
}
