//! Keeps a folder of files in a store, and gives it back byte for byte.
//!
//! ```text
//! cargo run --release --example import -- --data my-store --init ~/Documents
//! cargo run --release --example import -- --data my-store --out restored
//! ```
//!
//! Each file becomes records of the log that is named after its folder: `import/<folder>`. The first is a header with
//! the file's path, length and BLAKE3; the parts follow, 256 KiB each at most. Every file is a producer of its own,
//! named by its path and content, so that the store recognises what it already has: after a kill, or a power cut, the
//! same command goes on where the durable part ended, and nothing is stored twice. A file that changed is stored again,
//! and the newest complete version is the one given back.
//!
//! What it deliberately does not do: it keeps neither modes, owners and times of files nor links and empty folders; and
//! since a log knows a bounded number of producers (1024), so does a folder of files. Invariant: `acked <path>` is
//! printed only when the store has acknowledged all of that file's records.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use everlog::{Ack, Batch, Config, ErrorKind, ReadLimit, Store};

const USAGE: &str = "usage: import --data DIR [--init] [--prefix PATH] [--trace] FOLDER
       import --data DIR [--prefix PATH] --out FOLDER
  --init    create the store if there is none
  --prefix  put the files below this path, or give back only what is below it
  --trace   print a line before and after each append: sent <path> <number>, acked <path> <number>";

/// The largest part of a file that one record holds, in bytes.
const PART_BYTES: usize = 256 << 10;
/// Appends under way at once: 8 MiB of parts at most.
const IN_FLIGHT: usize = 32;
/// The root of every log this program makes.
const ROOT: &str = "import";

type Fallible<T = ()> = Result<T, Box<dyn Error>>;

/// What the command line asks for.
struct Options {
    data: PathBuf,
    init: bool,
    prefix: PathBuf,
    trace: bool,
    /// Where from, or where to.
    job: Job,
}

enum Job {
    Import(PathBuf),
    Export(PathBuf),
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match &options.job {
        Job::Import(folder) => import(&options, folder),
        Job::Export(folder) => export(&options, folder),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Option<Options> {
    let (mut data, mut init, mut prefix, mut trace) = (None, false, PathBuf::new(), false);
    let (mut folder, mut out) = (None, None);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--data") => data = Some(PathBuf::from(args.next()?)),
            Some("--prefix") => prefix = PathBuf::from(args.next()?),
            Some("--out") => out = Some(PathBuf::from(args.next()?)),
            Some("--init") => init = true,
            Some("--trace") => trace = true,
            Some(other) if other.starts_with("--") => return None,
            _ if folder.is_none() => folder = Some(PathBuf::from(arg)),
            _ => return None,
        }
    }
    let job = match (folder, out) {
        (Some(folder), None) => Job::Import(folder),
        (None, Some(out)) => Job::Export(out),
        _ => return None,
    };
    let prefix_is_plain = prefix.components().all(|part| matches!(part, Component::Normal(_)));
    prefix_is_plain.then_some(Options { data: data?, init, prefix, trace, job })
}

// ---- What a record of a file looks like ----------------------------------------------------------------------------

/// The first record of a file. As bytes: 0, key (16), length (u64), parts (u32), BLAKE3 (32), the path.
struct Header {
    key: [u8; 16],
    length: u64,
    parts: u32,
    blake3: [u8; 32],
    /// As the operating system spells it, relative, the prefix included.
    path: PathBuf,
}

/// What a record holds. A part, as bytes: 1, key (16), its number from 1 (u32), the content.
enum Item<'a> {
    Header(Header),
    Part { key: [u8; 16], number: u32, content: &'a [u8] },
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.parts.to_le_bytes());
        out.extend_from_slice(&self.blake3);
        out.extend_from_slice(self.path.as_os_str().as_bytes());
        out
    }
}

/// Names a file by its path and content.
fn key_of(path: &Path, blake3: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3).update(path.as_os_str().as_bytes());
    *hasher.finalize().as_bytes().first_chunk().expect("32 bytes have 16")
}

fn encode_part(key: &[u8; 16], number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(21 + content.len());
    out.push(1);
    out.extend_from_slice(key);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(content);
    out
}

fn decode(record: &[u8]) -> Option<Item<'_>> {
    let (kind, rest) = record.split_first()?;
    let (key, rest) = rest.split_first_chunk::<16>()?;
    match kind {
        0 => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            let (parts, rest) = rest.split_first_chunk::<4>()?;
            let (blake3, path) = rest.split_first_chunk::<32>()?;
            Some(Item::Header(Header {
                key: *key,
                length: u64::from_le_bytes(*length),
                parts: u32::from_le_bytes(*parts),
                blake3: *blake3,
                path: PathBuf::from(OsStr::from_bytes(path)),
            }))
        }
        1 => {
            let (number, content) = rest.split_first_chunk::<4>()?;
            Some(Item::Part { key: *key, number: u32::from_le_bytes(*number), content })
        }
        _ => None,
    }
}

