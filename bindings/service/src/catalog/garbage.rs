//! What the repository of backups holds that no backup needs.

use serde::{Deserialize, Serialize};

use super::{
    records::{Kind, Record},
    tx::Tx,
};
use crate::fault::Answer;

const REPOSITORY: &str = "repository";

/// How much there is to collect, and when it was tried last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Garbage {
    id: String,
    /// Deletions, merges and failed backups since the last collection that succeeded.
    pub(crate) left: u64,
    /// When a collection began last.
    pub(crate) tried_us: u64,
    /// When one succeeded last; 0: never.
    #[serde(default)]
    pub(crate) collected_us: u64,
}

impl Default for Garbage {
    fn default() -> Self {
        Self { id: REPOSITORY.to_owned(), left: 0, tried_us: 0, collected_us: 0 }
    }
}

impl Record for Garbage {
    const KIND: Kind = Kind { tag: "garbage", name: "Garbage" };

    fn id(&self) -> &str {
        &self.id
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

impl Tx<'_> {
    /// What there is to collect now.
    pub(crate) fn garbage(&self) -> Answer<Garbage> {
        Ok(self.get(REPOSITORY)?.unwrap_or_default())
    }

    /// Something has left behind what nobody needs.
    pub(crate) fn leave_garbage(&mut self) -> Answer<()> {
        let mut garbage = self.garbage()?;
        garbage.left = garbage.left.saturating_add(1);
        self.put(&garbage)
    }
}
