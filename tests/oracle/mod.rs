//! The oracle: what each client was told, and therefore what the store must hold.
//!
//! It sees batches as they are given to the store, the answers, what readers are shown, and what is found after a
//! recovery; it knows nothing of files, frames or threads. One client submits all batches, so their order is the
//! store's order, and after any crash the store must stand exactly where it stood after some batch that it was given:
//! not before the last one that anybody was told of, or was shown ([`Oracle::recovered`]). That says all of it at once:
//! what was acknowledged is there, byte for byte, under its seq (I1); nothing is doubled, halved or made up, also not
//! across the logs of one batch (I2); seqs are dense and nobody was shown what then went away (I3).
//!
//! Invariant: whatever was once answered, shown to a reader or shown after a recovery is settled for good.

mod model;
#[cfg(test)]
mod tests;

pub use model::{Answer, Creation, Log, Part, Phase, Producer, Refusal, State, Then};

use everlog::ErrorKind;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;

/// A promise that was not kept, in words.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A batch's number, in the order they were submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its seq.
    pub seq: u64,
    /// Its place in the order of all.
    pub lsn: u64,
    /// Its time, in microseconds.
    pub time: u64,
    /// Its content.
    pub payload: Vec<u8>,
}

/// One answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub records: Vec<Read>,
    /// The log's next seq.
    pub head: u64,
    /// Whether the log takes no more records.
    pub closed: bool,
}

/// All that can be seen of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where it stands in its life; a log that nobody knows is absent.
    pub phase: Phase,
    /// The first seq kept.
    pub first: u64,
    /// The log's next seq.
    pub next: u64,
    /// Whether it takes no more records.
    pub closed: bool,
    /// Its metadata.
    pub metadata: Vec<u8>,
    /// Whether it is to end by itself.
    pub expires: bool,
    /// Its records from `first` on; None where they cannot be read because it is not live.
    pub records: Option<Vec<Read>>,
}

/// What a recovery made of the batches whose fate was open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// They are there, or were refused without effect.
    pub settled: Vec<Ticket>,
    /// They are gone without a trace.
    pub lost: Vec<Ticket>,
    /// They were acknowledged, and are gone: only where the disk lied ([`Oracle::recovered_from_lies`]).
    pub rolled_back: Vec<Ticket>,
}

struct Pending {
    ticket: Ticket,
    logs: Vec<String>,
    predicted: Result<Vec<Answer>, Refusal>,
    answered: bool,
    after: State,
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    /// The state that nothing can undo any more.
    settled: State,
    /// The batches after that, in order.
    pending: VecDeque<Pending>,
    /// How many of them somebody was told of or shown.
    floor: usize,
    submitted: u64,
    /// Since the last recovery, the settled batches, each with the state before it.
    history: Vec<(Ticket, State)>,
}

impl Oracle {
    /// The state if everything submitted comes to pass.
    #[must_use]
    pub fn expected(&self) -> &State {
        self.pending.back().map_or(&self.settled, |p| &p.after)
    }

    /// Batches without an answer.
    #[must_use]
    pub fn open(&self) -> usize {
        self.pending.iter().filter(|p| !p.answered).count()
    }

    /// A batch is given to the store.
    pub fn submit(&mut self, parts: &[Part]) -> Ticket {
        self.submitted += 1;
        let ticket = Ticket(self.submitted);
        let (predicted, after) = model::predict(self.expected(), parts, ticket);
        let logs = parts.iter().map(|part| part.log.clone()).collect();
        self.pending.push_back(Pending { ticket, logs, predicted, answered: false, after });
        ticket
    }

    /// The store did not take the batch that was submitted last (it was overloaded): it must have no effect.
    pub fn turned_away(&mut self, ticket: Ticket) {
        let last = self.pending.pop_back().expect("only a batch that was submitted is turned away");
        assert_eq!(last.ticket, ticket, "only the last batch can be turned away");
        assert!(self.floor <= self.pending.len(), "a batch that was shown was turned away");
    }

