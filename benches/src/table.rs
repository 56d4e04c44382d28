//! Medians, ratios, and the table.

use crate::row::Row;

/// The middle value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Rates of one row: raw file, in-process, over NBD, qcow2 over NBD; one value a round.
#[derive(Default, Clone)]
pub struct Rates {
    /// Each target's values.
    pub targets: [Vec<f64>; 4],
}

/// Names of the targets, in the order of [`Rates::targets`].
pub const TARGETS: [&str; 4] = ["raw file", "cairn in-process", "cairn NBD", "qcow2 NBD"];

/// The table in Markdown.
#[must_use]
pub fn markdown(rows: &[(Row, Rates)]) -> String {
    let mut out = String::from(
        "| | raw file | Cairn in-process | ratio to raw | Cairn over NBD | qcow2 over NBD | ratio to qcow2 |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (row, rates) in rows {
        let [raw, inside, nbd, qcow2] = std::array::from_fn(|i| median(&rates.targets[i]));
        let ratio = |a: f64, b: f64| if b > 0.0 { format!("{:.2}", a / b) } else { "-".to_owned() };
        let cells = [raw, inside, nbd, qcow2].map(|v| if v > 0.0 { row.show(v) } else { "-".to_owned() });
        let [a, b, c, d] = &cells;
        let line =
            format!("| {} | {a} | {b} | {} | {c} | {d} | {} |\n", row.name, ratio(inside, raw), ratio(nbd, qcow2));
        out.push_str(&line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
