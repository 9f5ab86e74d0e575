//! The description, checked, and its shapes as SVG.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::chart::Chart;

/// The largest side of a drawing, in pixels.
const SIDE: f64 = 8192.0;
/// How far from the origin a point may lie.
const FAR: f64 = 1e6;
/// Items of a drawing, those in groups counted too.
const ITEMS: usize = 10_000;
/// Points of all lines, and values of all charts.
const POINTS: usize = 100_000;
/// Groups in groups.
const DEPTH: usize = 16;
/// Bytes of a text.
const TEXT: usize = 2_000;
/// Bytes of a path.
const PATH: usize = 64 << 10;

/// What is wrong with a description, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct DrawError {
    /// For example `items[3].points`.
    pub place: String,
    /// What was expected.
    pub why: String,
}

pub(super) fn wrong(place: impl Into<String>, why: impl Into<String>) -> DrawError {
    DrawError { place: place.into(), why: why.into() }
}

/// A drawing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scene {
    #[serde(default = "width")]
    width: f64,
    #[serde(default = "height")]
    height: f64,
    background: Option<String>,
    items: Vec<Value>,
}

fn width() -> f64 {
    800.0
}

fn height() -> f64 {
    500.0
}

/// How a shape looks.
#[derive(Debug, Default, Deserialize)]
struct Style {
    fill: Option<String>,
    stroke: Option<String>,
    stroke_width: Option<f64>,
    opacity: Option<f64>,
    dash: Option<Vec<f64>>,
}

/// One thing to be seen.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Item {
    Rect {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        radius: Option<f64>,
    },
    Circle {
        cx: f64,
        cy: f64,
        r: f64,
    },
    Ellipse {
        cx: f64,
        cy: f64,
        rx: f64,
        ry: f64,
    },
    Line {
        x1: f64,
        y1: f64,
        x2: f64,
        y2: f64,
    },
    Polyline {
        points: Vec<[f64; 2]>,
    },
    Polygon {
        points: Vec<[f64; 2]>,
    },
    Path {
        d: String,
    },
    Text {
        x: f64,
        y: f64,
        text: String,
        size: Option<f64>,
        anchor: Option<Anchor>,
        bold: Option<bool>,
        rotate: Option<f64>,
    },
    Group {
        items: Vec<Value>,
        translate: Option<[f64; 2]>,
        scale: Option<f64>,
        rotate: Option<f64>,
        opacity: Option<f64>,
    },
    Chart(Chart),
}

/// Where a text lies on its point.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    pub(super) fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

const STYLE: [&str; 5] = ["fill", "stroke", "stroke_width", "opacity", "dash"];

/// The fields of each kind, and whether it takes those of a style.
const KINDS: [(&str, &[&str], bool); 10] = [
    ("rect", &["x", "y", "width", "height", "radius"], true),
    ("circle", &["cx", "cy", "r"], true),
    ("ellipse", &["cx", "cy", "rx", "ry"], true),
    ("line", &["x1", "y1", "x2", "y2"], true),
    ("polyline", &["points"], true),
    ("polygon", &["points"], true),
    ("path", &["d"], true),
    ("text", &["x", "y", "text", "size", "anchor", "bold", "rotate"], true),
    ("group", &["items", "translate", "scale", "rotate", "opacity"], false),
    (
        "chart",
        &["type", "x", "y", "width", "height", "title", "x_label", "y_label", "labels", "series"],
        false,
    ),
];

/// A drawing in the making.
pub(super) struct Canvas {
    pub(super) out: String,
    items: usize,
    points: usize,
    width: f64,
    height: f64,
}

impl Scene {
    /// Reads a description. Items are checked when they are drawn.
    pub(super) fn read(value: &Value) -> Result<Scene, DrawError> {
        let scene = Scene::deserialize(value).map_err(|error| wrong("scene", error.to_string()))?;
        for (name, side) in [("width", scene.width), ("height", scene.height)] {
            if !(1.0..=SIDE).contains(&side) {
                return Err(wrong(name, format!("must be between 1 and {SIDE} pixels")));
            }
        }
        Ok(scene)
    }

