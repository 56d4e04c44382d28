//! Stored runs of the comparisons: every value, the machine, and the command that makes such a run.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use cairn_engine::{GIB, MIB};
use serde::{Deserialize, Serialize};

use crate::{machine::Machine, median::median, row::Row};

/// The schema that this writes.
const SCHEMA: u32 = 1;

/// What a comparison measures, and what it sets against what.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Names of the targets, in the order in which rows give their values.
    pub targets: &'static [&'static str],
    /// The ratios: of which target to which other one.
    pub ratios: &'static [(&'static str, &'static str)],
}

/// How long and how much was measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Working set in GiB.
    pub gib: u64,
    /// Rounds.
    pub rounds: u32,
    /// Seconds for each row and target in a round.
    pub seconds: u32,
}

/// A stored run. Fields are added, and not changed, while `schema` is 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Version of these fields.
    pub schema: u32,
    /// What makes such a run: the program, and what was asked of it.
    pub command: String,
    /// The day on which it was made, `2026-01-31`.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// Working set in GiB.
    pub gib: u64,
    /// Rounds.
    pub rounds: u32,
    /// Seconds for each row and target in a round.
    pub seconds: u32,
    /// What else has to be known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The targets, in the order of the table.
    pub targets: Vec<String>,
    /// The ratios of the table.
    pub ratios: Vec<Ratio>,
    /// The rows.
    pub rows: Vec<Values>,
}

/// Rates of one target by those of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratio {
    /// The target.
    pub of: String,
    /// What it is set against.
    pub to: String,
}

/// A row: of each target a value for each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// Its name.
    pub row: String,
    /// Bytes of a request.
    pub bytes: u64,
    /// By target. A write with its flush is one request.
    pub requests_per_second: BTreeMap<String, Vec<f64>>,
}

impl Stored {
    /// A run without rows, made here and now, on files in `directory`.
    #[must_use]
    pub fn new(program: &str, what: Comparison, extent: Extent, directory: &Path) -> Self {
        let Extent { gib, rounds, seconds } = extent;
        let ratio = |(of, to): &(&str, &str)| Ratio { of: (*of).to_owned(), to: (*to).to_owned() };
        Self {
            schema: SCHEMA,
            command: format!("{program} --rounds {rounds} --seconds {seconds} --gib {gib}"),
            date: time::OffsetDateTime::now_utc().date().to_string(),
            machine: Machine::here(directory),
            gib,
            rounds,
            seconds,
            note: None,
            targets: what.targets.iter().map(|name| (*name).to_owned()).collect(),
            ratios: what.ratios.iter().map(ratio).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a value to a row of a target; the row, too, if there is none yet.
    pub fn add(&mut self, row: &Row, target: &str, value: f64) {
        let known = self.rows.iter().position(|values| values.row == row.name);
        let at = known.unwrap_or_else(|| {
            let (row, bytes) = (row.name.to_owned(), row.block);
            self.rows.push(Values { row, bytes, requests_per_second: BTreeMap::new() });
            self.rows.len() - 1
        });
        if let Some(values) = self.rows.get_mut(at) {
            values.requests_per_second.entry(target.to_owned()).or_default().push(value);
        }
    }

    /// Reads a stored run.
    ///
    /// # Errors
    /// What is wrong with the file, by its name.
    pub fn read(path: &Path) -> Result<Self, String> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = fs::read_to_string(path).map_err(|e| named(&e))?;
        let run: Self = serde_json::from_str(&text).map_err(|e| format!("{}; is it a stored run?", named(&e)))?;
        if run.schema != SCHEMA {
            return Err(named(&format!("schema {} is not known here, only {SCHEMA}", run.schema)));
        }
        Ok(run)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The system's, by the file's name.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = serde_json::to_string_pretty(self).map_err(|e| named(&e))?;
        fs::write(path, text + "\n").map_err(|e| named(&e))
    }

    /// The program that made it: the first word of its command.
    #[must_use]
    pub fn program(&self) -> &str {
        self.command.split(' ').next().unwrap_or_default()
    }

    /// The table in Markdown: medians of the targets, and ratios of medians.
    #[must_use]
    pub fn table(&self) -> String {
        let names = self.targets.iter().cloned();
        let ratios = self.ratios.iter().map(|ratio| format!("{} : {}", ratio.of, ratio.to));
        let head: Vec<String> = names.chain(ratios).collect();
        let mut out = format!("| | {} |\n| --- |{}\n", head.join(" | "), " --- |".repeat(head.len()));
        for row in &self.rows {
            let medians = self.targets.iter().map(|target| row.median(target).map(|rate| row.show(rate)));
            let ratios = self.ratios.iter().map(|ratio| row.ratio(ratio).map(|ratio| format!("{ratio:.2}")));
            let cells: Vec<String> = medians.chain(ratios).map(|cell| cell.unwrap_or_else(|| "-".into())).collect();
            let _infallible = writeln!(out, "| {} | {} |", row.row, cells.join(" | "));
        }
        out
    }
}

impl Values {
    /// The middle value of a target; none if it was not measured.
    #[must_use]
    pub fn median(&self, target: &str) -> Option<f64> {
        let values = self.requests_per_second.get(target).filter(|values| !values.is_empty())?;
        Some(median(values)).filter(|rate| *rate > 0.0)
    }

