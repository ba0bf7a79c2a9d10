//! The victim: a process that appends to a store, or looks at one, while a test does something to it or to its disk.
//!
//! It says what it is about to do and what it was told, line by line (`real/line.rs`), and whoever listens is the
//! oracle. Its records follow from a seed (`real/content.rs`), so that any other victim can check them. The store is
//! small in all its sizes: flushes, new journal files and their reuse happen all the time.
//!
//! What it does not do: it judges nothing but what it reads. Exit codes are the project's: 0 done, 1 something read is
//! not what was appended, 4 damage, 5 the store stopped after a failed write or sync.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use everlog::clock::{Clock, SystemClock};
use everlog::io::{self, Io};
use everlog::{Ack, Batch, Config, Error, ErrorKind, IoChoice, ReadLimit, Receipt, Store, WhenFull};
use everlog_server::failure::{self, Failure};
use everlog_tests::real::line::{Line, Order};
use everlog_tests::real::mistake::{Mistake, Unsynced};
use everlog_tests::real::{Random, content};

/// How long a victim that was told to end waits for its appends before it closes the store over them.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an append may go without an answer before its thread turns to other logs, as new clients would.
const LATE_AFTER: Duration = Duration::from_millis(500);
/// How long it waits before it makes an append again, if the error does not say.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Appends to a store, or checks one, for tests that do something to it meanwhile.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Appends until the end of its input, and closes the store
    Write(WriteArgs),
    /// Recovers the store, reads and proves every record, and closes it
    Check(CheckArgs),
}

#[derive(Args)]
struct StoreArgs {
    /// The store
    #[arg(long)]
    data: PathBuf,
    /// The backend
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    io: Backend,
    /// What the records follow from
    #[arg(long)]
    seed: u64,
    #[arg(long, default_value_t = 512 << 10)]
    journal_file_bytes: u64,
    #[arg(long, default_value_t = 3)]
    journal_files: usize,
    #[arg(long, default_value_t = 1 << 20)]
    memory_bytes: usize,
    #[arg(long, default_value_t = 256 << 10)]
    flush_bytes: usize,
}

#[derive(Args)]
struct WriteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Create the store if there is none
    #[arg(long)]
    create: bool,
    /// Logs, shared out among the threads
    #[arg(long, default_value_t = 16)]
    logs: usize,
    /// Threads, each waiting for its acknowledgements
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// The most records in an append
    #[arg(long, default_value_t = 4)]
    batch: u64,
    /// The mean length of a record
    #[arg(long, default_value_t = 1000)]
    record_bytes: usize,
    /// End after so many appends of each thread
    #[arg(long)]
    appends: Option<u64>,
    /// Make a mistake, for a test that has to notice it
    #[arg(long, value_enum)]
    mistake: Option<Mistake>,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// End without closing the store
    #[arg(long)]
    no_close: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Auto,
    Uring,
    Posix,
    Buffered,
}

impl StoreArgs {
    fn config(&self) -> Config {
        Config {
            journal_file_bytes: self.journal_file_bytes,
            journal_files_max: self.journal_files,
            memory_pool_bytes: self.memory_bytes,
            flush_bytes: self.flush_bytes,
            io: match self.io {
                Backend::Auto => IoChoice::Auto,
                Backend::Uring => IoChoice::Uring,
                Backend::Posix => IoChoice::Posix,
                Backend::Buffered => IoChoice::Buffered,
            },
            // An append that finds no room says so, instead of waiting unseen.
            when_full: WhenFull::Reject,
            ..Config::default()
        }
    }

