//! What was measured, as Markdown: the comparison, what the disk had to do for it, every run, and how it was done.
//!
//! Medians are taken over the alternations. The ratio is that of the medians; beside it stand the least and the
//! greatest ratio of one alternation, which show how far the machine's noise reaches.
//! Invariant: a figure in a table comes from runs of this report alone.

use crate::Engine;
use crate::drive::{Measured, Span};
use crate::machine::{self, Device};
use crate::workload::Workload;
use std::fmt::Write;
use std::path::Path;

/// One workload's runs.
pub struct Row {
    /// The workload.
    pub workload: Workload,
    /// For each alternation what each engine did, in the order of the report's engines.
    pub alternations: Vec<Vec<Measured>>,
}

/// Everything that is told.
pub struct Report {
    engines: Vec<Engine>,
    conditions: Vec<String>,
    /// The workloads that were run.
    pub rows: Vec<Row>,
}

/// A column of the tables: its name, where it comes from, and how it is written.
type Figure = (&'static str, fn(&Measured) -> f64, fn(f64) -> String);

const COMPARED: [Figure; 4] = [
    ("appends/s", |m| m.appends, whole),
    ("records/s", |m| m.records, whole),
    ("p50", |m| m.p50_us, micros),
    ("p99", |m| m.p99_us, micros),
];

const COST: [Figure; 6] = [
    ("device writes/s", |m| m.writes, whole),
    ("device flushes/s", |m| m.flushes, whole),
    ("bytes to the device per payload byte", |m| m.device_bytes, hundredths),
    ("bytes of the process per payload byte", |m| m.own_bytes, hundredths),
    ("processors in use", |m| m.processors, hundredths),
    ("most memory, MB (67 of them payloads)", |m| m.memory_bytes as f64 / 1e6, whole),
];

impl Report {
    /// Notes the conditions, before the first run.
    pub fn begin(engines: &[Engine], dir: &Path, device: &Device, span: Span, alternations: usize) -> Self {
        let (rustc, commit) = machine::versions();
        let order: Vec<&str> = engines.iter().map(|e| e.name()).collect();
        let mut conditions = machine::describe(dir, device);
        conditions.push(format!("compiler: {rustc}, release profile with thin LTO"));
        conditions.push(format!(
            "{alternations} alternations ({} in turn, each run a fresh process and directory), {} s of warming up, \
             {} s that count; logs chosen uniformly at random among 100,000 that exist, each log appended to by one \
             thread; random payloads",
            order.join(", "),
            span.warm_up,
            span.seconds
        ));
        conditions.extend(engines.iter().map(|e| e.settings(&commit)));
        let command: Vec<String> = std::env::args().skip(1).collect();
        conditions.push(format!(
            "command: `cargo run --release --manifest-path benches/compare/Cargo.toml -- {}`",
            command.join(" ")
        ));
        Self { engines: engines.to_vec(), conditions, rows: Vec::new() }
    }

    /// The whole report.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        self.table(&mut out, &COMPARED);
        out.push_str("\nWhat it took, within the window that counts:\n\n");
        self.table(&mut out, &COST);
        out.push_str("\nEvery run:\n\n");
        self.runs(&mut out);
        out.push('\n');
        for condition in &self.conditions {
            line(&mut out, format_args!("- {condition}"));
        }
        out
    }

    /// One table of medians; with two engines also the ratio of the first to the second.
    fn table(&self, out: &mut String, figures: &[Figure]) {
        let ratio = self.engines.len() == 2;
        let names: Vec<&str> = self.engines.iter().map(|e| e.name()).collect();
        let last =
            if ratio { format!(" {} ÷ {} (least–greatest of a pair) |", names[0], names[1]) } else { String::new() };
        line(out, format_args!("| workload | median of | {} |{last}", names.join(" | ")));
        line(out, format_args!("|---|---|{}", "---:|".repeat(names.len() + usize::from(ratio))));
        for row in &self.rows {
            for (name, get, write) in figures {
                let of = |engine: usize| row.alternations.iter().map(move |a| get(&a[engine]));
                let medians: Vec<f64> = (0..names.len()).map(|engine| median(of(engine))).collect();
                let cells: Vec<String> = medians.iter().map(|m| write(*m)).collect();
                let mut text = format!("| {} | {name} | {} |", row.workload.title(), cells.join(" | "));
                if ratio {
                    let pairs: Vec<f64> = of(0).zip(of(1)).map(|(a, b)| a / b).collect();
                    text.push_str(&format!(" {} |", spread(medians[0] / medians[1], &pairs)));
                }
                line(out, format_args!("{text}"));
            }
        }
    }

    fn runs(&self, out: &mut String) {
        line(out, format_args!("| workload | alternation | engine | appends/s | p50 | p99 | longest |"));
        line(out, format_args!("|---|---:|---|---:|---:|---:|---:|"));
        for row in &self.rows {
            for (n, alternation) in row.alternations.iter().enumerate() {
                for (engine, m) in self.engines.iter().zip(alternation) {
                    let (id, n, appends) = (row.workload.id, n + 1, whole(m.appends));
                    let (p50, p99, max) = (micros(m.p50_us), micros(m.p99_us), micros(m.max_us));
                    line(out, format_args!("| {id} | {n} | {engine} | {appends} | {p50} | {p99} | {max} |"));
                }
            }
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing into a string");
}

/// The middle value, or the mean of the middle two.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    assert!(n > 0, "a workload without a run is not reported");
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// A ratio is left out where the second engine's figure is zero.
fn spread(ratio: f64, pairs: &[f64]) -> String {
    if !ratio.is_finite() || pairs.iter().any(|p| !p.is_finite()) {
        return "–".into();
    }
    let least = pairs.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = pairs.iter().copied().fold(0.0, f64::max);
    format!("{ratio:.2} ({least:.2}–{greatest:.2})")
}

/// A whole number with its thousands apart.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn micros(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} µs") } else { format!("{:.2} ms", us / 1000.0) }
}

fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median([7.0].into_iter()), 7.0);
    }

    #[test]
    fn numbers_are_written_to_be_read() {
        assert_eq!(whole(999.4), "999");
        assert_eq!(whole(1_234_567.0), "1,234,567");
        assert_eq!(micros(999.0), "999 µs");
        assert_eq!(micros(1500.0), "1.50 ms");
        assert_eq!(spread(2.0, &[1.5, 2.5]), "2.00 (1.50–2.50)");
        assert_eq!(spread(f64::NAN, &[1.0]), "–");
    }
}
