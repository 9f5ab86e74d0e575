//! Plots as SVG.
//!
//! The key decision: plotters writes the light colours as attributes, so a plot is right wherever it is shown; a few
//! lines of CSS inside give the same colours' dark twins where the reader's system is dark. No script, no
//! font, nothing from elsewhere. 16:9, letters large enough to be read at a third of the size.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::curve::{LARGEST, Points, apart, cut, frame, thin};
use super::terminal::clip;
use crate::{Error, Result};

const SIZE: (u32, u32) = (1600, 900);
const LETTERS: u32 = 34;
const POINTS: usize = 900;
/// Marks of one kind that are drawn.
const MARKS: usize = 200;
/// Rows of a plot of ratios.
const MOST_ROWS: usize = 24;

/// Light, and its twin in the dark.
const INK: (RGBColor, &str) = (RGBColor(0x1f, 0x23, 0x28), "#e6edf3");
const MUTED: (RGBColor, &str) = (RGBColor(0x65, 0x6d, 0x76), "#9198a1");
const GRID: (RGBColor, &str) = (RGBColor(0xd8, 0xde, 0xe4), "#30363d");
const SERIES: [(RGBColor, &str); 8] = [
    (RGBColor(0x09, 0x69, 0xda), "#58a6ff"),
    (RGBColor(0xbc, 0x4c, 0x00), "#f0883e"),
    (RGBColor(0x1a, 0x7f, 0x37), "#3fb950"),
    (RGBColor(0x82, 0x50, 0xdf), "#bc8cff"),
    (RGBColor(0xcf, 0x22, 0x2e), "#ff7b72"),
    (RGBColor(0x1b, 0x7c, 0x83), "#39c5cf"),
    (RGBColor(0xbf, 0x39, 0x89), "#f778ba"),
    (RGBColor(0x8c, 0x95, 0x9f), "#848d97"),
];
/// The colour of what went wrong.
pub(crate) const RED: usize = 4;
/// Colours that no curve of a report of one run has.
pub(crate) const PINK: usize = 6;
pub(crate) const GREY: usize = 7;

/// How a curve looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A line.
    Line,
    /// A thin pale line behind the others.
    Pale,
    /// Broken: what was expected.
    Dashed,
    /// A line with a dot at each point.
    Dots,
}

/// One curve.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// In the legend; empty for none.
    pub(crate) name: String,
    pub(crate) points: Points,
    pub(crate) look: Look,
    /// Of the palette.
    pub(crate) colour: usize,
}

/// A value with its interval at one x.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) x: f64,
    pub(crate) low: f64,
    pub(crate) value: f64,
    pub(crate) high: f64,
    pub(crate) colour: usize,
}

/// A plot of curves over one axis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
    pub(crate) bars: Vec<Bar>,
    /// Lines across at some x: name, colour, places.
    pub(crate) marks: Vec<(String, usize, Vec<f64>)>,
}

