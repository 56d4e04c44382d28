//! Names of volumes and snapshots.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result, invalid};

/// Longest name, in characters.
pub const MAX_NAME: usize = 128;

/// A volume, or a snapshot of one: `volume` or `volume@snapshot`.
///
/// ```
/// use cairn_engine::Target;
/// let target: Target = "db@before-upgrade".parse().unwrap();
/// assert_eq!((target.volume.as_str(), target.snapshot.as_deref()), ("db", Some("before-upgrade")));
/// assert!("db@a@b".parse::<Target>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name of the volume.
    pub volume: String,
    /// Name of the snapshot, if it is one.
    pub snapshot: Option<String>,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (volume, snapshot) = match text.split_once('@') {
            Some((volume, snapshot)) => (volume, Some(snapshot)),
            None => (text, None),
        };
        check_name("volume", volume)?;
        if let Some(snapshot) = snapshot {
            check_name("snapshot", snapshot)?;
        }
        Ok(Self { volume: volume.to_owned(), snapshot: snapshot.map(str::to_owned) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => f.write_str(&self.volume),
        }
    }
}

impl Target {
    /// The snapshot's name, or an error that says that one is needed.
    ///
    /// # Errors
    /// `Invalid` when the target is a volume.
    pub fn require_snapshot(&self) -> Result<&str> {
        self.snapshot.as_deref().ok_or_else(|| invalid(format!("{self} names a volume: write {self}@SNAPSHOT")))
    }
}

/// Names have 1 to 128 characters, none of them `@`, `/` or a control character, and do not begin or end with a space.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let shown: String = name.chars().take(MAX_NAME + 1).collect();
    let fault = match name.chars().count() {
        0 => "it is empty",
        n if n > MAX_NAME => "it has more than 128 characters",
        _ if name.contains('@') => "it contains '@', which separates a volume from a snapshot",
        _ if name.contains('/') => "it contains '/'",
        _ if name.chars().any(char::is_control) => "it contains a control character",
        _ if name.trim() != name => "it begins or ends with white space",
        _ => return Ok(()),
    };
    Err(invalid(format!("{shown:?} cannot be the name of a {what}: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules() {
        for good in ["a", "ünïcode", &"x".repeat(128), "with space", "db.1-2_3"] {
            assert!(check_name("volume", good).is_ok(), "{good}");
            assert_eq!(good.parse::<Target>().unwrap().to_string(), good);
        }
        for bad in ["", "a@b", "a/b", "a\nb", " a", "a ", &"x".repeat(129), "a\0"] {
            assert!(check_name("volume", bad).is_err(), "{bad:?}");
        }
        for bad in ["@", "a@", "@b", "a@b@c", "a/b@c"] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
    }
}
