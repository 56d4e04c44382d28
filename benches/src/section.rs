//! The section of a document that tells a stored run: written from the file, and from nothing else.
//!
//! It stands between two lines, of which the first names the program and the file:
//!
//! ```text
//! <!-- performance of compare: benches/results/latest.json -->
//! <!-- end of performance -->
//! ```

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::stored::{Ratio, Stored};

const BEGIN: &str = "<!-- performance of ";
const BEGIN_ENDS: &str = " -->";
const END: &str = "<!-- end of performance -->";
/// Ratios within these are level: what differs less differs from run to run.
const LEVEL: (f64, f64) = (0.95, 1.05);

/// What a program is to do with stored runs.
#[derive(clap::Args, Clone, Debug)]
pub struct Files {
    /// Write all values, the machine and the command to this file as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Measure nothing: tell a stored run
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Write it into this document, between the lines that are there for it
    #[arg(long, value_name = "DOCUMENT", requires = "from")]
    pub readme: Option<PathBuf>,
}

impl Files {
    /// Tells a stored run, if that is what is asked for; whether it is.
    ///
    /// # Errors
    /// What is wrong with the run or the document, by their names.
    pub fn told(&self, program: &str) -> Result<bool, String> {
        let Some(from) = &self.from else { return Ok(false) };
        let run = Stored::read(from)?;
        if run.program() != program {
            return Err(format!("{}: a run of {}, not of {program}: use that", from.display(), run.program()));
        }
        match &self.readme {
            None => print!("{}", body(&run)),
            Some(readme) => write(readme, from, &run)?,
        }
        Ok(true)
    }
}

fn write(readme: &Path, from: &Path, run: &Stored) -> Result<(), String> {
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", readme.display());
    let absolute = |path: &Path| path.canonicalize().map_err(|e| format!("{}: {e}", path.display()));
    let document = absolute(readme)?;
    let beside = document.parent().unwrap_or(Path::new("/"));
    let file = absolute(from)?;
    let file = file.strip_prefix(beside).map_err(|_| {
        format!("{} must lie under {}, so that the document can name it", from.display(), beside.display())
    })?;
    let text = fs::read_to_string(&document).map_err(|e| named(&e))?;
    let text = replaced(&text, &file.to_string_lossy(), run).map_err(|e| named(&e))?;
    fs::write(&document, text).map_err(|e| named(&e))
}

/// The document with the section of the run's program written anew, from `file`.
///
/// # Errors
/// The document has no such section, or one without an end.
pub fn replaced(document: &str, file: &str, run: &Stored) -> Result<String, String> {
    let name = format!("{BEGIN}{}: ", run.program());
    let missing =
        || format!("no section for this run: put two lines where it is to stand, {name}{file}{BEGIN_ENDS} and {END}");
    let begin = document.find(&name).ok_or_else(missing)?;
    let (before, rest) = document.split_at(begin);
    let end = rest.find(END).ok_or_else(|| format!("the section for this run has no end: put the line {END} there"))?;
    Ok(format!("{before}{name}{file}{BEGIN_ENDS}\n\n{}\n{}", body(run), &rest[end..]))
}

/// The section of a stored run, in Markdown.
#[must_use]
pub fn body(run: &Stored) -> String {
    let mut out = format!("Measured on {}: {}.\n", run.date, run.machine);
    let rounds = if run.rounds == 1 { "one round".to_owned() } else { format!("medians of {} rounds", run.rounds) };
    let _infallible = writeln!(
        out,
        "`{}`: {rounds}, in each of which all targets take turns, {} s for each row; a working set of {} GiB. The load and the servers share \
         the processors. Machines are noisy: compare ratios, not rates.",
        run.command, run.seconds, run.gib
    );
    if let Some(note) = &run.note {
        let _infallible = writeln!(out, "{note}");
    }
    let _infallible = writeln!(out, "\n{}", run.table());
    for ratio in &run.ratios {
        out.push_str(&sentences(run, ratio));
    }
    out
}

