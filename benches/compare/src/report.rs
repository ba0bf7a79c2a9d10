//! What was measured, as Markdown: what was wanted and reached, each workload's figures, every run, and how it was done.
//!
//! Medians are taken over the alternations. A ratio is that of the medians; beside it stand the least and the greatest ratio
//! of one alternation, which show how far the machine's noise reaches.
//! Invariant: a figure in a table comes from runs of this report alone.

use crate::engines::Engine;
use crate::machine::{self, Device};
use crate::measure::{Figure, Measured};
use crate::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// What each engine did in one alternation.
pub type Alternation = BTreeMap<Engine, Measured>;

/// One workload's runs.
pub struct Row {
    /// The workload.
    pub workload: Workload,
    /// Its engines, in the order of their turns.
    pub engines: Vec<Engine>,
    /// What was measured.
    pub alternations: Vec<Alternation>,
}

/// The medians of a workload's runs.
pub struct Medians(BTreeMap<(Engine, Figure), f64>);

/// Everything that is told.
pub struct Report {
    conditions: Vec<String>,
    /// The workloads that were run.
    pub rows: Vec<Row>,
}

impl Row {
    /// A figure of an engine in each alternation.
    pub fn of(&self, engine: Engine, figure: Figure) -> impl Iterator<Item = f64> {
        self.alternations.iter().filter_map(move |a| a.get(&engine)?.get(&figure).copied())
    }

    /// Of each engine and figure.
    pub fn medians(&self) -> Medians {
        let mut medians = BTreeMap::new();
        for engine in &self.engines {
            for figure in self.figures() {
                if self.of(*engine, figure).next().is_some() {
                    medians.insert((*engine, figure), median(self.of(*engine, figure)));
                }
            }
        }
        Medians(medians)
    }

    fn figures(&self) -> BTreeSet<Figure> {
        self.alternations.iter().flat_map(BTreeMap::values).flat_map(|m| m.keys().copied()).collect()
    }

    /// everlog's figure divided by another's: the least and the greatest of one alternation.
    fn spread(&self, figure: Figure, other: Engine) -> Option<(f64, f64)> {
        let ratios = self.alternations.iter().filter_map(|a| {
            let ratio = a.get(&Engine::Everlog)?.get(&figure)? / a.get(&other)?.get(&figure)?;
            ratio.is_finite().then_some(ratio)
        });
        ratios.fold(None, |spread, ratio| {
            let (least, greatest) = spread.unwrap_or((ratio, ratio));
            Some((ratio.min(least), ratio.max(greatest)))
        })
    }
}

impl Medians {
    /// Of an engine.
    pub fn of(&self, engine: Engine, figure: Figure) -> Option<f64> {
        self.0.get(&(engine, figure)).copied()
    }

    /// everlog's median divided by another's.
    pub fn ratio(&self, figure: Figure, other: Engine) -> Option<f64> {
        let ratio = self.of(Engine::Everlog, figure)? / self.of(other, figure)?;
        ratio.is_finite().then_some(ratio)
    }

    /// everlog's median divided by raft-engine's, as shipped or tuned, whichever is better.
    pub fn to_raft(&self, figure: Figure) -> Option<f64> {
        let ratios = [Engine::RaftEngine, Engine::RaftEngineTuned].into_iter().filter_map(|e| self.ratio(figure, e));
        ratios.reduce(if figure.more_is_better() { f64::min } else { f64::max })
    }
}

impl Report {
    /// Notes the conditions, before the first run.
    pub fn begin(engines: &[Engine], dir: &Path, device: &Device, how: String) -> Self {
        let (rustc, commit) = machine::versions();
        let mut conditions = machine::describe(dir, device);
        conditions.push(format!("compiler: {rustc}, release profile with thin LTO"));
        conditions.push(how);
        conditions.extend(engines.iter().map(|e| e.settings(&commit)));
        let command: Vec<String> = std::env::args().skip(1).collect();
        let features = if cfg!(feature = "rocksdb") { " --features rocksdb" } else { "" };
        conditions.push(format!(
            "command: `cargo run --release --manifest-path benches/compare/Cargo.toml{features} -- {}`",
            command.join(" ")
        ));
        Self { conditions, rows: Vec::new() }
    }

    /// The whole report; `plots` says whether it may refer to them.
    pub fn to_markdown(&self, plots: bool) -> String {
        let mut out = String::from("# everlog beside other engines\n\n");
        out.push_str(INTRODUCTION);
        self.goals(&mut out);
        for row in &self.rows {
            let id = row.workload.id;
            line(&mut out, format_args!("\n## {id}: {}\n", row.workload.title));
            if plots {
                line(&mut out, format_args!("![{}]({id}.svg)\n", row.workload.title));
            }
            let (results, costs): (Vec<_>, Vec<_>) = row.figures().into_iter().partition(|f| f.is_result());
            table(&mut out, row, &results);
            if !costs.is_empty() {
                out.push_str("\nBeside it:\n\n");
                table(&mut out, row, &costs);
            }
            out.push_str("\nEvery run, in turn:\n\n");
            runs(&mut out, row);
        }
        out.push_str("\n## How it was measured\n\n");
        for condition in &self.conditions {
            line(&mut out, format_args!("- {condition}"));
        }
        out
    }

