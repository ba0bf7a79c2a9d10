//! What operators and their tools read: health, readiness, metrics, status. Nothing here changes anything.
//!
//! Invariant: /readyz says 200 only while the store acknowledges; what is not there yet is said to be so.

use super::Context;
use crate::protocol::answer::{Answer, put, with};
use crate::protocol::body::whole;
use everlog::cold::standing::ColdLevel;
use everlog::{ErrorKind, ScrubReport, Stats};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers an operator.
pub fn answer(context: &Context, request: &Request<Incoming>) -> Answer {
    route(request, |page| match page {
        Page::Ready => ready(context),
        Page::Metrics => metrics(context),
        Page::Status => status(context),
    })
}

/// Answers an operator while the store is being opened, and there is nothing to tell of it yet.
pub fn answer_while_opening(request: &Request<Incoming>) -> Answer {
    let told = "the store is being opened: what the journal holds is read, and the cold store is asked who owns it\n";
    route(request, |_| text(StatusCode::SERVICE_UNAVAILABLE, told))
}

/// What depends on the store.
enum Page {
    Ready,
    Metrics,
    Status,
}

fn route(request: &Request<Incoming>, answer: impl FnOnce(Page) -> Answer) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here\n");
        put(&mut answer, ALLOW, "GET, HEAD");
        return answer;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "the process works\n"),
        "/readyz" => answer(Page::Ready),
        "/metrics" => answer(Page::Metrics),
        "/status" => answer(Page::Status),
        _ => text(StatusCode::NOT_FOUND, "there is /healthz, /readyz, /metrics and /status\n"),
    }
}

fn text(status: StatusCode, told: &'static str) -> Answer {
    typed(status, "text/plain; charset=utf-8", told.to_owned())
}

fn typed(status: StatusCode, content_type: &str, body: String) -> Answer {
    let mut answer = with(status, whole(body));
    put(&mut answer, CONTENT_TYPE, content_type);
    put(&mut answer, CACHE_CONTROL, "no-store");
    answer
}

/// Why no append would be taken, if none would.
fn unready(context: &Context, stats: &Stats) -> Option<String> {
    if stats.poisoned {
        if let Some(error) = context.streams.failure().filter(|error| error.kind() == ErrorKind::Fenced) {
            return Some(format!("{error}; the server stops"));
        }
        let cause = stats.poison_cause.as_deref().unwrap_or("a write failed");
        return Some(format!(
            "the store stopped acknowledging, and serves reads: {cause}; mend the disk, and start again"
        ));
    }
    if *context.stopping.borrow() {
        return Some("the server is stopping".to_owned());
    }
    if let Some(reason) = &stats.held_back {
        return Some(format!("no append is taken: {reason}"));
    }
    if let Some(error) = stats.flush_error.as_ref().filter(|_| stats.journal_full) {
        return Some(format!("no journal file is free, since a flush fails: {error}"));
    }
    // What cannot be flushed stays in memory: once that is full, appends are turned away.
    let nearly_full = stats.pool_bytes > stats.pool_bytes_max / 4 * 3;
    stats
        .flush_error
        .as_ref()
        .filter(|_| nearly_full)
        .map(|error| format!("memory is full, since a flush fails: {error}"))
}

fn ready(context: &Context) -> Answer {
    match unready(context, &context.streams.stats()) {
        None => text(StatusCode::OK, "appends are taken\n"),
        Some(reason) => typed(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", reason + "\n"),
    }
}

fn metrics(context: &Context) -> Answer {
    match context.metrics.text() {
        Ok(text) => typed(StatusCode::OK, OPENMETRICS, text),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

/// What the scrub says of itself; each finding is one line, as `everlog verify` prints it.
fn scrub(report: &ScrubReport) -> Value {
    json!({
        "bytes": report.bytes,
        "passes": report.passes,
        "last_ended_us": report.last_ended.map(|time| time.0),
        "pass_bytes_done": report.pass_bytes_done,
        "pass_bytes": report.pass_bytes,
        "failures": report.failures,
        "error": report.error,
        "damaged_records": report.damaged_records,
        "findings": report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "findings_left_out": report.findings_left_out,
    })
}

/// What is known of a cold store.
fn cold(level: &ColdLevel) -> Value {
    json!({
        "url": level.url,
        "counts": level.counts,
        "verified_lsn": level.verified.0,
        "verified_time_us": level.time.0,
        "lag_ms": u64::try_from(level.lag.as_millis()).unwrap_or(u64::MAX),
        "lag_bytes": level.lag_bytes,
        "epoch": level.epoch.0,
        "version": level.version,
        "error": level.error.as_ref().map(ToString::to_string),
    })
}

fn status(context: &Context) -> Answer {
    let stats = context.streams.stats();
    let reason = unready(context, &stats);
    let recovery = context.streams.recovery();
    let possibly_lost = recovery.possibly_acknowledged.map(|(first, last)| json!([first.0, last.map(|last| last.0)]));
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store": context.streams.store_id().to_string(),
        "data": context.settings.data,
        "ready": reason.is_none(),
        "reason": reason,
        "timeline": context.streams.timeline().to_string(),
        "cold": context.streams.cold_stores().iter().map(cold).collect::<Vec<_>>(),
        "opened": {
            "clean": recovery.clean,
            "took_ms": u64::try_from(recovery.took.as_millis()).unwrap_or(u64::MAX),
            "journal_bytes_replayed": recovery.bytes,
            "possibly_acknowledged_lsns": possibly_lost,
            "torn": recovery.torn,
        },
        "io": stats.io,
        "watermark_lsn": stats.watermark.0,
        "manifest": stats.manifest.0,
        "segments": stats.segments,
        "segment_bytes": stats.segment_bytes,
        "journal_files": stats.journal_files,
        "memtable_bytes": stats.memtable_bytes,
        "memory_pool_bytes": stats.pool_bytes,
        "memory_pool_bytes_max": stats.pool_bytes_max,
        "flush_failures": stats.flush_failures,
        "flush_error": stats.flush_error,
        "scrub": scrub(&stats.scrub),
        "records": stats.records,
        "payload_bytes": stats.payload_bytes,
    });
    typed(StatusCode::OK, "application/json", format!("{status:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_what_the_scrub_found() {
        let mut report = ScrubReport::default();
        let mut finding = everlog::Finding::new("a.seg", "a chunk is damaged");
        finding.log = Some("users/alice".to_owned());
        report.findings.push(finding);
        report.damaged_records = 2;
        let told = scrub(&report);
        assert_eq!(told["findings"], json!(["a.seg: a chunk is damaged, log users/alice"]));
        assert_eq!((&told["damaged_records"], &told["last_ended_us"]), (&json!(2), &Value::Null));
    }
}
