//! Quotas: what a project may hold, what it holds, and what is promised to requests under way.
//!
//! Invariant: `in_use + reserved + wanted <= limit` is asked and answered in one transaction of the catalog, so requests that come
//! together cannot take more than the limit together.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resource {
    /// Volumes.
    Volumes,
    /// Snapshots.
    Snapshots,
    /// Gibibytes of volumes and snapshots together.
    Gigabytes,
    /// Backups.
    Backups,
    /// Gibibytes of volumes that backups are of.
    BackupGigabytes,
    /// Groups.
    Groups,
    /// The size of each single volume: a bound, not a sum.
    PerVolumeGigabytes,
    /// Images. Block Storage has no quota of them: they are shown and set elsewhere.
    Images,
    /// Gibibytes of images.
    ImageGigabytes,
}

impl Resource {
    /// All of them, in the order of answers.
    pub(crate) const ALL: [Self; 9] = [
        Self::Volumes,
        Self::Snapshots,
        Self::Gigabytes,
        Self::Backups,
        Self::BackupGigabytes,
        Self::Groups,
        Self::PerVolumeGigabytes,
        Self::Images,
        Self::ImageGigabytes,
    ];
    /// Those of images, which quota sets of Block Storage do not have.
    pub(crate) const OF_IMAGES: [Self; 2] = [Self::Images, Self::ImageGigabytes];
    /// Those that there are for each type of volumes, too.
    pub(crate) const OF_TYPES: [Self; 3] = [Self::Volumes, Self::Gigabytes, Self::Snapshots];

    /// Its name in the interface.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Snapshots => "snapshots",
            Self::Gigabytes => "gigabytes",
            Self::Backups => "backups",
            Self::BackupGigabytes => "backup_gigabytes",
            Self::Groups => "groups",
            Self::PerVolumeGigabytes => "per_volume_gigabytes",
            Self::Images => "images",
            Self::ImageGigabytes => "image_gigabytes",
        }
    }
}

/// Limits of a project that nobody has set any for; -1: none.
pub(crate) const DEFAULTS: [(Resource, i64); 9] = [
    (Resource::Volumes, 10),
    (Resource::Snapshots, 10),
    (Resource::Gigabytes, 1000),
    (Resource::Backups, 10),
    (Resource::BackupGigabytes, 1000),
    (Resource::Groups, 10),
    (Resource::PerVolumeGigabytes, -1),
    (Resource::Images, 100),
    (Resource::ImageGigabytes, 1000),
];

/// A resource of a project, or of one type within it. Types are meant by their ids, so that a new name changes no quota.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QuotaKey {
    /// What is counted.
    pub(crate) resource: Resource,
    /// Of volumes of this type only.
    pub(crate) volume_type: Option<String>,
}

impl QuotaKey {
    /// Of the whole project.
    pub(crate) fn of(resource: Resource) -> Self {
        Self { resource, volume_type: None }
    }

    /// How it is stored: `gigabytes`, or `gigabytes/TYPE`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, volume_type) = match text.split_once('/') {
            Some((name, id)) => (name, Some(id.to_owned())),
            None => (text, None),
        };
        let resource = Resource::ALL.into_iter().find(|resource| resource.as_str() == name)?;
        Some(Self { resource, volume_type })
    }
}

impl fmt::Display for QuotaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource.as_str())?;
        self.volume_type.as_ref().map_or(Ok(()), |id| write!(f, "/{id}"))
    }
}

/// How much of a resource a project has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Of objects that are there.
    pub(crate) in_use: i64,
    /// Promised to what is under way.
    pub(crate) reserved: i64,
}

/// What a request wants, or an object holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim(BTreeMap<String, i64>);

impl Claim {
    /// Nothing.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// `amount` more of a resource, and of the same of a type.
    #[must_use]
    pub(crate) fn and(mut self, resource: Resource, volume_type: Option<&str>, amount: i64) -> Self {
        self.add(&QuotaKey::of(resource), amount);
        if let Some(id) = volume_type.filter(|_| Resource::OF_TYPES.contains(&resource)) {
            self.add(&QuotaKey { resource, volume_type: Some(id.to_owned()) }, amount);
        }
        self
    }

    /// What a volume holds.
    pub(crate) fn volume(volume_type: &str, gib: u64) -> Self {
        Self::none().and(Resource::Volumes, Some(volume_type), 1).and(
            Resource::Gigabytes,
            Some(volume_type),
            gib as i64,
        )
    }

    /// What a volume holds of its type's quotas alone.
    pub(crate) fn of_type(volume_type: &str, gib: u64) -> Self {
        let mut claim = Self::volume(volume_type, gib);
        claim.0.retain(|key, _| key.contains('/'));
        claim
    }

    /// What a snapshot holds.
    pub(crate) fn snapshot(volume_type: &str, gib: u64) -> Self {
        Self::none().and(Resource::Snapshots, Some(volume_type), 1).and(
            Resource::Gigabytes,
            Some(volume_type),
            gib as i64,
        )
    }

    /// What a volume takes by growing.
    pub(crate) fn growth(volume_type: &str, gib: u64) -> Self {
        Self::none().and(Resource::Gigabytes, Some(volume_type), gib as i64)
    }

    /// What a backup holds.
    pub(crate) fn backup(gib: u64) -> Self {
        Self::none().and(Resource::Backups, None, 1).and(Resource::BackupGigabytes, None, gib as i64)
    }

