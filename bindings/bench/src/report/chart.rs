//! Lines over time as SVG: panels with axes and legends.
//!
//! Plain SVG without scripts, fonts or style sheets of its own, so that any viewer shows it.

use std::fmt::Write as _;

pub use super::table::bytes;

/// Colours that are told apart on white.
pub const BLUE: &str = "#1f6fb2";
/// See [`BLUE`].
pub const ORANGE: &str = "#d9730d";
/// See [`BLUE`].
pub const GREEN: &str = "#2b8a3e";
/// See [`BLUE`].
pub const RED: &str = "#c92a2a";
/// See [`BLUE`].
pub const GREY: &str = "#868e96";

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Line {
    /// Beside its colour, right of the panel; empty: it has no place there.
    pub name: &'static str,
    /// Colour, as SVG has it.
    pub color: &'static str,
    /// A value for each time; on a logarithmic axis zeros are gaps.
    pub values: Vec<f64>,
}

/// How values become heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0 on, with marks at 1, 2, 5, 10, …
    Decimal,
    /// From 0 on, with marks at powers of two.
    Binary,
    /// With marks at powers of ten.
    Logarithmic,
}

/// A panel: its lines over the same times.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above it.
    pub title: &'static str,
    /// Its axis.
    pub scale: Scale,
    /// What a mark of the axis says.
    pub label: fn(f64) -> String,
    /// Its lines, drawn in this order.
    pub lines: Vec<Line>,
}

/// Where a panel's lines are drawn, in pixels. The axis takes 80 to the left of it, the title 24 above and times 20 below.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Area {
    fn right(&self) -> f64 {
        self.left + self.width
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

/// A picture that is being drawn.
///
/// ```
/// use cairn_bench::chart::{Area, BLUE, Line, Panel, Picture, Scale, count};
///
/// let line = Line { name: "reads", color: BLUE, values: vec![10.0, 20.0] };
/// let panel = Panel { title: "requests a second", scale: Scale::Decimal, label: count, lines: vec![line] };
/// let mut picture = Picture::new(640.0, 300.0);
/// picture.panel(&panel, &[1.0, 2.0], Area { left: 80.0, top: 40.0, width: 450.0, height: 200.0 });
/// assert!(picture.end().starts_with("<svg "));
/// ```
pub struct Picture {
    out: String,
}

impl Picture {
    /// A white picture of so many pixels.
    #[must_use]
    pub fn new(width: f64, height: f64) -> Self {
        let out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        Self { out }
    }

    /// The whole of it.
    #[must_use]
    pub fn end(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    /// Writes a line of text that begins at a place.
    pub fn text(&mut self, x: f64, y: f64, size: u32, content: &str) {
        self.put(x, y, "start", size, content);
    }

    fn put(&mut self, x: f64, y: f64, anchor: &str, size: u32, content: &str) {
        let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _infallible = writeln!(
            self.out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{content}</text>"
        );
    }

    /// Draws a panel whose values belong to `times`, in seconds from 0 on.
    pub fn panel(&mut self, panel: &Panel, times: &[f64], area: Area) {
        let axis = Axis::of(panel);
        self.put(area.left, area.top - 8.0, "start", 13, panel.title);
        for mark in &axis.marks {
            let at = axis.height(*mark, area);
            let _infallible = writeln!(
                self.out,
                "<line x1=\"{}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#dee2e6\"/>",
                area.left,
                area.right()
            );
            self.put(area.left - 8.0, at + 4.0, "end", 11, &(panel.label)(*mark));
        }
        let end = times.last().copied().unwrap_or(0.0).max(1e-9);
        let x = |time: f64| area.left + time / end * area.width;
        let step = decimal_step(end / (area.width / 100.0)).min(end);
        for number in 0..=(end / step + 1e-9) as u32 {
            let time = f64::from(number) * step;
            let label = format!("{} s", (time * 100.0).round() / 100.0);
            self.put(x(time), area.bottom() + 16.0, "middle", 11, &label);
        }
        for (number, line) in panel.lines.iter().enumerate() {
            self.path(line, times.iter().map(|time| x(*time)), &axis, area);
            if !line.name.is_empty() {
                self.legend(line, number, area);
            }
        }
    }

    fn path(&mut self, line: &Line, across: impl Iterator<Item = f64>, axis: &Axis, area: Area) {
        // A line of its own for each stretch with values: nothing ends in an interval, and latency has no value.
        let mut path = String::new();
        let (mut open, mut points) = (false, 0);
        for (x, value) in across.zip(&line.values) {
            let drawn = axis.scale != Scale::Logarithmic || *value > 0.0;
            if drawn {
                let y = axis.height(*value, area);
                let _infallible = write!(path, "{}{x:.1} {y:.1}", if open { " L" } else { " M" });
                points += 1;
            }
            open = drawn;
        }
        // A single point shows as the dot that its round end makes.
        if points == 1 {
            path.push_str(" h0");
        }
        let path = path.trim_start();
        if !path.is_empty() {
            let color = line.color;
            let _infallible = writeln!(
                self.out,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/>"
            );
        }
    }

    fn legend(&mut self, line: &Line, number: usize, area: Area) {
        let (x, y) = (area.right() + 12.0, area.top + 12.0 + number as f64 * 18.0);
        let (top, color) = (y - 5.0, line.color);
        let _infallible =
            writeln!(self.out, "<rect x=\"{x}\" y=\"{top}\" width=\"14\" height=\"3\" fill=\"{color}\"/>");
        self.put(x + 20.0, y, "start", 12, line.name);
    }
}

/// Where an axis begins and ends, and its marks.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    marks: Vec<f64>,
}

impl Axis {
    fn of(panel: &Panel) -> Self {
        let values = || panel.lines.iter().flat_map(|line| line.values.iter().copied()).filter(|value| *value > 0.0);
        let greatest = values().fold(0.0, f64::max);
        let step = match panel.scale {
            Scale::Decimal => decimal_step(greatest / 4.0),
            Scale::Binary => binary_step(greatest / 4.0),
            Scale::Logarithmic => return Self::logarithmic(values().fold(f64::MAX, f64::min), greatest),
        };
        let high = (greatest / step).ceil().max(1.0) * step;
        let marks = (0..=(high / step) as u32).map(|number| f64::from(number) * step).collect();
        Self { scale: panel.scale, low: 0.0, high, marks }
    }

    fn logarithmic(least: f64, greatest: f64) -> Self {
        let least = least.min(greatest.max(1.0));
        let (low, high) = (least.max(1.0).log10().floor(), greatest.max(10.0).log10().ceil());
        let high = high.max(low + 1.0);
        let marks = (low as i32..=high as i32).map(|power| 10f64.powi(power)).collect();
        Self { scale: Scale::Logarithmic, low: 10f64.powf(low), high: 10f64.powf(high), marks }
    }

    fn height(&self, value: f64, area: Area) -> f64 {
        let part = match self.scale {
            Scale::Logarithmic => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
            Scale::Decimal | Scale::Binary => value / self.high,
        };
        area.bottom() - part.clamp(0.0, 1.0) * area.height
    }
}

/// The next of 1, 2, 5, 10, …
fn decimal_step(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= wanted).unwrap_or(10.0 * power)
}