    /// A ratio of medians; none if one of the targets was not measured.
    #[must_use]
    pub fn ratio(&self, ratio: &Ratio) -> Option<f64> {
        Some(self.median(&ratio.of)? / self.median(&ratio.to)?)
    }

    /// A rate for people: requests, or bytes if those are large.
    #[must_use]
    pub fn show(&self, per_second: f64) -> String {
        show(self.bytes, per_second)
    }
}

/// Requests a second of `bytes` each, for people: large ones in bytes.
#[must_use]
pub fn show(bytes: u64, per_second: f64) -> String {
    if bytes >= MIB {
        format!("{:.2} GiB/s", per_second * bytes as f64 / GIB as f64)
    } else {
        format!("{per_second:.0}/s")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::row::ROWS;

    const WHAT: Comparison = Comparison { targets: &["raw file", "Cairn"], ratios: &[("Cairn", "raw file")] };

    /// A run of three rows: faster, slower, and one that was not measured on one side.
    pub(crate) fn sample() -> Stored {
        let mut run = Stored::new("compare", WHAT, Extent { gib: 2, rounds: 3, seconds: 4 }, Path::new("/"));
        for (row, raw, own) in [(0, 100.0, 200.0), (1, 1024.0, 512.0)] {
            for round in [-1.0, 1.0, 0.0] {
                run.add(&ROWS[row], "raw file", raw + round);
                run.add(&ROWS[row], "Cairn", own + round);
            }
        }
        run.add(&ROWS[2], "raw file", 2048.0);
        run
    }

    #[test]
    fn tables_have_medians_and_ratios() {
        let table = sample().table();
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows[0], "| | raw file | Cairn | Cairn : raw file |");
        assert_eq!(rows[1], "| --- | --- | --- | --- |");
        assert_eq!(rows[2], "| 4K randwrite fresh QD32 | 100/s | 200/s | 2.00 |");
        assert_eq!(rows[3], "| 1M write QD8 | 1.00 GiB/s | 0.50 GiB/s | 0.50 |");
        assert_eq!(rows[4], "| 1M read QD8 | 2.00 GiB/s | - | - |");
        assert_eq!(rows.len(), 5);
    }

    #[test]
    fn runs_go_through_files_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        let run = sample();
        run.write(&path).unwrap();
        assert_eq!(Stored::read(&path).unwrap(), run);
        assert_eq!(run.program(), "compare");
        Stored { schema: 2, ..run }.write(&path).unwrap();
        assert!(Stored::read(&path).unwrap_err().contains("schema 2"));
        fs::write(&path, "{\"gib\": 2}").unwrap();
        let error = Stored::read(&path).unwrap_err();
        assert!(error.contains("run.json") && error.contains("stored run"), "{error}");
        assert!(Stored::read(&dir.path().join("none")).unwrap_err().contains("none"));
    }

    #[test]
    fn dead_targets_have_no_ratio() {
        let mut run = sample();
        run.rows[0].requests_per_second.insert("raw file".into(), vec![0.0]);
        assert_eq!(run.rows[0].ratio(&run.ratios[0]), None);
    }
}
