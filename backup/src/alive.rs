//! Which sessions live: each has a file on its machine that it keeps locked, and those that nobody locks are taken over.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    chunks,
    error::{Error, ErrorKind, Result},
    log::{
        packs::{PackName, Packs},
        record::Change,
    },
    repository::Repository,
};

/// A session of this process: others see that it lives. Dropped without having ended, it is taken over by whoever comes next.
pub(crate) struct Alive {
    repository: Repository,
    id: String,
    _locked: File,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _was_live = self.repository.live().remove(&self.id);
    }
}

impl Repository {
    fn sessions(&self) -> PathBuf {
        self.cache().join("sessions")
    }

    /// Lets others of this machine see that a session's program runs.
    pub(crate) fn announce(&self, id: &str) -> Result<Alive> {
        let path = self.sessions().join(id);
        let made = fs::create_dir_all(self.sessions()).and_then(|()| locked_file(&path));
        let locked = made.map_err(|e| Error::new(ErrorKind::Store, format!("cannot write {}: {e}", path.display())))?;
        let _new = self.live().insert(id.to_owned());
        Ok(Alive { repository: self.clone(), id: id.to_owned(), _locked: locked })
    }

    pub(crate) fn forget_session(&self, id: &str) {
        // One that stays is found again, and its session has ended.
        drop(fs::remove_file(self.sessions().join(id)));
    }

    /// Ends the sessions of this machine whose programs are gone, and keeps the packs that they left: whoever runs the same backup again
    /// finds their chunks there.
    pub(crate) async fn take_over_dead_sessions(&self, own: &str) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.sessions()) else { return Ok(()) };
        for entry in entries.flatten() {
            let Ok(id) = entry.file_name().into_string() else { continue };
            if self.live().contains(&id) {
                continue;
            }
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock().is_err() || !is_there(&entry.path(), &file) {
                continue;
            }
            self.take_over(&id, own).await?;
            drop(fs::remove_file(entry.path()));
        }
        Ok(())
    }

    async fn take_over(&self, id: &str, own: &str) -> Result<()> {
        if self.try_write(id, Change::End).await?.is_err() {
            // It has ended, or never began.
            return Ok(());
        }
        let listed = self.store().list(&format!("packs/{id}"), None).await?;
        let state = self.state().await?;
        let mut packs = Packs::default();
        for pack in listed.iter().filter_map(|object| PackName::of_object(&object.name)) {
            let unknown = !state.packs.contains(&pack) && !state.dropped.contains(&pack);
            // One that is not whole is left to the garbage collection.
            if unknown && chunks::footer(self.store(), self.keys(), &pack).await.is_ok() {
                packs.insert(&pack);
            }
        }
        if !packs.is_empty() {
            let _refused = self.try_write(own, Change::Add { packs }).await?;
        }
        Ok(())
    }
}

/// A new file that is locked. Whoever comes between the two takes it for one that nobody holds, and deletes it.
fn locked_file(path: &Path) -> io::Result<File> {
    loop {
        let file = File::create(path)?;
        file.lock()?;
        if is_there(path, &file) {
            return Ok(file);
        }
    }
}

/// Whether a path leads to a file that is open.
fn is_there(path: &Path, file: &File) -> bool {
    let (Ok(there), Ok(open)) = (fs::metadata(path), file.metadata()) else { return false };
    (there.dev(), there.ino()) == (open.dev(), open.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_session_that_is_being_announced_is_not_taken_for_dead() {
        let dir = tempfile::tempdir().unwrap();
        let over = AtomicBool::new(false);
        let take_over = || {
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir(dir.path()).unwrap().flatten() {
                    let Ok(file) = File::open(entry.path()) else { continue };
                    if file.try_lock().is_ok() && is_there(&entry.path(), &file) {
                        drop(fs::remove_file(entry.path()));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let _others = [scope.spawn(take_over), scope.spawn(take_over)];
            let lost: Vec<u32> = (0..2000)
                .filter(|number| {
                    let path = dir.path().join(number.to_string());
                    let file = locked_file(&path).unwrap();
                    let is_lost = !is_there(&path, &file);
                    drop(fs::remove_file(&path));
                    is_lost
                })
                .collect();
            over.store(true, Ordering::Relaxed);
            assert_eq!(lost, Vec::<u32>::new());
        });
    }
}
