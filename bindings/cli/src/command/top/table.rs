//! An interval as lines of text, for a terminal of any width.

use cairn_service::backup::FillingVolume;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::interval::{Background, Interval, Line, Rates};
use crate::{
    size::Bytes,
    time::{iso_utc, span},
};

/// The line with the names of the columns.
pub(super) const HEAD: usize = 4;

/// The least that is shown of a name.
const LEAST_NAME: usize = 8;

/// Columns behind the name, the one that can best be missed last. The limits' names keep to the left.
const COLUMNS: [&str; 11] =
    ["R/S", "W/S", "READ", "WRITE", "MEAN", "P99", "BUSY", "WAIT", "HELD BY", "ALLOCATED", "SIZE"];
const HELD_BY: usize = 8;

/// Lines no wider than `width`, without ends.
pub(super) fn lines(interval: &Interval, width: usize) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{}  {}  {} volumes in {:.1} s",
            interval.pool.path,
            iso_utc(interval.time_ms),
            interval.volumes.len(),
            interval.seconds
        ),
        space(interval),
        background(&interval.background),
        String::new(),
    ];
    lines.extend(table(interval, width));
    lines.into_iter().map(|line| cut(&line, width)).collect()
}

fn space(interval: &Interval) -> String {
    let pool = &interval.pool;
    let percent = pool.used as f64 * 100.0 / pool.capacity.max(1) as f64;
    let mut text = format!(
        "space: {} of {} used, {percent:.1} %, {} free",
        Bytes(pool.used),
        Bytes(pool.capacity),
        Bytes(pool.free)
    );
    if let Some(cause) = &pool.read_only {
        text += &format!("; read-only: {cause}");
    }
    if pool.deleting > 0 || pool.releasing > 0 {
        text += &format!("; {} versions being deleted, {} to come back", pool.deleting, Bytes(pool.releasing));
    }
    text
}

fn background(work: &Background) -> String {
    let rates = &work.line.rates;
    let mut parts = Vec::new();
    if rates.io.iops > 0.0 {
        parts.push(format!("{} requests/s, {}/s", number(rates.io.iops), bytes(rates.io.bytes_per_second)));
    }
    if let Some((what, share, _)) = work.line.mostly_held() {
        parts.push(format!("held back by {what} {}", percent(share)));
    }
    if let Some(scrub) = &work.scrub {
        let part = scrub.done.saturating_mul(100) / scrub.total.max(1);
        parts.push(format!("scrub {} {part} %, {}/s", scrub.number, Bytes(scrub.rate)));
    }
    parts.extend(work.filling.iter().map(filling));
    format!("background: {}", if parts.is_empty() { "idle".to_owned() } else { parts.join("; ") })
}

fn filling(filling: &FillingVolume) -> String {
    match &filling.error {
        Some(why) => format!("filling {} stopped: {why}", filling.volume),
        None => {
            let part = filling.progress.done.saturating_mul(100) / filling.progress.total.max(1);
            format!("filling {} {part} %", filling.volume)
        }
    }
}

fn table(interval: &Interval, width: usize) -> Vec<String> {
    let total = &interval.total;
    let mut rows = vec![
        ("VOLUME".to_owned(), COLUMNS.map(str::to_owned)),
        (
            "(all)".to_owned(),
            cells(&total.rates, [total.in_flight, total.waiting], String::new(), [total.allocated, total.size]),
        ),
    ];
    rows.extend(interval.volumes.iter().map(|line| {
        let counts = [line.in_flight, line.waiting];
        (line.name.clone(), cells(&line.rates, counts, held_by(line), [line.allocated, line.size]))
    }));
    let widest = |column: usize| rows.iter().map(|(_, cells)| cells[column].width()).max().unwrap_or(0);
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(widest);
    let others: usize = widths.iter().map(|width| width + 2).sum();
    let widest_name = rows.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    let name_width = widest_name.min(width.saturating_sub(others).max(LEAST_NAME));
    rows.iter().map(|(name, cells)| row(name, name_width, cells, &widths)).collect()
}

fn row(name: &str, name_width: usize, cells: &[String; COLUMNS.len()], widths: &[usize; COLUMNS.len()]) -> String {
    let name = cut(name, name_width);
    let mut line = format!("{name}{}", " ".repeat(name_width - name.width()));
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = " ".repeat(width - cell.width());
        line += &if column == HELD_BY { format!("  {cell}{gap}") } else { format!("  {gap}{cell}") };
    }
    line.trim_end().to_owned()
}

fn cells(rates: &Rates, counts: [u64; 2], held_by: String, space: [u64; 2]) -> [String; COLUMNS.len()] {
    let [in_flight, waiting] = counts.map(|count| count.to_string());
    let [allocated, size] = space.map(|bytes| Bytes(bytes).to_string());
    let took = |nanos: u64| if nanos == 0 { "-".to_owned() } else { span(nanos) };
    [
        number(rates.read.iops),
        number(rates.write.iops),
        bytes(rates.read.bytes_per_second),
        bytes(rates.write.bytes_per_second),
        took(rates.io.mean_ns),
        took(rates.io.p99_ns),
        in_flight,
        waiting,
        held_by,
        allocated,
        size,
    ]
}

fn held_by(line: &Line) -> String {
    match line.mostly_held() {
        None => "-".to_owned(),
        Some((what, share, 0)) => format!("{what} {}", percent(share)),
        Some((what, share, more)) => format!("{what} {} +{more}", percent(share)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A decimal where it says something.
fn number(value: f64) -> String {
    if value > 0.0 && value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn bytes(rate: f64) -> String {
    Bytes(rate as u64).to_string()
}

/// As much of a text as fits, with a sign where some is left out.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut left = width.saturating_sub(1);
    for letter in text.chars() {
        let wide = letter.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        kept.push(letter);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{super::interval::tests::busy, *};

    #[test]
    fn every_line_fits_whatever_the_width() {
        let mut interval = busy();
        interval.volumes[1].name = "日本語のとても長い名前のボリューム".repeat(5);
        for width in [0, 1, 2, 7, 20, 80, 120, 200] {
            for line in lines(&interval, width) {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        let wide = lines(&interval, usize::MAX);
        assert!(
            wide.last().unwrap().starts_with(&interval.volumes[1].name) && wide.last().unwrap().ends_with(" 1 MiB")
        );
        let ends: Vec<usize> = wide[HEAD..].iter().map(|line| line.width()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "columns line up by what is seen: {ends:?}");
    }

    #[test]
    fn a_line_says_what_a_volume_does() {
        let text = lines(&busy(), 200).join("\n");
        let words = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(words("VOLUME")[1..], COLUMNS);
        let db = [
            "db",
            "25",
            "0",
            "100 KiB",
            "0 B",
            "10 µs",
            "16 µs",
            "2",
            "1",
            "volume:total_iops_sec 75 % +1",
            "4 KiB",
            "1 MiB",
        ];
        assert_eq!(words("db"), db);
        assert_eq!(words("(all)")[..3], ["(all)", "125", "0"]);
        assert!(text.contains("space: 256 MiB of 1 GiB used, 25.0 %, 768 MiB free\n"), "{text}");
        assert!(text.contains("background: 5.0 requests/s, 20 KiB/s\n"), "{text}");
    }
}
