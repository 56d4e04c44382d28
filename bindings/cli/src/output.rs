//! What the command says: text for people or JSON for programs, and never both.
//!
//! Results go to standard output, failures and warnings to standard error. A reader that went away (`| head`) is no failure.

use cairn_engine::Error;
use cairn_service::{Failure, api::ErrorAnswer};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    process::ExitCode,
};

use crate::exit;

/// Where results go, and in which form.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Tells a result: `value` to programs, `text` to people.
    pub(crate) fn result(&self, value: &impl Serialize, text: impl fmt::Display) -> Result<(), Failure> {
        if !self.json {
            return self.raw(&format!("{text}\n"));
        }
        let json = serde_json::to_string(value).map_err(|error| Error::io("cannot form JSON", error.into()))?;
        self.raw(&format!("{json}\n"))
    }

    /// Writes `text` as it is.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        self.stream(text).map(drop)
    }

    /// The same, for what has no end of its own: says whether anybody still reads.
    pub(crate) fn stream(&self, text: &str) -> Result<bool, Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Error::io("standard output", error).into()),
        }
    }

    /// Says something that the user should know, though the command goes on.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        let line = if self.json {
            serde_json::json!({ "warning": text.to_string() }).to_string()
        } else {
            format!("cairn: warning: {text}")
        };
        complain(&line);
    }

    /// Reports a failure and gives the exit code that goes with it.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        let line = if self.json {
            serde_json::to_string(&ErrorAnswer { error: failure.body() }).unwrap_or_else(|_| failure.to_string())
        } else {
            format!("cairn: {failure}")
        };
        complain(&line);
        exit::code(failure.kind)
    }
}

/// Nothing can be said about a standard error that takes nothing.
fn complain(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A table for people: columns as wide as their widest cell, two spaces between.
pub(crate) struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Side)]) -> Self {
        let header = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { sides: columns.iter().map(|(_, side)| *side).collect(), rows: vec![header] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..self.sides.len()).map(|column| width(column).unwrap_or(0)).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, width), side) in row.iter().zip(&widths).zip(&self.sides) {
                match side {
                    Side::Left => write!(line, "{cell:<width$}  ")?,
                    Side::Right => write!(line, "{cell:>width$}  ")?,
                }
            }
            let end = if number + 1 < self.rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Lines of a name and a value.
pub(crate) struct Fields(Vec<(&'static str, String)>);

impl Fields {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, name: &'static str, value: impl fmt::Display) -> &mut Self {
        self.0.push((name, value.to_string()));
        self
    }

    pub(crate) fn add_some(&mut self, name: &'static str, value: Option<impl fmt::Display>) -> &mut Self {
        match value {
            Some(value) => self.add(name, value),
            None => self,
        }
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (number, (name, value)) in self.0.iter().enumerate() {
            let end = if number + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{name:<width$}  {value}{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Side::Left), ("SIZE", Side::Right)]);
        table.row(["database".into(), "1 GiB".into()]);
        table.row(["é".into(), "512 MiB".into()]);
        assert_eq!(table.to_string(), "NAME         SIZE\ndatabase    1 GiB\né         512 MiB");
    }

    #[test]
    fn fields_line_up() {
        let mut fields = Fields::new();
        fields.add("name", "db").add_some("parent", None::<String>).add("allocated", 1);
        assert_eq!(fields.to_string(), "name       db\nallocated  1");
    }
}