/// What is faster, level and slower, each as plainly as the others.
fn sentences(run: &Stored, ratio: &Ratio) -> String {
    let Ratio { of, to } = ratio;
    let mut all: Vec<(f64, &str)> =
        run.rows.iter().filter_map(|row| Some((row.ratio(ratio)?, row.row.as_str()))).collect();
    all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let list = |belongs: &dyn Fn(f64) -> bool| {
        let rows = all.iter().filter(|(ratio, _)| belongs(*ratio));
        let rows: Vec<String> = rows.map(|(ratio, row)| format!("{row} ({ratio:.2})")).collect();
        if rows.is_empty() { "nothing".to_owned() } else { rows.join(", ") }
    };
    let faster = list(&|ratio| ratio > LEVEL.1);
    let level = list(&|ratio| (LEVEL.0..=LEVEL.1).contains(&ratio));
    let slower = list(&|ratio| ratio < LEVEL.0);
    let missing: Vec<&str> =
        run.rows.iter().filter(|row| row.ratio(ratio).is_none()).map(|row| row.row.as_str()).collect();
    let mut out = format!(
        "- **{of} is slower than {to}** at: {slower}.\n- **{of} is faster than {to}** at: {faster}.\n- Level within {:.0} %: {level}.\n",
        (LEVEL.1 - 1.0) * 100.0
    );
    if !missing.is_empty() {
        let _infallible = writeln!(out, "- Not measured on both: {}.", missing.join(", "));
    }
    out
}

/// Sections of a document: the program and the file of each.
#[must_use]
pub fn sections(document: &str) -> Vec<(&str, &str)> {
    let begins = document.lines().filter_map(|line| line.strip_prefix(BEGIN)?.strip_suffix(BEGIN_ENDS));
    begins.filter_map(|rest| rest.split_once(": ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::sample;

    #[test]
    fn documents_tell_what_their_stored_runs_hold() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let document = fs::read_to_string(root.join("README.md")).unwrap();
        let sections = sections(&document);
        assert!(sections.iter().any(|(program, _)| *program == "compare"), "{sections:?}");
        for (program, file) in sections {
            let run = Stored::read(&root.join(file)).unwrap();
            assert_eq!(run.program(), program, "{file}");
            let again = replaced(&document, file, &run).unwrap();
            assert!(
                again == document,
                "README.md is not what {file} holds: {program} --from {file} --readme README.md"
            );
        }
    }

    #[test]
    fn a_section_is_replaced_and_all_else_stays() {
        let run = sample();
        let before = "a\n<!-- performance of other: x.json -->\nkeep\n<!-- end of performance -->\n\
                      <!-- performance of compare: old.json -->\nold\n<!-- end of performance -->\nb\n";
        let after = replaced(before, "new.json", &run).unwrap();
        assert!(after.starts_with("a\n<!-- performance of other: x.json -->\nkeep\n<!-- end of performance -->\n"));
        assert!(after.ends_with("\n<!-- end of performance -->\nb\n") && !after.contains("old"), "{after}");
        assert_eq!(sections(&after), [("other", "x.json"), ("compare", "new.json")]);
        assert_eq!(replaced(&after, "new.json", &run).unwrap(), after, "twice is once");
        let error = replaced("nothing", "new.json", &run).unwrap_err();
        assert!(error.contains("<!-- performance of compare: new.json -->"), "{error}");
        assert!(replaced("<!-- performance of compare: x -->", "x", &run).unwrap_err().contains("no end"));
    }

    #[test]
    fn slower_is_told_as_plainly_as_faster() {
        let text = body(&sample());
        for line in [
            "- **Cairn is slower than raw file** at: 1M write QD8 (0.50).",
            "- **Cairn is faster than raw file** at: 4K randwrite fresh QD32 (2.00).",
            "- Level within 5 %: nothing.",
            "- Not measured on both: 1M read QD8.",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("medians of 3 rounds") && text.contains("| 1M write QD8 |"));
    }

    #[test]
    fn what_is_level_is_neither() {
        let mut run = sample();
        for (value, sentence) in [
            (104.0, "Level within 5 %: 4K"),
            (94.9, "slower than raw file** at: 4K"),
            (105.1, "faster than raw file** at: 4K"),
        ] {
            run.rows.truncate(1);
            run.rows[0].requests_per_second = [("raw file".into(), vec![100.0]), ("Cairn".into(), vec![value])].into();
            assert!(body(&run).contains(sentence), "{value}");
        }
    }

    #[test]
    fn files_are_named_as_seen_from_the_document() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("runs")).unwrap();
        let (readme, from) = (dir.path().join("README.md"), dir.path().join("runs/a.json"));
        sample().write(&from).unwrap();
        fs::write(&readme, "<!-- performance of compare: ? -->\n<!-- end of performance -->\n").unwrap();
        let files = Files { json: None, from: Some(from), readme: Some(readme.clone()) };
        assert!(files.told("compare-vhost-user").unwrap_err().contains("a run of compare,"));
        assert!(files.told("compare").unwrap());
        assert_eq!(sections(&fs::read_to_string(&readme).unwrap()), [("compare", "runs/a.json")]);
        let elsewhere = tempfile::tempdir().unwrap().path().join("a.json");
        let files = Files { from: Some(elsewhere), ..files };
        assert!(files.told("compare").is_err());
        assert!(!Files { json: None, from: None, readme: None }.told("compare").unwrap());
    }
}
