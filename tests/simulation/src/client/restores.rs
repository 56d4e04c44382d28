//! What a client does with volumes that are filled from a backup while it uses them. They keep their own kind of name, whatever becomes of them.

use super::*;

/// Whether a volume was restored, or is a clone of one.
pub(super) fn is_restored(volume: &str) -> bool {
    volume.contains("-r")
}

/// The kind of name that goes on from this one.
pub(super) fn kind_of(volume: &str) -> &'static str {
    if is_restored(volume) { "r" } else { "v" }
}

/// A volume as it is, with nothing brought on behalf of who looks at it.
pub(super) struct AsItIs {
    open: LocalVolume,
    /// Whose backup belongs where there is nothing.
    backup: Option<usize>,
}

impl AsItIs {
    pub(super) async fn read(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        match self.backup {
            Some(family) => restore::read(&self.open, family, first, count).await,
            None => Ok(self.open.read(first * SECTOR, (count * SECTOR) as usize).await?.to_vec()),
        }
    }
}

impl Client {
    pub(super) fn open_as_it_is(&self, volume: &str) -> AsItIs {
        match self.pool().open_to_fill(volume) {
            Ok(open) => AsItIs { open, backup: Some(self.number) },
            Err(_) => AsItIs { open: self.open(volume, None), backup: None },
        }
    }

    /// Whether any of its volumes may be filling, or still be open to a restore that has ended: what takes all of one may have to wait.
    pub(super) fn has_restored(&self) -> bool {
        self.history.borrow().volume_names().iter().any(|volume| is_restored(volume))
    }

    /// What a volume lacks could not be brought: there is no room, or the pool takes no writes.
    pub(super) fn is_unfilled(&self, volume: &str, error: &Error) -> bool {
        is_restored(volume) && (self.is_full(error) || error.kind() == ErrorKind::ReadOnly && self.stopped())
    }

    /// Starts the restore of a volume that is filling, at some pace or other: as soon as it can, slowly, or hardly ever.
    pub(super) fn start_restore(&self, volume: &str) {
        if restore::is_filling(self.pool(), volume) {
            let pause = [50, 3_000, 1_000_000][self.below(3) as usize];
            restore::start(self.pool(), volume, Duration::from_micros(pause));
        }
    }

    pub(super) fn stop_restore(&self, volume: &str) {
        if restore::is_filling(self.pool(), volume) {
            let stopped = self.pool().set_filler(volume, None);
            assert!(stopped.is_ok(), "{volume}: {stopped:?}");
        }
    }

    /// A restore takes the place of another, which has not ended.
    pub(super) fn restore_again(&self) -> Go {
        let volume = self.pick();
        self.start_restore(&volume);
        Go::On
    }
}
