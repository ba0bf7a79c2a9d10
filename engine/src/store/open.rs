//! The writing half of an open: what recovery decided is carried out, and the parts are put together.
//!
//! In this order: the lock; scan and decide, which only read; what was accepted is made durable; what was cut is kept;
//! a place for the next frame, on a new timeline and, unless the close was clean, in a fresh file; a flush first, if no
//! file is free; the frame of the open. Only then is anything visible.

use super::bell::Bell;
use super::cold::{ColdConfig, Shippers, Tenants};
use super::flush_signal::{FlushSignal, Pressure};
use super::load::{Loaded, Show, load, read_only, refusal};
use super::lock;
use super::report::RecoveryReport;
use super::{Core, End};
use crate::catalog::{Catalog, CatalogParts};
use crate::clock::{Clock, Steady};
use crate::commit::append::Appender;
use crate::commit::committer::Committer;
use crate::commit::frames::{Frames, Shared, Start};
use crate::commit::lane::Lane;
use crate::commit::throttle::Throttle;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::flush::{Flusher, FlusherParts, Rest};
use crate::format::cold::RESTORE_FILE_NAME;
use crate::format::identity;
use crate::format::manifest::{TimelineCause, TimelineStart};
use crate::index::grace::Grace;
use crate::io::{File, Io, OpenMode};
use crate::journal::Journal;
use crate::journal::ring::{Place, Ring, RingFile};
use crate::limits;
use crate::merge::Merger;
use crate::poison::Poison;
use crate::recovery::decide::Action;
use crate::recovery::repair;
use crate::scrub::{ScrubReport, Scrubber};
use crate::sync::{Arc, AtomicBool, Mutex};
use crate::types::{JournalId, Timeline};
use std::path::Path;

/// An open store in its parts.
pub(super) struct Opened {
    pub core: Arc<Core>,
    pub committer: Committer,
    pub flusher: Flusher,
    pub merger: Merger,
    /// None if the settings want none.
    pub scrubber: Option<Scrubber>,
    /// One for each cold store.
    pub shippers: Vec<Shippers>,
}

/// Opens a store without cold stores.
#[cfg(test)]
pub(super) fn open(
    io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: &Config, stepped: bool,
) -> Result<Opened> {
    open_to(io, clock, dir, config, &ColdConfig::default(), stepped)
}

