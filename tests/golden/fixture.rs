//! The golden stores as files that are checked in: each file of a store compressed, and beside it what the store holds.
//!
//! ```text
//! tests/golden/format-0/{name}/expected.json        what the oracle says
//! tests/golden/format-0/{name}/store/{path}.zst     a file of the store
//! tests/golden/format-0/cases.json                  damage and refusals, as changes to these stores
//! ```
//!
//! Invariant: what is written is read again as it was.

use super::cases::{self, Case};
use super::listing::Listing;
use super::stores;
use crate::folders;
use crate::reader::Files;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const LEVEL: i32 = 19;
const EXPECTED: &str = "expected.json";
const CASES: &str = "cases.json";

/// Where they lie.
#[must_use]
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join("format-0")
}

/// A store that is checked in.
pub struct Fixture {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub files: Files,
    /// What it holds.
    pub listing: Listing,
}

/// All stores that are checked in. Panics if they cannot be read.
#[must_use]
pub fn load() -> Vec<Fixture> {
    let entries = fs::read_dir(dir()).expect("the golden stores are there");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("the folder can be listed"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("a plain name"))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|name| load_one(&name)).collect()
}

fn load_one(name: &str) -> Fixture {
    let dir = dir().join(name);
    let unpacked = |(path, bytes): (String, Vec<u8>)| {
        let path = path.strip_suffix(".zst").expect("each file of a store is compressed").to_owned();
        (path, zstd::decode_all(&bytes[..]).expect("it was compressed"))
    };
    let files = folders::files(&dir.join("store")).into_iter().map(unpacked).collect();
    let listing = fs::read(dir.join(EXPECTED)).expect("what it holds is beside it");
    Fixture { name: name.to_owned(), files, listing: serde_json::from_slice(&listing).expect("a listing") }
}

/// The damages and refusals that are checked in. Panics if they cannot be read.
#[must_use]
pub fn load_cases() -> Vec<Case> {
    let bytes = fs::read(dir().join(CASES)).expect("the cases are there");
    serde_json::from_slice(&bytes).expect("a list of cases")
}

/// Makes all stores anew and puts them in the place of those that are there.
///
/// # Errors
/// If a file cannot be written.
pub fn regenerate() -> io::Result<()> {
    let made = stores::all();
    let cases = cases::all(&made);
    let dir = dir();
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    for golden in &made {
        let store = dir.join(golden.name).join("store");
        for (path, bytes) in &golden.files {
            let path = store.join(format!("{path}.zst"));
            fs::create_dir_all(path.parent().expect("it lies in the store"))?;
            fs::write(path, zstd::encode_all(&bytes[..], LEVEL)?)?;
        }
        fs::write(dir.join(golden.name).join(EXPECTED), listing_as_json(&golden.listing)?)?;
    }
    let cases = cases.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    fs::write(dir.join(CASES), format!("[\n{}\n]\n", cases.join(",\n")))
}

/// One line for each log, so that a change is seen where it is.
fn listing_as_json(listing: &Listing) -> io::Result<String> {
    let timelines = serde_json::to_string(&listing.timelines)?;
    let log = |(name, log)| Ok(format!("{}: {}", serde_json::to_string(name)?, serde_json::to_string(log)?));
    let logs = listing.logs.iter().map(log).collect::<io::Result<Vec<String>>>()?.join(",\n");
    Ok(format!("{{\"end\": {}, \"timelines\": {timelines}, \"logs\": {{\n{logs}\n}}}}\n", listing.end))
}

/// Writes the files of a store into `dir`, which is empty or missing.
///
/// # Errors
/// If one cannot be written.
pub fn unpack(files: &Files, dir: &Path) -> io::Result<()> {
    // The folder is there in every store, and what is checked in has no empty folders.
    fs::create_dir_all(dir.join("segments"))?;
    files.iter().try_for_each(|(path, bytes)| fs::write(dir.join(path), bytes))
}
