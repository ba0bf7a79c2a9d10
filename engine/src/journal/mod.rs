//! The journal: the ring of files that holds every durable record until it lies in a segment.

pub mod names;
