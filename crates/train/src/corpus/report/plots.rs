//! Two bar charts as SVG: lengths of documents, drops by reason.
//!
//! The key decision: bars of whole numbers on linear axes, all sources together; the tables beside hold the details.

use plotters::prelude::*;

use super::super::counts::Counts;
use super::super::reason::Reason;
use crate::{Error, Result};

const WIDTH: u32 = 800;

/// Kept documents by length: a bar for each power of two.
pub(super) fn lengths(counts: &[Counts]) -> Result<String> {
    let all = || counts.iter().flat_map(|one| &one.lengths);
    let first = all().map(|(&bin, _)| bin).min().unwrap_or(0);
    let last = all().map(|(&bin, _)| bin).max().unwrap_or(0);
    let bars = (first..=last).map(|bin| {
        let documents = all().filter(|(one, _)| **one == bin).map(|(_, &count)| count).sum();
        (length(bin), documents)
    });
    chart("documents by length of text, in bytes from this power of two", &bars.collect::<Vec<_>>())
}

fn length(bin: u32) -> String {
    match bin {
        0..10 => format!("{}", 1u64 << bin),
        10..20 => format!("{} Ki", 1u64 << (bin - 10)),
        _ => format!("{} Mi", 1u64 << (bin.min(60) - 20)),
    }
}

/// Dropped documents by reason.
pub(super) fn drops(counts: &[Counts]) -> Result<String> {
    let bars = Reason::ALL.into_iter().filter_map(|reason| {
        let dropped = counts.iter().filter_map(|one| one.dropped.get(&reason));
        let documents: u64 = dropped.map(|count| count.documents).sum();
        (documents > 0).then(|| (reason.name().to_string(), documents))
    });
    chart("dropped documents by reason", &bars.collect::<Vec<_>>())
}

/// Horizontal bars under each other, in the order given.
fn chart(title: &str, bars: &[(String, u64)]) -> Result<String> {
    let mut svg = String::new();
    let height = 90 + 26 * bars.len().max(1) as u32;
    let failed = |error: String| Error::bad("plot", error);
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
        draw(&area, title, bars).map_err(failed)?;
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    Ok(svg)
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    bars: &[(String, u64)],
) -> std::result::Result<(), String> {
    let most = bars.iter().map(|bar| bar.1).max().unwrap_or(0).max(1);
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .set_label_area_size(LabelAreaPosition::Left, 190)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .build_cartesian_2d(0f64..most as f64 * 1.15, 0f64..bars.len().max(1) as f64)
        .map_err(|error| said(&error))?;
    let mesh = chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw();
    mesh.map_err(|error| said(&error))?;
    for (at, (name, value)) in bars.iter().enumerate() {
        // The first bar on top.
        let y = (bars.len() - 1 - at) as f64;
        let bar =
            Rectangle::new([(0.0, y + 0.15), (*value as f64, y + 0.85)], BLUE.mix(0.6).filled());
        chart.draw_series([bar]).map_err(|error| said(&error))?;
        let (right, y) = chart.backend_coord(&(*value as f64, y + 0.5));
        let (left, _) = chart.backend_coord(&(0.0, 0.0));
        let style = ("sans-serif", 13).into_font().color(&BLACK);
        let middle = plotters::style::text_anchor::VPos::Center;
        let name_style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            middle,
        ));
        area.draw_text(name, &name_style, (left - 6, y)).map_err(|error| said(&error))?;
        let style = ("sans-serif", 13).into_font().color(&BLACK);
        let value_style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Left,
            middle,
        ));
        area.draw_text(&super::grouped(*value), &value_style, (right + 4, y))
            .map_err(|error| said(&error))?;
    }
    Ok(())
}
