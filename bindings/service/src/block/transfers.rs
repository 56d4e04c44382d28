//! Transfers: a volume goes from one project to another. Whoever has its key may take it, once.

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::{PasswordHash, SaltString, rand_core::OsRng},
};

use super::{
    Block, Caller, checked_name,
    types::usable_type,
    views::{busy, owned},
    volumes::illegal,
};
use crate::{
    catalog::{Snapshot, Transfer, Volume, now_us},
    domain::{Claim, Move, VolumeMove, new_id},
    fault::{Answer, Fault},
};

/// Characters of a key.
const KEY_LENGTH: usize = 16;

impl Block {
    /// Offers a volume. Answers the transfer, and its key, which is shown this once.
    pub(crate) fn create_transfer(
        &self,
        caller: &Caller,
        volume: &str,
        name: Option<String>,
        no_snapshots: bool,
    ) -> Answer<(Transfer, String)> {
        let name = checked_name(name)?;
        let key: String = new_id().chars().filter(|c| *c != '-').take(KEY_LENGTH).collect();
        let salt = SaltString::generate(&mut OsRng);
        let hash = Argon2::default()
            .hash_password(key.as_bytes(), &salt)
            .map_err(|e| Fault::internal(format!("the key of the transfer cannot be hashed: {e}")))?;
        let transfer = self.inner.catalog.write(|tx| {
            let mut found: Volume = owned(tx, caller, volume)?;
            if busy::<Volume>(tx, volume)? {
                return Err(Fault::conflict(format!("volume {volume} has an operation under way")));
            }
            let transfer = Transfer {
                id: new_id(),
                project: found.project.clone(),
                volume_id: volume.to_owned(),
                name,
                no_snapshots,
                salt: salt.to_string(),
                key_hash: hash.to_string(),
                created_us: now_us(),
            };
            found.status = VolumeMove::OfferTransfer.apply(found.status).map_err(|e| illegal(&found, e))?;
            tx.put(&found)?;
            tx.put(&transfer)?;
            Ok(transfer)
        })?;
        Ok((transfer, key))
    }

    /// Takes an offer back.
    pub(crate) fn delete_transfer(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.inner.catalog.write(|tx| {
            let transfer: Transfer = owned(tx, caller, id)?;
            if let Some(mut volume) = tx.get::<Volume>(&transfer.volume_id)? {
                volume.status = VolumeMove::EndTransfer.apply(volume.status).unwrap_or(volume.status);
                tx.put(&volume)?;
            }
            tx.remove::<Transfer>(id)
        })
    }

    /// Takes an offer up: the volume belongs to the caller's project, with what it holds of its quota.
    pub(crate) fn accept_transfer(&self, caller: &Caller, id: &str, key: &str) -> Answer<Transfer> {
        // Any project that knows the id may try. The wrong key is refused before the catalog's writer is held up.
        let transfer: Transfer = self.inner.catalog.read().require(id)?;
        let hash = PasswordHash::new(&transfer.key_hash)
            .map_err(|e| Fault::internal(format!("the key of transfer {id} cannot be checked: {e}")))?;
        if Argon2::default().verify_password(key.as_bytes(), &hash).is_err() {
            return Err(Fault::bad(format!("Invalid auth key: Attempt to transfer {id} with invalid auth key.")));
        }
        self.inner.catalog.write(|tx| {
            let transfer: Transfer = tx.require(id)?;
            let mut volume: Volume = tx.require(&transfer.volume_id)?;
            let _kind = usable_type(tx, caller, Some(&volume.type_id), None)?;
            volume.status = VolumeMove::EndTransfer.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            let mut claim = Claim::volume(&volume.type_id, volume.size);
            let snapshots = tx.found::<Snapshot>(&Snapshot::of_volume(&volume.id))?;
            if !transfer.no_snapshots {
                for snapshot in &snapshots {
                    claim = claim.plus(&Claim::snapshot(&snapshot.type_id, snapshot.size));
                }
            }
            tx.check_volume_size(&caller.project, volume.size)?;
            tx.hand_over(&volume.project, &caller.project, &claim)?;
            for mut snapshot in snapshots.into_iter().filter(|_| !transfer.no_snapshots) {
                caller.project.clone_into(&mut snapshot.project);
                caller.user.clone_into(&mut snapshot.user);
                tx.put(&snapshot)?;
            }
            caller.project.clone_into(&mut volume.project);
            caller.user.clone_into(&mut volume.user);
            volume.updated_us = Some(now_us());
            tx.put(&volume)?;
            tx.remove::<Transfer>(id)?;
            Ok(transfer)
        })
    }
}
