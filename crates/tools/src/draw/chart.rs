//! Charts: bars, lines, points and pies, with axes, ticks, labels and a legend.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use serde::Deserialize;

use super::scene::{Anchor, Canvas, DrawError, colour, escaped, number, wrong};

/// For series without a colour; told apart by people who see few colours too (Okabe and Ito, 2008).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#f0e442"];
/// Series of a chart.
const SERIES: usize = 32;
/// Slices of a pie.
const SLICES: usize = 64;

/// A chart.
#[derive(Debug, Deserialize)]
pub(super) struct Chart {
    #[serde(rename = "type")]
    form: Form,
    x: Option<f64>,
    y: Option<f64>,
    width: Option<f64>,
    height: Option<f64>,
    title: Option<String>,
    x_label: Option<String>,
    y_label: Option<String>,
    /// Of the values along the x axis, or of the slices.
    labels: Option<Vec<String>>,
    series: Vec<Series>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    Bar,
    Line,
    Scatter,
    Pie,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Series {
    name: Option<String>,
    /// Up the y axis.
    values: Vec<f64>,
    /// Along the x axis, where it has numbers.
    x: Option<Vec<f64>>,
    color: Option<String>,
}

/// Where on the canvas values lie.
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
}

/// From values to places.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Around these values, with about five ticks at round numbers.
    fn around(low: f64, high: f64) -> Axis {
        // Equal values get room around them; differences of huge values stay finite.
        let (low, high) = if low == high { (low - 1.0, high + 1.0) } else { (low, high) };
        let rough = high / 5.0 - low / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|one| one * power);
        let step = step.clone().find(|step| rough <= *step).unwrap_or(10.0 * power);
        Axis { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// From 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0)
    }

    fn ticks(&self) -> Vec<f64> {
        let count = ((self.high - self.low) / self.step).round();
        if !count.is_finite() || count > 50.0 {
            return vec![self.low, self.high];
        }
        (0..=count as u32).map(|place| self.low + f64::from(place) * self.step).collect()
    }

    fn label(&self, value: f64) -> String {
        let value = if value.abs() < self.step * 1e-9 { 0.0 } else { value };
        if value.abs() >= 1e9 || (value != 0.0 && self.step < 1e-6) {
            return format!("{value:.2e}");
        }
        let digits = (-self.step.log10().floor()).clamp(0.0, 8.0) as usize;
        format!("{value:.digits$}")
    }
}

impl Chart {
    /// How many values there are.
    pub(super) fn points(&self) -> usize {
        self.series.iter().map(|series| series.values.len()).sum()
    }

    fn check(&self, place: &str) -> Result<(), DrawError> {
        if self.series.is_empty() || self.points() == 0 {
            return Err(wrong(place, "a chart needs `series` with `values`"));
        }
        if self.series.len() > SERIES {
            return Err(wrong(place, format!("a chart has at most {SERIES} series")));
        }
        for (index, series) in self.series.iter().enumerate() {
            let place = format!("{place}.series[{index}]");
            // A third of the largest number, so that differences are numbers too.
            let far = |value: &f64| value.abs() > f64::MAX / 3.0;
            if series.values.iter().chain(series.x.iter().flatten()).any(far) {
                return Err(wrong(place, "a value is too large to be shown"));
            }
            if let Some(x) = &series.x
                && x.len() != series.values.len()
            {
                let (x, values) = (x.len(), series.values.len());
                return Err(wrong(place, format!("has {x} `x` and {values} `values`")));
            }
            if self.form == Form::Scatter && series.x.is_none() {
                return Err(wrong(place, "a scatter chart needs `x` as long as `values`"));
            }
            if let Some(labels) = &self.labels
                && self.form != Form::Scatter
                && labels.len() != series.values.len()
            {
                let (labels, values) = (labels.len(), series.values.len());
                return Err(wrong(
                    place,
                    format!("has {values} values and there are {labels} labels"),
                ));
            }
        }
        if self.form == Form::Pie {
            let values = &self.series[0].values;
            let sum: f64 = values.iter().sum();
            if self.series.len() > 1
                || values.len() > SLICES
                || values.iter().any(|&value| value < 0.0)
            {
                return Err(wrong(
                    place,
                    format!("a pie has one series of at most {SLICES} values, none negative"),
                ));
            }
            if sum <= 0.0 || !sum.is_finite() {
                return Err(wrong(place, "the values of a pie must add up to more than 0"));
            }
        }
        Ok(())
    }

    fn colour(&self, index: usize, place: &str) -> Result<String, DrawError> {
        match self.series.get(index).and_then(|series| series.color.as_deref()) {
            Some(text) if self.form != Form::Pie => colour(text, place),
            _ => Ok(COLOURS[index % COLOURS.len()].into()),
        }
    }