    fn goals(&self, out: &mut String) {
        line(out, format_args!("| workload | what | must be | is | |"));
        line(out, format_args!("|---|---|---:|---:|---|"));
        for row in &self.rows {
            let medians = row.medians();
            for goal in row.workload.goals {
                let (value, verdict) = match (goal.value)(&medians) {
                    Some(value) => (hundredths(value), if goal.bound.holds(value) { "reached" } else { "**missed**" }),
                    None => ("–".into(), "not measured"),
                };
                let (id, title) = (row.workload.id, row.workload.title);
                line(out, format_args!("| {id}: {title} | {} | {} | {value} | {verdict} |", goal.what, goal.bound));
            }
        }
    }
}

const INTRODUCTION: &str = "Made by `benches/compare`, whose workloads and pitfalls [PERFORMANCE.md](../PERFORMANCE.md) \
     explains. All figures are medians over the alternations. Where another engine's figure is followed by a ratio, that \
     is everlog's median divided by it, and in parentheses the least and the greatest ratio of one alternation. \
     raft-engine's in the first table is the better one of raft-engine as shipped and tuned.\n\n";

fn table(out: &mut String, row: &Row, figures: &[Figure]) {
    let names: Vec<&str> = row.engines.iter().map(|e| e.name()).collect();
    line(out, format_args!("| | {} |", names.join(" | ")));
    line(out, format_args!("|---|{}", "---:|".repeat(names.len())));
    let medians = row.medians();
    for figure in figures {
        let (name, write) = figure.shown();
        let cells: Vec<String> = row
            .engines
            .iter()
            .map(|engine| {
                let Some(value) = medians.of(*engine, *figure) else { return "–".into() };
                // To what is as good as nothing there is no ratio.
                let some = *engine != Engine::Everlog && write(value) != write(0.0);
                let ratio = medians.ratio(*figure, *engine).filter(|_| some);
                match ratio.zip(row.spread(*figure, *engine)) {
                    Some((ratio, (least, greatest))) => {
                        format!("{} · {ratio:.2} ({least:.2}–{greatest:.2})", write(value))
                    }
                    None => write(value),
                }
            })
            .collect();
        line(out, format_args!("| {name} | {} |", cells.join(" | ")));
    }
}

fn runs(out: &mut String, row: &Row) {
    let (name, write) = row.workload.main.shown();
    line(
        out,
        format_args!(
            "| {name} | {} |",
            (1..=row.alternations.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(" | ")
        ),
    );
    line(out, format_args!("|---|{}", "---:|".repeat(row.alternations.len())));
    for engine in &row.engines {
        let cell = |a: &Alternation| {
            a.get(engine).and_then(|m| m.get(&row.workload.main)).map_or("–".into(), |value| write(*value))
        };
        let cells: Vec<String> = row.alternations.iter().map(cell).collect();
        line(out, format_args!("| {engine} | {} |", cells.join(" | ")));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing into a string");
}

/// The middle value, or the mean of the middle two.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    assert!(n > 0, "what was never measured has no median");
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// A whole number with its thousands apart.
pub fn whole(value: f64) -> String {
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

/// Microseconds, or milliseconds where that is shorter.
pub fn micros(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} µs") } else { format!("{:.2} ms", us / 1000.0) }
}

/// Seconds as milliseconds.
pub fn millis(seconds: f64) -> String {
    format!("{} ms", whole(seconds * 1000.0))
}

/// Bytes as millions of them.
pub fn megabytes(bytes: f64) -> String {
    if bytes < 100e6 { format!("{:.1}", bytes / 1e6) } else { whole(bytes / 1e6) }
}

/// With two digits behind the point.
pub fn hundredths(value: f64) -> String {
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
        assert_eq!(millis(1.5), "1,500 ms");
        assert_eq!(megabytes(1.5e6), "1.5");
        assert_eq!(megabytes(1.5e9), "1,500");
    }

    #[test]
    fn the_better_of_both_raft_engines_counts() {
        let workload = Workload::named('b').expect("there is one");
        let engines = vec![Engine::Everlog, Engine::RaftEngine, Engine::RaftEngineTuned];
        let run = |rate, p99| Measured::from([(Figure::Appends, rate), (Figure::P99, p99)]);
        let alternation = |everlog: f64| {
            Alternation::from([
                (Engine::Everlog, run(everlog, 10.0)),
                (Engine::RaftEngine, run(10.0, 40.0)),
                (Engine::RaftEngineTuned, run(20.0, 80.0)),
            ])
        };
        let row =
            Row { workload, engines, alternations: vec![alternation(40.0), alternation(60.0), alternation(50.0)] };
        let medians = row.medians();
        assert_eq!(medians.ratio(Figure::Appends, Engine::RaftEngine), Some(5.0));
        assert_eq!(medians.to_raft(Figure::Appends), Some(2.5));
        assert_eq!(medians.to_raft(Figure::P99), Some(0.25));
        assert_eq!(row.spread(Figure::Appends, Engine::RaftEngineTuned), Some((2.0, 3.0)));
        assert_eq!(medians.ratio(Figure::P50, Engine::RaftEngine), None);
    }
}
