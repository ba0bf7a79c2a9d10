//! Random logs, and what a segment that holds them must answer.

use super::FIRST_LSN;
use crate::format::entry::{Entry, Kind};
use crate::format::state::{Changed, Issued, Lasting, Life, LogState, Phase, Producer, Producers};
use crate::types::{LogId, Lsn, Seq, TimeUs, Timeline};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A log id as evenly spread as a hash.
pub(super) fn log_id(n: u64) -> LogId {
    let hash = blake3::hash(&n.to_le_bytes());
    LogId(std::array::from_fn(|i| hash.as_bytes()[i]))
}

#[derive(Clone, Debug)]
pub(super) struct ModelEntry {
    pub(super) lsn: Lsn,
    pub(super) time: TimeUs,
    pub(super) kind: Kind,
    pub(super) seq: Seq,
    pub(super) body: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ModelLog {
    pub(super) entries: Vec<ModelEntry>,
    pub(super) state: LogState,
    pub(super) name: Option<String>,
}

pub(super) type Model = BTreeMap<LogId, ModelLog>;

/// What is done to a log.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Record {
        len: usize,
        noise: bool,
    },
    Control,
    /// Deleted and created again: one seq is skipped.
    Recreate,
}

pub(super) fn payload(len: usize, noise: bool, salt: u64) -> Vec<u8> {
    let mut out = vec![salt as u8; len];
    if noise {
        blake3::Hasher::new().update(&salt.to_le_bytes()).finalize_xof().fill(&mut out);
    }
    out
}

fn body(log: LogId, kind: Kind, seq: Seq, payload: &[u8]) -> Vec<u8> {
    let entry = Entry { kind, seq, cipher: 0, key_id: 0, producer: None, tag: None, payload };
    let mut out = Vec::new();
    let at = entry.encode(log, &mut out);
    out.split_off(at)
}

/// The logs after their steps, which are taken in turns so that their LSNs interleave.
pub(super) fn model(logs: &[(u64, u64, Vec<Step>)], salt: u64) -> Model {
    let mut model = Model::new();
    let mut lsn = FIRST_LSN;
    let rounds = logs.iter().map(|(_, _, steps)| steps.len()).max().unwrap_or(0);
    for round in 0..rounds {
        for (n, base, steps) in logs {
            let Some(step) = steps.get(round) else { continue };
            let id = log_id(*n);
            let log = model.entry(id).or_insert_with(|| ModelLog {
                state: LogState::new(Seq(*base), Lsn(0), Lasting::default()),
                name: (*base == 0).then(|| format!("users/{}/{n}", n % 7)),
                ..ModelLog::default()
            });
            let unique = lsn ^ salt;
            let mut add = |kind, seq, payload: &[u8]| {
                let body = body(id, kind, seq, payload);
                log.entries.push(ModelEntry { lsn: Lsn(lsn), time: TimeUs(lsn / 3), kind, seq, body });
                log.state.last_lsn = Lsn(lsn);
                lsn += 1;
            };
            let next = log.state.next_seq;
            match step {
                Step::Record { len, noise } => {
                    add(Kind::Record, next, &payload(*len, *noise, unique));
                    log.state.next_seq = next.next();
                }
                Step::Control => add(Kind::Metadata, next, b"metadata"),
                Step::Recreate => {
                    add(Kind::Delete, next, b"");
                    add(Kind::Create, next.next(), b"");
                    log.state.next_seq = next.next();
                }
            }
        }
    }
    model.iter_mut().for_each(|(id, log)| finish_state(*id, log));
    model
}

/// Fills the rest of the state with something, of which each group changed before, within, or never.
fn finish_state(id: LogId, log: &mut ModelLog) {
    let dice = |i: usize| id.0[i];
    let last = log.state.last_lsn;
    let changed = |i| match dice(i) % 3 {
        0 => Lsn(0),
        1 => Lsn(FIRST_LSN - 1 - u64::from(dice(i))),
        _ => last,
    };
    let batch = |lsn| Issued { number: lsn, digest: !lsn, lsn: Lsn(lsn), first_seq: Seq(1), next_seq: Seq(2) };
    let producer = Producer { epoch: 3, batches: [batch(FIRST_LSN - 5), batch(last.0)].into() };
    log.state.life = Life {
        created: Lsn(if log.name.is_some() { FIRST_LSN } else { 5 }),
        phase: Phase::Live,
        closed: dice(1) % 2 == 0,
        tag: vec![dice(2); usize::from(dice(2) % 9)],
        ..Life::default()
    };
    log.state.timelines = vec![(Timeline { counter: 1, random: 2 }, Seq(0)); usize::from(dice(3) % 4)].into();
    log.state.metadata = vec![dice(4); usize::from(dice(4)) * 16];
    log.state.producers = Producers { known: 2, older: Lsn(4), list: [(vec![dice(5)], producer)].into() };
    log.state.changed =
        Changed { life: changed(6), timelines: changed(7), metadata: changed(8), producers: changed(9) };
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record =
        |lens: std::ops::Range<usize>| (lens, any::<bool>()).prop_map(|(len, noise)| Step::Record { len, noise });
    let step = prop_oneof![
        60 => record(0..300),
        10 => record(300..9000),
        1 => record(60_000..200_000),
        8 => Just(Step::Control),
        3 => Just(Step::Recreate),
    ];
    proptest::collection::vec(step, 1..12)
}