    /// Opens the store; with `create` it is made if there is none, or if what is there is what a creation left that was
    /// cut short.
    fn open(&self, create: bool, mistake: Option<Mistake>) -> Result<Store, Failure> {
        say(&Line::Opening);
        let config = self.config();
        let mut disk: Arc<dyn Io> = io::choose(config.io)?;
        if mistake == Some(Mistake::Unsynced) {
            disk = Arc::new(Unsynced(disk));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let open = || Store::open_on(Arc::clone(&disk), Arc::clone(&clock), &self.data, config.clone());
        let store = match open() {
            Err(refused) if create && refused.kind() == ErrorKind::Refused => {
                match Store::create_on(Arc::clone(&disk), Arc::clone(&clock), &self.data, &config) {
                    Err(e) if e.kind() == ErrorKind::Refused => return Err(refused.into()),
                    created => created?,
                };
                open()?
            }
            opened => opened?,
        };
        let found = store.recovery();
        let json = serde_json::json!({
            "io": store.stats().io,
            "clean": found.clean,
            "timeline": found.timeline.to_string(),
            "end": found.end.0,
            "frames": found.frames,
            "entries": found.entries,
            "bytes": found.bytes,
            "torn": found.torn.len(),
            "possibly_acknowledged": found.possibly_acknowledged.map(|(first, last)| (first.0, last.map(|lsn| lsn.0))),
            "took_us": found.took.as_micros() as u64,
        });
        say(&Line::Ready(json.to_string()));
        Ok(store)
    }
}

fn main() -> ExitCode {
    if let Err(e) = everlog::io::view::install_sigbus_handler() {
        eprintln!("the handler for damaged mappings could not be installed: {e}");
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    failure::exit(match Cli::parse().command {
        Command::Write(args) => write(&args),
        Command::Check(args) => check(&args),
    })
}

/// Says a line, by one system call. Ends the process if nobody listens any more.
fn say(line: &Line) {
    let text = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// What was read is not what was appended.
fn wrong(what: impl Into<String>) -> Failure {
    Failure::new(1, what, "this is a defect of the engine or of the disk: keep the store and look into it")
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let store = args.store.open(false, None)?;
    for name in names(&store)? {
        let (first, next) = read_log(&store, args.store.seed, &name)?;
        say(&Line::Holds { log: name, first, next });
    }
    if args.no_close {
        std::process::exit(0);
    }
    Ok(store.close()?)
}

/// The names of all logs.
fn names(store: &Store) -> everlog::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let some = store.list(content::PREFIX, names.last().map(String::as_str), 1000)?;
        if some.is_empty() {
            return Ok(names);
        }
        names.extend(some.into_iter().map(|log| log.name));
    }
}

/// Reads a log whole and proves each of its records. Gives its first and its next seq.
fn read_log(store: &Store, seed: u64, name: &str) -> Result<(u64, u64), Failure> {
    let first = store.info(name)?.first_seq;
    let mut next = first;
    loop {
        let page = store.read(name, next, ReadLimit::default())?;
        for record in &page.records {
            if record.seq != next {
                return Err(wrong(format!("log {name}: seq {} stands where {next} belongs", record.seq)));
            }
            content::check(seed, name, next, &record.payload).map_err(wrong)?;
            next += 1;
        }
        if next != page.next_seq {
            return Err(wrong(format!("log {name}: a page ends at {next} and says {}", page.next_seq)));
        }
        if next == page.head {
            return Ok((first, next));
        }
    }
}

/// What the threads of a writing victim share.
struct World<'a> {
    store: &'a Store,
    args: &'a WriteArgs,
    logs: Vec<Log>,
    /// No further append is begun.
    stop: AtomicBool,
}

/// A log of the victim's. One thread alone appends to it; others look at how far it is.
struct Log {
    name: String,
    /// Whether it has to be created.
    missing: AtomicBool,
    /// The next seq if all that was sent succeeds.
    sent: AtomicU64,
    /// The next seq after what was acknowledged.
    acked: AtomicU64,
}

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// An append that was made and whose answer was not heard yet.
struct Late<'a> {
    log: &'a Log,
    /// The log's next seq before it, and after it.
    from: u64,
    next: u64,
    ack: Answer,
}

/// What became of an append.
enum Outcome<'a> {
    Acked,
    /// There is no answer after [`LATE_AFTER`].
    Late(Late<'a>),
    /// There is no point in another.
    Over,
}

/// An acknowledgement, and what it said.
struct Answer {
    ack: Ack,
    result: Option<everlog::Result<Receipt>>,
}

/// Ends the sleep of a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Answer {
    fn new(ack: Ack) -> Self {
        Self { ack, result: None }
    }

    /// Whether the answer is there.
    fn is_ready(&self) -> bool {
        self.result.is_some()
    }

    /// Looks for the answer, and waits for it: for ever, or so long. Whether it is there.
    fn wait(&mut self, patience: Option<Duration>) -> bool {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let until = patience.map(|patience| Instant::now() + patience);
        while self.result.is_none() {
            if let Poll::Ready(result) = Pin::new(&mut self.ack).poll(&mut Context::from_waker(&waker)) {
                self.result = Some(result);
            } else if let Some(until) = until {
                match until.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                    _ => break,
                }
            } else {
                std::thread::park();
            }
        }
        self.is_ready()
    }
}

/// What the main thread waits for.
enum Event {
    Order(Order),
    EndOfInput,
    /// A thread ended.
    Done(Result<(), Failure>),
}