pub(super) fn open_to(
    io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: &Config, cold: &ColdConfig, stepped: bool,
) -> Result<Opened> {
    let began = clock.monotonic();
    super::load::identity(&*io, dir)?;
    let identity = io.open(&dir.join(identity::FILE_NAME), OpenMode::Read)?;
    let lock = lock::take(&*io, dir)?;
    let mut loaded = load(&io, dir, config, Show::All)?;
    if let Some(refusal) = refusal(&loaded.action, dir, loaded.manifest.version).or_else(|| read_only(&loaded)) {
        return Err(refusal);
    }
    let (epochs, cause) = super::cold::epochs(&io, dir, &loaded.index, cold)?;
    in_place(&*io, &identity)?;
    repair::make_durable(&*io, dir, &loaded.manifest.identity, &loaded.facts, &loaded.extents)?;
    let torn = repair::keep_torn(&*io, dir, &loaded.facts)?;
    in_place(&*io, &identity)?;
    repair::sweep(&*io, dir, &loaded.manifest)?;
    let (ring, end_file) = ring(&io, dir, config, &loaded)?;
    in_place(&*io, &identity)?;
    let end = loaded.facts.end;
    let end_time = loaded.facts.end_time.max(loaded.manifest.time);
    let journal = Journal::new(ring, end, end_time, loaded.manifest.version);
    let poison = Arc::new(Poison::default());
    let timeline = timeline(&mut loaded, &*io, &*clock, cause)?;
    let tenants = Tenants::take(&io, dir, &loaded.index, cold, epochs, &loaded.timelines, &clock)?;
    let grace = Arc::new(Grace::new(Steady::from(Arc::clone(&clock), loaded.stamped()), config.grace));
    let flush_asked = Arc::new(AtomicBool::new(false));
    let catalog = Arc::new(Catalog::new(CatalogParts {
        io: Arc::clone(&io),
        dir: dir.to_owned(),
        index: Arc::clone(&loaded.index),
        journal: Arc::clone(&journal),
        grace: Arc::clone(&grace),
        poison: Arc::clone(&poison),
        timelines: loaded.timelines.clone(),
        next_segment: repair::next_segment(&*io, dir, &loaded.manifest)?,
    }));
    let merger = Merger::new(
        Arc::clone(&catalog),
        Arc::clone(&loaded.index),
        Arc::clone(&poison),
        Arc::clone(&grace),
        Arc::clone(&clock),
        config,
    );
    let scrub = Arc::new(Mutex::new(ScrubReport::default()));
    let scrubber = Scrubber::new(Arc::clone(&loaded.index), Arc::clone(&clock), config, Arc::clone(&scrub));
    let flush_signal = Arc::new(FlushSignal::default());
    let shippers = tenants.shippers(&catalog, &loaded.index, &journal, &flush_asked);
    let mut flusher = Flusher::new(FlusherParts {
        catalog,
        index: Arc::clone(&loaded.index),
        journal: Arc::clone(&journal),
        poison: Arc::clone(&poison),
        flush_bytes: config.flush_bytes,
        asked: Arc::clone(&flush_asked),
        rest: (!stepped).then(|| {
            let signal = Arc::clone(&flush_signal);
            Box::new(move |pause| signal.pause(pause)) as Rest
        }),
        clock: Arc::clone(&clock),
    });
    let place = place(&loaded, &journal, end_file.as_ref(), &mut flusher, timeline)?;
    let frame_max = limits::frame_bytes_max(journal.ring.smallest());
    let lane = Arc::new(Lane::new(frame_max, end.last_lsn.next(), Arc::clone(&loaded.index.buffers)));
    let shared = Shared {
        io: Arc::clone(&io),
        clock: Arc::clone(&clock),
        grace: Arc::clone(&grace),
        index: Arc::clone(&loaded.index),
        journal: Arc::clone(&journal),
        lane: Arc::clone(&lane),
        poison: Arc::clone(&poison),
        wants_flush: Arc::clone(&flush_signal) as Arc<dyn crate::io::Wake>,
        flush_bytes: config.flush_bytes,
    };
    let start = Start { place, prev: end, prev_time: end_time, timeline, epoch: tenants.epoch() };
    // A sync through the page cache reports a lost write of any of them to one caller alone, so that none may be under
    // way beside another.
    let depth = if io.buffered() { 1 } else { config.in_flight };
    let mut frames = Frames::new(shared.clone(), start, depth, config.idle_frame_after);
    if frames.needs_file() {
        flusher.make_room()?;
    }
    frames.open_frame()?;
    if cause != TimelineCause::Open {
        // Why the timeline began stands in a manifest before it is forgotten.
        flusher.flush()?;
    }
    tenants.cold.epochs.change(|epochs| (epochs.restored, epochs.fenced) = (None, None))?;
    // Left by a restore that ended, if it could not take it away; nobody asks whether it is there.
    let _ = io.remove(&dir.join(RESTORE_FILE_NAME));
    let committer = Committer::new(shared, frames, depth)?;
    let appender = Appender {
        index: Arc::clone(&loaded.index),
        lane: Arc::clone(&lane),
        poison: Arc::clone(&poison),
        journal: Arc::clone(&journal),
        leader: committer.leader(),
        pressure: Arc::new(Pressure { asked: Arc::clone(&flush_asked), signal: Arc::clone(&flush_signal) }),
        journal_file_bytes: frame_max as u64 * 4,
        grace,
        throttle: Throttle::new(
            Arc::clone(&loaded.index),
            Arc::clone(&clock),
            config.merge_width,
            Arc::clone(&tenants.cold.standing),
        ),
        when_full: config.when_full,
        timeline,
    };
    let report = RecoveryReport::new(&loaded, timeline, torn, clock.monotonic().saturating_sub(began));
    report.log(dir, io.name());
    let core = Core {
        index: loaded.index,
        journal,
        lane,
        poison,
        appender,
        report,
        timelines: loaded.timelines,
        io,
        flush_asked,
        flush_signal,
        merge_bell: Bell::default(),
        merge_error: Mutex::new(None),
        scrub_bell: Bell::default(),
        scrub,
        cold: tenants.cold,
        clock,
        stepped,
        end: End::new(lock),
    };
    Ok(Opened { core: Arc::new(core), committer, flusher, merger, scrubber, shippers })
}