    /// The store answered a batch.
    ///
    /// # Errors
    /// If it is not the answer that follows from the batches before.
    pub fn answered(&mut self, ticket: Ticket, answer: &Result<Vec<Answer>, ErrorKind>) -> Result<(), Violation> {
        let at = self.pending.iter().position(|p| p.ticket == ticket && !p.answered);
        let Some(at) = at else {
            return Err(Violation(format!("{ticket:?} was answered twice or after it was settled: {answer:?}")));
        };
        let pending = &mut self.pending[at];
        pending.answered = true;
        let rests_on = match (&pending.predicted, answer) {
            (Ok(expected), Ok(given)) => {
                if let Some(why) = model::differing(expected, given) {
                    return Err(Violation(format!("{ticket:?} on {:?}: {why}", pending.logs)));
                }
                // A duplicate's answer rests on the first one, a fresh one's on itself.
                expected.iter().filter_map(|a| a.first_ticket).max().unwrap_or(ticket)
            }
            (Err(expected), Err(given)) if expected.kind == *given => expected.rests_on,
            (expected, given) => {
                let logs = &pending.logs;
                return Err(Violation(format!("{ticket:?} on {logs:?}: expected {expected:?}, got {given:?}")));
            }
        };
        let told = self.pending.iter().take_while(|p| p.ticket <= rests_on).count();
        self.floor = self.floor.max(told);
        self.settle();
        Ok(())
    }

    /// The grace of all that was deleted so far may be over. From here on nobody may ask for such a log to be taken back but
    /// who knows that it is too late; nobody may send it what a producer numbered unless it creates it anew.
    ///
    /// Panics if the fate of a batch is open.
    pub fn age(&mut self) {
        assert_eq!(self.open(), 0, "nothing is under way");
        for (_, log) in self.states() {
            if log.phase == Phase::Deleted && !log.aged {
                Rc::make_mut(log).aged = true;
            }
        }
    }

    /// So long has passed that every log that was to end by itself has ended, unless a crash takes the time back that is
    /// on no disk yet. Until that is known, nothing is asked of them.
    pub fn let_lapse(&mut self) {
        for (_, log) in self.states() {
            if log.phase == Phase::Live && log.expires {
                Rc::make_mut(log).lapsing = true;
            }
        }
    }

    /// The time is on disk: of the logs that may have ended, those have for which `has_ended`. Gives how many.
    pub fn lapse(&mut self, has_ended: impl Fn(&str) -> bool) -> u64 {
        let mut ended = 0;
        for (name, log) in self.states() {
            if log.lapsing {
                let log = Rc::make_mut(log);
                log.lapsing = false;
                if has_ended(name) {
                    (log.phase, log.aged, log.lapsed) = (Phase::Deleted, true, true);
                    ended += 1;
                }
            }
        }
        ended
    }

    /// The logs in all states that may still count: what is answered and pending nevertheless changed nothing.
    fn states(&mut self) -> impl Iterator<Item = (&String, &mut Rc<Log>)> {
        let pending = self.pending.iter_mut().map(|pending| &mut pending.after);
        let history = self.history.iter_mut().map(|(_, state)| state);
        std::iter::once(&mut self.settled).chain(pending).chain(history).flat_map(State::iter_mut)
    }

    fn settle(&mut self) {
        while self.floor > 0 && self.pending.front().is_some_and(|p| p.answered) {
            let Pending { ticket, after, .. } = self.pending.pop_front().expect("it was just looked at");
            self.history.push((ticket, std::mem::replace(&mut self.settled, after)));
            self.floor -= 1;
        }
        // A refusal changes nothing; it needs no floor to be forgotten.
        while self.pending.front().is_some_and(|p| p.answered && p.predicted.is_err()) {
            self.pending.pop_front();
            self.floor = self.floor.saturating_sub(1);
        }
    }

