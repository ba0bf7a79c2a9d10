//! fio: what the disk does with the writes of everlog's journal, without an engine around them.
//!
//! It overwrites a file whose every block was written before, with O_DIRECT and DSYNC through io_uring, in one size and with
//! a fixed number of writes in flight.

use crate::child;
use crate::contender::Outcome;
use crate::measure::{Figure, Measured};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What is told about the settings.
pub const SETTINGS: &str = "`--ioengine=io_uring --direct=1 --sync=dsync --rw=write` over a file of 256 MiB that was written \
     before, as large as everlog's journal ring; size and depth stand in the table";

const REMEDY: &str = "install it (`apt install fio`), or leave it out with --engines";

const FILE_BYTES: u64 = 256 << 20;
const BLOCK: u64 = 4096;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Job {
    /// Bytes of a write, which are rounded up to whole blocks.
    pub bytes: f64,
    /// Writes in flight.
    pub depth: usize,
}

#[derive(Deserialize)]
struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Deserialize)]
struct JobReport {
    write: Writes,
}

#[derive(Deserialize)]
struct Writes {
    iops: f64,
    bw_bytes: f64,
    lat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    max: f64,
    percentile: BTreeMap<String, f64>,
}

/// The program's version.
pub fn version() -> Outcome<String> {
    let output = Command::new("fio").arg("--version").output();
    let output = output.map_err(|e| format!("starting fio: {e}; {REMEDY}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Measures in the directory `dir`, for so many seconds.
pub fn measure(dir: &Path, job: Job, seconds: f64) -> Outcome<Measured> {
    let file = dir.join("fio");
    fio(&file, &["--name=written-before", "--bs=1M", "--end_fsync=1"], 0.0)?;
    let bytes = ((job.bytes / BLOCK as f64).ceil().max(1.0) as u64) * BLOCK;
    let size = format!("--bs={bytes}");
    let depth = format!("--iodepth={}", job.depth);
    let runtime = format!("--runtime={}", seconds.ceil());
    let report = fio(
        &file,
        &[
            "--name=overwrite",
            &size,
            &depth,
            "--ioengine=io_uring",
            "--sync=dsync",
            "--time_based",
            &runtime,
            "--ramp_time=1",
        ],
        seconds,
    )?;
    let writes = &report.jobs.first().ok_or("fio told of no job")?.write;
    let quantile = |name: &str| {
        let ns = writes.lat_ns.percentile.iter().find(|(at, _)| at.trim_end_matches('0') == name);
        ns.map(|(_, ns)| ns / 1000.0).ok_or_else(|| format!("fio told of no percentile {name}"))
    };
    Ok(Measured::from([
        (Figure::Appends, writes.iops),
        (Figure::PayloadRate, writes.bw_bytes),
        (Figure::P50, quantile("50.")?),
        (Figure::P90, quantile("90.")?),
        (Figure::P99, quantile("99.")?),
        (Figure::P999, quantile("99.9")?),
        (Figure::Max, writes.lat_ns.max / 1000.0),
        (Figure::WriteBytes, bytes as f64),
        (Figure::WritesInFlight, job.depth as f64),
    ]))
}

fn fio(file: &Path, args: &[&str], seconds: f64) -> Outcome<Report> {
    let mut command = Command::new("fio");
    command.arg(format!("--filename={}", file.display())).arg(format!("--size={FILE_BYTES}"));
    command.args(["--rw=write", "--direct=1", "--output-format=json"]).args(args);
    // Latencies from the call on, and not only from when the kernel took it.
    command.args(["--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:90:99:99.9"]);
    let text = child::output(&mut command, seconds, "fio")?;
    // It may tell of something before the report.
    let from = text.find('{').ok_or("fio gave no report")?;
    serde_json::from_str(&text[from..]).map_err(|e| format!("fio's report: {e}"))
}
