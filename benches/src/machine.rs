//! The machine that something was measured on, as stored runs tell it.

use std::{fmt, fs, path::Path};

use cairn_engine::GIB;
use serde::{Deserialize, Serialize};

/// What a stored run says about the machine. What the system does not tell is `unknown`, or 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub processors: usize,
    /// Their name.
    pub processor: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Version of Linux.
    pub kernel: String,
    /// The file system under the files that were measured, as `mount` names it.
    pub file_system: String,
    /// It is a virtual machine.
    pub virtual_machine: bool,
}

impl Machine {
    /// This machine, and the file system of a directory.
    #[must_use]
    pub fn here(directory: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory, release) =
            (read("/proc/cpuinfo"), read("/proc/meminfo"), read("/proc/sys/kernel/osrelease"));
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        Self {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            processor: known(field(&cpus, "model name")),
            memory: field(&memory, "MemTotal").and_then(kibibytes).unwrap_or(0),
            // What follows the numbers names a distributor's build.
            kernel: known(release.trim().split('-').next()),
            file_system: known(file_system(&read("/proc/self/mountinfo"), &directory)),
            virtual_machine: field(&cpus, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
        }
    }
}

/// Bytes of resident memory of this process; 0 where the system does not tell.
#[must_use]
pub fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, "VmRSS").and_then(kibibytes).unwrap_or(0)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.processors == 1 { "" } else { "s" };
        write!(f, "{} processor{plural}", self.processors)?;
        if self.processor != UNKNOWN {
            write!(f, " ({})", self.processor)?;
        }
        let memory = (self.memory as f64 / GIB as f64).round();
        let kind = if self.virtual_machine { ", a virtual machine" } else { "" };
        write!(f, ", {memory} GiB of memory{kind}, Linux {}, {}", self.kernel, self.file_system)
    }
}

const UNKNOWN: &str = "unknown";

fn known(value: Option<&str>) -> String {
    value.filter(|value| !value.is_empty()).unwrap_or(UNKNOWN).to_owned()
}

/// The first `name: value` of a file under `/proc`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// Bytes of `N kB`, as the kernel writes it and means 1,024.
fn kibibytes(value: &str) -> Option<u64> {
    value.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The type of the file system that a path is on: of the mount points above it the lowest, and of several on one point the last.
fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        // Blanks within names are written in octal.
        Some((point.replace("\\040", " "), after.split(' ').next()?))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /dev/shm rw,nosuid - tmpfs tmpfs rw
31 22 0:26 / /srv/old rw shared:1 - xfs /dev/vdb rw
32 22 0:27 / /srv/old rw shared:2 master:3 - btrfs /dev/vdc rw
33 22 0:28 / /srv/my\\040disk rw - zfs tank rw
a line that is none
";

    #[test]
    fn paths_are_on_the_lowest_mount() {
        for (path, kind) in [
            ("/", "ext4"),
            ("/var/tmp", "ext4"),
            ("/dev/shm/x", "tmpfs"),
            ("/dev/shmx", "ext4"),
            ("/srv/old", "btrfs"),
            ("/srv/my disk/a", "zfs"),
        ] {
            assert_eq!(file_system(MOUNTS, Path::new(path)), Some(kind), "{path}");
        }
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn fields_and_sizes() {
        let text = "MemTotal:       24627436 kB\nMemFree: 1 kB\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "MemTotal").and_then(kibibytes), Some(24_627_436 * 1024));
        assert_eq!(field(text, "flags"), Some("fpu hypervisor"));
        assert_eq!(field(text, "Mem"), None);
        assert_eq!(kibibytes("12"), None);
        assert_eq!(kibibytes("99999999999999999999 kB"), None);
    }

    #[test]
    fn told_in_a_line_and_through_json() {
        let machine = Machine {
            processors: 2,
            processor: UNKNOWN.into(),
            memory: 24 * GIB - 5,
            kernel: "6.18.0".into(),
            file_system: "ext4".into(),
            virtual_machine: true,
        };
        assert_eq!(machine.to_string(), "2 processors, 24 GiB of memory, a virtual machine, Linux 6.18.0, ext4");
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
        let here = Machine::here(Path::new("/"));
        assert!(resident() > 0 && resident() < here.memory);
        assert!(here.processors > 0 && here.memory > 0 && here.kernel != UNKNOWN, "{here}");
    }
}
