//! What travels: names of headers, paths, positions, content types, the framing of bodies, and the answer to each error.
//!
//! Pure functions between HTTP and values; nothing here waits or knows a connection. Invariant: an answer says what the
//! engine said, and nothing that it did not.

pub mod answer;
pub mod body;
pub mod content;
pub mod encoding;
pub mod feed;
pub mod fork;
pub mod headers;
pub mod lifetime;
pub mod path;
pub mod query;
pub mod request;
pub mod sse;
