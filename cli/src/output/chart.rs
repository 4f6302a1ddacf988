//! Line charts in a terminal, drawn with braille dots: two by four to a character.

use super::{Output, style};
use crate::output::text::number;
use std::fmt::Write as _;

/// One line of a chart.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Shown in the legend when there are several.
    pub label: String,
    /// In order of x. Points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Bits of a braille character by dot column and row.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
const BRAILLE: u32 = 0x2800;

struct Bounds {
    x: (f64, f64),
    y: (f64, f64),
}

/// Draws `series` in `width` by `height` characters, axes included; empty when there is nothing to draw.
pub fn render(title: &str, series: &[Series], width: usize, height: usize, output: &Output) -> String {
    let Some(bounds) = bounds(series) else { return String::new() };
    let labels = [number(bounds.y.1), number(bounds.y.0)];
    let margin = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let columns = width.saturating_sub(margin + 2).max(4);
    let rows = height.saturating_sub(2).max(2);
    let mut canvas = Canvas::new(columns, rows);
    for (index, one) in series.iter().enumerate() {
        canvas.draw(one, index, &bounds);
    }
    let mut text = format!("{}{}\n", " ".repeat(margin + 2), heading(title, series, output));
    for row in 0..rows {
        let label = match row {
            0 => labels[0].as_str(),
            r if r + 1 == rows => labels[1].as_str(),
            _ => "",
        };
        let _ = writeln!(text, "{label:>margin$} ┤{}", canvas.row(row, output));
    }
    let (from, to) = (number(bounds.x.0), number(bounds.x.1));
    let gap = columns.saturating_sub(from.chars().count() + to.chars().count());
    let _ = writeln!(text, "{}{from}{}{to}", " ".repeat(margin + 2), " ".repeat(gap));
    text
}

fn heading(title: &str, series: &[Series], output: &Output) -> String {
    let mut text = output.paint(style::HEAD, &super::table::clean(title));
    if series.len() > 1 {
        for (index, one) in series.iter().enumerate() {
            let _ = write!(text, "  {}", output.paint(style::series(index), &format!("─ {}", one.label)));
        }
    }
    text
}

fn bounds(series: &[Series]) -> Option<Bounds> {
    let mut points = series.iter().flat_map(finite).peekable();
    let first = *points.peek()?;
    let mut bounds = Bounds { x: (first.0, first.0), y: (first.1, first.1) };
    for (x, y) in points {
        bounds.x = (bounds.x.0.min(x), bounds.x.1.max(x));
        bounds.y = (bounds.y.0.min(y), bounds.y.1.max(y));
    }
    if bounds.y.0 == bounds.y.1 {
        // A flat line stands in the middle.
        let half = if bounds.y.0 == 0.0 { 1.0 } else { bounds.y.0.abs() * 0.1 };
        bounds.y = (bounds.y.0 - half, bounds.y.1 + half);
    }
    Some(bounds)
}

fn finite(series: &Series) -> impl Iterator<Item = (f64, f64)> + '_ {
    series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
}

struct Canvas {
    columns: usize,
    rows: usize,
    /// Dots, and the last series that drew here.
    cells: Vec<(u32, usize)>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Canvas { columns, rows, cells: vec![(0, 0); columns * rows] }
    }

    fn draw(&mut self, series: &Series, index: usize, bounds: &Bounds) {
        let (width, height) = ((self.columns * 2 - 1) as f64, (self.rows * 4 - 1) as f64);
        let scale = |value: f64, (low, high): (f64, f64), size: f64| {
            if high > low { ((value - low) / (high - low) * size).round() } else { 0.0 }
        };
        let mut last: Option<(i64, i64)> = None;
        for (x, y) in finite(series) {
            let here = (scale(x, bounds.x, width) as i64, (height - scale(y, bounds.y, height)) as i64);
            let from = last.unwrap_or(here);
            // At most one dot a row or column: the canvas bounds the work, not the number of points.
            let steps = (here.0 - from.0).abs().max((here.1 - from.1).abs()).max(1);
            for step in 0..=steps {
                let part = step as f64 / steps as f64;
                let at = |a: i64, b: i64| a + ((b - a) as f64 * part).round() as i64;
                self.dot(at(from.0, here.0), at(from.1, here.1), index);
            }
            last = Some(here);
        }
    }

    fn dot(&mut self, x: i64, y: i64, series: usize) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x < self.columns * 2
            && let Some(cell) = self.cells.get_mut(y / 4 * self.columns + x / 2)
        {
            *cell = (cell.0 | DOTS[x % 2][y % 4], series);
        }
    }

    fn row(&self, row: usize, output: &Output) -> String {
        let mut text = String::new();
        for (dots, series) in &self.cells[row * self.columns..(row + 1) * self.columns] {
            let shown = char::from_u32(BRAILLE + dots).filter(|_| *dots > 0).unwrap_or(' ');
            if *dots > 0 && output.color {
                text.push_str(&output.paint(style::series(*series), &shown.to_string()));
            } else {
                text.push(shown);
            }
        }
        text.trim_end().to_owned()
    }
}

/// One line of eight block heights, newest to the right.
pub fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = width.min(values.len());
    (0..width)
        .map(|i| {
            let value = values[i * (values.len() - 1) / width.saturating_sub(1).max(1)];
            let part = if high > low { (value - low) / (high - low) } else { 0.5 };
            BLOCKS[((part * 7.0).round() as usize).min(7)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn output() -> Output {
        Output {
            format: Format::Table,
            color: false,
            width: None,
            height: None,
            is_terminal: false,
            stderr_is_terminal: false,
            bars: false,
        }
    }

    #[test]
    fn a_falling_line_falls() {
        let series =
            Series { label: "loss".into(), points: (0..50).map(|i| (f64::from(i), f64::from(50 - i))).collect() };
        let text = render("loss", &[series], 40, 8, &output());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8, "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{text}");
        let first_dot = |line: &str| line.chars().position(|c| (BRAILLE..BRAILLE + 256).contains(&(c as u32)));
        assert!(first_dot(lines[1]) < first_dot(lines[6]), "{text}");
        assert!(lines[1].contains("50 ┤") && lines[6].contains("1 ┤") && lines[7].ends_with("49"), "{text}");
    }

    #[test]
    fn odd_values_draw_nothing_and_break_nothing() {
        assert_eq!(render("x", &[], 40, 8, &output()), "");
        let odd = Series { label: String::new(), points: vec![(0.0, f64::NAN), (1.0, f64::INFINITY)] };
        assert_eq!(render("x", std::slice::from_ref(&odd), 40, 8, &output()), "");
        let flat = Series { label: String::new(), points: vec![(3.0, 2.0)] };
        let text = render("x", &[flat, odd], 0, 0, &output());
        assert!(text.chars().any(|c| (BRAILLE..BRAILLE + 256).contains(&(c as u32))), "{text}");
        let huge = Series { label: String::new(), points: vec![(0.0, -1e308), (1.0, 1e308)] };
        assert!(!render("x", &[huge], 30, 6, &output()).is_empty());
    }

    #[test]
    fn a_sparkline_spans_low_to_high() {
        assert_eq!(sparkline(&[0.0, 1.0], 10), "▁█");
        assert_eq!(sparkline(&[], 10), "");
        assert_eq!(sparkline(&(0..100).map(f64::from).collect::<Vec<_>>(), 8).chars().count(), 8);
    }
}
