//! A simulated cold store: objects in memory that several nodes reach, each by a handle of its own, and requests that
//! go wrong by chance.
//!
//! # The fault model
//! 1. An object is put under a key that nothing bears, whole, and is never changed by a later put. Puts, gets and
//!    listings are seen by all at once, unless a misfortune says otherwise.
//! 2. A request meets at most one [`Misfortune`], by the odds of the moment ([`Odds`]). What each does is said there. A
//!    put that comes late lands behind some of the later requests, if nothing bears its key by then, whatever became of
//!    who sent it.
//! 3. A node that is cut off ([`SimCold::cut_off`]) reaches nothing; what it sent before may still land.
//! 4. The first object (`store`) is neither spoilt nor said to be there when it is not: a cold store whose first object
//!    is damaged is of no use until somebody takes that away, which is not what these worlds are about.
//! 5. One request can be struck ([`Strike`]), by its number: it meets that misfortune whatever the odds are, also those
//!    that chance has for requests of another method alone.
//! 6. A store can be copied as it stands ([`SimCold::copy`]) and destroyed ([`SimCold::wipe`]), what is still to land
//!    included.
//!
//! It knows keys by their bytes alone, but for that of the first object and that claims begin with `epoch/` and
//! versions with `manifest/`, which tell whose store it is. Invariant: everything follows from the seed and the
//! requests; the same give the same trace.

mod misfortune;

pub use misfortune::{Method, Misfortune, Odds, Strike};

use super::Rng;
use everlog::Result;
use everlog::cold::{ColdStore, PART_BYTES, Part, Put, Source, failed};
use misfortune::{GET, LIST, PUT, PUT_HOME};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The first object's key.
pub const HOME: &str = "store";
/// What the keys of claims begin with.
const CLAIMS: &str = "epoch/";
/// What the keys of versions begin with.
const VERSIONS: &str = "manifest/";
/// Keys that a listing gives at most.
const LISTED_MAX: usize = 5;
/// Requests after which a late put has landed.
const LATE_MAX: u64 = 60;
/// What comes in place of an object.
const ERROR: &[u8] = b"<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>";
/// By how many requests a listing is old at most.
const STALE_MAX: u64 = 60;

/// What happened, one line an event.
pub type Trace = Arc<Mutex<Vec<String>>>;

/// A cold store as one node reaches it. Clones and [`SimCold::handle`]s share the objects.
#[derive(Clone)]
pub struct SimCold {
    url: Arc<str>,
    node: usize,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    odds: Odds,
    objects: BTreeMap<String, Object>,
    late: Vec<Late>,
    requests: u64,
    /// What was asked, request by request.
    asked: Vec<Method>,
    strike: Option<Strike>,
    cut_off: BTreeSet<usize>,
    met: [u64; Misfortune::ALL.len()],
    /// Objects that came to be here, by who sent them.
    stored: BTreeMap<usize, u64>,
    trace: Trace,
}

struct Object {
    bytes: Arc<[u8]>,
    /// Who sent it.
    node: usize,
    /// Whether it is not what was sent.
    spoilt: bool,
    /// The request at which it came to be here.
    at: u64,
}

/// A put that is still to land.
struct Late {
    due: u64,
    node: usize,
    key: String,
    bytes: Vec<u8>,
}

impl SimCold {
    /// An empty one. Its chances follow from `seed`, and what happens goes into `trace`. It is sound until it is told
    /// otherwise.
    #[must_use]
    pub fn new(name: &str, seed: u64, trace: &Trace) -> Self {
        let state = State {
            rng: Rng::new(seed),
            odds: Odds::default(),
            objects: BTreeMap::new(),
            late: Vec::new(),
            requests: 0,
            asked: Vec::new(),
            strike: None,
            cut_off: BTreeSet::new(),
            met: [0; Misfortune::ALL.len()],
            stored: BTreeMap::new(),
            trace: Arc::clone(trace),
        };
        Self { url: format!("sim://{name}").into(), node: usize::MAX, state: Arc::new(Mutex::new(state)) }
    }

    /// The same store as that node reaches it.
    #[must_use]
    pub fn handle(&self, node: usize) -> Self {
        Self { node, ..self.clone() }
    }

