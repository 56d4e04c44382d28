//! Records of the log: what happened to a repository.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::packs::Packs;

/// Where a backup came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The pool's identity.
    pub pool: String,
    /// The volume's name.
    pub volume: String,
    /// The volume's number within the pool: a name may go to another volume.
    pub volume_id: u64,
    /// The snapshot that was read.
    pub snapshot: String,
    /// Its number within the pool: what an incremental is made against.
    pub version: u64,
}

/// The root of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Name of the page, 64 hexadecimal digits; all zeros: nothing is stored.
    pub page: String,
    /// Pages from the root to the leaves, less one.
    pub height: u32,
}

/// What a backup cost. Bytes, but for the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Read from the volume: what had changed.
    pub read: u64,
    /// Of it, what the repository did not have, before compression.
    pub new: u64,
    /// Pages of the map that were written, before compression.
    pub pages: u64,
    /// Packs that were written.
    pub stored: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// One backup: one moment of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Number of the record that committed it: backups in order of it are in order of their commits.
    #[serde(default)]
    pub number: u64,
    /// The volume, and its snapshot.
    pub origin: Origin,
    /// When the snapshot was taken: what it holds is of that moment. Milliseconds since 1970.
    pub data_ms: u64,
    /// When the backup was finished.
    pub finished_ms: u64,
    /// Size of the volume in bytes.
    pub size: u64,
    /// The backup that it hangs on; a full one hangs on none.
    pub parent: Option<String>,
    /// Why it is full or incremental.
    pub reason: String,
    /// Its map. Names of pages are hashes of their content: equal roots mean equal volumes.
    pub root: Root,
    /// What it cost.
    pub statistics: Statistics,
    /// What its maker wants remembered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Backup {
    /// Whether it hangs on no other.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.parent.is_none()
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub(crate) enum Change {
    /// A session is about to write packs.
    Begin {
        /// Who, for people: host and program.
        client: String,
    },
    /// Packs that no backup needs yet are kept all the same: of a session that was interrupted.
    Add {
        /// Which.
        packs: Packs,
    },
    /// A backup is complete.
    Commit {
        /// It.
        backup: Box<Backup>,
        /// Packs that the session wrote.
        new: Packs,
        /// Other packs that it relies on and that its parent does not.
        uses: Packs,
    },
    /// Backups are gone.
    Delete {
        /// Which.
        backups: Vec<String>,
    },
    /// A backup in the middle of a chain is gone; those that hung on it hang on what it hung on.
    Merge {
        /// Which.
        backup: String,
    },
    /// An incremental backup is a full one from here on.
    Promote {
        /// Which.
        backup: String,
    },
    /// No backup of the state after record `seen` needs these packs.
    Condemn {
        /// Which.
        packs: Packs,
        /// Up to where the log was read.
        seen: u64,
    },
    /// Packs that hold what is still needed of others.
    Repack {
        /// Those written.
        new: Packs,
        /// Those that nothing needs any more, once this is read.
        old: Packs,
        /// Up to where the log was read.
        seen: u64,
    },
    /// Condemned packs, and such as nobody ever referred to, are about to be deleted, and can be used no more.
    Drop {
        /// Which.
        packs: Packs,
    },
    /// Chunks of a pack were found damaged.
    Damage {
        /// `<session>/<number>`.
        pack: String,
        /// Names of the chunks, 64 hexadecimal digits each.
        chunks: Vec<String>,
    },
    /// A session will write nothing more.
    End,
}

impl Change {
    /// Most packs that one record names: half a petabyte. Whoever reads a record looks at each of them.
    const MOST: u64 = 1 << 24;

    /// Whether the packs that it names can be: no few bytes keep a reader busy for hours.
    pub(crate) fn is_sound(&self) -> bool {
        let (some, more) = match self {
            Self::Add { packs } | Self::Condemn { packs, .. } | Self::Drop { packs } => (packs, None),
            Self::Commit { new, uses, .. } => (new, Some(uses)),
            Self::Repack { new, old, .. } => (new, Some(old)),
            _ => return true,
        };
        let sound = |packs: &Packs| packs.is_sound() && packs.len() <= Self::MOST;
        sound(some) && more.is_none_or(sound)
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its number, from 1 on.
    pub(crate) number: u64,
    /// Random: whose put it was that made it.
    pub(crate) nonce: String,
    /// BLAKE3 of the object of the record before; empty for the first.
    pub(crate) previous: String,
    /// When it was written by its writer's clock, in milliseconds since 1970. For people; nothing is decided by it.
    pub(crate) time_ms: u64,
    /// The session that it is of.
    pub(crate) session: String,
    /// What happened.
    #[serde(flatten)]
    pub(crate) change: Change,
}
