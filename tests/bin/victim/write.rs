//! Writing: threads that append, each waiting for its acknowledgements, until the victim is told to end or the store
//! stops. Where the store is shipped, one more tells what is cold.

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use everlog::types::Lsn;
use everlog::{Ack, Batch, Error, ErrorKind, Store};
use everlog_server::failure::Failure;
use everlog_tests::real::line::{Line, Order};
use everlog_tests::real::mistake::Mistake;
use everlog_tests::real::{Random, content};

use crate::answer::Answer;
use crate::check::read_log;
use crate::{StoreArgs, say, wrong};

/// How long a victim that was told to end waits for its appends before it closes the store over them.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an append may go without an answer before its thread turns to other logs, as new clients would.
const LATE_AFTER: Duration = Duration::from_millis(500);
/// How long it waits before it makes an append again, if the error does not say.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How often it is looked at what is cold.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A client asks for what is cold after so many looks at most.
const LOOKS_MAX: u64 = 500;

#[derive(Args)]
pub struct WriteArgs {
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

/// What the threads of a writing victim share.
struct World<'a> {
    store: &'a Store,
    args: &'a WriteArgs,
    logs: Vec<Log>,
    /// The greatest LSN of what was acknowledged.
    acked: AtomicU64,
    /// No further append is begun.
    stop: AtomicBool,
    /// All threads that append have ended.
    over: AtomicBool,
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

/// What the main thread waits for.
enum Event {
    Order(Order),
    EndOfInput,
    /// A thread ended.
    Done(Result<(), Failure>),
}

/// Appends until the end of the input.
pub fn write(args: &WriteArgs) -> Result<(), Failure> {
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
    let (acked, stop, over) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let world = World { store: &store, args, logs, acked, stop, over };
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
        if args.store.cold.is_some() {
            scope.spawn(|| world.tell_what_is_cold());
        }
        let done = world.oversee(&heard);
        world.over.store(true, Ordering::SeqCst);
        done
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
        let mut random = Random::new(self.args.store.seed ^ now().as_nanos() as u64 ^ thread as u64);
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
        self.acked.fetch_max(at.lsn.0, Ordering::SeqCst);
        let name = log.name.clone();
        say(&match self.args.store.cold {
            None => Line::Acked { log: name, next },
            Some(_) => Line::Local { log: name, next, lsn: at.lsn.0, time_us: now().as_micros() as u64 },
        });
        Ok(Outcome::Acked)
    }

    /// Tells whenever more is cold, and asks for it now and then, as a client does who waits for that.
    fn tell_what_is_cold(&self) {
        let mut random = Random::new(self.args.store.seed ^ now().as_nanos() as u64);
        let (mut told, mut asked, mut looks) = (0, None, 0);
        while !self.over.load(Ordering::SeqCst) {
            let mut level = self.store.cold_level().0;
            if looks == 0 {
                let lsn = self.acked.load(Ordering::SeqCst);
                asked.get_or_insert_with(|| (lsn, self.store.cold(Lsn(lsn))));
                looks = random.below(LOOKS_MAX);
            }
            if let Some((lsn, answer)) = asked.as_ref().and_then(|(lsn, ack)| Some((*lsn, ack.try_get()?))) {
                asked = None;
                match answer {
                    Ok(()) => level = level.max(lsn),
                    Err(error) => say(&failed(&error)),
                }
            }
            if level > told {
                told = level;
                say(&Line::Cold { lsn: level });
            }
            looks = looks.saturating_sub(1);
            std::thread::sleep(LOOK_EVERY);
        }
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
                Ok(read) => read.next,
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

/// The wall clock.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