/// A path in the spelling of log names: bytes that a name may not hold, and `%` itself, as `%` and two digits.
fn spelled(path: &Path) -> String {
    let mut out = String::new();
    for (i, part) in path.components().enumerate() {
        if i > 0 {
            out.push('/');
        }
        for chunk in part.as_os_str().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '%' || c.is_control() {
                    c.to_string().bytes().for_each(|byte| out.push_str(&format!("%{byte:02x}")));
                } else {
                    out.push(c);
                }
            }
            chunk.invalid().iter().for_each(|byte| out.push_str(&format!("%{byte:02x}")));
        }
    }
    out
}

/// The log that holds the files of a folder.
fn log_of(folder: &Path) -> String {
    if folder.as_os_str().is_empty() { ROOT.to_owned() } else { format!("{ROOT}/{}", spelled(folder)) }
}

// ---- Into the store ------------------------------------------------------------------------------------------------

/// An append under way.
struct Sent {
    path: PathBuf,
    number: u32,
    last: bool,
    ack: Ack,
}

/// Sends records and gives account of them.
struct Importer<'a> {
    store: &'a Store,
    trace: bool,
    in_flight: VecDeque<Sent>,
}

fn import(options: &Options, folder: &Path) -> Fallible<bool> {
    let mut files = Vec::new();
    find_files(folder, &mut files)?;
    files.sort();
    let store = open(options)?;
    let mut importer = Importer { store: &store, trace: options.trace, in_flight: VecDeque::new() };
    let mut log = String::new();
    for file in &files {
        let path = options.prefix.join(file.strip_prefix(folder)?);
        let log_here = log_of(path.parent().unwrap_or(Path::new("")));
        if log_here != log {
            log = log_here;
            importer.create(&log)?;
        }
        importer.send_file(file, &path, &log)?;
    }
    importer.settle(0)?;
    store.close()?;
    Ok(true)
}

impl Importer<'_> {
    /// Makes sure that the log exists. Apart from the records, since a record sent again must be sent the same.
    fn create(&self, log: &str) -> Fallible {
        let mut batch = Batch::new();
        batch.log(log).create_if_missing();
        self.store.append_and_wait(batch)?;
        Ok(())
    }

    /// Reads the file twice: for the header, and for the parts. A file that changes meanwhile is an error.
    fn send_file(&mut self, file: &Path, path: &Path, log: &str) -> Fallible {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(file).map_err(|e| told("opening", file, &e))?)?;
        let length = hasher.count();
        let parts = u32::try_from(length.div_ceil(PART_BYTES as u64))?;
        let blake3 = *hasher.finalize().as_bytes();
        let header = Header { key: key_of(path, &blake3), length, parts, blake3, path: path.to_owned() };
        let key = header.key;
        self.send(path, log, &key, 0, parts == 0, &header.encode())?;

        let mut reader = fs::File::open(file).map_err(|e| told("opening", file, &e))?;
        let mut hasher = blake3::Hasher::new();
        for number in 1..=parts {
            let mut content = Vec::with_capacity(PART_BYTES);
            (&mut reader).take(PART_BYTES as u64).read_to_end(&mut content)?;
            hasher.update(&content);
            let last = number == parts;
            if last && hasher.finalize().as_bytes() != &blake3 {
                return Err(format!("{} changes while it is read; import it when it is quiet", file.display()).into());
            }
            self.send(path, log, &key, number, last, &encode_part(&key, number, &content))?;
        }
        Ok(())
    }

    fn send(&mut self, path: &Path, log: &str, key: &[u8; 16], number: u32, last: bool, record: &[u8]) -> Fallible {
        self.settle(IN_FLIGHT - 1)?;
        if self.trace {
            writeln!(io::stdout(), "sent {} {number}", spelled(path))?;
        }
        let mut batch = Batch::new();
        // The same id, epoch and number again are the same append again: the store keeps one of them.
        batch.log(log).producer(key, 0, u64::from(number)).record(record);
        let ack = self.store.append(batch)?;
        self.in_flight.push_back(Sent { path: path.to_owned(), number, last, ack });
        Ok(())
    }

    /// Takes the acknowledgements there are, and waits until at most `left` are missing.
    fn settle(&mut self, left: usize) -> Fallible {
        while let Some(sent) = self.in_flight.pop_front() {
            let result = match sent.ack.try_get() {
                Some(result) => result,
                None if self.in_flight.len() < left => {
                    self.in_flight.push_front(sent);
                    break;
                }
                None => sent.ack.wait(),
            };
            result?;
            let mut out = io::stdout();
            if self.trace {
                writeln!(out, "acked {} {}", spelled(&sent.path), sent.number)?;
            }
            if sent.last {
                writeln!(out, "acked {}", spelled(&sent.path))?;
            }
        }
        Ok(())
    }
}

/// The plain files below `folder`.
fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> Fallible {
    for entry in fs::read_dir(folder).map_err(|e| told("listing", folder, &e))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        } else {
            eprintln!("{} is neither a file nor a folder and is left out", entry.path().display());
        }
    }
    Ok(())
}

