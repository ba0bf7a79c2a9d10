//! What an operator measures: counters and histograms of the server, and the engine's own, as OpenMetrics text.
//!
//! Nothing is collected until somebody asks, but for the requests and acknowledgements counted here. Units are seconds
//! and bytes. Invariant: the engine's figures are those of its `Stats` and of its cold stores' levels, under the names below
//! and nothing derived.

use crate::protocol::request::Durability;
use everlog::cold::standing::ColdLevel;
use everlog::{ScrubReport, Stats, Store};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::time::Duration;

/// What distinguishes requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
}

/// What distinguishes acknowledgements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// The server's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// By [`Durability`].
    ack_seconds: [Histogram; 2],
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were turned away since there were too many.
    pub connections_refused: Counter,
    /// Readers that wait for more.
    pub live_readers: Gauge,
}

impl Metrics {
    /// Metrics that also tell of `store`.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        let mut registry = Registry::with_prefix("everlog");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let buckets = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        let acks = Family::<LevelLabels, Histogram>::new_with_constructor(buckets as fn() -> Histogram);
        let ack_seconds = [Durability::Local, Durability::Cold]
            .map(|level| acks.get_or_create_owned(&LevelLabels { level: level.name() }));
        let help = "Time from the whole request to its acknowledgement";
        registry.register_with_unit("ack", help, Unit::Seconds, acks);
        let (connections, live_readers) = (Gauge::default(), Gauge::default());
        registry.register("http_connections", "Open connections", connections.clone());
        let connections_refused = Counter::default();
        let help = "Connections turned away since connections_max was reached";
        registry.register("http_connections_refused", help, connections_refused.clone());
        registry.register("live_readers", "Long polls and event streams that are open", live_readers.clone());
        registry.register_collector(Box::new(Engine(store.clone())));
        Self { registry, requests, ack_seconds, connections, connections_refused, live_readers }
    }

    /// An append was acknowledged after `took`.
    pub fn acknowledged(&self, durability: Durability, took: Duration) {
        self.ack_seconds[durability as usize].observe(took.as_secs_f64());
    }

    /// A request was answered.
    pub fn answered(&self, method: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { method, status }).inc();
    }

    /// All of them, as OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: the text is written to memory.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Counts something for as long as it is there.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// One more of what `gauge` counts.
    #[must_use]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The engine's figures, read when they are asked for.
#[derive(Debug)]
struct Engine(Store);

/// What distinguishes bytes written to the device.
#[derive(Clone, Debug, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

impl Collector for Engine {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, unit, value) in counters(&stats) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit.as_ref(), counter.metric_type())?)?;
        }
        for (name, help, unit, value) in gauges(&stats) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)?;
        }
        let help = "Bytes written to the device";
        let counter = ConstCounter::new(0_u64);
        let mut family =
            encoder.encode_descriptor("device_written", help, Some(&Unit::Bytes), counter.metric_type())?;
        for (kind, value) in [
            ("frame", stats.frame_bytes),
            ("segment", stats.segment_bytes_written),
            ("merge", stats.merge_bytes_written),
            ("journal_fill", stats.journal_fill_bytes),
        ] {
            ConstCounter::new(value).encode(family.encode_family(&KindLabels { kind })?)?;
        }
        let stores = self.0.cold_stores();
        for (name, help, unit, of) in COLD {
            let gauge = ConstGauge::new(0.0_f64);
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?;
            for level in &stores {
                ConstGauge::new(of(level)).encode(family.encode_family(&StoreLabels { store: level.url.clone() })?)?;
            }
        }
        Ok(())
    }
}

/// What distinguishes cold stores.
#[derive(Clone, Debug, EncodeLabelSet)]
struct StoreLabels {
    store: String,
}

type ColdFigure = (&'static str, &'static str, Option<Unit>, fn(&ColdLevel) -> f64);

/// What is told of each cold store.
const COLD: [ColdFigure; 5] = [
    (
        "cold_lag",
        "For how long the first of what is not verified there is durable here",
        Some(Unit::Seconds),
        |level| level.lag.as_secs_f64(),
    ),
    ("cold_lag", "Bytes of frames written since the open and not verified there", Some(Unit::Bytes), |level| {
        level.lag_bytes as f64
    }),
    ("cold_verified_lsn", "Everything up to this LSN is verified there", None, |level| level.verified.0 as f64),
    ("cold_counts", "Whether what is there counts as cold: 0 if it shares the fate of the data", None, |level| {
        f64::from(u8::from(level.counts))
    }),
    ("cold_failing", "Whether the last attempt to ship there failed", None, |level| {
        f64::from(u8::from(level.error.is_some()))
    }),
];

