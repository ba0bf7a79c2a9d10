//! What changed of the streams of each owner, for those who watch: told by appends, without a look at any log.
//!
//! An owner has a board while somebody watches, and for a while after. Whoever appends writes the stream's new end on its
//! owner's board, if there is one, once the append is durable. A reader gets what was written since it last looked; one who
//! comes from before the board looks all streams up once, behind its registration. Invariant: every change that became
//! durable after a reader's place was told is on the board behind that place, or is found by the next look at the streams.
//!
//! Why none is missed. A place is an LSN and a number on a board. The number is taken first, then the LSN, which is
//! durable by then, then the look at the streams. A change that is durable by the look is seen by it. One that is not
//! will be on the board under a higher number, since the board was there before it became durable. The LSN of a place
//! stays that of its look, so that whoever comes back to another board is told again what that one said: too much, and
//! never too little.

use everlog::LogReceipt;
use everlog::names::owner;
use everlog::types::{Cursor, Lsn};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::watch;

/// Boards that nobody watches, and that are kept for those who come back.
const IDLE_MAX: usize = 4096;
/// Streams on one board. Of more the oldest half goes, and who has not read it looks the streams up.
const STREAMS_MAX: usize = 256;

/// How a stream stands after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The change's LSN.
    pub lsn: Lsn,
    /// Its end.
    pub head: Cursor,
    /// It takes no more.
    pub closed: bool,
    /// It is gone.
    pub deleted: bool,
}

/// What was written of one owner.
#[derive(Debug, Default)]
struct Written {
    /// The number of the last writing.
    last: u64,
    /// By stream, with the number of its last writing.
    streams: BTreeMap<String, (u64, Change)>,
    /// Everything up to this number may have been wiped off.
    wiped: u64,
}

/// The board of one owner.
#[derive(Debug)]
pub struct Board {
    /// Tells it from every other of this open of the store.
    pub id: u64,
    written: Mutex<Written>,
    /// The number of the last writing, for who waits for the next.
    bell: watch::Sender<u64>,
}

impl Board {
    fn new(id: u64) -> Self {
        Self { id, written: Mutex::default(), bell: watch::Sender::new(0) }
    }

    /// Wakes who waits when something is written. To be taken before a look.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    /// The number of the last writing.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// What was written behind `after`, by stream, and the number of the last writing. None where that is not known.
    #[must_use]
    pub fn since(&self, after: u64) -> Option<(Vec<(String, Change)>, u64)> {
        let written = self.lock();
        if after < written.wiped || after > written.last {
            return None;
        }
        let news = written.streams.iter().filter(|(_, (number, _))| *number > after);
        Some((news.map(|(stream, (_, change))| (stream.clone(), *change)).collect(), written.last))
    }

