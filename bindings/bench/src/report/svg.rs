//! The report as a picture: requests and bytes a second and latencies over time.
//!
//! Plain SVG without scripts, fonts or style sheets of its own, so that any viewer shows it. Where there are more intervals than points across,
//! neighbours become one: rates their mean, latencies their greatest.

use std::fmt::Write as _;

use super::{
    json::{Moment, Report},
    table::{bytes, headline},
};

const WIDTH: f64 = 960.0;
const PANEL: f64 = 200.0;
const GAP: f64 = 52.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 64.0;
/// Most points of a line.
const POINTS: usize = 600;

const BLUE: &str = "#1f6fb2";
const ORANGE: &str = "#d9730d";
const GREEN: &str = "#2b8a3e";
const RED: &str = "#c92a2a";
const GREY: &str = "#868e96";

/// A line of a panel.
struct Line {
    name: &'static str,
    color: &'static str,
    values: Vec<f64>,
}

/// A panel: its lines over the same times.
struct Panel {
    title: &'static str,
    logarithmic: bool,
    label: fn(f64) -> String,
    lines: Vec<Line>,
}

/// The report's series as an SVG picture.
///
/// ```
/// # let report: cairn_bench::Report = serde_json::from_value(serde_json::json!({
/// #   "schema": 1, "target": {"kind": "file", "name": "x", "size": 1, "sparse": false, "empty": false},
/// #   "pattern": {"rw": "read", "rwmix": 100, "bs": 1, "depth": 1, "jobs": 1, "fsync": null, "offset": 0, "size": 1, "dist": "uniform",
/// #     "verify": "off", "runtime": null, "requests": 1, "warm_up": 0.0, "iops": null, "seed": 1},
/// #   "passes": [], "seconds": 0.0, "stopped": false, "unsent": 0, "verify": null, "series": [],
/// #   "read": {"requests": 0, "bytes": 0, "iops": 0.0, "bandwidth": 0.0, "latency": null},
/// #   "write": {"requests": 0, "bytes": 0, "iops": 0.0, "bandwidth": 0.0, "latency": null},
/// #   "total": {"requests": 0, "bytes": 0, "iops": 0.0, "bandwidth": 0.0, "latency": null},
/// #   "flush": {"requests": 0, "bytes": 0, "iops": 0.0, "bandwidth": 0.0, "latency": null}
/// # })).unwrap();
/// assert!(cairn_bench::svg(&report).starts_with("<svg "));
/// ```
#[must_use]
pub fn svg(report: &Report) -> String {
    let moments = thinned(&report.series);
    let times: Vec<f64> = moments.iter().map(|moment| moment.end).collect();
    let panels = panels(report, &moments);
    let height = TOP + (PANEL + GAP) * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, LEFT, 24.0, "start", 15, &headline(report));
    let total = format!(
        "{:.0} requests/s, {}/s over {:.1} s",
        report.total.iops,
        bytes(report.total.bandwidth),
        report.seconds
    );
    text(&mut out, LEFT, 44.0, "start", 12, &total);
    let end = times.last().copied().unwrap_or(0.0).max(1e-9);
    for (number, panel) in panels.iter().enumerate() {
        draw(&mut out, panel, &times, end, TOP + number as f64 * (PANEL + GAP));
    }
    out.push_str("</svg>\n");
    out
}

fn panels(report: &Report, moments: &[Moment]) -> Vec<Panel> {
    let line =
        |name, color, value: fn(&Moment) -> f64| Line { name, color, values: moments.iter().map(value).collect() };
    let (mut rates, mut bandwidths) = (Vec::new(), Vec::new());
    if report.read.requests > 0 {
        rates.push(line("read", BLUE, |m| m.read_iops));
        bandwidths.push(line("read", BLUE, |m| m.read_bandwidth));
    }
    if report.write.requests > 0 {
        rates.push(line("write", ORANGE, |m| m.write_iops));
        bandwidths.push(line("write", ORANGE, |m| m.write_bandwidth));
    }
    if report.flush.requests > 0 {
        rates.push(line("flush", GREY, |m| m.flush_iops));
    }
    let latencies = vec![
        line("max", GREY, |m| m.max as f64),
        line("p99.9", RED, |m| m.p99_9 as f64),
        line("p99", ORANGE, |m| m.p99 as f64),
        line("p50", GREEN, |m| m.p50 as f64),
    ];
    vec![
        Panel { title: "requests a second", logarithmic: false, label: count, lines: rates },
        Panel { title: "bytes a second", logarithmic: false, label: bytes, lines: bandwidths },
        Panel { title: "latency of reads and writes", logarithmic: true, label: time, lines: latencies },
    ]
}

/// Intervals, so many that there are not more than points across.
fn thinned(series: &[Moment]) -> Vec<Moment> {
    let group = series.len().div_ceil(POINTS).max(1);
    series.chunks(group).map(joined).collect()
}

fn joined(moments: &[Moment]) -> Moment {
    let mean = |value: fn(&Moment) -> f64| moments.iter().map(value).sum::<f64>() / moments.len().max(1) as f64;
    let greatest = |value: fn(&Moment) -> u64| moments.iter().map(value).max().unwrap_or(0);
    Moment {
        end: moments.last().map_or(0.0, |moment| moment.end),
        read_iops: mean(|m| m.read_iops),
        write_iops: mean(|m| m.write_iops),
        flush_iops: mean(|m| m.flush_iops),
        read_bandwidth: mean(|m| m.read_bandwidth),
        write_bandwidth: mean(|m| m.write_bandwidth),
        p50: greatest(|m| m.p50),
        p99: greatest(|m| m.p99),
        p99_9: greatest(|m| m.p99_9),
        max: greatest(|m| m.max),
    }
}

fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

fn time(nanos: f64) -> String {
    match nanos {
        n if n >= 1e9 => format!("{} s", n / 1e9),
        n if n >= 1e6 => format!("{} ms", n / 1e6),
        n if n >= 1e3 => format!("{} µs", n / 1e3),
        n => format!("{n} ns"),
    }
}

/// Where the axis begins and ends, and its marks.
fn axis(panel: &Panel) -> (f64, f64, Vec<f64>) {
    let values = || panel.lines.iter().flat_map(|line| line.values.iter().copied()).filter(|value| *value > 0.0);
    let greatest = values().fold(0.0, f64::max);
    if panel.logarithmic {
        let least = values().fold(f64::MAX, f64::min).min(greatest.max(1.0));
        let (low, high) = (least.max(1.0).log10().floor(), greatest.max(10.0).log10().ceil());
        let high = high.max(low + 1.0);
        let marks = (low as i32..=high as i32).map(|power| 10f64.powi(power)).collect();
        return (10f64.powf(low), 10f64.powf(high), marks);
    }
    let binary = panel.title.starts_with("bytes");
    let step = if binary { binary_step(greatest / 4.0) } else { decimal_step(greatest / 4.0) };
    let high = (greatest / step).ceil().max(1.0) * step;
    let marks = (0..=(high / step) as u32).map(|number| f64::from(number) * step).collect();
    (0.0, high, marks)
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

fn draw(out: &mut String, panel: &Panel, times: &[f64], end: f64, top: f64) {
    let right = WIDTH - RIGHT;
    let (low, high, marks) = axis(panel);
    let y = |value: f64| {
        let part = match panel.logarithmic {
            true => (value.max(low) / low).log10() / (high / low).log10(),
            false => value / high,
        };
        top + PANEL - part.clamp(0.0, 1.0) * PANEL
    };
    let x = |time: f64| LEFT + time / end * (right - LEFT);
    text(out, LEFT, top - 8.0, "start", 13, panel.title);
    for mark in marks {
        let at = y(mark);
        let _infallible =
            writeln!(out, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#dee2e6\"/>");
        text(out, LEFT - 8.0, at + 4.0, "end", 11, &(panel.label)(mark));
    }
    let step = decimal_step(end / 8.0).min(end);
    for number in 0..=(end / step + 1e-9) as u32 {
        let time = f64::from(number) * step;
        text(out, x(time), top + PANEL + 16.0, "middle", 11, &format!("{} s", (time * 100.0).round() / 100.0));
    }
    for (number, line) in panel.lines.iter().enumerate() {
        let points = times.iter().zip(&line.values);
        // A line of its own for each stretch with values: nothing ends in an interval, and latency has no value.
        let mut path = String::new();
        let mut open = false;
        for (time, value) in points {
            let drawn = !panel.logarithmic || *value > 0.0;
            if drawn {
                let _infallible = write!(path, "{}{:.1} {:.1}", if open { " L" } else { " M" }, x(*time), y(*value));
            }
            open = drawn;
        }
        let color = line.color;
        // A single point shows as the dot that its round end makes.
        if times.len() == 1 {
            path = format!("{path} h0");
        }
        let path = path.trim_start();
        if !path.is_empty() {
            let _infallible = writeln!(
                out,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/>"
            );
        }
        let at = top + 12.0 + number as f64 * 18.0;
        let _infallible = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"3\" fill=\"{color}\"/>",
            right + 12.0,
            at - 5.0
        );
        text(out, right + 32.0, at, "start", 12, line.name);
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, size: u32, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _infallible =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::tests::sample;

    #[test]
    fn pictures_have_a_line_for_each_series_and_stay_small() {
        for seconds in [0, 1, 2, 30, 100_000] {
            let picture = svg(&sample(seconds));
            let lines = picture.matches("<path ").count();
            assert_eq!(lines, if seconds == 0 { 0 } else { 8 }, "{seconds}");
            assert!(picture.len() < 120_000, "{}", picture.len());
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{seconds}");
            assert!(picture.contains("/a&lt;b&gt;&amp;c") && picture.ends_with("</svg>\n"));
            assert_eq!(picture.matches("<text ").count(), picture.matches("</text>").count());
        }
    }

    #[test]
    fn joined_intervals_keep_the_mean_rate_and_the_greatest_latency() {
        let series = sample(1200).series;
        let thin = thinned(&series);
        assert_eq!(thin.len(), 600);
        assert_eq!(thin[0].read_iops, f64::midpoint(series[0].read_iops, series[1].read_iops));
        assert_eq!((thin[0].p99, thin[0].end), (series[1].p99, series[1].end));
    }

    #[test]
    fn axes_hold_all_values() {
        for greatest in [0.0, 0.4, 1.0, 7.0, 99.0, 75_400.0, 3e9] {
            for (title, logarithmic) in [("requests", false), ("bytes a second", false), ("latency", true)] {
                let values = vec![greatest / 1000.0, greatest];
                let panel =
                    Panel { title, logarithmic, label: count, lines: vec![Line { name: "x", color: RED, values }] };
                let (low, high, marks) = axis(&panel);
                assert!(
                    high >= greatest && high > low && marks.len() >= 2 && marks.len() < 14,
                    "{title} {greatest}: {marks:?}"
                );
            }
        }
    }
}
