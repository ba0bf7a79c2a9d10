//! What must hold for any bytes that a parser of everlog may be given: one function for each target, which panics where
//! something does not hold.
//!
//! A fuzzer calls them (tests/fuzz), and so does a test that needs none (`tests/replay.rs`): with the seeds, which the
//! program makes of what it writes itself, with damaged seeds, and with every input that once broke something
//! (tests/fuzz/regressions). Nothing here knows of a fuzzer, and the product knows nothing of this. Invariant: an
//! input's outcome follows from the input, but for what a store draws at random when it is opened.
//!
//! Most targets take the first byte as a mode: the bytes as they are, or with their checksums made right, since a
//! checksum hides all that is behind it from a fuzzer.
#![forbid(unsafe_code)]

mod base;
pub mod blocks;
pub mod device;
pub mod edit;
pub mod entries;
pub mod events;
pub mod files;
pub mod http;
pub mod json;
pub mod segment;
pub mod store;

/// A parser, or a few of one kind.
pub struct Target {
    /// Its name, as `cargo xtask fuzz --target` takes it.
    pub name: &'static str,
    /// The function's path in this crate.
    pub path: &'static str,
    /// What must hold for an input.
    pub check: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident: $check:path, $seeds:path;)*) => {
        /// All of them; tests/fuzz/fuzz_targets has a file for each.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), path: stringify!($check), check: $check, seeds: $seeds },)*];
    };
}

targets! {
    identity: files::identity, files::identity_seeds;
    manifest: files::manifest, files::manifest_seeds;
    journal_header: files::journal_header, files::journal_header_seeds;
    frame: files::frame, files::frame_seeds;
    entry: entries::entry, entries::entry_seeds;
    chunk: entries::chunk, entries::chunk_seeds;
    names: entries::names, entries::names_seeds;
    block: blocks::block, blocks::block_seeds;
    state: blocks::state, blocks::state_seeds;
    segment: segment::segment, segment::seeds;
    store: store::store, store::seeds;
    http_path: http::path, http::path_seeds;
    http_query: http::query, http::query_seeds;
    http_headers: http::headers, http::headers_seeds;
    http_json: json::body, json::seeds;
    http_events: events::events, events::seeds;
    device_state: device::state_file, device::state_seeds;
    device_change: device::change, device::change_seeds;
}

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The mode, and what follows it.
fn mode(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(mode, rest)| (*mode, rest))
}

/// Seeds in each of so many modes.
fn in_modes(modes: u8, seeds: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let seeds: Vec<_> = seeds.into_iter().collect();
    (0..modes).flat_map(|mode| seeds.iter().map(move |seed| [&[mode], &seed[..]].concat())).collect()
}