/// A row of a plot of ratios.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    /// Actual over predicted.
    pub(crate) value: f64,
    /// The predicted interval over the predicted value.
    pub(crate) expected: Option<(f64, f64)>,
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Plot {
    /// `None` when there is nothing to draw.
    pub(crate) fn svg(&self) -> Result<Option<String>> {
        let curves: Vec<&[(f64, f64)]> = self.series.iter().map(|s| &s.points[..]).collect();
        let Some((mut low, mut high)) = frame(&curves) else { return Ok(None) };
        let bars = || self.bars.iter().filter(|bar| bar.drawn());
        for bar in bars() {
            (low, high) = (low.min(bar.low), high.max(bar.high));
        }
        let all = self.series.iter().flat_map(|series| &series.points).map(|point| point.0);
        let ends = all.chain(bars().map(|bar| bar.x));
        let (left, right) = ends.fold((f64::MAX, f64::MIN), |(l, r), x| (l.min(x), r.max(x)));
        let (left, right) = apart(left, right);
        let right = right + (right - left) * 0.015;
        let mut svg = String::new();
        self.draw(&mut svg, left..right, low..high).map_err(failed)?;
        Ok(Some(dressed(&svg, &self.title)))
    }

    fn draw(&self, svg: &mut String, x: Range<f64>, y: Range<f64>) -> Drawn {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let (head, body) = root.split_vertically(112);
        self.head(&head)?;
        let mut chart = ChartBuilder::on(&body)
            .margin_left(14)
            .margin_right(40)
            .margin_bottom(8)
            .x_label_area_size(96)
            .y_label_area_size(180)
            .build_cartesian_2d(x, y.clone())
            .map_err(text)?;
        let span = y.end - y.start;
        chart
            .configure_mesh()
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_labels(8)
            .y_labels(6)
            .label_style(("sans-serif", LETTERS).into_font().color(&INK.0))
            .axis_desc_style(("sans-serif", LETTERS).into_font().color(&MUTED.0))
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.0)
            .axis_style(MUTED.0)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| plain(*y, span))
            .draw()
            .map_err(text)?;
        self.lay(&mut chart, &y)?;
        root.present().map_err(text)
    }

    /// Marks below, curves over them, bars on top.
    fn lay(&self, chart: &mut Chart<'_, '_>, y: &Range<f64>) -> Drawn {
        for (_, colour, places) in &self.marks {
            // More lines than this would be one red field.
            let apart = places.len().div_ceil(MARKS).max(1);
            for &at in places.iter().step_by(apart) {
                let line = PathElement::new(
                    [(at, y.start), (at, y.end)],
                    SERIES[*colour].0.mix(0.7).stroke_width(3),
                );
                chart.draw_series([line]).map_err(text)?;
            }
        }
        for series in &self.series {
            let style = series.style();
            for part in cut(&thin(&series.points, POINTS), y.start, y.end) {
                if series.look == Look::Dashed {
                    let dashed = DashedLineSeries::new(part, 18, 12, style);
                    chart.draw_series(dashed).map_err(text)?;
                    continue;
                }
                if series.look == Look::Dots || part.len() == 1 {
                    let dots = part.iter().map(|&at| Circle::new(at, 6, style.color.filled()));
                    chart.draw_series(dots).map_err(text)?;
                }
                chart.draw_series(LineSeries::new(part, style)).map_err(text)?;
            }
        }
        for bar in self.bars.iter().filter(|bar| bar.drawn()) {
            let colour = SERIES[bar.colour % SERIES.len()].0;
            let line =
                PathElement::new([(bar.x, bar.low), (bar.x, bar.high)], colour.stroke_width(5));
            chart.draw_series([line]).map_err(text)?;
            let ends = [bar.low, bar.high].map(|y| Circle::new((bar.x, y), 5, colour.filled()));
            chart.draw_series(ends).map_err(text)?;
            chart
                .draw_series([Circle::new((bar.x, bar.value), 10, colour.filled())])
                .map_err(text)?;
        }
        Ok(())
    }

    /// Title and legend.
    fn head(&self, area: &Area<'_>) -> Drawn {
        title(area, &self.title)?;
        let mut entries: Vec<(&str, usize)> = Vec::new();
        let named = self.series.iter().map(|s| (&*s.name, s.colour));
        let named = named.chain(self.bars.iter().map(|b| (&*b.name, b.colour)));
        for entry in
            named.chain(self.marks.iter().filter(|m| !m.2.is_empty()).map(|m| (&*m.0, m.1)))
        {
            if !entry.0.is_empty() && !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        let mut x = 180;
        for (name, colour) in entries {
            let name = &clip(name, 30);
            let width = 60 + wide(name) * i32::try_from(LETTERS).unwrap_or(0) / 2;
            if x + width > SIZE.0 as i32 {
                break;
            }
            let colour = SERIES[colour % SERIES.len()].0;
            area.draw(&Rectangle::new([(x, 78), (x + 34, 86)], colour.filled())).map_err(text)?;
            let style = ("sans-serif", LETTERS).into_font().color(&INK.0);
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(name.to_owned(), (x + 44, 82), style)).map_err(text)?;
            x += width;
        }
        Ok(())
    }
}

impl Bar {
    fn drawn(&self) -> bool {
        self.low <= self.value && self.value <= self.high && self.high.max(-self.low) < LARGEST
    }
}

impl Series {
    fn style(&self) -> ShapeStyle {
        let colour = SERIES[self.colour % SERIES.len()].0;
        match self.look {
            Look::Pale => colour.mix(0.35).stroke_width(2),
            Look::Line | Look::Dots | Look::Dashed => colour.stroke_width(4),
        }
    }
}

impl Ratio {
    fn drawn(&self) -> bool {
        let (low, high) = self.expected.unwrap_or((1.0, 1.0));
        [self.value, low, high].iter().all(|value| (0.0..1e6).contains(value))
    }
}

/// Actual over predicted, a row each; 1 is as predicted.
pub(crate) fn ratios(heading: &str, rows: &[Ratio]) -> Result<Option<String>> {
    let rows: Vec<&Ratio> = rows.iter().filter(|row| row.drawn()).take(MOST_ROWS).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    draw_ratios(&mut svg, heading, &rows).map_err(failed)?;
    Ok(Some(dressed(&svg, heading)))
}

