//! The list of exports, kept beside their sockets: what the next server is to serve again, for guests that go on running.
//!
//! A file of lines. The first says what it is and of which pool; each other one is an export: `volume ID NAME` or `snapshot ID NAME`, where
//! NAME is that of the socket. (Names hold no control characters.) It is replaced as a whole, so it is always an old one or a new one.
//!
//! It changes when an export is made or withdrawn, and not when the server ends, whichever way.

use crate::source::Source;
use cairn_engine::{Error, ErrorKind, Result, Target, VersionId, VolumeId};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const FILE: &str = "exports";
const TITLE: &str = "cairn-vhost-user 1 ";

type Entries = BTreeMap<String, Source>;

/// The exports of a pool in a directory.
#[derive(Debug)]
pub(crate) struct List {
    directory: PathBuf,
    /// The pool's identity.
    pool: String,
    entries: Mutex<Entries>,
}

impl List {
    /// Reads the list of a directory; an empty one where there is none.
    pub(crate) fn open(directory: &Path, pool: String) -> Result<Self> {
        let path = directory.join(FILE);
        let entries = match fs::read_to_string(&path) {
            Ok(text) => parse(&text, &pool).map_err(|fault| {
                Error::new(ErrorKind::Invalid, format!("the list of exports {} {fault}", path.display()))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Entries::new(),
            Err(e) => return Err(Error::io(format!("list of exports {}", path.display()), e)),
        };
        Ok(Self { directory: directory.to_owned(), pool, entries: Mutex::new(entries) })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Whole whatever happened to its last user: it is changed in one step.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn entries(&self) -> Entries {
        self.lock().clone()
    }

    /// Adds an export, or changes what it serves.
    pub(crate) fn put(&self, name: &str, source: Source) -> Result<()> {
        let mut entries = self.lock();
        if entries.get(name) == Some(&source) {
            return Ok(());
        }
        let mut changed = entries.clone();
        changed.insert(name.to_owned(), source);
        self.write(&changed)?;
        *entries = changed;
        Ok(())
    }

    /// Takes an export out; whether it was there.
    pub(crate) fn remove(&self, name: &str) -> Result<bool> {
        let mut entries = self.lock();
        let mut changed = entries.clone();
        if changed.remove(name).is_none() {
            return Ok(false);
        }
        self.write(&changed)?;
        *entries = changed;
        Ok(true)
    }

    fn write(&self, entries: &Entries) -> Result<()> {
        let mut text = format!("{TITLE}{}\n", self.pool);
        for (name, source) in entries {
            let (kind, id) = match source {
                Source::Volume(VolumeId(id)) => ("volume", id),
                Source::Snapshot(VersionId(id)) => ("snapshot", id),
            };
            text += &format!("{kind} {id} {name}\n");
        }
        let path = self.directory.join(FILE);
        let new = self.directory.join("exports.new");
        let replace = || {
            // Whoever can write to it says which volumes are served; sockets may be open to more people than that.
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        replace().map_err(|e| Error::io(format!("list of exports {}", path.display()), e))
    }
}

/// What is wrong with it, otherwise.
fn parse(text: &str, pool: &str) -> Result<Entries, String> {
    let mut lines = text.lines();
    match lines.next().and_then(|title| title.strip_prefix(TITLE)) {
        Some(of) if of == pool => {}
        Some(_) => return Err("is that of another pool: choose another directory, or remove the list".into()),
        None => return Err("is none, or of another version: move it away".into()),
    }
    let entry = |(i, line): (usize, &str)| {
        let mut parts = line.splitn(3, ' ');
        let (kind, id, name) = (parts.next(), parts.next().and_then(|id| id.parse().ok()), parts.next());
        let source = match (kind, id) {
            (Some("volume"), Some(id)) => Some(Source::Volume(VolumeId(id))),
            (Some("snapshot"), Some(id)) => Some(Source::Snapshot(VersionId(id))),
            _ => None,
        };
        // A name becomes that of a file.
        let name = name.filter(|name| name.parse::<Target>().is_ok_and(|target| target.to_string() == *name));
        let entry = name.map(str::to_owned).zip(source);
        entry.ok_or_else(|| format!("makes no sense in line {}: move it away, and make the exports again", i + 2))
    };
    lines.enumerate().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let open = |pool: &str| List::open(directory.path(), pool.into());
        let list = open("aa").unwrap();
        assert!(list.entries().is_empty());
        let (one, two) = (Source::Volume(VolumeId(7)), Source::Snapshot(VersionId(u64::MAX)));
        list.put("a disk", one).unwrap();
        list.put("db@x y", two).unwrap();
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(open("aa").unwrap().entries(), [("a disk".into(), one), ("db@x y".into(), two)].into());
        list.put("a disk", Source::Volume(VolumeId(8))).unwrap();
        assert!(list.remove("db@x y").unwrap() && !list.remove("db@x y").unwrap());
        assert_eq!(open("aa").unwrap().entries(), [("a disk".into(), Source::Volume(VolumeId(8)))].into());
        let error = open("bb").unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("another pool"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let title = format!("{TITLE}aa\n");
        assert!(parse(&title, "aa").unwrap().is_empty());
        for bad in
            ["", "volume", "volume 7", "volume x db", "volume 7 ../db", "volume 7 a/b", "disk 7 db", "volume -1 db"]
        {
            assert!(parse(&format!("{title}{bad}\n"), "aa").is_err(), "{bad:?}");
        }
        for bad in ["", "volume 7 db\n", "cairn-vhost-user 2 aa\n"] {
            assert!(parse(bad, "aa").unwrap_err().contains("move it away"), "{bad:?}");
        }
    }
}