/// The next power of two.
fn binary_step(wanted: f64) -> f64 {
    2f64.powf(wanted.max(1.0).log2().ceil())
}

/// A mark that counts: `75k`.
#[must_use]
pub fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

/// A mark that is a time in nanoseconds: `2 ms`.
#[must_use]
pub fn time(nanos: f64) -> String {
    match nanos {
        n if n >= 1e9 => format!("{} s", n / 1e9),
        n if n >= 1e6 => format!("{} ms", n / 1e6),
        n if n >= 1e3 => format!("{} µs", n / 1e3),
        n => format!("{n} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Area = Area { left: 80.0, top: 40.0, width: 600.0, height: 200.0 };

    fn panel(scale: Scale, values: Vec<f64>) -> Panel {
        Panel { title: "a<b", scale, label: count, lines: vec![Line { name: "x", color: RED, values }] }
    }

    #[test]
    fn axes_hold_all_values() {
        for greatest in [0.0, 0.4, 1.0, 7.0, 99.0, 75_400.0, 3e9] {
            for scale in [Scale::Decimal, Scale::Binary, Scale::Logarithmic] {
                let Axis { low, high, marks, .. } = Axis::of(&panel(scale, vec![greatest / 1000.0, greatest]));
                assert!(
                    high >= greatest && high > low && marks.len() >= 2 && marks.len() < 14,
                    "{scale:?} {greatest}: {marks:?}"
                );
            }
        }
    }

    #[test]
    fn points_lie_within_the_area() {
        for scale in [Scale::Decimal, Scale::Binary, Scale::Logarithmic] {
            let mut picture = Picture::new(800.0, 300.0);
            picture.panel(&panel(scale, vec![5.0, 80.0, 1000.0]), &[1.0, 2.0, 4.0], AREA);
            let out = picture.end();
            let path = out.split("d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            let points: Vec<(f64, f64)> = path
                .split(['M', 'L'])
                .filter_map(|point| point.trim().split_once(' '))
                .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
                .collect();
            assert_eq!(points.iter().map(|(x, _)| *x).collect::<Vec<_>>(), [230.0, 380.0, 680.0], "{path}");
            assert!(points.iter().all(|(_, y)| (40.0..=240.0).contains(y)) && points[0].1 > points[2].1, "{path}");
            assert!(out.contains(">a&lt;b</text>"));
        }
    }

    #[test]
    fn times_without_a_value_are_gaps() {
        let mut picture = Picture::new(800.0, 300.0);
        picture.panel(&panel(Scale::Logarithmic, vec![5.0, 0.0, 5.0, 6.0]), &[1.0, 2.0, 3.0, 4.0], AREA);
        let out = picture.end();
        let path = out.split("d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1));
    }
}