type Figure = (&'static str, &'static str, Option<Unit>, u64);

fn counters(stats: &Stats) -> [Figure; 19] {
    [
        ("payload", "Payload bytes that became durable", Some(Unit::Bytes), stats.payload_bytes),
        ("records", "Records that became durable", None, stats.records),
        ("frames", "Frames that became durable, empty ones included", None, stats.frames),
        ("frame_records", "Records and control operations in durable frames", None, stats.frame_entries),
        ("flushes", "Flushes", None, stats.flushes),
        ("flush_failures", "Passes of the flush that failed and are tried again", None, stats.flush_failures),
        ("merges", "Merges of segments", None, stats.merges),
        ("merge_failures", "Steps of merges that failed and are tried again", None, stats.merge_failures),
        (
            "dropped_records",
            "Records given back: deleted or trimmed for longer than the grace",
            None,
            stats.dropped_records,
        ),
        (
            "merge_reserve_loans",
            "Times that a merge on a full disk got the room kept for that",
            None,
            stats.reserve_loans,
        ),
        ("manifests", "Manifest versions committed", None, stats.manifests),
        ("segment_rewrites", "Segments written anew since they did not read back", None, stats.segment_rewrites),
        (
            "overloads",
            "Appends turned away for want of memory, of room in the journal, or since merges are behind",
            None,
            stats.overloads,
        ),
        ("slowed", "Waits of appends that were slowed down since flush or merges are behind", None, stats.slowed),
        ("reads", "Pages read", None, stats.reads),
        ("chunk_reads", "Reads of segments for pages, from the device or the page cache", None, stats.chunk_reads),
        ("scrubbed", "Bytes that the scrub read", Some(Unit::Bytes), stats.scrub.bytes),
        ("scrub_passes", "Passes over all segments that the scrub ended", None, stats.scrub.passes),
        ("scrub_failures", "Reads of the scrub that failed and are tried again", None, stats.scrub.failures),
    ]
}

/// How much the scrub found, listed or not.
fn findings(scrub: &ScrubReport) -> u64 {
    scrub.findings.len() as u64 + scrub.findings_left_out
}

fn gauges(stats: &Stats) -> [Figure; 11] {
    [
        ("poisoned", "1 once the store stopped acknowledging", None, u64::from(stats.poisoned)),
        ("memory_pool", "Bytes taken from the memory pool", Some(Unit::Bytes), stats.pool_bytes as u64),
        ("memtable", "Durable bytes in memory", Some(Unit::Bytes), stats.memtable_bytes as u64),
        ("segments", "Segments", None, stats.segments as u64),
        ("segments_due", "Segments that are due to be merged", None, stats.due_segments as u64),
        ("segments_unreadable", "Segments that a merge could not read", None, stats.unreadable_segments),
        ("segment", "Bytes of segments", Some(Unit::Bytes), stats.segment_bytes),
        ("damaged_records", "Records that the scrub found to be damaged", None, stats.scrub.damaged_records),
        ("scrub_findings", "What the scrub found to be wrong", None, findings(&stats.scrub)),
        ("heads", "Log heads in memory", None, stats.heads as u64),
        ("watermark_lsn", "The highest durable LSN", None, stats.watermark.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scrub_read_and_found_is_told() {
        let mut stats = Stats::default();
        (stats.scrub.bytes, stats.scrub.passes, stats.scrub.failures) = (3, 4, 5);
        (stats.scrub.damaged_records, stats.scrub.findings_left_out) = (6, 7);
        stats.scrub.findings.push(everlog::Finding::new("a.seg", "a chunk is damaged"));
        let figures = counters(&stats).into_iter().chain(gauges(&stats));
        let told: Vec<_> = figures.filter(|figure| figure.3 > 0).map(|figure| (figure.0, figure.3)).collect();
        let expected = [
            ("scrubbed", 3),
            ("scrub_passes", 4),
            ("scrub_failures", 5),
            ("damaged_records", 6),
            ("scrub_findings", 8),
        ];
        assert_eq!(told, expected);
    }
}
