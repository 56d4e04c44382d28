//! Records for other places: a backup as text, and the way back into a repository that does not list it any more.
//!
//! The log is the only source of truth. When it is lost in part (restored from an older copy, or begun anew), the packs and the copies of
//! records under `manifests/` may still be there: an imported backup is listed again once everything that it needs was found and read.

use crate::{
    envelope,
    error::{Error, ErrorKind, Result, corrupt},
    job::Job,
    log::{
        packs::{PackName, Packs},
        record::{Backup, Change},
        state::Refusal,
    },
    mark::mark,
    pack::Kind,
    repository::Repository,
    session::Session,
};

const MANIFESTS: &str = "manifests";

impl Repository {
    /// A backup's record as text: what [`Repository::import`] takes. It holds no data and no keys.
    ///
    /// # Errors
    /// `NotFound`, `Store`.
    pub async fn record(&self, id: &str) -> Result<String> {
        let backup = self.backup(id).await?;
        let bytes = envelope::wrap("export", "", &(self.identity().uuid.clone(), &backup), &crate::crypt::Keys::none());
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lists a backup again whose record was exported, or kept under `manifests/`.
    ///
    /// # Errors
    /// `Exists`; `Invalid` for a record of another repository; `Corrupt` when the text is damaged, or something that the backup needs is not
    /// in the repository; `Store`.
    pub async fn import(&self, record: &str, job: &Job) -> Result<Backup> {
        let (uuid, backup): (String, Backup) =
            envelope::unwrap("export", "", "the record", record.as_bytes(), &crate::crypt::Keys::none())?;
        if uuid != self.identity().uuid {
            return Err(crate::error::invalid(format!(
                "the record is one of repository {uuid}, and {} is {}",
                self.url(),
                self.identity().uuid
            )));
        }
        self.list_again(backup, job).await
    }

    /// Lists all backups again of which `manifests/` has a copy and that are not listed. Answers those that are, and those that cannot be.
    ///
    /// # Errors
    /// `Store`.
    pub async fn import_all(&self, job: &Job) -> Result<(Vec<Backup>, Vec<(String, Error)>)> {
        let (mut again, mut failed) = (Vec::new(), Vec::new());
        let mut found = Vec::new();
        for object in self.store().list(MANIFESTS, None).await? {
            let Some(bytes) = self.store().get(&object.name).await? else { continue };
            let shown = self.store().shown(&object.name);
            match envelope::unwrap::<Backup>("manifest", &object.name, &shown, &bytes, self.keys()) {
                Ok(backup) => found.push(backup),
                Err(error) => failed.push((object.name, error)),
            }
        }
        // Those that others hang on first.
        found.sort_by_key(|backup| backup.number);
        let listed = self.state().await?;
        for backup in found.into_iter().filter(|backup| !listed.backups.contains_key(&backup.id)) {
            let id = backup.id.clone();
            match self.list_again(backup, job).await {
                Ok(backup) => again.push(backup),
                Err(error) => failed.push((id, error)),
            }
        }
        Ok((again, failed))
    }

    async fn list_again(&self, backup: Backup, job: &Job) -> Result<Backup> {
        if self.state().await?.backups.contains_key(&backup.id) {
            return Err(Error::new(ErrorKind::Exists, format!("backup {} is listed already", backup.id)));
        }
        let session = Session::begin(self, job).await?;
        let outcome = self.list_again_in(&session, backup, job).await;
        session.end(false).await?;
        outcome
    }

    async fn list_again_in(&self, session: &Session, mut backup: Backup, job: &Job) -> Result<Backup> {
        self.add_unknown_packs(session).await?;
        let chunks = self.chunks(job).await?;
        let _marks = self.begin_marking().await?;
        let state = chunks.state();
        let others: Vec<&str> = state.sessions.keys().map(String::as_str).filter(|id| *id != session.id()).collect();
        let cannot = || match others[..] {
            [] => format!("backup {} cannot be listed again", backup.id),
            _ => format!(
                "backup {} cannot be listed again; what it needs may be of a session that has not ended ({}): if its program is gone, end \
                 it (`gc --end-session`) and import again",
                backup.id,
                others.join(", ")
            ),
        };
        if let Some(page) = mark(&chunks, self.index(), [&backup], job).await?.into_iter().next() {
            return Err(page.error.within(cannot()));
        }
        let mut uses = Packs::default();
        for kind in [Kind::Data, Kind::Page] {
            self.index().for_marked(kind, |id| match chunks.copies(&id)?.first() {
                Some(copy) => {
                    uses.insert(&copy.pack);
                    Ok(())
                }
                None => Err(corrupt(format!("it needs chunk {id}, which is in no pack")).within(cannot())),
            })?;
        }
        let gone = chunks.state().backups.keys().all(|id| Some(id) != backup.parent.as_ref());
        if gone {
            backup.parent = None;
        }
        let change = Change::Commit { backup: Box::new(backup.clone()), new: Packs::default(), uses };
        let number = session.write(change).await?.map_err(|refusal: Refusal| self.explain(&refusal))?;
        Ok(Backup { number, ..backup })
    }

    /// Packs that are in the store and in no record are kept for as long as somebody needs them.
    async fn add_unknown_packs(&self, session: &Session) -> Result<()> {
        let listed = self.store().list("packs", None).await?;
        let state = self.state().await?;
        let mut packs = Packs::default();
        for pack in listed.iter().filter_map(|object| PackName::of_object(&object.name)) {
            let known = state.packs.contains(&pack) || state.dropped.contains(&pack);
            let whole = !known
                && !state.sessions.contains_key(&pack.session)
                && crate::chunks::footer(self.store(), self.keys(), &pack).await.is_ok();
            if whole {
                packs.insert(&pack);
            }
        }
        if packs.is_empty() {
            return Ok(());
        }
        session.write(Change::Add { packs }).await?.map(drop).map_err(|refusal| self.explain(&refusal))
    }
}
