//! The keys of an encrypted repository: objects under `keys/`, each with the master key under one passphrase or key.

use bytes::Bytes;

use crate::{
    crypt::{self, Keys, Secret, Wrap},
    envelope,
    error::{Error, ErrorKind, Result, invalid},
    repository::{Identity, Repository, new_id},
    store::Store,
};

const KEYS: &str = "keys";

/// The keys of a repository.
pub(crate) struct Keyring<'a> {
    identity: &'a Identity,
    /// With their objects' names.
    wraps: Vec<(String, Wrap)>,
    /// Why the first that cannot be read cannot.
    damaged: Option<Error>,
}

impl<'a> Keyring<'a> {
    /// Those that lead to the repository's master key: what the making of a repository left behind that was cut off does not.
    pub(crate) async fn read(store: &Store, identity: &'a Identity) -> Result<Self> {
        let mut keyring = Self { identity, wraps: Vec::new(), damaged: None };
        for object in store.list(KEYS, None).await? {
            let Some(bytes) = store.get(&object.name).await? else { continue };
            match envelope::unwrap::<Wrap>("key", &object.name, &store.shown(&object.name), &bytes, &Keys::none()) {
                Ok(wrap) if wrap.master.is_none() || identity.master.is_none() || wrap.master == identity.master => {
                    keyring.wraps.push((object.name, wrap));
                }
                Ok(_) => {}
                Err(error) => keyring.damaged = keyring.damaged.or(Some(error)),
            }
        }
        Ok(keyring)
    }

    fn labels(&self) -> impl Iterator<Item = &str> {
        self.wraps.iter().map(|(_, wrap)| wrap.label.as_str())
    }

    /// The master key. One damaged key does not keep the others from opening.
    pub(crate) fn master(&self, secret: Option<&Secret>) -> Result<[u8; 32]> {
        let wraps: Vec<Wrap> = self.wraps.iter().map(|(_, wrap)| wrap.clone()).collect();
        crypt::master(&wraps, secret, self.identity.master.as_deref()).map_err(|error| match (&self.damaged, secret) {
            (Some(damaged), Some(_)) => damaged.clone().within("no other key fits"),
            _ => error,
        })
    }
}

pub(crate) async fn put_key(store: &Store, wrap: &Wrap) -> Result<()> {
    let name = format!("{KEYS}/{}", new_id());
    let bytes = Bytes::from(envelope::wrap("key", &name, wrap, &Keys::none()));
    // Nobody else has this name: it is ours also after an answer that was lost.
    store.put_new(&name, bytes).await.map(drop)
}

impl Repository {
    /// Names of the keys that open it.
    ///
    /// # Errors
    /// `Store`.
    pub async fn key_labels(&self) -> Result<Vec<String>> {
        Ok(Keyring::read(self.store(), self.identity()).await?.labels().map(str::to_owned).collect())
    }

    /// Adds a passphrase or key. `opening` is one that fits already.
    ///
    /// # Errors
    /// `Invalid` when the repository is not encrypted or the passphrase is short, `Exists` for a label, `Key`, `Store`.
    pub async fn add_key(&self, opening: &Secret, label: &str, secret: &Secret) -> Result<()> {
        secret.check()?;
        if !self.identity().encrypted {
            return Err(invalid(format!("{} is not encrypted: a key can be given only when it is made", self.url())));
        }
        let keyring = Keyring::read(self.store(), self.identity()).await?;
        if keyring.labels().any(|known| known == label) {
            return Err(Error::new(ErrorKind::Exists, format!("there is a key {label:?} already")));
        }
        put_key(self.store(), &Wrap::new(label, secret, &keyring.master(Some(opening))?)?).await
    }

    /// Takes a key away: it opens the repository no more. Whoever has noted the master key while it did can still read.
    ///
    /// # Errors
    /// `NotFound`, `InUse` for the last one, `Store`.
    pub async fn remove_key(&self, label: &str) -> Result<()> {
        let read = || Keyring::read(self.store(), self.identity());
        let last = || Error::new(ErrorKind::InUse, format!("{label:?} is the last key: add another one first"));
        let keyring = read().await?;
        let Some((name, wrap)) = keyring.wraps.iter().find(|(_, wrap)| wrap.label == label) else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no key {label:?}")));
        };
        if keyring.wraps.len() == 1 {
            return Err(last());
        }
        self.store().delete(name).await?;
        // Of two that take away a key each at the same time, the later one sees that none is left.
        if read().await?.wraps.is_empty() {
            put_key(self.store(), wrap).await?;
            return Err(last());
        }
        Ok(())
    }
}