    /// A reader was shown `page`, or refused, for `log` from `from` on.
    ///
    /// # Errors
    /// If the store has at no moment since the last answer stood so.
    pub fn read(&mut self, log: &str, from: u64, page: &Result<Page, ErrorKind>) -> Result<(), Violation> {
        let mut why = String::new();
        for k in self.floor..=self.pending.len() {
            match model::check_page(self.state_after(k).get(log).map(|l| &**l), from, page) {
                None => {
                    self.floor = k;
                    if let (Ok(page), Some(log)) = (page, self.state_after(k).get(log)) {
                        model::stamp(log, &page.records);
                    }
                    self.settle();
                    return Ok(());
                }
                Some(difference) => why += &format!("\n  after {k} open batches: {difference}"),
            }
        }
        Err(Violation(format!("log {log} read from {from}:{why}")))
    }

    /// A recovery is over, and `shown` is all that the store holds now. Logs that are absent may be left out.
    ///
    /// # Errors
    /// If that is not what the store held after one of the batches that may have been its last.
    pub fn recovered(&mut self, shown: &BTreeMap<String, Shown>) -> Result<Fates, Violation> {
        let mut why = String::new();
        for k in self.floor..=self.pending.len() {
            let Some(difference) = model::check_all(self.state_after(k), shown) else {
                for (name, log) in self.state_after(k) {
                    let records = shown.get(name).and_then(|s| s.records.as_deref());
                    model::stamp(log, records.unwrap_or_default());
                }
                return Ok(self.adopt(k));
            };
            why += &format!("\n  if {k} of {} open batches survived: {difference}", self.pending.len());
        }
        Err(Violation(format!("what is found is not what was there, at least {} open batches:{why}", self.floor)))
    }

    /// As [`Oracle::recovered`], after a disk has lied. The logs in `damaged` said that they are; all others must be
    /// true. Nothing that `proved` speaks for may be missing: the last batch that was acknowledged before a frame was
    /// sealed which the disk has. What was acknowledged after that may be gone, all of it from some batch on.
    ///
    /// # Errors
    /// If what is shown is not what the store held after one of the batches that may have been its last.
    pub fn recovered_from_lies(
        &mut self, shown: &BTreeMap<String, Shown>, damaged: &BTreeSet<String>, proved: Option<Ticket>,
    ) -> Result<Fates, Violation> {
        let honest = |state: &State| {
            let heard = state.iter().filter(|(name, _)| !damaged.contains(*name));
            let heard: State = heard.map(|(name, log)| (name.clone(), log.clone())).collect();
            model::check_all(&heard, shown)
        };
        let mut why = String::new();
        for k in (0..=self.pending.len()).rev() {
            if k < self.floor && Some(self.pending[k].ticket) <= proved {
                break;
            }
            let Some(difference) = honest(self.state_after(k)) else {
                let gone = self.pending.iter().take(self.floor).skip(k).filter(|p| p.answered).map(|p| p.ticket);
                let rolled_back = gone.collect();
                return Ok(Fates { rolled_back, ..self.adopt(k) });
            };
            why += &format!("\n  if {k} of {} open batches survived: {difference}", self.pending.len());
        }
        let mut gone: Vec<_> = self.pending.iter().filter(|p| p.answered).map(|p| p.ticket).collect();
        while self.pending.front().is_none_or(|p| Some(p.ticket) > proved)
            && let Some((ticket, before)) = self.history.pop()
            && Some(ticket) > proved
        {
            gone.push(ticket);
            let Some(difference) = honest(&before) else {
                self.settled = before;
                let fates = self.adopt(0);
                return Ok(Fates { rolled_back: gone, ..fates });
            };
            why += &format!("\n  before {ticket:?}: {difference}");
        }
        Err(Violation(format!("what is found is not what was there, proved up to {proved:?}:{why}")))
    }

    fn adopt(&mut self, k: usize) -> Fates {
        let mut fates = Fates::default();
        self.history.clear();
        self.settled = self.state_after(k).clone();
        self.floor = 0;
        for (i, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            match i < k {
                true => fates.settled.push(pending.ticket),
                false => fates.lost.push(pending.ticket),
            }
        }
        fates
    }

    fn state_after(&self, k: usize) -> &State {
        if k == 0 { &self.settled } else { &self.pending[k - 1].after }
    }
}
