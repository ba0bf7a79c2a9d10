//! What is to become of logs, all or nothing, and the engine's batch that says so.
//!
//! It decides nothing. Invariant: what has to last until the request's outcome is known travels with it.

use crate::limits::Booking;
use crate::protocol::request::{Durability, Producer};
use bytes::Bytes;
use everlog::Batch;
use everlog::types::{Cursor, Lsn};
use std::ops::Range;
use std::time::Duration;
use tokio::sync::OwnedRwLockWriteGuard;

/// What is to be put into one log, all or nothing.
#[derive(Debug, Default)]
pub struct Request {
    /// The log.
    pub name: String,
    /// The metadata to create the log with.
    pub create: Option<Vec<u8>>,
    /// The log that is meant, of those that had this name.
    pub created: Option<Lsn>,
    /// The end that it must have.
    pub end: Option<Cursor>,
    /// The next seq that it must have.
    pub expect_next: Option<u64>,
    /// The content.
    pub body: Bytes,
    /// Its parts that become records.
    pub records: Vec<Range<usize>>,
    /// Its number.
    pub producer: Option<Producer>,
    /// The writer's opaque number.
    pub tag: Option<String>,
    /// The first seq that the log keeps from then on.
    pub trim: Option<u64>,
    /// Whether the log is closed behind it.
    pub close: bool,
    /// Whether the log is deleted.
    pub delete: bool,
    /// The log, and the seq in it, that the log is created as a fork of.
    pub fork: Option<(String, u64)>,
    /// The log's metadata from now on: that of a fork, or of one that is kept for its forks alone.
    pub metadata: Option<Vec<u8>>,
    /// In how long the log ends by itself.
    pub expires_in: Option<Duration>,
    /// What becomes of other logs with it.
    pub others: Vec<Other>,
    /// A record of the server's audit log, which is stored with it or not at all.
    pub audit: Option<Vec<u8>>,
    /// How safe it is to be before it is answered.
    pub durability: Durability,
    /// What is let go once it is known what became of the request, also where nobody waits for that any more.
    pub held: Option<OwnedRwLockWriteGuard<()>>,
    /// What of its owner's quota is for it.
    pub booking: Booking,
}

/// What becomes of another log with a request.
#[derive(Debug)]
pub struct Other {
    /// The log.
    pub name: String,
    /// Which of those that had this name.
    pub created: Lsn,
    /// Its metadata from now on; it is deleted if there is none.
    pub metadata: Option<Vec<u8>>,
}

impl Request {
    /// Whether the log is kept for its forks alone from now on.
    pub(super) fn hides(&self) -> bool {
        self.metadata.is_some() && self.fork.is_none()
    }

    /// Whether it says nothing but when the log ends by itself.
    pub(super) fn only_renews(&self) -> bool {
        let begins = self.create.is_some() || self.fork.is_some();
        self.expires_in.is_some() && !begins && !self.close && self.records.is_empty()
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        let mut batch = Batch::new();
        let log = batch.log(&self.name);
        if let Some(metadata) = &self.create {
            log.create_with(metadata);
        }
        if let Some((parent, at)) = &self.fork {
            log.fork(parent, *at);
        }
        if let Some(metadata) = &self.metadata {
            log.metadata(metadata);
        }
        if let Some(created) = self.created {
            log.expect_created(created);
        }
        if let Some(end) = self.end {
            log.expect_at(end);
        }
        if let Some(next) = self.expect_next {
            log.expect_next(next);
        }
        for range in &self.records {
            log.record(&self.body[range.clone()]);
        }
        if let Some(producer) = &self.producer {
            log.producer(&producer.id, producer.epoch, producer.number);
        }
        if let Some(tag) = &self.tag {
            log.tag(tag.as_bytes());
        }
        if let Some(expires_in) = self.expires_in {
            log.expire(Some(expires_in));
        }
        if let Some(first) = self.trim {
            log.trim(first);
        }
        if self.close {
            log.close();
        }
        if self.delete {
            log.delete();
        }
        for other in &self.others {
            let log = batch.log(&other.name).expect_created(other.created);
            match &other.metadata {
                Some(metadata) => log.metadata(metadata),
                None => log.delete(),
            };
        }
        if let Some(audit) = &self.audit {
            batch.log(crate::system::AUDIT).record(audit);
        }
        batch
    }
}