    /// What is there now as a store of its own, which is sound.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new("copy", 0, &Trace::default());
        let of = self.state.lock();
        let clone = |object: &Object| Object { bytes: Arc::clone(&object.bytes), ..*object };
        copy.state.lock().objects = of.objects.iter().map(|(key, object)| (key.clone(), clone(object))).collect();
        Self { url: Arc::clone(&self.url), ..copy }
    }

    /// Destroys all that is there and what is still to land. It is an empty store from here on.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.objects.clear();
        state.late.clear();
    }

    /// Sets how often requests go wrong from here on.
    pub fn set_odds(&self, odds: Odds) {
        self.state.lock().odds = odds;
    }

    /// Strikes one request.
    pub fn strike(&self, strike: Strike) {
        self.state.lock().strike = Some(strike);
    }

    /// What was asked so far, request by request.
    #[must_use]
    pub fn asked(&self) -> Vec<Method> {
        self.state.lock().asked.clone()
    }

    /// Takes the first object away if it was spoilt on its way, as an operator does. Whether it was.
    pub fn remove_spoilt_home(&self) -> bool {
        let objects = &mut self.state.lock().objects;
        let is_spoilt = objects.get(HOME).is_some_and(|object| object.spoilt);
        is_spoilt && objects.remove(HOME).is_some()
    }

    /// Whether the node reaches it.
    pub fn cut_off(&self, node: usize, is_cut_off: bool) {
        let cut_off = &mut self.state.lock().cut_off;
        if is_cut_off {
            cut_off.insert(node);
        } else {
            cut_off.remove(&node);
        }
    }

    /// Whether the node reaches nothing.
    #[must_use]
    pub fn is_cut_off(&self, node: usize) -> bool {
        self.state.lock().cut_off.contains(&node)
    }

    /// Everything goes well from here on, for all; what is still to land lands now.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.odds = Odds::default();
        state.strike = None;
        state.cut_off.clear();
        state.land(u64::MAX);
    }

    /// Whether requests may go wrong, or something is still to land.
    #[must_use]
    pub fn is_foul(&self) -> bool {
        let state = self.state.lock();
        state.odds != Odds::default() || state.strike.is_some() || !state.late.is_empty()
    }

    /// Requests that met this misfortune.
    #[must_use]
    pub fn met(&self, kind: Misfortune) -> u64 {
        self.state.lock().met[kind as usize]
    }

    /// Whether an object bears this key.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        self.state.lock().objects.contains_key(key)
    }

    /// Objects that came to be here.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.state.lock().stored.values().sum()
    }

    /// Those that this node sent.
    #[must_use]
    pub fn stored_by(&self, node: usize) -> u64 {
        self.state.lock().stored.get(&node).copied().unwrap_or_default()
    }

    /// Whether a tail object lies there that was spoilt on its way: whoever put it may not have come to put it again.
    #[must_use]
    pub fn holds_spoilt_tail(&self) -> bool {
        self.state.lock().objects.iter().any(|(key, object)| key.starts_with("tail/") && object.spoilt)
    }

    /// Whether a version that can be read lies there which this node sent.
    #[must_use]
    pub fn holds_version_of(&self, node: usize) -> bool {
        let is_its = |object: &Object| object.node == node && !object.spoilt;
        self.state.lock().objects.iter().any(|(key, object)| key.starts_with(VERSIONS) && is_its(object))
    }

    /// Whether a version that this node sent is still to land.
    #[must_use]
    pub fn awaits_version_of(&self, node: usize) -> bool {
        self.state.lock().late.iter().any(|late| late.node == node && late.key.starts_with(VERSIONS))
    }

    /// Who sent the newest claim that can be read.
    #[must_use]
    pub fn newest_owner(&self) -> Option<usize> {
        let state = self.state.lock();
        let claims = state.objects.iter().rev().filter(|(key, object)| key.starts_with(CLAIMS) && !object.spoilt);
        claims.map(|(_, object)| object.node).next()
    }
}