    fn write(&self, stream: &str, change: Change) {
        let mut written = self.lock();
        written.last += 1;
        let number = written.last;
        match written.streams.get_mut(stream) {
            // Two who append at once may come here in either order: the later change counts.
            Some(known) => *known = (number, if known.1.lsn < change.lsn { change } else { known.1 }),
            None => drop(written.streams.insert(stream.to_owned(), (number, change))),
        }
        if written.streams.len() > STREAMS_MAX {
            let mut numbers: Vec<u64> = written.streams.values().map(|(number, _)| *number).collect();
            let middle = STREAMS_MAX / 2;
            written.wiped = *numbers.select_nth_unstable(middle).1;
            let wiped = written.wiped;
            written.streams.retain(|_, (number, _)| *number > wiped);
        }
        drop(written);
        self.bell.send_replace(number);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        // Nothing in here panics half done.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The boards.
#[derive(Debug, Default)]
pub struct Feeds {
    boards: RwLock<Boards>,
}

#[derive(Debug, Default)]
struct Boards {
    by_owner: HashMap<String, Arc<Board>>,
    next_id: u64,
    /// With so many the idle ones are wiped.
    sweep_at: usize,
}

impl Feeds {
    /// The owner's board, which is there from now on for as long as it is held.
    #[must_use]
    pub fn board(&self, owner: &str) -> Arc<Board> {
        let found = self.boards.read().unwrap_or_else(PoisonError::into_inner).by_owner.get(owner).cloned();
        if let Some(board) = found {
            return board;
        }
        let mut boards = self.boards.write().unwrap_or_else(PoisonError::into_inner);
        if boards.by_owner.len() >= boards.sweep_at.max(IDLE_MAX) {
            // Who holds a board got it under this lock.
            boards.by_owner.retain(|_, board| Arc::strong_count(board) > 1);
            boards.sweep_at = 2 * boards.by_owner.len();
        }
        let id = boards.next_id;
        if let Some(board) = boards.by_owner.get(owner) {
            return Arc::clone(board);
        }
        boards.next_id = id + 1;
        let board = Arc::new(Board::new(id));
        boards.by_owner.insert(owner.to_owned(), Arc::clone(&board));
        board
    }

    /// A change of `stream` became durable.
    pub fn changed(&self, stream: &str, receipt: &LogReceipt, closed: bool, deleted: bool) {
        let boards = self.boards.read().unwrap_or_else(PoisonError::into_inner);
        let Some(board) = boards.by_owner.get(owner(stream)).cloned() else { return };
        drop(boards);
        board.write(stream, Change { lsn: receipt.lsn, head: receipt.next(), closed, deleted });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everlog::types::Timeline;

    fn receipt(lsn: u64) -> LogReceipt {
        LogReceipt {
            first_seq: lsn,
            next_seq: lsn + 1,
            lsn: Lsn(lsn),
            duplicate: false,
            timeline: Timeline::default(),
            producer_highest: None,
        }
    }

    fn names(news: Option<(Vec<(String, Change)>, u64)>) -> Option<Vec<(String, u64)>> {
        news.map(|(news, _)| news.into_iter().map(|(name, change)| (name, change.lsn.0)).collect())
    }

    #[test]
    fn a_board_tells_each_stream_once_as_it_stands() {
        let feeds = Feeds::default();
        feeds.changed("users/a/x", &receipt(1), false, false);
        let board = feeds.board("users/a");
        assert_eq!(board.since(0), Some((Vec::new(), 0)), "nobody watched");
        for (lsn, name) in [(2, "users/a/x"), (4, "users/a/y"), (3, "users/a/y"), (5, "users/b/x")] {
            feeds.changed(name, &receipt(lsn), false, false);
        }
        assert_eq!(names(board.since(0)), Some(vec![("users/a/x".into(), 2), ("users/a/y".into(), 4)]));
        assert_eq!(names(board.since(1)), Some(vec![("users/a/y".into(), 4)]));
        assert_eq!(names(board.since(3)), Some(vec![]));
        assert_eq!(board.since(4), None, "a number of another board's");
    }

    #[test]
    fn who_stayed_away_too_long_is_not_told_that_nothing_changed() {
        let feeds = Feeds::default();
        let board = feeds.board("users/a");
        for n in 0..=STREAMS_MAX as u64 {
            feeds.changed(&format!("users/a/{n}"), &receipt(n + 1), false, false);
        }
        assert_eq!(board.since(0), None);
        let (news, last) = board.since(last_wiped(&board)).expect("the newer half is there");
        assert_eq!((news.len(), last), (STREAMS_MAX / 2, STREAMS_MAX as u64 + 1));
    }

    fn last_wiped(board: &Board) -> u64 {
        board.lock().wiped
    }

    #[test]
    fn a_board_that_is_watched_stays() {
        let feeds = Feeds::default();
        let board = feeds.board("users/a");
        for n in 0..2 * IDLE_MAX {
            let _ = feeds.board(&format!("users/{n}"));
        }
        assert!(Arc::ptr_eq(&board, &feeds.board("users/a")));
        assert!(feeds.boards.read().expect("nobody panicked").by_owner.len() <= IDLE_MAX + 1);
    }
}