fn write(args: &WriteArgs) -> Result<(), Failure> {
    let store = args.store.open(args.create, args.mistake)?;
    let mut logs = Vec::with_capacity(args.logs);
    for name in (0..args.logs).map(content::log_name) {
        let (missing, next) = match store.info(&name) {
            Ok(info) => (false, info.next_seq),
            Err(e) if e.kind() == ErrorKind::NotFound => (true, 0),
            Err(e) => return Err(e.into()),
        };
        let (missing, sent, acked) = (AtomicBool::new(missing), AtomicU64::new(next), AtomicU64::new(next));
        logs.push(Log { name, missing, sent, acked });
    }
    let world = World { store: &store, args, logs, stop: AtomicBool::new(false) };
    let (events, heard) = channel();
    listen(events.clone());
    let done = std::thread::scope(|scope| {
        for thread in 0..args.threads {
            let (world, events) = (&world, events.clone());
            scope.spawn(move || {
                let done = world.append_until_stopped(thread);
                if done.is_err() || world.store.stats().poisoned {
                    world.stop.store(true, Ordering::SeqCst);
                }
                // The main thread hears all threads before it goes.
                let _ = events.send(Event::Done(done));
            });
        }
        world.oversee(&heard)
    });
    if store.stats().poisoned {
        return Err(world.poisoned()?);
    }
    done?;
    Ok(store.close()?)
}

/// Turns the input into events, on a thread of its own that ends with the process.
fn listen(events: Sender<Event>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.parse() {
                Ok(order) => drop(events.send(Event::Order(order))),
                Err(e) => eprintln!("{e}"),
            }
        }
        drop(events.send(Event::EndOfInput));
    });
}