    /// The drawing.
    pub(super) fn svg(&self) -> Result<String, DrawError> {
        let (width, height) = (number(self.width), number(self.height));
        let mut canvas = Canvas {
            out: String::new(),
            items: 0,
            points: 0,
            width: self.width,
            height: self.height,
        };
        let _ = writeln!(
            canvas.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"14\">"
        );
        let background = self.background.as_deref().unwrap_or("white");
        let fill = colour(background, "background")?;
        let _ =
            writeln!(canvas.out, "<rect width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>");
        canvas.items(&self.items, "items", 0)?;
        canvas.out.push_str("</svg>\n");
        Ok(canvas.out)
    }
}

impl Canvas {
    fn items(&mut self, items: &[Value], place: &str, depth: usize) -> Result<(), DrawError> {
        if depth > DEPTH {
            return Err(wrong(place, format!("groups lie at most {DEPTH} deep in each other")));
        }
        for (index, value) in items.iter().enumerate() {
            let place = format!("{place}[{index}]");
            self.items += 1;
            if self.items > ITEMS {
                return Err(wrong(place, format!("a drawing has at most {ITEMS} items")));
            }
            let takes_style = checked_fields(value, &place)?;
            let item =
                Item::deserialize(value).map_err(|error| wrong(&*place, error.to_string()))?;
            let style = if takes_style {
                let style = Style::deserialize(value);
                style.map_err(|error| wrong(&*place, error.to_string()))?
            } else {
                Style::default()
            };
            self.item(item, &style, &place, depth)?;
        }
        Ok(())
    }

