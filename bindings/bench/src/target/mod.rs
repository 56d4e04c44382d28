//! What is measured: how it is named, opened and reached.

pub(crate) mod file;
pub(crate) mod nbd;
pub(crate) mod vhost;
pub(crate) mod volume;

use std::{fmt, path::PathBuf, str::FromStr};

use cairn_engine::{Error, ErrorKind, Pool, Result};

use crate::{
    bench::{Bench, invalid},
    target::{
        file::Disk,
        nbd::{Remote, uri::NbdUri},
        vhost::Socket,
        volume::Inside,
    },
};

/// What is measured.
pub enum Target {
    /// A file or a block device, by io_uring and direct I/O. A file that is not there is made when the pattern writes.
    File(PathBuf),
    /// A volume, or a snapshot for reading, of a pool that is open in this process.
    Volume {
        /// The pool.
        pool: Pool,
        /// `volume` or `volume@snapshot`.
        name: String,
    },
    /// A volume of a new pool in a directory, which is removed at the end.
    Scratch {
        /// Where the pool is made.
        directory: PathBuf,
    },
    /// An NBD export.
    Nbd(NbdUri),
    /// A vhost-user-blk socket.
    VhostUser(PathBuf),
}

/// Targets that a text can name: all but volumes, which need an open pool.
impl FromStr for Target {
    type Err = Error;

    /// `nbd://…`, `nbd+unix://…`, `vhost-user:/path`, `file:path`, or a path with a slash.
    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with("nbd") && text.contains("://") {
            return text.parse().map(Self::Nbd);
        }
        let path = |path: &str| {
            if path.is_empty() { Err(invalid(format!("{text:?}: the path is empty"))) } else { Ok(PathBuf::from(path)) }
        };
        match text.split_once(':') {
            Some(("vhost-user", rest)) => path(rest).map(Self::VhostUser),
            Some(("file", rest)) => path(rest).map(Self::File),
            _ if text.contains('/') => path(text).map(Self::File),
            _ => Err(invalid(format!(
                "{text:?} names no target: write a path (./FILE, /dev/…), an NBD URL, or vhost-user:/PATH"
            ))),
        }
    }
}

/// What a target holds that a write would destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Nothing,
    Something(&'static str),
    /// The target does not tell.
    Unknown,
}

/// What is known of a target once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// What offsets and lengths must be multiples of, in bytes.
    pub(crate) granularity: u64,
    pub(crate) read_only: bool,
    /// Whether it takes flushes.
    pub(crate) flushes: bool,
    /// Made for this run.
    pub(crate) made: bool,
    pub(crate) holds: Holds,
    /// A file with holes.
    pub(crate) sparse: bool,
    /// Longest request in bytes.
    pub(crate) max_request: u64,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An open target.
pub(crate) enum Site {
    Disk(Disk),
    Inside(Inside),
    Remote(Remote),
    Socket(Socket),
}

impl Site {
    pub(crate) fn open(target: Target, bench: &Bench) -> Result<(Self, Subject)> {
        Ok(match target {
            Target::File(path) => Disk::open(&path, bench).map(|(disk, subject)| (Self::Disk(disk), subject))?,
            Target::Volume { pool, name } => {
                Inside::open(pool, name).map(|(inside, subject)| (Self::Inside(inside), subject))?
            }
            Target::Scratch { directory } => {
                Inside::scratch(&directory, bench).map(|(inside, subject)| (Self::Inside(inside), subject))?
            }
            Target::Nbd(uri) => Remote::open(uri).map(|(remote, subject)| (Self::Remote(remote), subject))?,
            Target::VhostUser(path) => Socket::open(&path).map(|(socket, subject)| (Self::Socket(socket), subject))?,
        })
    }

    /// Lets go of the target; what was made for this run only is removed.
    pub(crate) fn close(self) -> Result<()> {
        match self {
            Self::Inside(inside) => inside.close(),
            _ => Ok(()),
        }
    }
}

impl Subject {
    /// Refuses to write where that would destroy what nobody has given up.
    pub(crate) fn consent(&self, bench: &Bench) -> Result<()> {
        if !bench.writes() {
            return Ok(());
        }
        if self.read_only {
            let text = format!("{self} is read-only: measure read or randread, without --fill");
            return Err(Error::new(ErrorKind::ReadOnly, text));
        }
        let what = match self.holds {
            _ if bench.destroy || self.made => return Ok(()),
            Holds::Nothing => return Ok(()),
            Holds::Something(what) => format!("{self} holds {what}, which"),
            Holds::Unknown => format!("{self} may hold data, which"),
        };
        Err(invalid(format!(
            "{what} the writes of this pattern would overwrite: give --destroy if that may be lost, or measure read or randread"
        )))
    }

