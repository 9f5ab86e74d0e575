//! The plots of a fit, as SVG.
//!
//! The key decision: every mark is a measurement and every line a fit; both axes are logarithmic where powers
//! are meant. No fonts, scripts or colours from elsewhere: a file that any browser shows.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::envelope::{Envelope, Training};
use super::isoflop::Isoflop;
use super::report::Report;
use crate::{Error, Result};

const SIZE: (u32, u32) = (1200, 720);
const LETTERS: (&str, u32) = ("sans-serif", 24);
/// Colours that the colour-blind can tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// All plots of a report that have something to show: (file name, SVG).
///
/// # Errors
/// Values that cannot be drawn.
pub fn all(report: &Report, curves: &[Training]) -> Result<Vec<(&'static str, String)>> {
    let mut plots = vec![("predicted.svg", predicted(report)?)];
    if let Ok(isoflop) = &report.isoflop {
        plots.push(("isoflop.svg", isoflop_curves(isoflop)?));
    }
    if let Ok(envelope) = &report.envelope {
        plots.push(("envelope.svg", envelope_curves(envelope, curves)?));
    }
    Ok(plots)
}

/// Loss over N with a parabola for every budget and a cross at its lowest point.
///
/// # Errors
/// Values that cannot be drawn.
pub fn isoflop_curves(isoflop: &Isoflop) -> Result<String> {
    let runs = || isoflop.curves.iter().flat_map(|c| c.runs.iter().copied());
    draw(
        "Loss at equal FLOPs",
        ("parameters", "loss, nats a token"),
        range(runs().map(|r| r.0)),
        padded(runs().map(|r| r.1)),
        SeriesLabelPosition::UpperRight,
        |chart| {
            for (i, curve) in isoflop.curves.iter().enumerate() {
                let colour = COLOURS[i % COLOURS.len()];
                let (low, high) = (curve.runs[0].0, curve.runs[curve.runs.len() - 1].0);
                let line = (0..=100)
                    .map(|i| low * (high / low).powf(f64::from(i) / 100.0))
                    .map(|n| (n, curve.at(n)));
                chart
                    .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                    .label(format!("{:.1e} FLOPs", curve.budget))
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3))
                    });
                chart
                    .draw_series(curve.runs.iter().map(|r| Circle::new(*r, 5, colour.filled())))?;
                chart.draw_series(
                    curve
                        .best
                        .iter()
                        .map(|n| Cross::new((*n, curve.at(*n)), 9, BLACK.stroke_width(3))),
                )?;
            }
            Ok(())
        },
    )
}

/// Loss over FLOPs of every run, and the winners among them.
///
/// # Errors
/// Values that cannot be drawn.
pub fn envelope_curves(envelope: &Envelope, curves: &[Training]) -> Result<String> {
    let moments = || {
        curves
            .iter()
            .flat_map(|c| c.moments.iter().copied())
            .chain(envelope.best.iter().map(|b| (b.0, b.1)))
    };
    draw(
        "Envelope of the training curves",
        ("FLOPs", "loss, nats a token"),
        range(moments().map(|m| m.0)),
        padded(moments().map(|m| m.1)),
        SeriesLabelPosition::UpperRight,
        |chart| {
            for (i, curve) in curves.iter().enumerate() {
                chart.draw_series(LineSeries::new(
                    curve.moments.iter().copied(),
                    COLOURS[i % COLOURS.len()].mix(0.6).stroke_width(2),
                ))?;
            }
            chart
                .draw_series(LineSeries::new(
                    envelope.best.iter().map(|b| (b.0, b.1)),
                    BLACK.stroke_width(3),
                ))?
                .label("lowest")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLACK.stroke_width(3)));
            Ok(())
        },
    )
}

