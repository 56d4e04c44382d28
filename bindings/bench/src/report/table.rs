//! The report as a table for people.

use std::fmt::Write as _;

use super::json::{Flow, Report};

/// Nanoseconds with three digits: `81.3 µs`.
fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 999.5 => (n, "ns"),
        n if n < 999_500.0 => (n / 1e3, "µs"),
        n if n < 999_500_000.0 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// Three digits, or all before the point.
fn digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Bytes with three digits and a binary unit: `4 KiB`, `1.25 GiB`.
#[must_use]
pub fn bytes(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 999.5 {
            let number = digits(value);
            let number =
                if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
            return format!("{number} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.0} PiB")
}

/// A rate: `75400`.
fn rate(rate: f64) -> String {
    if rate < 100.0 { digits(rate) } else { format!("{rate:.0}") }
}

/// What was asked for, in a line.
pub(crate) fn headline(report: &Report) -> String {
    let (target, pattern) = (&report.target, &report.pattern);
    let mut line = format!("{} {}: {} of {}", target.kind, target.name, pattern.rw, bytes(pattern.bs as f64));
    if !matches!(pattern.rwmix, 0 | 100) {
        let _infallible = write!(line, ", {} % reads", pattern.rwmix);
    }
    let _infallible = write!(line, ", depth {}", pattern.depth);
    if pattern.jobs > 1 {
        let _infallible = write!(line, " x {} jobs", pattern.jobs);
    }
    if let Some(every) = pattern.fsync {
        let _infallible = write!(line, ", flush after {every}");
    }
    if pattern.dist != "uniform" {
        let _infallible = write!(line, ", {}", pattern.dist);
    }
    if let Some(iops) = pattern.iops {
        let _infallible = write!(line, ", {}/s when due", rate(iops));
    }
    let _infallible = write!(line, ", working set {}", bytes(pattern.size as f64));
    line
}

const HEADER: [&str; 11] = ["", "IOPS", "BANDWIDTH", "REQUESTS", "MEAN", "P50", "P90", "P99", "P99.9", "P99.99", "MAX"];

fn row(name: &str, flow: &Flow) -> Option<[String; 11]> {
    let latency = flow.latency?;
    let [p50, p90, p99, p99_9, p99_99, max] =
        [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.p99_99, latency.max]
            .map(|nanos| time(nanos as f64));
    let bandwidth = if flow.bytes > 0 { format!("{}/s", bytes(flow.bandwidth)) } else { "-".to_owned() };
    let [name, iops, requests, mean] =
        [name.to_owned(), rate(flow.iops), flow.requests.to_string(), time(latency.mean)];
    Some([name, iops, bandwidth, requests, mean, p50, p90, p99, p99_9, p99_99, max])
}

/// The report as lines for a terminal: what was measured, a row for each kind of request, and what has to be known to read them.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(row("read", &report.read));
    rows.extend(row("write", &report.write));
    if report.read.requests > 0 && report.write.requests > 0 {
        rows.extend(row("total", &report.total));
    }
    rows.extend(row("flush", &report.flush));
    let mut text = headline(report);
    for row in &rows {
        text.push('\n');
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width =
                rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
            let _infallible = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
    }
    for note in notes(report) {
        let _infallible = write!(text, "\n{note}");
    }
    text
}

/// What qualifies the numbers.
fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(pass) = report.passes.iter().find(|pass| pass.name == "measure") {
        let each = if pass.requests > 0 { pass.cpu_seconds / pass.requests as f64 * 1e9 } else { 0.0 };
        let process = if matches!(report.target.kind.as_str(), "volume" | "scratch") {
            "engine and generator"
        } else {
            "generator"
        };
        notes.push(format!("{:.1} s; processor time of {process}: {} a request", report.seconds, time(each)));
    }
    if report.stopped {
        notes.push("ended early: interrupted".to_owned());
    }
    if report.unsent > 0 {
        notes.push(format!(
            "{} requests were due and not begun when time was up: the target does not keep the rate, or depth is too low for it",
            report.unsent
        ));
    }
    if report.target.sparse && report.read.requests > 0 {
        notes.push(
            "the file has holes, and reads of those reach no device: write it first (--fill --destroy)".to_owned(),
        );
    }
    let filled = report.passes.iter().any(|pass| pass.name == "fill");
    if report.target.empty && !filled && report.read.requests > 0 {
        notes.push(
            "the volume held nothing before, and reads of holes reach no device: write it first (--fill)".to_owned(),
        );
    }
    if let Some(verify) = &report.verify {
        let unknown = match verify.unknown {
            0 => String::new(),
            unknown => format!("; {} read that no verified run wrote", bytes(unknown as f64)),
        };
        notes.push(format!("verified {}, {} failures{unknown}", bytes(verify.checked as f64), verify.failures));
        notes.extend(verify.told.iter().map(|told| format!("  {told}")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::{Verified, tests::sample};

    #[test]
    fn numbers_have_three_digits() {
        for (nanos, text) in
            [(5.0, "5.00 ns"), (999.4, "999 ns"), (999.6, "1.00 µs"), (81_300.0, "81.3 µs"), (2.5e9, "2.50 s")]
        {
            assert_eq!(time(nanos), text);
        }
        for (value, text) in
            [(512.0, "512 B"), (4096.0, "4 KiB"), (1_342_177_280.0, "1.25 GiB"), (1_048_576.0, "1 MiB")]
        {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn rows_line_up_and_say_what_was_asked() {
        let text = table(&sample(3));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "file /a<b>&c: randrw of 4 KiB, 67 % reads, depth 32, working set 1 GiB");
        assert_eq!(lines[2].split_whitespace().take(2).collect::<Vec<_>>(), ["read", "1000"]);
        assert!(lines[3].starts_with("write") && lines[4].starts_with("total") && lines[5].contains("a request"));
        let end = lines[1].chars().count();
        assert!(lines[2..5].iter().all(|line| line.chars().count() == end), "{text}");
    }

    #[test]
    fn what_qualifies_the_numbers_is_told() {
        let mut report = sample(1);
        report.unsent = 7;
        report.target.sparse = true;
        report.stopped = true;
        let told = vec!["offset 0: expected write 1 of this run, found nothing wrong".to_owned()];
        report.verify = Some(Verified { checked: 4096, unknown: 512, failures: 1, told });
        let text = table(&report);
        for part in
            ["7 requests were due", "holes", "interrupted", "verified 4 KiB, 1 failures; 512 B read", "offset 0"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