    /// Bytes of the working set, in whole requests.
    pub(crate) fn working_set(&self, bench: &Bench) -> Result<u64> {
        let behind = self.size.checked_sub(bench.offset).filter(|behind| *behind > 0);
        let behind = behind.ok_or_else(|| {
            invalid(format!("offset {} lies behind the end of {self}, which has {} bytes", bench.offset, self.size))
        })?;
        let size = bench.size.unwrap_or(behind);
        let rules = [
            (bench.flush_every.is_some() && !self.flushes, format!("{self} takes no flush: leave fsync out")),
            (
                size > behind,
                format!("size {size} is more than the {behind} bytes of {self} behind the offset: lower size"),
            ),
            (
                !bench.block.is_multiple_of(self.granularity) || !bench.offset.is_multiple_of(self.granularity),
                format!(
                    "{self} takes requests in units of {} bytes: make bs and offset multiples of that",
                    self.granularity
                ),
            ),
            (
                bench.block > self.max_request,
                format!("bs is more than the {} bytes that {self} takes in a request: lower bs", self.max_request),
            ),
            (
                size / bench.block < u64::from(bench.jobs),
                format!(
                    "size {size} has fewer places of {} bytes than there are jobs: raise size, or lower bs or jobs",
                    bench.block
                ),
            ),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, text)) => Err(invalid(text)),
            None => Ok(size / bench.block * bench.block),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            kind: "file",
            name: "/x".into(),
            size: 1 << 20,
            granularity: 4096,
            read_only: false,
            flushes: true,
            made: false,
            holds: Holds::Unknown,
            sparse: false,
            max_request: 1 << 20,
        }
    }

    #[test]
    fn targets_are_told_apart() {
        for (text, kind) in [
            ("nbd://h/x", "nbd"),
            ("nbd+unix:///x?socket=/s", "nbd"),
            ("vhost-user:/s", "vhost"),
            ("file:raw", "file"),
            ("./raw", "file"),
            ("/dev/vdb", "file"),
        ] {
            let found = match text.parse().unwrap() {
                Target::File(_) => "file",
                Target::Nbd(_) => "nbd",
                Target::VhostUser(_) => "vhost",
                Target::Volume { .. } | Target::Scratch { .. } => "volume",
            };
            assert_eq!(found, kind, "{text}");
        }
        for text in ["", "db", "db@x", "file:", "vhost-user:", "nbds://h/x"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_overwritten_without_consent() {
        let write = Bench::named("randwrite").unwrap();
        let agreed = Bench { destroy: true, ..write.clone() };
        let read = Bench::named("randread").unwrap();
        let filling = Bench { fill: true, ..read.clone() };
        for holds in [Holds::Unknown, Holds::Something("data")] {
            let subject = Subject { holds, ..subject() };
            for bench in [&write, &filling] {
                let error = subject.consent(bench).unwrap_err();
                assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("--destroy"), "{error}");
            }
            subject.consent(&agreed).unwrap();
            subject.consent(&read).unwrap();
        }
        Subject { holds: Holds::Nothing, ..subject() }.consent(&write).unwrap();
        Subject { made: true, ..subject() }.consent(&write).unwrap();
        let read_only = Subject { read_only: true, ..subject() };
        assert_eq!(read_only.consent(&agreed).unwrap_err().kind(), ErrorKind::ReadOnly);
        read_only.consent(&read).unwrap();
    }

    #[test]
    fn working_sets_fit() {
        let bench = Bench::named("randread").unwrap();
        let subject = subject();
        assert_eq!(subject.working_set(&bench).unwrap(), 1 << 20);
        assert_eq!(subject.working_set(&Bench { offset: 8192, ..bench.clone() }).unwrap(), (1 << 20) - 8192);
        assert_eq!(subject.working_set(&Bench { size: Some(10_000), ..bench.clone() }).unwrap(), 8192);
        let cases = [
            ("offset", Bench { offset: 1 << 20, ..bench.clone() }),
            ("size", Bench { size: Some(1 << 21), ..bench.clone() }),
            ("units of 4096", Bench { block: 512, ..bench.clone() }),
            ("lower bs", Bench { block: 1 << 21, size: Some(1 << 20), ..bench.clone() }),
            ("units of 4096", Bench { offset: 512, ..bench.clone() }),
            ("jobs", Bench { jobs: 3, size: Some(8192), ..bench.clone() }),
        ];
        let dumb = Subject { flushes: false, ..subject.clone() };
        let flushing = Bench { flush_every: Some(1), ..Bench::named("write").unwrap() };
        assert!(dumb.working_set(&flushing).unwrap_err().to_string().contains("fsync"));
        for (key, bench) in cases {
            let error = subject.working_set(&bench).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
