//! Where it is kept what a pool's server has to know after a restart, and the pool does not hold.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::FileTypeExt,
    },
    path::{Path, PathBuf},
};

/// For pools on devices: nothing beside those is there after a reboot.
const STATE_DIRECTORY: &str = "/var/lib/cairn";

/// `<pool>.KIND` for a file, whatever links lead to it. For a device it is under `/var/lib/cairn`, by the name that the pool was opened by: where that
/// leads (`/dev/dm-3`) is another place after each reboot.
pub(crate) fn beside(pool: &Path, kind: &str) -> PathBuf {
    let real = fs::canonicalize(pool).unwrap_or_else(|_| pool.to_owned());
    let is_device = fs::metadata(&real).is_ok_and(|there| there.file_type().is_block_device());
    let named = std::path::absolute(pool).unwrap_or_else(|_| pool.to_owned());
    if is_device { of_device(&named, kind) } else { with_ending(real.into(), kind) }
}

/// Where an earlier version had it, if that is another place and something is there.
pub(crate) fn left_behind(pool: &Path, kind: &str) -> Option<PathBuf> {
    let real = fs::canonicalize(pool).ok()?;
    let earlier = with_ending(real.into(), kind);
    (earlier != beside(pool, kind) && earlier.exists()).then_some(earlier)
}

fn of_device(named: &Path, kind: &str) -> PathBuf {
    Path::new(STATE_DIRECTORY).join(with_ending(flat(named), kind))
}

/// A path as one name: `/dev/vg/pool` is `dev-vg-pool`.
pub(crate) fn flat(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().iter().skip(1);
    OsString::from_vec(bytes.map(|byte| if *byte == b'/' { b'-' } else { *byte }).collect())
}

fn with_ending(mut name: OsString, kind: &str) -> PathBuf {
    name.push(OsStr::new("."));
    name.push(kind);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_needs_outlives_a_reboot() {
        assert_eq!(of_device(Path::new("/dev/vg/pool"), "catalog"), Path::new("/var/lib/cairn/dev-vg-pool.catalog"));
    }

    #[test]
    fn what_a_file_needs_is_beside_it_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(directory.path()).unwrap();
        let (pool, link) = (real.join("pool"), real.join("link"));
        fs::write(&pool, "").unwrap();
        std::os::unix::fs::symlink(&pool, &link).unwrap();
        for name in [&pool, &link] {
            assert_eq!(beside(name, "restores"), real.join("pool.restores"));
            assert_eq!(left_behind(name, "restores"), None);
        }
        // One that is not there yet.
        assert_eq!(beside(&real.join("none"), "catalog"), real.join("none.catalog"));
    }
}
