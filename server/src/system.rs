//! The server's own logs: which there are, and how they are read at the start.
//!
//! They lie under [`PREFIX`], which no request of a device reaches (`protocol/path.rs`), and go with the store like any
//! other log: into its cold stores, and back. A restore that goes back to an earlier moment does not take them back
//! (`carried.rs`).

use crate::failure::Failure;
use crate::protocol::request::Durability;
use crate::streams::{Request, Streams};
use everlog::types::Position;
use everlog::{ErrorKind, Record};

/// The owner of the server's own logs.
pub const PREFIX: &str = "__everlog";
/// The changes of tokens.
pub const TOKENS: &str = "__everlog/tokens";
/// What was done by whom.
pub const AUDIT: &str = "__everlog/audit";

/// Creates the log if it is not there.
///
/// # Errors
/// Why it cannot be.
pub async fn ensure(streams: &Streams, name: &str) -> Result<(), Failure> {
    match streams.info(name).await {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let creation = Request { name: name.to_owned(), create: Some(Vec::new()), ..Request::default() };
    streams.append(creation).await?;
    Ok(())
}

/// Gives each record of the log to `take`, in their order.
///
/// # Errors
/// What cannot be read; what `take` says.
pub async fn read_all(
    streams: &Streams, name: &str, mut take: impl FnMut(&Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = streams.info(name).await?.first_seq;
    loop {
        let page = streams.read(name, Position::Seq(next)).await?;
        page.records.iter().try_for_each(&mut take)?;
        next = page.next_seq;
        if next == page.head {
            return Ok(());
        }
    }
}

/// How safe a change of the server's own logs is before it is answered: as safe as this server can make it.
#[must_use]
pub fn durability(streams: &Streams) -> Durability {
    if streams.has_cold() { Durability::Cold } else { Durability::Local }
}