fn draw_ratios(svg: &mut String, heading: &str, rows: &[&Ratio]) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let (head, body) = root.split_vertically(112);
    title(&head, heading)?;
    let ends = rows.iter().flat_map(|row| {
        let (low, high) = row.expected.unwrap_or((1.0, 1.0));
        [row.value, low, high]
    });
    let far = ends.fold(0.02f64, |far, end| far.max((end - 1.0).abs())) * 1.15;
    let (count, left) = (rows.len() as f64, (1.0 - far).max(0.0));
    let mut chart = ChartBuilder::on(&body)
        .margin_left(14)
        .margin_right(60)
        .margin_bottom(8)
        .x_label_area_size(96)
        .y_label_area_size(420)
        .build_cartesian_2d(left..1.0 + far, count..0.0)
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("actual / predicted (1 = as predicted; bar: predicted interval)")
        .y_labels(0)
        .disable_y_mesh()
        .x_labels(8)
        .label_style(("sans-serif", LETTERS).into_font().color(&INK.0))
        .axis_desc_style(("sans-serif", LETTERS).into_font().color(&MUTED.0))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.0)
        .axis_style(MUTED.0)
        .x_label_formatter(&|x| plain(*x, 2.0 * far))
        .draw()
        .map_err(text)?;
    let line = PathElement::new([(1.0, 0.0), (1.0, count)], MUTED.0.stroke_width(3));
    chart.draw_series([line]).map_err(text)?;
    for (at, row) in rows.iter().enumerate() {
        let y = at as f64 + 0.5;
        let within = row.expected.is_none_or(|(low, high)| (low..=high).contains(&row.value));
        if let Some((low, high)) = row.expected {
            let bar =
                PathElement::new([(low, y), (high, y)], SERIES[1].0.mix(0.45).stroke_width(22));
            chart.draw_series([bar]).map_err(text)?;
        }
        let colour = if within { SERIES[0].0 } else { SERIES[RED].0 };
        chart.draw_series([Circle::new((row.value, y), 13, colour.filled())]).map_err(text)?;
        let (_, place) = chart.backend_coord(&(1.0, y));
        let size = LETTERS.min(560 / rows.len() as u32).max(18);
        let style = ("sans-serif", size).into_font().color(&INK.0);
        let style = style.pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(clip(&row.name, 36), (410, place), style)).map_err(text)?;
    }
    root.present().map_err(text)
}

fn title(area: &Area<'_>, title: &str) -> Drawn {
    let style = ("sans-serif", LETTERS + 10, FontStyle::Bold).into_font().color(&INK.0);
    area.draw(&Text::new(title.to_owned(), (24, 12), style)).map_err(text)
}

type Drawn = std::result::Result<(), String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn failed(why: String) -> Error {
    Error::bad("a plot", why)
}

/// Half letters: what Chinese needs twice of.
fn wide(text: &str) -> i32 {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

/// With a title for screen readers, and the dark colours.
fn dressed(svg: &str, title: &str) -> String {
    let Some((open, rest)) = svg.split_once('>') else { return svg.to_owned() };
    let mut css = String::new();
    for (light, dark) in [INK, MUTED, GRID].iter().chain(&SERIES) {
        let light = format!("#{:02X}{:02X}{:02X}", light.0, light.1, light.2);
        css += &format!("[stroke=\"{light}\"]{{stroke:{dark}}}[fill=\"{light}\"]{{fill:{dark}}}");
    }
    let title = super::block::escape(title);
    // Plotters gives pixels; the page decides how large.
    let open = open.replacen("width=\"1600\" height=\"900\" ", "", 1);
    format!(
        "{open} role=\"img\"><title>{title}</title><style>@media (prefers-color-scheme: dark){{{css}}}\
         </style>{rest}"
    )
}

/// 1500 is 1.5k.
pub(crate) fn short(value: f64) -> String {
    let of = |divisor: f64, unit: &str| {
        let text = format!("{:.2}", value / divisor);
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match value.abs() {
        v if v >= 1e12 => of(1e12, "T"),
        v if v >= 1e9 => of(1e9, "G"),
        v if v >= 1e6 => of(1e6, "M"),
        v if v >= 1e4 => of(1e3, "k"),
        _ => of(1.0, ""),
    }
}

/// With as many places as a range of `span` needs.
fn plain(value: f64, span: f64) -> String {
    if value.abs() >= 1e4 {
        return short(value);
    }
    if span < 1e-2 && span > 0.0 {
        return if value == 0.0 { "0".into() } else { format!("{value:.1e}") };
    }
    let places = if span < 0.1 {
        3
    } else if span < 1.0 {
        2
    } else if span < 20.0 {
        1
    } else {
        0
    };
    format!("{value:.places$}")
}
