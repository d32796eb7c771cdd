//! Where figures were taken: without that they mean little.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde::Serialize;

/// The machine and how busy it was.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// `/proc/loadavg` before the first measurement: who else was running.
    pub load_before: String,
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            cpu: cpu.map_or("unknown CPU", |(_, name)| name).to_owned(),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            load_before: load(),
        }
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            cpu,
            cpus,
            kernel,
            load_before,
        } = self;
        write!(f, "{cpu}, {cpus} CPUs, Linux {kernel}, load {load_before}")
    }
}

/// The load averages of the last 1, 5 and 15 minutes.
#[must_use]
pub fn load() -> String {
    let line = first_line("/proc/loadavg");
    line.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The type of the file system that holds `path`, as `/proc/self/mounts` calls it.
#[must_use]
pub fn file_system_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        // Spaces and the like are written as octal escapes; the rest of a name is as it is.
        let point = fields.next()?.replace("\\040", " ");
        Some((PathBuf::from(point), fields.next()?))
    });
    let holding = mounts.filter(|(point, _)| path.starts_with(point));
    // A later mount hides an earlier one at the same place.
    let (_, file_system) = holding.max_by_key(|(point, _)| point.components().count())?;
    Some(file_system.to_owned())
}

/// Whether files there are kept in memory alone, where syncing them costs nothing.
#[must_use]
pub fn is_in_memory(file_system: &str) -> bool {
    matches!(file_system, "tmpfs" | "ramfs")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_not_a_disk() {
        assert_eq!(
            file_system_of(Path::new("/proc/self")).as_deref(),
            Some("proc")
        );
        assert_eq!(file_system_of(Path::new("/no/such/file")), None);
        assert!(is_in_memory("tmpfs") && !is_in_memory("ext4"));
    }
}
