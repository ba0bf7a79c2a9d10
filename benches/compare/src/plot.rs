//! Each workload as a picture: its main figure as a bar for each engine, with a dot for each run, and the latencies by
//! percentile where there are any.

use crate::contender::Outcome;
use crate::engines::Engine;
use crate::measure::Figure;
use crate::report::{Medians, Row};
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (1080, 360);
/// Width of the bars where latencies stand beside them.
const BARS: u32 = 600;
const FONT: &str = "sans-serif";
const PERCENTILES: [(Figure, &str); 5] =
    [(Figure::P50, "50"), (Figure::P90, "90"), (Figure::P99, "99"), (Figure::P999, "99.9"), (Figure::Max, "longest")];

/// Okabe and Ito's colours, which those who see fewer of them can tell apart.
fn colour(engine: Engine) -> RGBColor {
    match engine {
        Engine::Everlog => RGBColor(0, 114, 178),
        Engine::RaftEngine => RGBColor(213, 94, 0),
        Engine::RaftEngineTuned => RGBColor(230, 159, 0),
        Engine::Fjall => RGBColor(0, 158, 115),
        Engine::Redb => RGBColor(204, 121, 167),
        #[cfg(feature = "rocksdb")]
        Engine::Rocksdb => RGBColor(86, 180, 233),
        Engine::Fio => RGBColor(120, 120, 120),
        Engine::Bare => RGBColor(180, 180, 180),
    }
}

/// Writes the picture of `row` to `file`, as SVG.
pub fn write(row: &Row, file: &Path) -> Outcome<()> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    draw(row, &area).map_err(|e| format!("{}: {e}", file.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(row: &Row, area: &Area<'_>) -> Drawn {
    area.fill(&WHITE)?;
    let title = format!("{}: {}", row.workload.id, row.workload.title);
    let area = area.titled(&title, (FONT, 18))?;
    let medians = row.medians();
    if row.engines.iter().any(|engine| medians.of(*engine, Figure::P50).is_some()) {
        let (left, right) = area.split_horizontally(BARS);
        bars(row, &medians, &left)?;
        latencies(row, &medians, &right)?;
    } else {
        bars(row, &medians, &area)?;
    }
    area.present()?;
    Ok(())
}

fn bars(row: &Row, medians: &Medians, area: &Area<'_>) -> Drawn {
    let figure = row.workload.main;
    let (name, write) = figure.shown();
    let engines: Vec<Engine> = row.engines.iter().copied().filter(|e| medians.of(*e, figure).is_some()).collect();
    let most = engines.iter().flat_map(|e| row.of(*e, figure)).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(name, (FONT, 14))
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..engines.len() as f64, 0.0..most.max(f64::MIN_POSITIVE) * 1.15)?;
    let label = |at: &f64| {
        let named = at.fract() == 0.5;
        if named { engines.get(*at as usize).map_or(String::new(), |e| e.name().to_owned()) } else { String::new() }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(2 * engines.len() + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| write(*value))
        .label_style((FONT, 11))
        .draw()?;
    for (n, engine) in engines.iter().enumerate() {
        let (at, colour) = (n as f64, colour(*engine));
        let value = medians.of(*engine, figure).unwrap_or_default();
        let bar = Rectangle::new([(at + 0.15, 0.0), (at + 0.85, value)], colour.mix(0.75).filled());
        chart.draw_series([bar])?;
        let runs = row.of(*engine, figure).map(|value| Circle::new((at + 0.5, value), 3, BLACK.mix(0.6).filled()));
        chart.draw_series(runs)?;
        let text = Text::new(write(value), (at + 0.18, most * 1.1), (FONT, 12).into_font());
        chart.draw_series([text])?;
    }
    Ok(())
}

fn latencies(row: &Row, medians: &Medians, area: &Area<'_>) -> Drawn {
    let all = row.engines.iter().flat_map(|e| PERCENTILES.map(|(figure, _)| medians.of(*e, figure))).flatten();
    let (least, most) = all.fold((f64::MAX, 1.0_f64), |(least, most), us| (least.min(us), most.max(us)));
    let mut chart = ChartBuilder::on(area)
        .caption("latency by percentile", (FONT, 14))
        .margin(12)
        .margin_right(28)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..PERCENTILES.len() as f64 - 1.0, (least.max(1.0) * 0.8..most * 1.25).log_scale())?;
    let label = |at: &f64| PERCENTILES.get(at.round() as usize).map_or(String::new(), |(_, name)| (*name).to_owned());
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(PERCENTILES.len())
        .x_label_formatter(&label)
        .y_label_formatter(&|us| crate::report::micros(*us))
        .label_style((FONT, 11))
        .draw()?;
    for engine in &row.engines {
        let points: Vec<(f64, f64)> = (0..)
            .zip(PERCENTILES)
            .filter_map(|(n, (figure, _))| Some((f64::from(n), medians.of(*engine, figure)?.max(1.0))))
            .collect();
        if points.is_empty() {
            continue;
        }
        let colour = colour(*engine);
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(engine.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 11))
        .draw()?;
    Ok(())
}