    fn item(
        &mut self,
        item: Item,
        style: &Style,
        place: &str,
        depth: usize,
    ) -> Result<(), DrawError> {
        match item {
            Item::Rect { x, y, width, height, radius } => {
                let radius = radius.unwrap_or(0.0);
                let numbers =
                    [("x", x), ("y", y), ("width", width), ("height", height), ("rx", radius)];
                self.shape("rect", &numbers, &["width", "height", "rx"], style, place)?;
            }
            Item::Circle { cx, cy, r } => {
                self.shape("circle", &[("cx", cx), ("cy", cy), ("r", r)], &["r"], style, place)?;
            }
            Item::Ellipse { cx, cy, rx, ry } => {
                let numbers = [("cx", cx), ("cy", cy), ("rx", rx), ("ry", ry)];
                self.shape("ellipse", &numbers, &["rx", "ry"], style, place)?;
            }
            Item::Line { x1, y1, x2, y2 } => {
                let numbers = [("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)];
                self.shape("line", &numbers, &[], &style.drawn(), place)?;
            }
            Item::Polyline { points } => {
                self.points_of("polyline", &points, &style.drawn(), place)?;
            }
            Item::Polygon { points } => self.points_of("polygon", &points, style, place)?,
            Item::Path { d } => {
                checked_path(&d, place)?;
                let look = style.written(place)?;
                let _ = writeln!(self.out, "<path d=\"{}\"{look}/>", d.trim());
            }
            Item::Chart(chart) => {
                self.counted(chart.points(), place)?;
                chart.draw(self, (self.width, self.height), place)?;
            }
            other => return self.turned(other, style, place, depth),
        }
        Ok(())
    }

    /// Texts and groups, which can be turned.
    fn turned(
        &mut self,
        item: Item,
        style: &Style,
        place: &str,
        depth: usize,
    ) -> Result<(), DrawError> {
        match item {
            Item::Text { x, y, text, size, anchor, bold, rotate } => {
                let size = size.unwrap_or(14.0);
                between(size, 1.0, 1000.0, place, "size")?;
                let turn = rotate.map(|turn| finite(turn, place, "rotate")).transpose()?;
                let at = (finite(x, place, "x")?, finite(y, place, "y")?);
                let look = style.written(place)?;
                let anchor = anchor.unwrap_or(Anchor::Start);
                let more = if bold == Some(true) { " font-weight=\"bold\"" } else { "" };
                self.text(&text, at, size, anchor, turn, &format!("{look}{more}"), place)?;
            }
            Item::Group { items, translate, scale, rotate, opacity } => {
                let mut turns = String::new();
                if let Some([x, y]) = translate {
                    let (x, y) = (finite(x, place, "translate")?, finite(y, place, "translate")?);
                    let _ = write!(turns, "translate({} {})", number(x), number(y));
                }
                if let Some(turn) = rotate {
                    let _ = write!(turns, " rotate({})", number(finite(turn, place, "rotate")?));
                }
                if let Some(scale) = scale {
                    between(scale, 0.001, 1000.0, place, "scale")?;
                    let _ = write!(turns, " scale({scale})");
                }
                let opacity = opacity.unwrap_or(1.0);
                between(opacity, 0.0, 1.0, place, "opacity")?;
                let opacity = number(opacity);
                let turns = turns.trim();
                let _ = writeln!(self.out, "<g transform=\"{turns}\" opacity=\"{opacity}\">");
                self.items(&items, &format!("{place}.items"), depth + 1)?;
                self.out.push_str("</g>\n");
            }
            other => unreachable!("{other:?} is drawn where shapes are"),
        }
        Ok(())
    }

    fn counted(&mut self, points: usize, place: &str) -> Result<(), DrawError> {
        self.points = self.points.saturating_add(points);
        if self.points > POINTS {
            return Err(wrong(
                place,
                format!("a drawing has at most {POINTS} points; draw fewer of them"),
            ));
        }
        Ok(())
    }

    fn shape(
        &mut self,
        tag: &str,
        numbers: &[(&str, f64)],
        positive: &[&str],
        style: &Style,
        place: &str,
    ) -> Result<(), DrawError> {
        let mut written = String::new();
        for &(name, value) in numbers {
            finite(value, place, name)?;
            if positive.contains(&name) && value < 0.0 {
                return Err(wrong(place, format!("{name} must not be negative")));
            }
            let _ = write!(written, " {name}=\"{}\"", number(value));
        }
        let look = style.written(place)?;
        let _ = writeln!(self.out, "<{tag}{written}{look}/>");
        Ok(())
    }

    fn points_of(
        &mut self,
        tag: &str,
        points: &[[f64; 2]],
        style: &Style,
        place: &str,
    ) -> Result<(), DrawError> {
        self.counted(points.len(), place)?;
        let mut written = String::new();
        for &[x, y] in points {
            let (x, y) = (finite(x, place, "points")?, finite(y, place, "points")?);
            let _ = write!(written, "{},{} ", number(x), number(y));
        }
        let look = style.written(place)?;
        let _ = writeln!(self.out, "<{tag} points=\"{}\"{look}/>", written.trim_end());
        Ok(())
    }

    /// A line of text.
    #[expect(clippy::too_many_arguments, reason = "each is one attribute")]
    pub(super) fn text(
        &mut self,
        text: &str,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        turn: Option<f64>,
        more: &str,
        place: &str,
    ) -> Result<(), DrawError> {
        if text.len() > TEXT {
            return Err(wrong(place, format!("a text has at most {TEXT} bytes")));
        }
        let (x, y, size, anchor) = (number(x), number(y), number(size), anchor.name());
        let turn = turn.map(|turn| format!(" transform=\"rotate({} {x} {y})\"", number(turn)));
        let turn = turn.unwrap_or_default();
        let text = escaped(text);
        let _ = writeln!(
            self.out,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\"{turn}{more}>{text}</text>"
        );
        Ok(())
    }
}

impl Style {
    /// As the style of a line: drawn, not filled, unless it says otherwise.
    fn drawn(&self) -> Style {
        Style {
            fill: Some(self.fill.clone().unwrap_or_else(|| "none".into())),
            stroke: Some(self.stroke.clone().unwrap_or_else(|| "black".into())),
            stroke_width: self.stroke_width,
            opacity: self.opacity,
            dash: self.dash.clone(),
        }
    }

    fn written(&self, place: &str) -> Result<String, DrawError> {
        let mut out = String::new();
        for (name, value) in [("fill", &self.fill), ("stroke", &self.stroke)] {
            if let Some(value) = value {
                let _ = write!(out, " {name}=\"{}\"", colour(value, place)?);
            }
        }
        if let Some(width) = self.stroke_width {
            between(width, 0.0, 1000.0, place, "stroke_width")?;
            let _ = write!(out, " stroke-width=\"{}\"", number(width));
        }
        if let Some(opacity) = self.opacity {
            between(opacity, 0.0, 1.0, place, "opacity")?;
            let _ = write!(out, " opacity=\"{}\"", number(opacity));
        }
        if let Some(dash) = &self.dash {
            if dash.len() > 16 {
                return Err(wrong(place, "dash has at most 16 numbers"));
            }
            for &part in dash {
                between(part, 0.0, 10_000.0, place, "dash")?;
            }
            let parts: Vec<String> = dash.iter().copied().map(number).collect();
            let _ = write!(out, " stroke-dasharray=\"{}\"", parts.join(" "));
        }
        Ok(out)
    }
}

/// Whether all fields are known, so that a misspelt one is not passed over; whether the kind takes a style.
fn checked_fields(value: &Value, place: &str) -> Result<bool, DrawError> {
    let fields = value.as_object().ok_or_else(|| wrong(place, "an item is an object"))?;
    let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
    let Some((_, known, style)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
        let kinds: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
        return Err(wrong(place, format!("`kind` must be one of {}", kinds.join(", "))));
    };
    for field in fields.keys() {
        let name = field.as_str();
        if name != "kind" && !known.contains(&name) && !(*style && STYLE.contains(&name)) {
            let mut all = known.to_vec();
            all.extend(STYLE.iter().filter(|_| *style));
            let shown: String = name.chars().take(40).collect();
            return Err(wrong(
                place,
                format!("a {kind} has no field {shown:?}; it has: {}", all.join(", ")),
            ));
        }
    }
    Ok(*style)
}

fn checked_path(d: &str, place: &str) -> Result<(), DrawError> {
    let is_command = |one: char| "MmLlHhVvCcSsQqTtAaZz".contains(one);
    let fits = |one: char| is_command(one) || one.is_ascii_digit() || " ,.+-eE\t\r\n".contains(one);
    if d.len() > PATH {
        return Err(wrong(place, format!("a path has at most {PATH} bytes")));
    }
    if !d.trim_start().starts_with(['M', 'm']) || !d.chars().all(fits) {
        return Err(wrong(
            place,
            "`d` begins with M and has the commands M L H V C S Q T A Z and numbers alone",
        ));
    }
    Ok(())
}

/// A colour in one of the notations that load nothing.
pub(super) fn colour(text: &str, place: &str) -> Result<String, DrawError> {
    let is_name =
        (3..=22).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let digits = text.strip_prefix('#');
    let is_hex = digits.is_some_and(|digits| {
        matches!(digits.len(), 3 | 4 | 6 | 8) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if is_name || is_hex {
        return Ok(text.to_ascii_lowercase());
    }
    let shown: String = text.chars().take(40).collect();
    Err(wrong(place, format!("{shown:?} is no colour; use a name such as steelblue, or #rrggbb")))
}

fn finite(value: f64, place: &str, name: &str) -> Result<f64, DrawError> {
    between(value, -FAR, FAR, place, name).map(|()| value)
}

fn between(value: f64, low: f64, high: f64, place: &str, name: &str) -> Result<(), DrawError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(wrong(place, format!("{name} is {value} and must be between {low} and {high}")))
}

/// With at most two digits behind the point.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// As text of XML; characters that XML cannot hold are left out.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => {}
            other => out.push(other),
        }
    }
    out
}