impl State {
    /// A request arrives: what it meets, of those that it can.
    fn arrive(&mut self, node: usize, method: Method, among: &[Misfortune]) -> Option<Misfortune> {
        self.requests += 1;
        self.asked.push(method);
        self.land(self.requests);
        if let Some(strike) = self.strike.filter(|strike| strike.request == self.requests) {
            self.rng = Rng::new(strike.luck);
            return Some(strike.kind);
        }
        if self.cut_off.contains(&node) {
            return Some(Misfortune::CutOff);
        }
        let mut luck = self.rng.below(1000);
        for kind in among {
            let odds = self.odds.of(*kind);
            if luck < odds {
                return Some(*kind);
            }
            luck -= odds;
        }
        None
    }

    /// Lets what is due by the request `until` come to be here.
    fn land(&mut self, until: u64) {
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition::<Vec<_>, _>(|late| late.due <= until);
        self.late = late;
        for Late { node, key, bytes, .. } in due {
            let put = self.store(node, &key, bytes, false);
            self.say(format!("  node {node}'s late put of {key} lands: {put:?}"));
        }
    }

    fn store(&mut self, node: usize, key: &str, bytes: Vec<u8>, spoilt: bool) -> Put {
        if self.objects.contains_key(key) {
            return Put::Exists;
        }
        self.objects.insert(key.to_owned(), Object { bytes: bytes.into(), node, spoilt, at: self.requests });
        *self.stored.entry(node).or_default() += 1;
        Put::Created
    }

    /// Takes note that a request met this; gives why it fails.
    fn meets(&mut self, kind: Misfortune) -> &'static str {
        self.met[kind as usize] += 1;
        match kind {
            Misfortune::CutOff => "no route to host",
            Misfortune::Unavailable => "503 Slow Down",
            Misfortune::AnswerLost | Misfortune::Late => "timed out",
            _ => "connection reset by peer",
        }
    }

    fn say(&self, line: String) {
        self.trace.lock().push(line);
    }

    /// An object as it is after something went wrong on its way: one bit is flipped, or it is cut short.
    fn spoil(&mut self, mut bytes: Vec<u8>, kind: Misfortune) -> Vec<u8> {
        if kind == Misfortune::Flipped || kind == Misfortune::Spoilt && self.rng.chance(50) {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.rng.below(8);
        } else {
            bytes.truncate(self.rng.below(bytes.len() as u64) as usize);
        }
        bytes
    }
}

impl State {
    /// A listing as it comes after something went wrong with it, other than that it is old.
    fn spoil_listing(&mut self, keys: &mut Vec<String>, fate: Option<Misfortune>) {
        let len = match fate {
            Some(Misfortune::Hollow) => 0,
            Some(Misfortune::Truncated) if !keys.is_empty() => self.rng.below(keys.len() as u64) as usize,
            Some(Misfortune::Flipped) if !keys.is_empty() => keys.len(),
            _ => return,
        };
        keys.truncate(len);
        if fate == Some(Misfortune::Flipped)
            && let Some(key) = keys.pop()
        {
            // In the digits, and such that it is text still.
            let mut bytes = key.into_bytes();
            let at = bytes.len() - 1 - self.rng.below(16.min(bytes.len() as u64)) as usize;
            bytes[at] ^= 1 << self.rng.below(4);
            keys.extend(String::from_utf8(bytes));
        }
        self.met[fate.expect("it was looked at") as usize] += 1;
    }
}

/// All bytes that are to be put.
fn whole(source: &dyn Source) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < source.len() {
        let at = bytes.len() as u64;
        bytes.extend(source.read(at, (source.len() - at).min(PART_BYTES as u64) as usize)?);
    }
    Ok(bytes)
}

impl ColdStore for SimCold {
    fn url(&self) -> &str {
        &self.url
    }

