//! Curves drawn with letters: each cell is a pattern of two by four dots (Braille).
//!
//! The key decision: a plot is a pure function of points and a size in cells, and never wider or higher than that
//! size; so the live view, a test and a log file get the same.

use super::curve::{cut, frame, thin};
use super::plot::short;

/// Cells left of the frame: the numbers.
const LEFT: usize = 9;
/// A narrower or lower plot is not drawn.
const LEAST: (usize, usize) = (20, 4);

/// A curve with its title, `width` cells by `height` lines, without a line end after the last. The lines are as
/// long as what stands on them.
pub fn plot(title: &str, points: &[(f64, f64)], width: usize, height: usize) -> String {
    if width < LEAST.0 || height < LEAST.1 {
        return String::new();
    }
    let (columns, rows) = (width - LEFT - 1, height - 2);
    let mut lines = vec![clip(title, width)];
    let Some((low, high)) = frame(&[points]) else {
        lines.push(clip("  nothing to draw yet", width));
        return lines.join("\n");
    };
    let (left, right) = (points[0].0, points[points.len() - 1].0);
    let mut dots = Dots { cells: vec![0; columns * rows], columns, rows };
    let x_of = |x: f64| match right > left {
        true => (x - left) / (right - left) * (2 * columns - 1) as f64,
        false => 0.0,
    };
    let y_of = |y: f64| (high - y) / (high - low) * (4 * rows - 1) as f64;
    for part in cut(&thin(points, columns * 8), low, high) {
        let places: Vec<_> = part.iter().map(|&(x, y)| (x_of(x), y_of(y))).collect();
        dots.set(places[0].0, places[0].1);
        places.windows(2).for_each(|pair| dots.line(pair[0], pair[1]));
    }
    for row in 0..rows {
        let number = match row {
            0 => figure(high),
            _ if row == rows - 1 => figure(low),
            _ if row == rows / 2 && rows > 4 => {
                figure(high - (high - low) * row as f64 / (rows - 1) as f64)
            }
            _ => String::new(),
        };
        let line = format!("{number:>w$}┤{}", dots.row(row), w = LEFT);
        lines.push(clip(line.trim_end(), width));
    }
    let (from, to) = (short(left), short(right));
    let gap = columns.saturating_sub(from.len() + to.len());
    let axis = format!("{:>w$}└{from}{}{to}", "", "─".repeat(gap), w = LEFT);
    lines.push(clip(&axis, width));
    lines.join("\n")
}

struct Dots {
    /// (rows, columns), the lower byte of a Braille character.
    cells: Vec<u8>,
    columns: usize,
    rows: usize,
}

impl Dots {
    fn set(&mut self, x: f64, y: f64) {
        let (x, y) = (x.round() as usize, y.round() as usize);
        // Unicode numbers the dots by columns of three, and the fourth row last.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let (column, row) = (x / 2, y / 4);
        if column < self.columns && row < self.rows {
            self.cells[row * self.columns + column] |= BITS[y % 4][x % 2];
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0) as usize;
        for step in 0..=steps {
            let share = step as f64 / steps as f64;
            self.set(from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share);
        }
    }

    fn row(&self, row: usize) -> String {
        let cells = &self.cells[row * self.columns..][..self.columns];
        let dots = |&cell: &u8| char::from_u32(0x2800 + u32::from(cell)).filter(|_| cell > 0);
        cells.iter().map(|cell| dots(cell).unwrap_or(' ')).collect()
    }
}

/// Four digits, at most nine cells.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 1e4 => short(value),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

/// Cells of a character.
pub(crate) fn cells(letter: char) -> usize {
    match letter as u32 {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// One line of at most `width` cells; what a terminal would take as an order is a space.
pub(crate) fn clip(text: &str, width: usize) -> String {
    let mut kept = String::new();
    let mut room = width;
    for letter in text.chars() {
        let letter = match letter {
            c if c.is_control() => ' ',
            '\u{2028}'
            | '\u{2029}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => ' ',
            c => c,
        };
        let Some(left) = room.checked_sub(cells(letter)) else { break };
        room = left;
        kept.push(letter);
    }
    kept
}