    /// What a group holds, without the volumes in it.
    pub(crate) fn group() -> Self {
        Self::none().and(Resource::Groups, None, 1)
    }

    /// What an image holds.
    pub(crate) fn image(gib: u64) -> Self {
        Self::none().and(Resource::Images, None, 1).plus(&Self::image_content(gib))
    }

    /// What the content of an image holds.
    pub(crate) fn image_content(gib: u64) -> Self {
        Self::none().and(Resource::ImageGigabytes, None, gib as i64)
    }

    /// This and another.
    #[must_use]
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        other.parts().for_each(|(key, amount)| self.add(&key, amount));
        self
    }

    /// The parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (QuotaKey, i64)> + '_ {
        self.0.iter().filter_map(|(key, amount)| Some((QuotaKey::parse(key)?, *amount)))
    }

    /// GiB of volumes and snapshots.
    pub(crate) fn gib(&self) -> u64 {
        self.0.get(Resource::Gigabytes.as_str()).map_or(0, |gib| u64::try_from(*gib).unwrap_or(0))
    }

    /// GiB of images.
    pub(crate) fn image_gib(&self) -> u64 {
        self.0.get(Resource::ImageGigabytes.as_str()).map_or(0, |gib| u64::try_from(*gib).unwrap_or(0))
    }

    /// Whether it is nothing.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, key: &QuotaKey, amount: i64) {
        *self.0.entry(key.to_string()).or_default() += amount;
        self.0.retain(|_, amount| *amount != 0);
    }
}

/// A request that would take a project over its quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Of what.
    pub(crate) key: QuotaKey,
    /// The limit.
    pub(crate) limit: i64,
    /// What is there and promised.
    pub(crate) count: Count,
    /// What was wanted.
    pub(crate) wanted: i64,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, limit, count, wanted } = self;
        let of_type = if key.volume_type.is_some() { " of its volume type" } else { "" };
        write!(
            f,
            "the quota of the project{of_type} for {} does not allow this: wanted {wanted}, limit {limit}, in use {}, reserved {}",
            key.resource.as_str(),
            count.in_use,
            count.reserved
        )
    }
}

/// Whether `wanted` more fits. A negative limit is none; giving back always fits.
///
/// # Errors
/// [`Over`].
pub(crate) fn admit(key: &QuotaKey, limit: i64, count: Count, wanted: i64) -> Result<(), Over> {
    let total = count.in_use.saturating_add(count.reserved).saturating_add(wanted);
    if wanted <= 0 || limit < 0 || total <= limit {
        return Ok(());
    }
    Err(Over { key: key.clone(), limit, count, wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> QuotaKey {
        QuotaKey::of(Resource::Volumes)
    }

    #[test]
    fn the_last_one_fits_and_one_more_does_not() {
        let count = Count { in_use: 7, reserved: 2 };
        assert_eq!(admit(&volumes(), 10, count, 1), Ok(()));
        let over = admit(&volumes(), 10, count, 2).unwrap_err();
        assert_eq!((over.limit, over.wanted, over.count), (10, 2, count));
        assert!(over.to_string().contains("volumes") && over.to_string().contains("limit 10"));
        assert_eq!(admit(&volumes(), -1, count, 1 << 40), Ok(()));
        assert!(admit(&volumes(), 0, Count::default(), 1).is_err());
        // Lowered below what is there: nothing more, and giving back goes on.
        assert!(admit(&volumes(), 3, count, 1).is_err());
        assert_eq!(admit(&volumes(), 3, count, -1), Ok(()));
        assert!(admit(&volumes(), i64::MAX, Count { in_use: i64::MAX, reserved: 0 }, 1).is_ok(), "saturates");
    }

    #[test]
    fn claims_count_for_the_project_and_for_the_type() {
        let claim = Claim::volume("t", 5);
        let parts: Vec<(String, i64)> = claim.parts().map(|(key, n)| (key.to_string(), n)).collect();
        let expected = [("gigabytes", 5), ("gigabytes/t", 5), ("volumes", 1), ("volumes/t", 1)];
        assert_eq!(parts, expected.map(|(key, n)| (key.to_owned(), n)));
        let both = claim.plus(&Claim::growth("t", 3)).plus(&Claim::volume("t", -8_i64 as u64));
        assert_eq!(both.parts().count(), 2, "gigabytes cancel out: {both:?}");
        assert!(Claim::none().and(Resource::Groups, Some("t"), 0).is_none());
        assert_eq!(Claim::backup(4).parts().count(), 2);
        assert_eq!(Claim::snapshot("t", 4).parts().count(), 4);
        assert_eq!((Claim::volume("t", 5).gib(), Claim::backup(4).gib(), Claim::of_type("t", 4).gib()), (5, 0, 0));
    }

    #[test]
    fn keys_survive_their_text() {
        for key in [volumes(), QuotaKey { resource: Resource::Gigabytes, volume_type: Some("a-b".to_owned()) }] {
            assert_eq!(QuotaKey::parse(&key.to_string()), Some(key));
        }
        assert_eq!(QuotaKey::parse("bananas"), None);
        assert!(Resource::ALL.iter().all(|r| DEFAULTS.iter().any(|(known, _)| known == r)));
    }
}
