//! `everlog dump`: prints records, of one log or of all. Works on a store that is running, since it only reads.
//!
//! Invariant: what cannot be read is told on stderr with its seqs, is a line of its own in the JSON, and makes the exit
//! code 4; it is never left out silently. Where the journal cannot be trusted, what is left is printed, and so is that. With
//! `--as-of` all of it is as of one moment, or the command fails.

use std::io::Write;
use std::path::PathBuf;

use everlog::types::AsOf;
use everlog::{ErrorKind, LogInfo, Page, ReadLimit, ReadOnly, Record};
use serde_json::{Value, json};

use everlog_server::failure::Failure;

use crate::moment;

pub const EXAMPLES: &str = "Examples:
  everlog dump ./store
  everlog dump ./store --log users/alice/contacts --from 40
  everlog dump ./store --log users/alice/contacts --as-of 2026-11-28T14:00:00Z
  everlog dump ./store --as-of 4711
  everlog dump ./store --json | jq -r 'select(.encoding == \"utf-8\") | .data'

With --json each record is one object on a line: log, seq, lsn, time_us, encoding (utf-8 or base64), data.

--as-of shows the logs and records as they were after the entry with that LSN, or at that time, also those that were
trimmed or deleted since, for as long as the grace keeps them.";

#[derive(clap::Args)]
pub struct Args {
    /// The store
    dir: PathBuf,
    /// This log alone
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// From this seq on
    #[arg(long, value_name = "SEQ", requires = "log")]
    from: Option<u64>,
    /// As it was then: an LSN, or a time such as 2026-11-28T14:00:00Z
    #[arg(long, value_name = "TIME|LSN", value_parser = moment::parse)]
    as_of: Option<AsOf>,
    /// One JSON object a line on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let (store, refusal) = ReadOnly::salvage(&args.dir)?;
    let dumped = dump_logs(&Shown { store, as_of: args.as_of }, args);
    match refusal {
        // Last, so that it stands where a person looks; and also where a log is not found: it may be what is missing.
        Some(refusal) => {
            if let Err(failure) = dumped {
                eprintln!("{failure}");
            }
            Err(refusal.into())
        }
        None => match dumped? {
            0 => Ok(()),
            damaged => Err(Failure::damage(damaged)),
        },
    }
}

/// A store, at the moment that is asked for.
struct Shown {
    store: ReadOnly,
    as_of: Option<AsOf>,
}

impl Shown {
    fn info(&self, log: &str) -> everlog::Result<LogInfo> {
        match self.as_of {
            Some(as_of) => self.store.info_as_of(log, as_of),
            None => self.store.info(log),
        }
    }

    fn list(&self, after: Option<&str>) -> everlog::Result<Vec<LogInfo>> {
        const AT_ONCE: usize = 1000;
        match self.as_of {
            Some(as_of) => self.store.list_as_of(as_of, "", after, AT_ONCE),
            None => self.store.list("", after, AT_ONCE),
        }
    }

    fn read(&self, log: &str, from: u64) -> everlog::Result<Page> {
        match self.as_of {
            Some(as_of) => self.store.read_as_of(log, as_of, from, ReadLimit::default()),
            None => self.store.read(log, from, ReadLimit::default()),
        }
    }
}

/// Prints what is asked for, and says how many stretches of it could not be had.
fn dump_logs(store: &Shown, args: &Args) -> Result<usize, Failure> {
    let mut damaged = 0;
    if let Some(name) = &args.log {
        let from = match args.from {
            Some(from) => from,
            None => store.info(name)?.first_seq,
        };
        damaged += dump(store, name, from, args.json)?;
    } else {
        let mut after = None::<String>;
        loop {
            let logs = store.list(after.as_deref())?;
            let Some(last) = logs.last() else { break };
            after = Some(last.name.clone());
            for log in logs.iter().filter(|log| !log.deleted) {
                damaged += dump(store, &log.name, log.first_seq, args.json)?;
            }
        }
    }
    Ok(damaged)
}

/// Prints a log from a seq on, and says how many stretches of it could not be had.
fn dump(store: &Shown, log: &str, from: u64, json: bool) -> Result<usize, Failure> {
    let mut out = std::io::stdout().lock();
    let (mut next, mut damaged) = (from, 0);
    loop {
        match store.read(log, next) {
            Ok(page) => {
                for record in &page.records {
                    writeln!(out, "{}", if json { object(log, record).to_string() } else { line(log, record) })?;
                }
                next = page.next_seq;
                if next >= page.head {
                    return Ok(damaged);
                }
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {
                damaged += 1;
                // The damage ends where the error says, but never before the record that could not be had; where it
                // says nothing, all the rest is lost to this command.
                let end = error.seq_range().map(|seqs| seqs.end.max(next + 1));
                let last = end.map(|end| end - 1);
                eprintln!("{error}");
                if json {
                    writeln!(out, "{}", json!({"log": log, "damaged": {"first_seq": next, "last_seq": last}}))?;
                }
                match end {
                    Some(end) if end < store.info(log)?.next_seq => next = end,
                    _ => return Ok(damaged),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn object(log: &str, record: &Record) -> Value {
    let (encoding, data) = match std::str::from_utf8(&record.payload) {
        Ok(text) => ("utf-8", text.to_owned()),
        Err(_) => ("base64", base64(&record.payload)),
    };
    let (lsn, time_us) = (record.lsn.0, record.time.0);
    json!({"log": log, "seq": record.seq, "lsn": lsn, "time_us": time_us, "encoding": encoding, "data": data})
}

/// A record on one line: the beginning of its payload, what cannot be shown escaped.
fn line(log: &str, record: &Record) -> String {
    const SHOWN: usize = 60;
    let bytes = record.payload.len();
    let shown = &record.payload[..bytes.min(SHOWN)];
    let more = if bytes > SHOWN { "…" } else { "" };
    format!("{log} {:>8} {bytes:>8} B  {}{more}", record.seq, shown.escape_ascii())
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|i| u32::from(group.get(i).copied().unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for i in 0..4 {
            if i <= group.len() {
                out.push(char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use everlog::types::{Lsn, TimeUs};

    fn record(payload: &[u8]) -> Record {
        Record { seq: 7, lsn: Lsn(9), time: TimeUs(11), payload: payload.to_vec() }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn a_payload_is_given_as_text_only_if_it_is_text() {
        let text = object("a/b", &record("Zoë".as_bytes()));
        assert_eq!((text["encoding"].as_str(), text["data"].as_str()), (Some("utf-8"), Some("Zoë")));
        assert_eq!(
            (text["seq"].as_u64(), text["lsn"].as_u64(), text["time_us"].as_u64()),
            (Some(7), Some(9), Some(11))
        );
        let bytes = object("a/b", &record(b"\xff\x00"));
        assert_eq!((bytes["encoding"].as_str(), bytes["data"].as_str()), (Some("base64"), Some("/wA=")));
    }

    #[test]
    fn a_line_shows_where_a_payload_goes_on() {
        assert_eq!(line("a/b", &record(b"x\ny")), "a/b        7        3 B  x\\ny");
        assert!(line("a/b", &record(&[b'x'; 61])).ends_with("xx…"));
    }
}