    /// Draws it into its place, or all over the canvas.
    pub(super) fn draw(
        &self,
        canvas: &mut Canvas,
        (all_width, all_height): (f64, f64),
        place: &str,
    ) -> Result<(), DrawError> {
        self.check(place)?;
        let (x, y) = (self.x.unwrap_or(0.0), self.y.unwrap_or(0.0));
        let (width, height) = (self.width.unwrap_or(all_width), self.height.unwrap_or(all_height));
        for (name, value, low) in
            [("x", x, -1e6), ("y", y, -1e6), ("width", width, 120.0), ("height", height, 100.0)]
        {
            if !(low..=1e6).contains(&value) {
                return Err(wrong(
                    place,
                    format!("{name} is {value} and must be between {low} and 1000000"),
                ));
            }
        }
        let has_legend = self.form == Form::Pie || self.series.iter().any(|one| one.name.is_some());
        let top = y + if self.title.is_some() { 44.0 } else { 20.0 };
        let right = if has_legend { 130f64.min(width * 0.3) } else { 20.0 };
        if let Some(title) = &self.title {
            let middle = (x + width / 2.0, y + 26.0);
            let bold = " font-weight=\"bold\"";
            canvas.text(title, middle, 18.0, Anchor::Middle, None, bold, place)?;
        }
        if has_legend {
            self.legend(canvas, (x + width - right + 12.0, top + 4.0), place)?;
        }
        if self.form == Form::Pie {
            let inner = (x, top, width - right, y + height - 20.0 - top);
            return self.pie(canvas, inner, place);
        }
        let (xs, ys) = self.axes();
        let left = x + 70.0;
        let frame = Frame {
            left,
            top,
            width: (x + width - right - left).max(20.0),
            height: (y + height - 56.0 - top).max(20.0),
            x: xs,
            y: ys,
        };
        self.axes_drawn(canvas, &frame, place)?;
        match self.form {
            Form::Bar => self.bars(canvas, &frame, place),
            _ => self.lines(canvas, &frame, place),
        }
    }

    /// Whether the x axis has places and not numbers.
    fn has_places(&self) -> bool {
        self.form == Form::Bar
            || (self.form == Form::Line && self.series.iter().all(|one| one.x.is_none()))
    }

    fn count(&self) -> usize {
        self.series.iter().map(|series| series.values.len()).max().unwrap_or(0)
    }