/// Predicted over actual loss: fitted runs as dots, runs that were predicted before as squares with intervals.
///
/// # Errors
/// Values that cannot be drawn; no law to draw.
pub fn predicted(report: &Report) -> Result<String> {
    let law = match (&report.parametric, &report.projection) {
        (Ok(f), _) | (Err(_), Ok(f)) => f.law,
        (Err(why), Err(_)) => return Err(Error::bad("plot of predictions", why.clone())),
    };
    let dots: Vec<(f64, f64)> =
        report.points.iter().map(|p| (p.loss, law.loss(p.parameters, p.tokens))).collect();
    let held: Vec<(f64, f64, f64, f64)> = report
        .tested
        .iter()
        .filter_map(|t| {
            Some((
                t.actual?,
                t.prediction.loss,
                t.prediction.interval.low,
                t.prediction.interval.high,
            ))
        })
        .collect();
    let all = || {
        dots.iter()
            .flat_map(|d| [d.0, d.1])
            .chain(held.iter().flat_map(|h| [h.0, h.1, h.2, h.3.min(2.0 * h.1)]))
    };
    let (low, high) = padded(all());
    draw(
        "Predicted against actual loss",
        ("actual, nats a token", "predicted"),
        (low, high),
        (low, high),
        SeriesLabelPosition::LowerRight,
        |chart| {
            chart.draw_series(LineSeries::new(
                [(low, low), (high, high)],
                COLOURS[6].stroke_width(1),
            ))?;
            chart
                .draw_series(dots.iter().map(|d| Circle::new(*d, 5, COLOURS[0].filled())))?
                .label("fitted")
                .legend(|(x, y)| Circle::new((x + 10, y), 5, COLOURS[0].filled()));
            chart.draw_series(
                held.iter().map(|h| {
                    PathElement::new([(h.0, h.2), (h.0, h.3)], COLOURS[1].stroke_width(2))
                }),
            )?;
            chart
                .draw_series(
                    held.iter().map(|h| TriangleMarker::new((h.0, h.1), 10, COLOURS[1].filled())),
                )?
                .label("predicted before it ran")
                .legend(|(x, y)| TriangleMarker::new((x + 10, y), 8, COLOURS[1].filled()));
            Ok(())
        },
    )
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Powers, Powers>>;
type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    title: &str,
    axes: (&str, &str),
    x: (f64, f64),
    y: (f64, f64),
    legend: SeriesLabelPosition,
    content: impl FnOnce(&mut Chart<'_, '_>) -> Drawn,
) -> Result<String> {
    if ![x.0, x.1, y.0, y.1].iter().all(|v| v.is_finite() && *v > 0.0 && *v < 1e300) {
        return Err(Error::bad(
            format!("plot {title}"),
            "it has values that are not positive numbers",
        ));
    }
    let mut svg = String::new();
    let result = (|| -> Drawn {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 32))
            .margin(20)
            .x_label_area_size(70)
            .y_label_area_size(110)
            .build_cartesian_2d(Powers(x.0, x.1), Powers(y.0, y.1))?;
        chart
            .configure_mesh()
            .x_desc(axes.0)
            .y_desc(axes.1)
            .label_style(LETTERS)
            .axis_desc_style(LETTERS)
            .x_labels(8)
            .y_labels(8)
            .light_line_style(WHITE)
            .draw()?;
        content(&mut chart)?;
        chart
            .configure_series_labels()
            .position(legend)
            .label_font(LETTERS)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()
    })();
    result.map_err(|e| Error::bad(format!("plot {title}"), e.to_string()))?;
    Ok(svg)
}

/// Lowest and highest; not numbers if any value is none, so that [`draw`] refuses them.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), v| {
        if v.is_finite() && !low.is_nan() {
            (low.min(v), high.max(v))
        } else {
            (f64::NAN, f64::NAN)
        }
    })
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = bounds(values);
    (low / 1.15, high * 1.15)
}

fn padded(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = bounds(values);
    let pad = (high / low).powf(0.08).max(1.005);
    (low / pad, high * pad)
}

/// A logarithmic axis with round numbers on it, also when it spans less than a power of ten.
#[derive(Clone)]
struct Powers(f64, f64);