    fn put(&self, key: &str, source: &dyn Source) -> Result<Put> {
        let bytes = whole(source)?;
        let (node, len) = (self.node, bytes.len());
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let fate = state.arrive(node, Method::Put, if key == HOME { &PUT_HOME[..] } else { &PUT[..] });
        let answer = match fate {
            None => Ok(state.store(node, key, bytes, false)),
            Some(Misfortune::Spoilt | Misfortune::Truncated | Misfortune::Flipped)
                if len == 0 || state.objects.contains_key(key) =>
            {
                Ok(state.store(node, key, bytes, false))
            }
            Some(kind) => {
                let why = state.meets(kind);
                match kind {
                    Misfortune::AnswerLost => {
                        state.store(node, key, bytes, false);
                        Err(why)
                    }
                    Misfortune::Late => {
                        let due = state.requests + 1 + state.rng.below(LATE_MAX);
                        state.late.push(Late { due, node, key: key.to_owned(), bytes });
                        Err(why)
                    }
                    Misfortune::Hollow => Ok(Put::Created),
                    Misfortune::Spoilt | Misfortune::Truncated | Misfortune::Flipped => {
                        let spoilt = state.spoil(bytes, kind);
                        Ok(state.store(node, key, spoilt, true))
                    }
                    _ => Err(why),
                }
            }
        };
        state.say(format!("  {} node {node} puts {key}, {len} bytes, {fate:?}: {answer:?}", self.url));
        answer.map_err(|why| failed(&self.url, format!("{why}, in the put of {key}")))
    }

    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let fate = state.arrive(self.node, Method::Get, &GET);
        let part = state.objects.get(key).map(|object| {
            let len = object.bytes.len();
            let start = (range.start as usize).min(len);
            let end = (range.end as usize).min(len).min(start + PART_BYTES).max(start);
            Part { bytes: object.bytes[start..end].to_vec(), len: len as u64 }
        });
        let answer = match (fate, part) {
            (None, part) => Ok(part),
            (Some(kind @ Misfortune::Hollow), _) => {
                state.meets(kind);
                let (start, end) = (range.start.min(ERROR.len() as u64), range.end.min(ERROR.len() as u64));
                let bytes = ERROR[start as usize..end.max(start) as usize].to_vec();
                Ok(Some(Part { bytes, len: ERROR.len() as u64 }))
            }
            (Some(kind @ (Misfortune::Truncated | Misfortune::Flipped)), part) => {
                let Some(mut part) = part.filter(|part| !part.bytes.is_empty()) else {
                    // There is nothing of it that could go wrong.
                    let there = state.objects.get(key).map(|object| object.bytes.len() as u64);
                    return Ok(there.map(|len| Part { bytes: Vec::new(), len }));
                };
                state.meets(kind);
                if kind == Misfortune::Flipped {
                    let at = state.rng.below(part.bytes.len() as u64) as usize;
                    part.bytes[at] ^= 1 << state.rng.below(8);
                } else {
                    part.bytes.truncate(state.rng.below(part.bytes.len() as u64) as usize);
                    if state.rng.chance(50) {
                        part.len = range.start + part.bytes.len() as u64;
                    }
                }
                Ok(Some(part))
            }
            (Some(kind), _) => Err(state.meets(kind)),
        };
        let told = answer.as_ref().map(|part| part.as_ref().map(|part| (part.bytes.len(), part.len)));
        state.say(format!("  {} node {} gets {key} {range:?}, {fate:?}: {told:?}", self.url, self.node));
        answer.map_err(|why| failed(&self.url, format!("{why}, in the get of {key}")))
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let fate = state.arrive(self.node, Method::List, &LIST);
        let until = match fate {
            None | Some(Misfortune::Hollow | Misfortune::Truncated | Misfortune::Flipped) => u64::MAX,
            Some(Misfortune::Stale) => state.requests.saturating_sub(1 + state.rng.below(STALE_MAX)),
            Some(kind) => {
                let why = state.meets(kind);
                state.say(format!("  {} node {} lists {prefix}, {fate:?}", self.url, self.node));
                return Err(failed(&self.url, format!("{why}, in a listing of {prefix}")));
            }
        };
        let matching = state.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let (told, hidden) = matching.partition::<Vec<_>, _>(|(_, object)| object.at <= until);
        let is_old = !hidden.is_empty();
        let mut keys: Vec<String> = told.into_iter().take(LISTED_MAX).map(|(key, _)| key.clone()).collect();
        state.spoil_listing(&mut keys, fate);
        if is_old {
            state.meets(Misfortune::Stale);
        }
        state.say(format!(
            "  {} node {} lists {prefix} after {after:?}, {fate:?}: {}",
            self.url,
            self.node,
            keys.len()
        ));
        Ok(keys)
    }
}

#[cfg(test)]
mod tests;
