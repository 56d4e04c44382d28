//! The report as a picture: requests and bytes a second and latencies over time.
//!
//! Where there are more intervals than points across, neighbours become one: rates their mean, latencies their greatest.

use super::{
    chart::{Area, BLUE, GREEN, GREY, Line, ORANGE, Panel, Picture, RED, Scale, bytes, count, time},
    json::{Moment, Report},
    table::headline,
};

const WIDTH: f64 = 960.0;
const PANEL: f64 = 200.0;
const GAP: f64 = 52.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 64.0;
/// Most points of a line.
const POINTS: usize = 600;

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
    let mut picture = Picture::new(WIDTH, TOP + (PANEL + GAP) * panels.len() as f64);
    picture.text(LEFT, 24.0, 15, &headline(report));
    let total = format!(
        "{:.0} requests/s, {}/s over {:.1} s",
        report.total.iops,
        bytes(report.total.bandwidth),
        report.seconds
    );
    picture.text(LEFT, 44.0, 12, &total);
    for (number, panel) in panels.iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + GAP);
        picture.panel(panel, &times, Area { left: LEFT, top, width: WIDTH - RIGHT - LEFT, height: PANEL });
    }
    picture.end()
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
        Panel { title: "requests a second", scale: Scale::Decimal, label: count, lines: rates },
        Panel { title: "bytes a second", scale: Scale::Binary, label: bytes, lines: bandwidths },
        Panel { title: "latency of reads and writes", scale: Scale::Logarithmic, label: time, lines: latencies },
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
}