impl Ranged for Powers {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value.max(1e-300) / self.0).ln() / (self.1 / self.0).ln();
        limit.0 + (f64::from(limit.1 - limit.0) * share.clamp(-1.0, 2.0)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        let most = hint.max_num_points().clamp(2, 12);
        let decades = (self.1 / self.0).log10();
        if decades < 0.7 {
            // Even steps of 1, 2 or 5 of a power of ten.
            let rough = (self.1 - self.0) / most as f64;
            let power = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0]
                .map(|m| m * power)
                .into_iter()
                .find(|s| *s >= rough)
                .unwrap_or(rough);
            let first = (self.0 / step).ceil() as i64;
            return (first..=(self.1 / step).floor() as i64).map(|i| i as f64 * step).collect();
        }
        let parts: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = self.0.log10().floor() as i32..=self.1.log10().ceil() as i32;
        powers
            .flat_map(|p| parts.iter().map(move |m| m * 10f64.powi(p)))
            .filter(|v| (self.0..=self.1).contains(v))
            .collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0..self.1
    }
}

impl ValueFormatter<f64> for Powers {
    fn format_ext(&self, value: &f64) -> String {
        if (0.01..1e4).contains(value) {
            let digits = if self.1 / self.0 < 1.2 { 3 } else { 2 };
            let text = format!("{value:.digits$}");
            return if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').into()
            } else {
                text
            };
        }
        format!("{value:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Options, of_points};
    use super::super::{Law, tests::synthetic};
    use super::*;

    #[test]
    fn plots_show_every_run() {
        let law = Law::BESIROGLU;
        let points = synthetic(&law, 0.001);
        let curves: Vec<Training> = (0..12)
            .map(|i| 2e5 * 1.6f64.powi(i))
            .map(|n| Training {
                parameters: n,
                moments: (0..40)
                    .map(|i| 1e13 * 1.3f64.powi(i))
                    .map(|c| (c, law.loss(n, c / 6.0 / n)))
                    .collect(),
            })
            .collect();
        let report =
            of_points(&points, &curves, &Options { resamples: 10, ..Options::default() }).unwrap();
        let plots = all(&report, &curves).unwrap();
        assert_eq!(
            plots.iter().map(|p| p.0).collect::<Vec<_>>(),
            ["predicted.svg", "isoflop.svg", "envelope.svg"]
        );
        for (name, svg) in &plots {
            assert!(
                svg.starts_with("<svg")
                    && svg.trim_end().ends_with("</svg>")
                    && !svg.contains("NaN"),
                "{name}"
            );
        }
        let circles = |svg: &str| svg.matches("<circle").count();
        assert!(circles(&plots[0].1) > points.len() && circles(&plots[1].1) >= points.len());
        if let Some(folder) = std::env::var_os("PLOTS") {
            plots.iter().for_each(|(name, svg)| {
                std::fs::write(std::path::Path::new(&folder).join(name), svg).unwrap()
            });
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let mut report = of_points(
            &synthetic(&Law::BESIROGLU, 0.0),
            &[],
            &Options { resamples: 1, ..Options::default() },
        )
        .unwrap();
        report.points[0].loss = f64::NAN;
        assert!(predicted(&report).unwrap_err().to_string().contains("not positive numbers"));
        report.parametric = Err("no fit".into());
        report.projection = Err("no fit".into());
        assert!(predicted(&report).unwrap_err().to_string().contains("no fit"));
    }

    #[test]
    fn axes_have_round_numbers() {
        use plotters::coord::ranged1d::BoldPoints;
        for (low, high, expected) in [
            (2.0, 3.0, vec![2.0, 2.2, 2.4, 2.6, 2.8, 3.0]),
            (1.0, 100.0, vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
            (3e5, 2e9, vec![1e6, 1e7, 1e8, 1e9]),
        ] {
            let points = Powers(low, high).key_points(BoldPoints(8));
            assert!(
                points.len() == expected.len()
                    && points.iter().zip(&expected).all(|(a, b)| (a / b - 1.0f64).abs() < 1e-9),
                "{points:?}"
            );
        }
        assert_eq!(Powers(1.0, 9.0).format_ext(&2.5), "2.5");
        assert_eq!(Powers(1e6, 1e9).format_ext(&1e7), "1e7");
    }
}