/// Fails if another directory bears the store's name by now: its journal took seconds to read, and what is written by
/// name from here on would fall upon files that belong to another store, whose lock nobody asked for. Once the ring has
/// its files, they are looked at instead.
fn in_place(io: &dyn Io, identity: &File) -> Result<()> {
    if io.is_in_place(identity) {
        return Ok(());
    }
    let what = "the store's directory was removed, moved or replaced while it was being opened";
    Err(Error::new(ErrorKind::Refused, what).file(&identity.path).remedy("leave it in its place, and open it again"))
}

/// The ring with the files that are there; and the file that holds the journal's end, if there is one.
fn ring(io: &Arc<dyn Io>, dir: &Path, config: &Config, loaded: &Loaded) -> Result<(Ring, Option<RingFile>)> {
    let next_journal = JournalId(loaded.manifest.next_journal.0.max(loaded.facts.journal_id_max.0 + 1));
    let ring = Ring::new(
        Arc::clone(io),
        dir,
        loaded.manifest.identity,
        Arc::clone(&loaded.metrics),
        config.journal_file_bytes,
        config.journal_files_max,
        next_journal,
    );
    let mut end_file = None;
    // Spares are used in this order. Those that were written to last come last: a write of a process that was killed may
    // still be under way to one of them, and must not meet what is written there next.
    let mut files: Vec<_> = loaded.facts.files.iter().enumerate().collect();
    files.sort_by_key(|(n, file)| (loaded.facts.end_file == Some(*n), file.journal));
    for (n, file) in files {
        let used = file.in_chain_of.and_then(|journal| loaded.last_frames.get(&journal).copied());
        let journal = file.in_chain_of.or(file.journal).unwrap_or_default();
        let adopted = ring.adopt(file.slot, file.bytes, journal, used)?;
        if loaded.facts.end_file == Some(n) {
            end_file = adopted;
        }
    }
    Ok((ring, end_file))
}

/// The timeline of this open, a new one. A directory that was copied after a clean close, or before anything was written,
/// and put back later looks like one that went on, so that neither is a reason to keep the old one (docs/adr/0005).
fn timeline(loaded: &mut Loaded, io: &dyn Io, clock: &dyn Clock, cause: TimelineCause) -> Result<Timeline> {
    let last = loaded.timelines.last().map(|start| start.timeline).unwrap_or_default();
    let timeline = Timeline { counter: last.counter + 1, random: u32::from_le_bytes(io.random_bytes()?) };
    loaded.timelines.push(TimelineStart {
        timeline,
        parent: last,
        first_lsn: loaded.facts.end.last_lsn.next(),
        began: clock.wall(),
        cause,
    });
    Ok(timeline)
}

/// Where the journal goes on.
fn place(
    loaded: &Loaded, journal: &Journal, end_file: Option<&RingFile>, flusher: &mut Flusher, timeline: Timeline,
) -> Result<Place> {
    if let (Action::GoOn, Some(file)) = (&loaded.action, end_file) {
        return Ok(journal.ring.resume(file, &loaded.facts.end));
    }
    flusher.make_room()?;
    journal.ring.begin(timeline, loaded.facts.end)?.ok_or_else(|| {
        Error::new(ErrorKind::Io, "no journal file is free").remedy("free space on the disk, and open the store again")
    })
}
