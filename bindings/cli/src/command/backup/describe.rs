//! Backups as people read them.

use cairn_backup::Backup;
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    output::{Fields, Side, Table},
    size::Bytes,
    time::iso_utc,
};

/// Digits of an id that tell one from another.
const SHORT: usize = 12;

fn id(backup: &Backup) -> &str {
    backup.id.get(..SHORT).unwrap_or(&backup.id)
}

fn kind(backup: &Backup) -> &'static str {
    if backup.is_full() { "full" } else { "incremental" }
}

pub(super) fn short(backup: &Backup) -> String {
    format!("{} of {}, {}, {}", id(backup), backup.origin.volume, kind(backup), iso_utc(backup.data_ms))
}

pub(super) fn table(backups: &[Backup]) -> Table {
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("VOLUME", Side::Left),
        ("KIND", Side::Left),
        ("TAKEN", Side::Left),
        ("SIZE", Side::Right),
        ("READ", Side::Right),
        ("STORED", Side::Right),
        ("PARENT", Side::Left),
    ]);
    for backup in backups {
        let parent = backup.parent.as_deref().map_or("-", |parent| parent.get(..SHORT).unwrap_or(parent));
        table.row([
            id(backup).to_owned(),
            backup.origin.volume.clone(),
            kind(backup).to_owned(),
            iso_utc(backup.data_ms),
            Bytes(backup.size).to_string(),
            Bytes(backup.statistics.read).to_string(),
            Bytes(backup.statistics.stored).to_string(),
            parent.to_owned(),
        ]);
    }
    table
}

/// Chains as trees, by volume.
pub(super) fn tree(backups: &[Backup]) -> String {
    let there: BTreeSet<&str> = backups.iter().map(|backup| backup.id.as_str()).collect();
    let mut below: BTreeMap<&str, Vec<&Backup>> = BTreeMap::new();
    let mut volumes: BTreeMap<(&str, &str, u64), Vec<&Backup>> = BTreeMap::new();
    for backup in backups {
        match backup.parent.as_deref().filter(|parent| there.contains(parent)) {
            Some(parent) => below.entry(parent).or_default().push(backup),
            None => {
                let of = &backup.origin;
                volumes.entry((&of.volume, &of.pool, of.volume_id)).or_default().push(backup);
            }
        }
    }
    let mut lines = Vec::new();
    for ((volume, pool, _), roots) in volumes {
        lines.push(format!("{volume} (pool {})", pool.get(..8).unwrap_or(pool)));
        draw(&roots, &below, &mut lines);
    }
    if lines.is_empty() { "no backups".to_owned() } else { lines.join("\n") }
}

/// A line of a tree: the backup, what stands before its branch, and the branch.
type Line<'a> = (&'a Backup, String, &'static str);

/// In reverse, for a stack.
fn siblings<'a>(backups: &[&'a Backup], indent: &str) -> Vec<Line<'a>> {
    let mark = |i: usize| if i + 1 == backups.len() { "└─ " } else { "├─ " };
    backups.iter().enumerate().rev().map(|(i, backup)| (*backup, indent.to_owned(), mark(i))).collect()
}

/// Chains are long and branch seldom: where one does not branch, it goes straight down. Not by recursion: they may be as deep as long.
fn draw(roots: &[&Backup], below: &BTreeMap<&str, Vec<&Backup>>, lines: &mut Vec<String>) {
    let mut stack = siblings(roots, "");
    while let Some((backup, indent, mark)) = stack.pop() {
        let stored = Bytes(backup.statistics.stored);
        lines.push(format!("{indent}{mark}{}  {}  {}, {stored}", id(backup), iso_utc(backup.data_ms), kind(backup)));
        let indent = match mark {
            "├─ " => indent + "│  ",
            "└─ " => indent + "   ",
            _ => indent,
        };
        match below.get(backup.id.as_str()).map_or(&[][..], Vec::as_slice) {
            [child] if !backup.is_full() => stack.push((child, indent, "")),
            children => stack.extend(siblings(children, &indent)),
        }
    }
}

pub(super) fn one(backup: &Backup) -> Fields {
    let of = &backup.origin;
    let statistics = &backup.statistics;
    let mut fields = Fields::new();
    fields
        .add("id", &backup.id)
        .add("volume", format!("{} (number {} of pool {})", of.volume, of.volume_id, of.pool))
        .add("kind", format!("{}: {}", kind(backup), backup.reason))
        .add_some("parent", backup.parent.as_ref())
        .add("taken", format!("{} (snapshot {})", iso_utc(backup.data_ms), of.snapshot))
        .add("finished", format!("{} after {} ms", iso_utc(backup.finished_ms), statistics.millis))
        .add("size", format!("{} ({} bytes)", Bytes(backup.size), backup.size))
        .add("read", Bytes(statistics.read))
        .add("new", format!("{} of data, {} of map", Bytes(statistics.new), Bytes(statistics.pages)))
        .add("stored", Bytes(statistics.stored))
        .add("map", format!("{} at height {}", backup.root.page, backup.root.height));
    for (name, value) in &backup.labels {
        fields.add("label", format!("{name}={value}"));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_backup::{Origin, Root, Statistics};

    fn backup(id: &str, parent: Option<&str>) -> Backup {
        Backup {
            id: id.to_owned(),
            number: 1,
            origin: Origin {
                pool: "0123456789".into(),
                volume: "db".into(),
                volume_id: 1,
                snapshot: "s".into(),
                version: 2,
            },
            data_ms: 0,
            finished_ms: 0,
            size: 1 << 30,
            parent: parent.map(str::to_owned),
            reason: "it was asked for".into(),
            root: Root { page: "00".into(), height: 0 },
            statistics: Statistics::default(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_chain_goes_straight_down_and_branches_to_the_right() {
        let all = [
            backup("a", None),
            backup("b", Some("a")),
            backup("c", Some("b")),
            backup("d", Some("b")),
            backup("e", Some("c")),
            backup("f", None),
            backup("g", Some("e")),
        ];
        let rest = "1970-01-01T00:00:00Z";
        let expected = [
            "db (pool 01234567)".to_owned(),
            format!("├─ a  {rest}  full, 0 B"),
            format!("│  └─ b  {rest}  incremental, 0 B"),
            format!("│     ├─ c  {rest}  incremental, 0 B"),
            format!("│     │  e  {rest}  incremental, 0 B"),
            format!("│     │  g  {rest}  incremental, 0 B"),
            format!("│     └─ d  {rest}  incremental, 0 B"),
            format!("└─ f  {rest}  full, 0 B"),
        ];
        let text = tree(&all);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            expected.iter().map(String::as_str).collect::<Vec<_>>(),
            "\n{text}"
        );
        assert_eq!(tree(&[]), "no backups");
    }
}
