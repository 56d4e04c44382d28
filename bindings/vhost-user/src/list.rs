//! The list of exports, kept beside their sockets: what the next server is to serve again, for guests that go on running.
//!
//! A file of lines. The first says what it is and of which pool; each other one is an export, `volume ID NAME` or `snapshot ID NAME`, where
//! NAME is that of the socket, or `write-through ID` for a volume whose driver has switched its cache off, or `read-only ID` for one whose
//! export takes no writes. (Names hold no control characters.) It is replaced as a whole, so it is always an old one or a new one.
//!
//! It changes when an export is made or withdrawn or a driver chooses how to cache, and not when the server ends, whichever way.

use crate::source::Source;
use cairn_engine::{Error, ErrorKind, Result, Target, VersionId, VolumeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const FILE: &str = "exports";
const TITLE: &str = "cairn-vhost-user 1 ";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entries {
    exports: BTreeMap<String, Source>,
    /// Volumes whose drivers count on every write being durable when it is answered. Not of the exports: a guest that runs on may find its
    /// disk exported anew.
    write_through: BTreeSet<VolumeId>,
    /// Volumes whose exports take no writes: of the exports, and gone with them.
    read_only: BTreeSet<VolumeId>,
}

impl Entries {
    fn remove(&mut self, name: &str) {
        if let Some(Source::Volume(volume)) = self.exports.remove(name) {
            let _was = self.read_only.remove(&volume);
        }
    }
}

/// The exports of a pool in a directory.
#[derive(Debug)]
pub(crate) struct List {
    directory: PathBuf,
    /// The pool's identity.
    pool: String,
    /// What the file says. Locked for moments only, so that the reactor may look.
    entries: Mutex<Entries>,
    /// Held while the file changes.
    changing: Mutex<()>,
}

impl List {
    /// Reads the list of a directory; an empty one where there is none.
    pub(crate) fn open(directory: &Path, pool: String) -> Result<Self> {
        let path = directory.join(FILE);
        let entries = match fs::read_to_string(&path) {
            Ok(text) => parse(&text, &pool).map_err(|fault| {
                Error::new(ErrorKind::Invalid, format!("the list of exports {} {fault}", path.display()))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Entries::default(),
            Err(e) => return Err(Error::io(format!("list of exports {}", path.display()), e)),
        };
        let (entries, changing) = (Mutex::new(entries), Mutex::new(()));
        Ok(Self { directory: directory.to_owned(), pool, entries, changing })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Whole whatever happened to its last user: it is changed in one step.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn exports(&self) -> BTreeMap<String, Source> {
        self.lock().exports.clone()
    }

    pub(crate) fn source(&self, name: &str) -> Option<Source> {
        self.lock().exports.get(name).copied()
    }

    /// Whether the driver of a volume has switched its cache off.
    pub(crate) fn writes_through(&self, volume: VolumeId) -> bool {
        self.lock().write_through.contains(&volume)
    }

    /// Whether the export of a volume takes no writes.
    pub(crate) fn reads_only(&self, source: Source) -> bool {
        matches!(source, Source::Volume(volume) if self.lock().read_only.contains(&volume))
    }

    /// Adds an export, or changes what it serves. Waits for the file system, as do all changes.
    pub(crate) fn put(&self, name: &str, source: Source, read_only: bool) -> Result<()> {
        self.change(|entries| {
            entries.remove(name);
            let _none = entries.exports.insert(name.to_owned(), source);
            if let Source::Volume(volume) = source
                && read_only
            {
                let _new = entries.read_only.insert(volume);
            }
        })
    }

    /// Takes an export out, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.change(|entries| entries.remove(name))
    }

    /// Notes how the driver of a volume wants its writes.
    pub(crate) fn set_write_through(&self, volume: VolumeId, through: bool) -> Result<()> {
        self.change(|entries| {
            let set = &mut entries.write_through;
            let _changed = if through { set.insert(volume) } else { set.remove(&volume) };
        })
    }

    /// Forgets volumes that are not there any more.
    pub(crate) fn keep_volumes(&self, there: &BTreeSet<VolumeId>) -> Result<()> {
        self.change(|entries| entries.write_through.retain(|volume| there.contains(volume)))
    }

    fn change(&self, change: impl FnOnce(&mut Entries)) -> Result<()> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.lock().clone();
        change(&mut changed);
        if *self.lock() != changed {
            self.write(&changed)?;
            *self.lock() = changed;
        }
        Ok(())
    }

    fn write(&self, entries: &Entries) -> Result<()> {
        let mut text = format!("{TITLE}{}\n", self.pool);
        for (name, source) in &entries.exports {
            let (kind, id) = match source {
                Source::Volume(VolumeId(id)) => ("volume", id),
                Source::Snapshot(VersionId(id)) => ("snapshot", id),
            };
            text += &format!("{kind} {id} {name}\n");
        }
        for VolumeId(id) in &entries.write_through {
            text += &format!("write-through {id}\n");
        }
        for VolumeId(id) in &entries.read_only {
            text += &format!("read-only {id}\n");
        }
        let path = self.directory.join(FILE);
        let new = self.directory.join("exports.new");
        let replace = || {
            // Of a killed server, or a link that somebody left.
            match fs::remove_file(&new) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            // Whoever can write to it says which volumes are served; sockets may be open to more people than that.
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
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
    let mut entries = Entries::default();
    for (i, line) in lines.enumerate() {
        read(line, &mut entries)
            .ok_or_else(|| format!("makes no sense in line {}: move it away, and make the exports again", i + 2))?;
    }
    Ok(entries)
}

/// Reads a line. None when it makes no sense.
fn read(line: &str, entries: &mut Entries) -> Option<()> {
    let mut parts = line.splitn(3, ' ');
    let (kind, id, name) = (parts.next()?, parts.next()?.parse().ok()?, parts.next());
    let source = match (kind, name) {
        ("volume", Some(_)) => Source::Volume(VolumeId(id)),
        ("snapshot", Some(_)) => Source::Snapshot(VersionId(id)),
        ("write-through", None) => {
            let _new = entries.write_through.insert(VolumeId(id));
            return Some(());
        }
        ("read-only", None) => {
            let _new = entries.read_only.insert(VolumeId(id));
            return Some(());
        }
        _ => return None,
    };
    // A name becomes that of a file.
    let name = name.filter(|name| name.parse::<Target>().is_ok_and(|target| target.to_string() == *name))?;
    let _none = entries.exports.insert(name.to_owned(), source);
    Some(())
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
        assert!(list.exports().is_empty());
        let (one, two) = (Source::Volume(VolumeId(7)), Source::Snapshot(VersionId(u64::MAX)));
        list.put("a disk", one, false).unwrap();
        list.put("db@x y", two, false).unwrap();
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(open("aa").unwrap().exports(), [("a disk".into(), one), ("db@x y".into(), two)].into());
        list.put("a disk", Source::Volume(VolumeId(8)), false).unwrap();
        list.remove("db@x y").unwrap();
        list.remove("db@x y").unwrap();
        assert_eq!(list.source("db@x y"), None);
        assert_eq!(open("aa").unwrap().exports(), [("a disk".into(), Source::Volume(VolumeId(8)))].into());
        let error = open("bb").unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("another pool"), "{error}");
    }

    #[test]
    fn how_drivers_cache_is_kept_for_as_long_as_their_volumes() {
        let directory = tempfile::tempdir().unwrap();
        let open = || List::open(directory.path(), "aa".into()).unwrap();
        let list = open();
        for volume in [7, 8, 9].map(VolumeId) {
            list.set_write_through(volume, true).unwrap();
        }
        list.set_write_through(VolumeId(8), false).unwrap();
        list.put("db", Source::Volume(VolumeId(7)), false).unwrap();
        list.remove("db").unwrap();
        assert_eq!([7, 8, 9].map(|id| open().writes_through(VolumeId(id))), [true, false, true]);
        list.keep_volumes(&[VolumeId(9)].into()).unwrap();
        assert_eq!([7, 8, 9].map(|id| open().writes_through(VolumeId(id))), [false, false, true]);
    }

    #[test]
    fn what_takes_no_writes_is_kept_for_as_long_as_its_export() {
        let directory = tempfile::tempdir().unwrap();
        let open = || List::open(directory.path(), "aa".into()).unwrap();
        let list = open();
        let [one, two] = [7, 8].map(|id| Source::Volume(VolumeId(id)));
        list.put("one", one, true).unwrap();
        list.put("two", two, false).unwrap();
        assert_eq!([one, two].map(|source| open().reads_only(source)), [true, false]);
        list.put("one", two, true).unwrap();
        assert_eq!([one, two].map(|source| open().reads_only(source)), [false, true]);
        list.remove("one").unwrap();
        assert!(!open().reads_only(two));
    }

    #[test]
    fn a_list_that_cannot_be_written_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let list = List::open(directory.path(), "aa".into()).unwrap();
        list.put("db", Source::Volume(VolumeId(7)), false).unwrap();
        let new = directory.path().join("exports.new");
        fs::create_dir(&new).unwrap();
        assert_eq!(list.put("other", Source::Volume(VolumeId(8)), false).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(list.remove("db").unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(list.exports(), [("db".into(), Source::Volume(VolumeId(7)))].into());
        fs::remove_dir(&new).unwrap();
        list.put("other", Source::Volume(VolumeId(8)), false).unwrap();
    }

    #[test]
    fn it_is_not_written_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, directory.path().join("exports.new")).unwrap();
        let list = List::open(directory.path(), "aa".into()).unwrap();
        list.put("db", Source::Volume(VolumeId(7)), false).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        let kept = fs::symlink_metadata(directory.path().join(FILE)).unwrap();
        assert!(kept.is_file() && kept.permissions().mode() & 0o777 == 0o600);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let title = format!("{TITLE}aa\n");
        assert_eq!(parse(&title, "aa").unwrap(), Entries::default());
        for bad in [
            "",
            "volume",
            "volume 7",
            "volume x db",
            "volume 7 ../db",
            "volume 7 a/b",
            "disk 7 db",
            "volume -1 db",
            "write-through x",
            "write-through 7 db",
            "read-only 7 db",
        ] {
            assert!(parse(&format!("{title}{bad}\n"), "aa").is_err(), "{bad:?}");
        }
        for bad in ["", "volume 7 db\n", "cairn-vhost-user 2 aa\n"] {
            assert!(parse(bad, "aa").unwrap_err().contains("move it away"), "{bad:?}");
        }
    }
}
