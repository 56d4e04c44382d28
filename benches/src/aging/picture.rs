//! A stored run as a picture: a row for each level, with rate, latency, space and memory over time.

use cairn_bench::chart::{Area, BLUE, GREY, Line, ORANGE, Panel, Picture, RED, Scale, bytes, count, time};

use super::{Level, Run, Sample};

const WIDTH: f64 = 1640.0;
/// Of a panel, and from one to the next.
const PANEL: (f64, f64) = (280.0, 170.0);
const STEP: (f64, f64) = (390.0, 260.0);
const LEFT: f64 = 84.0;
const TOP: f64 = 130.0;
/// Most points of a line.
const POINTS: usize = 280;

/// The run as SVG.
#[must_use]
pub fn svg(run: &Run) -> String {
    let mut picture = Picture::new(WIDTH, TOP - 50.0 + STEP.1 * run.levels.len() as f64);
    picture.text(LEFT, 26.0, 15, &format!("4 KiB random overwrites, {}", run.command));
    picture.text(LEFT, 46.0, 12, &format!("{}, {}", run.date, run.machine));
    for (number, level) in run.levels.iter().enumerate() {
        let top = TOP + number as f64 * STEP.1;
        picture.text(LEFT, top - 34.0, 13, &heading(level));
        let samples = thinned(&level.samples);
        let times: Vec<f64> = samples.iter().map(|sample| sample.end).collect();
        for (number, panel) in panels(level, &samples).iter().enumerate() {
            let left = LEFT + number as f64 * STEP.0;
            picture.panel(panel, &times, Area { left, top, width: PANEL.0, height: PANEL.1 });
        }
    }
    picture.end()
}

fn heading(level: &Level) -> String {
    let verdict = level.verdict.map_or("too short for a verdict".to_owned(), |verdict| verdict.to_string());
    format!("filled to {} %: {verdict}", level.percent)
}

fn panels(level: &Level, samples: &[Sample]) -> [Panel; 4] {
    let line =
        |name, color, value: &dyn Fn(&Sample) -> f64| Line { name, color, values: samples.iter().map(value).collect() };
    let percent = |of: u64| of as f64 / level.capacity.max(1) as f64 * 100.0;
    let panel = |title, scale, label, lines| Panel { title, scale, label, lines };
    [
        panel("writes a second", Scale::Decimal, count, vec![line("", BLUE, &|s| s.iops)]),
        panel("p99 of writes", Scale::Logarithmic, time, vec![line("", ORANGE, &|s| s.p99 as f64)]),
        panel(
            "% of the pool",
            Scale::Decimal,
            count,
            vec![line("taken", GREY, &|s| percent(s.taken)), line("used", RED, &|s| percent(s.used))],
        ),
        panel("resident memory, bytes", Scale::Binary, bytes, vec![line("", BLUE, &|s| s.memory as f64)]),
    ]
}

/// Neighbours joined, so that there are not more than points across: rates by their mean, all else by its greatest.
fn thinned(samples: &[Sample]) -> Vec<Sample> {
    let group = samples.len().div_ceil(POINTS).max(1);
    let joined = |samples: &[Sample]| {
        let greatest = |value: fn(&Sample) -> u64| samples.iter().map(value).max().unwrap_or(0);
        Sample {
            end: samples.last().map_or(0.0, |sample| sample.end),
            iops: samples.iter().map(|sample| sample.iops).sum::<f64>() / samples.len().max(1) as f64,
            p99: greatest(|s| s.p99),
            used: greatest(|s| s.used),
            taken: greatest(|s| s.taken),
            memory: greatest(|s| s.memory),
        }
    };
    samples.chunks(group).map(joined).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aging::{Plan, verdict::Verdict},
        machine::Machine,
    };

    fn run(seconds: u32) -> Run {
        let sample = |second: u32| Sample {
            end: f64::from(second) + 1.0,
            iops: 70_000.0,
            p99: 900_000 + u64::from(second),
            used: 8 << 30,
            taken: 9 << 30,
            memory: 300 << 20,
        };
        let samples: Vec<Sample> = (0..seconds).map(sample).collect();
        let level = |percent| Level {
            percent,
            capacity: 16 << 30,
            volume: 1 << 30,
            filled: 8 << 30,
            seconds: seconds.into(),
            requests: 70_000 * u64::from(seconds),
            longest: 5_000_000,
            verdict: Verdict::of(&samples, 60.0),
            samples: samples.clone(),
            turns: Vec::new(),
        };
        let plan = Plan { pool: 16 << 30, overwrite: 10.0, depth: 32, snapshot_every: 60.0, kept: 10, window: 60.0 };
        let command = "over-time --gib 16".to_owned();
        let machine = Machine::here(std::path::Path::new("/"));
        Run { schema: 1, command, date: "2026-01-01".into(), machine, plan, levels: [30, 60, 90].map(level).to_vec() }
    }

    #[test]
    fn a_row_for_each_level_and_a_line_for_each_quantity() {
        for seconds in [0, 1, 200, 50_000] {
            let picture = svg(&run(seconds));
            assert_eq!(picture.matches("<path ").count(), if seconds == 0 { 0 } else { 3 * 5 }, "{seconds}");
            for percent in [30, 60, 90] {
                assert!(picture.contains(&format!("filled to {percent} %")));
            }
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{seconds}");
            assert!(picture.len() < 120_000 && picture.ends_with("</svg>\n"), "{}", picture.len());
        }
        assert!(svg(&run(10)).contains("too short") && svg(&run(200)).contains("holds"));
    }

    #[test]
    fn runs_go_through_json() {
        let run = run(200);
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
    }
}
