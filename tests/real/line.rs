//! What the victim says on its standard output, and what it is told on its standard input: one line each.
//!
//! A line is written by one system call, so that a kill leaves it whole or, at the very end, cut; what was cut was not
//! said.

use std::fmt;
use std::str::FromStr;

/// What the victim says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The open of the store, with its recovery, begins.
    Opening,
    /// The store is open; what recovery found, as JSON.
    Ready(String),
    /// An append is about to be made.
    Sent {
        /// Its log.
        log: String,
        /// The log's next seq if it succeeds.
        next: u64,
    },
    /// The append was acknowledged.
    Acked {
        /// Its log.
        log: String,
        /// The log's next seq.
        next: u64,
    },
    /// The append was acknowledged by a store that is shipped, where nothing but this was waited for.
    Local {
        /// Its log.
        log: String,
        /// The log's next seq.
        next: u64,
        /// Its LSN: that of its last entry in the log.
        lsn: u64,
        /// The wall clock then, in microseconds since 1970.
        time_us: u64,
    },
    /// Everything up to this LSN was told to be cold.
    Cold {
        /// The LSN.
        lsn: u64,
    },
    /// The append was made half a second ago and is not answered yet.
    Waits {
        /// Its log.
        log: String,
        /// The log's next seq if it succeeds.
        next: u64,
    },
    /// The append failed for good.
    Failed {
        /// The kind of the error.
        kind: String,
        /// Its text.
        message: String,
    },
    /// The append failed and is made again after a moment; the kind of the error.
    TurnedAway(String),
    /// All logs were read, and all that was acknowledged is there; how many records they have.
    ReadsOk(u64),
    /// All logs were to be read, and the disk did not give one of them; what it said instead.
    ReadsFailed(String),
    /// The time of the newest record that was read, in microseconds since 1970.
    Newest(u64),
    /// What a log holds, each record of it read and proved.
    Holds {
        /// Its name.
        log: String,
        /// Its first seq.
        first: u64,
        /// Its next seq.
        next: u64,
    },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        match self {
            Self::Opening => write!(f, "opening"),
            Self::Ready(json) => write!(f, "ready {}", one_line(json)),
            Self::Sent { log, next } => write!(f, "sent {log} {next}"),
            Self::Acked { log, next } => write!(f, "acked {log} {next}"),
            Self::Local { log, next, lsn, time_us } => write!(f, "local {log} {next} {lsn} {time_us}"),
            Self::Cold { lsn } => write!(f, "cold {lsn}"),
            Self::Waits { log, next } => write!(f, "waits {log} {next}"),
            Self::Failed { kind, message } => write!(f, "failed {kind} {}", one_line(message)),
            Self::TurnedAway(kind) => write!(f, "turned-away {kind}"),
            Self::ReadsFailed(told) => write!(f, "reads-failed {}", one_line(told)),
            Self::ReadsOk(records) => write!(f, "reads-ok {records}"),
            Self::Newest(time_us) => write!(f, "newest {time_us}"),
            Self::Holds { log, first, next } => write!(f, "holds {log} {first} {next}"),
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("the victim says no such line: {line}");
        let number = |word: &str| word.parse().map_err(|_| wrong());
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        Ok(match (verb, &words[..]) {
            ("opening", _) => Self::Opening,
            ("ready", _) => Self::Ready(rest.to_owned()),
            ("sent", [log, next]) => Self::Sent { log: (*log).to_owned(), next: number(next)? },
            ("acked", [log, next]) => Self::Acked { log: (*log).to_owned(), next: number(next)? },
            ("local", [log, next, lsn, time_us]) => Self::Local {
                log: (*log).to_owned(),
                next: number(next)?,
                lsn: number(lsn)?,
                time_us: number(time_us)?,
            },
            ("cold", [lsn]) => Self::Cold { lsn: number(lsn)? },
            ("waits", [log, next]) => Self::Waits { log: (*log).to_owned(), next: number(next)? },
            ("failed", [kind, ..]) => {
                let message = rest[kind.len()..].trim_start().to_owned();
                Self::Failed { kind: (*kind).to_owned(), message }
            }
            ("turned-away", [kind]) => Self::TurnedAway((*kind).to_owned()),
            ("reads-failed", _) => Self::ReadsFailed(rest.to_owned()),
            ("reads-ok", [records]) => Self::ReadsOk(number(records)?),
            ("newest", [time_us]) => Self::Newest(number(time_us)?),
            ("holds", [log, first, next]) => {
                Self::Holds { log: (*log).to_owned(), first: number(first)?, next: number(next)? }
            }
            _ => return Err(wrong()),
        })
    }
}

/// What the victim is told while it writes. The end of its input tells it to close the store and to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read all logs now, while appends go on, and say [`Line::ReadsOk`].
    Read,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => write!(f, "read"),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        match line {
            "read" => Ok(Self::Read),
            _ => Err(format!("the victim takes no such order: {line}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_comes_back_as_it_was_said() {
        let log = || "victim/0001".to_owned();
        for line in [
            Line::Opening,
            Line::Ready(r#"{"clean": true}"#.to_owned()),
            Line::Sent { log: log(), next: 7 },
            Line::Acked { log: log(), next: 7 },
            Line::Local { log: log(), next: 7, lsn: 31, time_us: 1_700_000_000_000_000 },
            Line::Cold { lsn: 31 },
            Line::Waits { log: log(), next: 7 },
            Line::Failed { kind: "Poisoned".to_owned(), message: "it stopped; open it again".to_owned() },
            Line::TurnedAway("Overloaded".to_owned()),
            Line::ReadsOk(12),
            Line::ReadsFailed("reading failed: Input/output error".to_owned()),
            Line::Newest(1_700_000_000_000_000),
            Line::Holds { log: log(), first: 0, next: 7 },
        ] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        "acked victim/0001".parse::<Line>().expect_err("it is no whole line");
    }
}