impl World<'_> {
    /// Carries out orders until all threads have ended. The first failure counts.
    fn oversee(&self, heard: &Receiver<Event>) -> Result<(), Failure> {
        let (mut running, mut result, mut ended) = (self.args.threads, Ok(()), false);
        while running > 0 {
            let event = if ended { heard.recv_timeout(PATIENCE) } else { heard.recv().map_err(Into::into) };
            match event {
                Ok(Event::Done(done)) => {
                    running -= 1;
                    result = result.and(done);
                }
                Ok(Event::Order(Order::Read)) => match self.read_all() {
                    Ok(records) => say(&Line::ReadsOk(records)),
                    Err(e) => {
                        result = result.and(Err(e));
                        self.stop.store(true, Ordering::SeqCst);
                    }
                },
                Ok(Event::EndOfInput) => {
                    self.stop.store(true, Ordering::SeqCst);
                    ended = true;
                }
                // Appends wait for room that does not come: the close answers them.
                Err(RecvTimeoutError::Timeout) => result = result.and(self.store.clone().close().map_err(Into::into)),
                Err(RecvTimeoutError::Disconnected) => unreachable!("this function's caller holds a sender"),
            }
        }
        result
    }

    /// One thread's appends, to the logs that are its own.
    fn append_until_stopped(&self, thread: usize) -> Result<(), Failure> {
        let own: Vec<&Log> = self.logs.iter().skip(thread).step_by(self.args.threads).collect();
        // Other logs at each start: what matters of a record follows from its place.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut random = Random::new(self.args.store.seed ^ now ^ thread as u64);
        let mut left = self.args.appends.unwrap_or(u64::MAX);
        // Logs whose last append is not answered yet.
        let mut late: Vec<Late> = Vec::new();
        while left > 0 && !own.is_empty() && !self.stop.load(Ordering::SeqCst) {
            for one in late.extract_if(.., |late| late.ack.wait(Some(Duration::ZERO))) {
                self.settle(one)?;
            }
            let free: Vec<&Log> = own.iter().filter(|log| late.iter().all(|late| late.log != **log)).copied().collect();
            if free.is_empty() {
                // A client that has given up waiting comes again only where it has not asked yet.
                self.settle(late.remove(0))?;
                continue;
            }
            let log = free[random.below(free.len() as u64) as usize];
            match self.append(log, 1 + random.below(self.args.batch.max(1)))? {
                Outcome::Acked => left -= 1,
                Outcome::Late(one) => late.push(one),
                Outcome::Over => break,
            }
        }
        late.into_iter().try_for_each(|one| self.settle(one).map(drop))
    }

    /// One append, made again while it is turned away.
    fn append<'a>(&self, log: &'a Log, records: u64) -> Result<Outcome<'a>, Failure> {
        let from = log.acked.load(Ordering::SeqCst);
        let next = from + records;
        let payloads: Vec<Vec<u8>> = (from..next)
            .map(|seq| content::record(self.args.store.seed, &log.name, seq, self.args.record_bytes))
            .collect();
        let mut batch = Batch::new();
        let part = batch.log(&log.name);
        if log.missing.load(Ordering::SeqCst) {
            part.create();
        }
        part.expect_next(from);
        for payload in &payloads {
            part.record(payload);
        }
        log.sent.store(next, Ordering::SeqCst);
        say(&Line::Sent { log: log.name.clone(), next });
        while !self.stop.load(Ordering::SeqCst) {
            let error = match self.store.append(batch.clone()) {
                Ok(ack) => {
                    if self.args.mistake == Some(Mistake::Early) {
                        say(&Line::Acked { log: log.name.clone(), next });
                    }
                    let mut late = Late { log, from, next, ack: Answer::new(ack) };
                    if late.ack.wait(Some(LATE_AFTER)) {
                        return self.settle(late);
                    }
                    say(&Line::Waits { log: log.name.clone(), next });
                    return Ok(Outcome::Late(late));
                }
                Err(error) => error,
            };
            if !matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::Io) {
                return self.failed(&error);
            }
            say(&Line::TurnedAway(format!("{:?}", error.kind())));
            std::thread::sleep(error.retry_after().unwrap_or(AGAIN_AFTER));
        }
        Ok(Outcome::Over)
    }

    /// Waits for an append's answer, and says it.
    fn settle<'a>(&self, mut late: Late<'a>) -> Result<Outcome<'a>, Failure> {
        late.ack.wait(None);
        let Late { log, from, next, ack } = late;
        let receipt = match ack.result.expect("it was waited for") {
            Ok(receipt) => receipt,
            Err(error) => return self.failed(&error),
        };
        let at = receipt.logs[0];
        if (at.first_seq, at.next_seq, at.duplicate) != (from, next, false) {
            return Err(wrong(format!("log {}: seqs {from} to {next} were answered {at:?}", log.name)));
        }
        log.missing.store(false, Ordering::SeqCst);
        log.acked.store(next, Ordering::SeqCst);
        say(&Line::Acked { log: log.name.clone(), next });
        Ok(Outcome::Acked)
    }

    /// An append that failed for good: the store stopped, or something is wrong.
    fn failed<'a>(&self, error: &Error) -> Result<Outcome<'a>, Failure> {
        match error.kind() {
            ErrorKind::ShutDown => {}
            ErrorKind::Poisoned | ErrorKind::Unknown => say(&failed(error)),
            _ => {
                say(&failed(error));
                return Err(error.clone().into());
            }
        }
        Ok(Outcome::Over)
    }

    /// Reads all logs and compares them with what this process was told. Gives how many records they have.
    fn read_all(&self) -> Result<u64, Failure> {
        let mut records = 0;
        for log in &self.logs {
            let acked = log.acked.load(Ordering::SeqCst);
            let next = match read_log(self.store, self.args.store.seed, &log.name) {
                Ok((_, next)) => next,
                Err(_) if acked == 0 && self.store.info(&log.name).is_err_and(|e| e.kind() == ErrorKind::NotFound) => 0,
                Err(e) => return Err(e),
            };
            let sent = log.sent.load(Ordering::SeqCst);
            if !(acked..=sent).contains(&next) {
                let name = &log.name;
                return Err(wrong(format!("log {name} ends at {next}; {acked} was acknowledged, {sent} was sent")));
            }
            records += next;
        }
        Ok(records)
    }

    /// What a poisoned store still owes: reads, and no acknowledgement. Gives the failure to end with.
    fn poisoned(&self) -> Result<Failure, Failure> {
        match self.read_all() {
            Ok(records) => say(&Line::ReadsOk(records)),
            // Whether the disk may refuse is for the listener to know; a wrong record is another failure.
            Err(e) if e.code() == 5 => say(&Line::ReadsFailed(format!("{e:?}"))),
            Err(e) => return Err(e),
        }
        let mut cause = None;
        for log in &self.logs {
            let mut batch = Batch::new();
            let part = batch.log(&log.name);
            if log.missing.load(Ordering::SeqCst) {
                part.create();
            }
            part.record(b"no store that is poisoned takes this");
            match self.store.append(batch).and_then(Ack::wait) {
                Ok(_) => return Err(wrong(format!("log {}: a poisoned store acknowledged an append", log.name))),
                Err(e) if matches!(e.kind(), ErrorKind::Poisoned | ErrorKind::Unknown) => {
                    say(&failed(&e));
                    cause.get_or_insert(e);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(cause.unwrap_or_else(|| Error::new(ErrorKind::Poisoned, "the store stopped taking appends")).into())
    }
}

fn failed(error: &Error) -> Line {
    Line::Failed { kind: format!("{:?}", error.kind()), message: error.to_string() }
}