/// The store; with `--init` it is created if there is none. Only creating tells what a creation that was cut short left,
/// which it makes anew, from anything else in the directory, which it refuses.
fn open(options: &Options) -> Fallible<Store> {
    let refused = match Store::open(&options.data, Config::default()) {
        Err(e) if options.init && e.kind() == ErrorKind::Refused => e,
        opened => return Ok(opened?),
    };
    match Store::create(&options.data, &Config::default()) {
        Ok(_) => Ok(Store::open(&options.data, Config::default())?),
        Err(e) if e.kind() == ErrorKind::Refused => Err(refused.into()),
        Err(e) => Err(e.into()),
    }
}

fn told(what: &str, path: &Path, e: &io::Error) -> String {
    format!("{what} {} failed: {e}", path.display())
}

// ---- Out of the store ----------------------------------------------------------------------------------------------

/// The files of one log.
#[derive(Default)]
struct Files {
    /// By key: those that are not complete yet.
    pending: BTreeMap<[u8; 16], Pending>,
    /// Those given back.
    whole: BTreeSet<PathBuf>,
}

/// A file that is being put together.
struct Pending {
    header: Header,
    next: u32,
    hasher: blake3::Hasher,
    file: fs::File,
    temporary: PathBuf,
}

fn export(options: &Options, out: &Path) -> Fallible<bool> {
    let store = Store::open(&options.data, Config::default())?;
    let (mut after, mut whole) = (None::<String>, true);
    loop {
        let logs = store.list(ROOT, after.as_deref(), 1000)?;
        let Some(last) = logs.last() else { break };
        after = Some(last.name.clone());
        for log in &logs {
            if log.name == ROOT || log.name.starts_with("import/") {
                whole &= export_log(&store, &log.name, log.first_seq, &options.prefix, out)?;
            }
        }
    }
    store.close()?;
    Ok(whole)
}

/// Gives back the files of one log; false if one of them is not complete.
fn export_log(store: &Store, log: &str, first: u64, prefix: &Path, out: &Path) -> Fallible<bool> {
    let mut files = Files::default();
    let mut next = first;
    loop {
        let page = store.read(log, next, ReadLimit::default())?;
        for record in &page.records {
            let wrong = |what: &str| format!("log {log}, seq {}: {what}", record.seq);
            match decode(&record.payload).ok_or_else(|| wrong("this is no record of an imported file"))? {
                Item::Header(header) if header.path.starts_with(prefix) => files.begin(header, out)?,
                Item::Header(_) => {}
                Item::Part { key, number, content } => {
                    files.take_part(key, number, content, out).map_err(|what| wrong(&what.to_string()))?;
                }
            }
        }
        next = page.next_seq;
        if next >= page.head {
            break;
        }
    }
    let mut complete = true;
    for Pending { header, temporary, .. } in files.pending.values() {
        fs::remove_file(temporary)?;
        // Of a file that changed, an older version that was never completed is nothing that anybody misses.
        if !files.whole.contains(&header.path) {
            eprintln!("{} is not complete in the store and is left out", spelled(&header.path));
            complete = false;
        }
    }
    Ok(complete)
}

impl Files {
    fn begin(&mut self, header: Header, out: &Path) -> Fallible {
        if !header.path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("{} leads out of the folder; it is not written", spelled(&header.path)).into());
        }
        let path = out.join(&header.path);
        fs::create_dir_all(path.parent().unwrap_or(out))?;
        let key = header.key;
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let temporary = path.with_file_name(format!(".import-{hex}"));
        let file = fs::File::create(&temporary).map_err(|e| told("creating", &temporary, &e))?;
        let begun = Pending { header, next: 1, hasher: blake3::Hasher::new(), file, temporary };
        if self.pending.insert(key, begun).is_some() {
            return Err(format!("{} begins twice", path.display()).into());
        }
        self.finish(key, out)
    }

    fn take_part(&mut self, key: [u8; 16], number: u32, content: &[u8], out: &Path) -> Fallible {
        // Parts of a file that is not asked for have no header here.
        let Some(file) = self.pending.get_mut(&key) else { return Ok(()) };
        if number != file.next {
            let path = spelled(&file.header.path);
            return Err(format!("part {number} of {path} stands where part {} belongs", file.next).into());
        }
        file.next += 1;
        file.hasher.update(content);
        file.file.write_all(content)?;
        self.finish(key, out)
    }

    /// Gives a file its name once all of it is there and proved.
    fn finish(&mut self, key: [u8; 16], out: &Path) -> Fallible {
        if self.pending.get(&key).is_none_or(|file| file.next <= file.header.parts) {
            return Ok(());
        }
        let file = self.pending.remove(&key).expect("it was there a moment ago");
        let header = file.header;
        if file.hasher.count() != header.length || file.hasher.finalize().as_bytes() != &header.blake3 {
            return Err(format!("{} is not what was imported; see `everlog verify`", spelled(&header.path)).into());
        }
        fs::rename(&file.temporary, out.join(&header.path))?;
        writeln!(io::stdout(), "restored {}", spelled(&header.path))?;
        self.whole.insert(header.path);
        Ok(())
    }
}