    fn axes(&self) -> (Axis, Axis) {
        let extent = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let (mut low, mut high) =
            extent(&mut self.series.iter().flat_map(|series| series.values.iter().copied()));
        if self.form == Form::Bar {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let y = Axis::around(low, high);
        if self.has_places() {
            let step = 1.0;
            return (Axis { low: -0.5, high: self.count() as f64 - 0.5, step }, y);
        }
        let places = |series: &Series| match &series.x {
            Some(x) => x.clone(),
            None => (0..series.values.len()).map(|place| place as f64).collect(),
        };
        let (low, high) = extent(&mut self.series.iter().flat_map(places));
        (Axis::around(low, high), y)
    }

    fn axes_drawn(&self, canvas: &mut Canvas, frame: &Frame, place: &str) -> Result<(), DrawError> {
        let (left, bottom) = (frame.left, frame.top + frame.height);
        for tick in frame.y.ticks() {
            let y = frame.y(tick);
            rule(canvas, (left, y), (left + frame.width, y), "#dddddd");
            let at = (left - 8.0, y + 4.0);
            canvas.text(&frame.y.label(tick), at, 12.0, Anchor::End, None, "", place)?;
        }
        if self.has_places() {
            // As many labels as have room.
            let every = (self.count() as f64 * 60.0 / frame.width).ceil().max(1.0) as usize;
            for index in (0..self.count()).step_by(every) {
                let at = (frame.x(index as f64), bottom + 18.0);
                let label = self.labels.as_ref().map(|labels| labels[index].clone());
                let label = label.unwrap_or_else(|| (index + 1).to_string());
                canvas.text(&label, at, 12.0, Anchor::Middle, None, "", place)?;
            }
        } else {
            for tick in frame.x.ticks() {
                let x = frame.x(tick);
                rule(canvas, (x, frame.top), (x, bottom), "#eeeeee");
                let at = (x, bottom + 18.0);
                canvas.text(&frame.x.label(tick), at, 12.0, Anchor::Middle, None, "", place)?;
            }
        }
        rule(canvas, (left, frame.top), (left, bottom), "#333333");
        let zero = frame.y(0f64.clamp(frame.y.low, frame.y.high));
        rule(canvas, (left, zero), (left + frame.width, zero), "#333333");
        if let Some(label) = &self.x_label {
            let at = (left + frame.width / 2.0, bottom + 42.0);
            canvas.text(label, at, 14.0, Anchor::Middle, None, "", place)?;
        }
        if let Some(label) = &self.y_label {
            let at = (left - 52.0, frame.top + frame.height / 2.0);
            canvas.text(label, at, 14.0, Anchor::Middle, Some(-90.0), "", place)?;
        }
        Ok(())
    }

    fn bars(&self, canvas: &mut Canvas, frame: &Frame, place: &str) -> Result<(), DrawError> {
        let room = frame.width / self.count() as f64 * 0.8;
        let width = room / self.series.len() as f64;
        for (index, series) in self.series.iter().enumerate() {
            let fill = self.colour(index, place)?;
            for (position, &value) in series.values.iter().enumerate() {
                let left = frame.x(position as f64) - room / 2.0 + index as f64 * width;
                let (top, bottom) = (frame.y(value.max(0.0)), frame.y(value.min(0.0)));
                let _ = writeln!(
                    canvas.out,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\"/>",
                    number(left),
                    number(top),
                    number(width),
                    number(bottom - top)
                );
            }
        }
        Ok(())
    }

    fn lines(&self, canvas: &mut Canvas, frame: &Frame, place: &str) -> Result<(), DrawError> {
        for (index, series) in self.series.iter().enumerate() {
            let stroke = self.colour(index, place)?;
            let mut points = Vec::with_capacity(series.values.len());
            for (position, &value) in series.values.iter().enumerate() {
                let along = series.x.as_ref().map_or(position as f64, |x| x[position]);
                points.push((number(frame.x(along)), number(frame.y(value))));
            }
            if self.form == Form::Line {
                let line: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
                let _ = writeln!(
                    canvas.out,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"/>",
                    line.join(" ")
                );
            }
            // On a long line the points would be all that is seen.
            if self.form == Form::Scatter || points.len() <= 60 {
                for (x, y) in points {
                    let _ = writeln!(
                        canvas.out,
                        "<circle cx=\"{x}\" cy=\"{y}\" r=\"3.5\" fill=\"{stroke}\"/>"
                    );
                }
            }
        }
        Ok(())
    }

    fn pie(
        &self,
        canvas: &mut Canvas,
        (left, top, width, height): (f64, f64, f64, f64),
        place: &str,
    ) -> Result<(), DrawError> {
        let (cx, cy) = (left + width / 2.0, top + height / 2.0);
        let radius = (width.min(height) / 2.0 - 8.0).max(10.0);
        let values = &self.series[0].values;
        let sum: f64 = values.iter().sum();
        let mut turned = 0.0;
        for (index, &value) in values.iter().enumerate() {
            let fill = self.colour(index, place)?;
            let (part, from) = (value / sum, turned);
            turned += part;
            if part <= 0.0 {
                continue;
            }
            if part > 0.9999 {
                let (cx, cy, r) = (number(cx), number(cy), number(radius));
                let _ = writeln!(
                    canvas.out,
                    "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"{r}\" fill=\"{fill}\"/>"
                );
            } else {
                let point = |turn: f64, radius: f64| {
                    let (sine, cosine) = (turn * TAU).sin_cos();
                    (cx + sine * radius, cy - cosine * radius)
                };
                let (a, b) = (point(from, radius), point(turned, radius));
                let _ = writeln!(
                    canvas.out,
                    "<path d=\"M{} {} L{} {} A{r} {r} 0 {} 1 {} {} Z\" fill=\"{fill}\" stroke=\"white\"/>",
                    number(cx),
                    number(cy),
                    number(a.0),
                    number(a.1),
                    u8::from(part > 0.5),
                    number(b.0),
                    number(b.1),
                    r = number(radius),
                );
            }
            if part >= 0.04 {
                let middle = from + part / 2.0;
                let (sine, cosine) = (middle * TAU).sin_cos();
                let at = (cx + sine * radius * 0.65, cy - cosine * radius * 0.65 + 4.0);
                let label = format!("{:.0}%", part * 100.0);
                canvas.text(&label, at, 12.0, Anchor::Middle, None, " fill=\"white\"", place)?;
            }
        }
        Ok(())
    }

    fn legend(
        &self,
        canvas: &mut Canvas,
        (x, y): (f64, f64),
        place: &str,
    ) -> Result<(), DrawError> {
        let names: Vec<String> = if self.form == Form::Pie {
            let count = self.count();
            let labels = self.labels.clone();
            labels.unwrap_or_else(|| (1..=count).map(|one| one.to_string()).collect())
        } else {
            let named = self.series.iter().enumerate();
            named
                .map(|(index, one)| {
                    one.name.clone().unwrap_or_else(|| format!("series {}", index + 1))
                })
                .collect()
        };
        for (index, name) in names.iter().enumerate() {
            let fill = self.colour(index, place)?;
            let y = y + index as f64 * 20.0;
            let (left, top) = (number(x), number(y));
            let _ = writeln!(
                canvas.out,
                "<rect x=\"{left}\" y=\"{top}\" width=\"12\" height=\"12\" fill=\"{fill}\"><title>{}</title></rect>",
                escaped(&name.chars().take(200).collect::<String>())
            );
            // As much as has room; all of it stands in the title.
            let shown: String = name.chars().take(16).collect();
            canvas.text(&shown, (x + 18.0, y + 11.0), 12.0, Anchor::Start, None, "", place)?;
        }
        Ok(())
    }
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        self.left + self.x.at(value) * self.width
    }

    fn y(&self, value: f64) -> f64 {
        self.top + (1.0 - self.y.at(value)) * self.height
    }
}

fn rule(canvas: &mut Canvas, from: (f64, f64), to: (f64, f64), stroke: &str) {
    let _ = writeln!(
        canvas.out,
        "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{stroke}\"/>",
        number(from.0),
        number(from.1),
        number(to.0),
        number(to.1)
    );
}
