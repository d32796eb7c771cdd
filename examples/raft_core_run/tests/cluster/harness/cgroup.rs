//! Limits on what a node may take of the machine: a control group of its own, of version 1 or 2.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

use super::skip::not_tested;
use super::wait::within_guard;

/// Where every distribution mounts them.
const MOUNT: &str = "/sys/fs/cgroup";

/// The names that one version gives its files.
struct Names {
    /// Below [`MOUNT`]. In version 2 there is one tree, whose top hands the controllers down.
    tree: &'static str,
    /// What is written where; the limit is the last.
    settings: Vec<(&'static str, String)>,
    /// Turns swapping off, where the kernel can do it: who swaps needs no more memory.
    swap: Option<&'static str>,
    /// Where the kernel counts how often it has made use of it.
    counter: (&'static str, &'static str),
}

/// A group of the processes that it was given. Dropped, it lets go of them and is gone.
pub(crate) struct Cgroup {
    dir: PathBuf,
    /// Where the processes came from, and go back to.
    home: PathBuf,
    counter: (&'static str, &'static str),
}

impl Cgroup {
    /// Whoever is in it has so many milliseconds on a processor in each second, and then stands still until
    /// the next one. `None`, and a line in the output, where that is not possible.
    pub(crate) fn with_cpu_of(ms: u32) -> Option<Self> {
        let us = 1_000 * ms;
        Self::by(&[
            Names {
                tree: "cpu",
                settings: vec![
                    ("cpu.cfs_period_us", "1000000".to_owned()),
                    ("cpu.cfs_quota_us", us.to_string()),
                ],
                swap: None,
                counter: ("cpu.stat", "nr_throttled"),
            },
            Names {
                tree: "",
                settings: vec![("cpu.max", format!("{us} 1000000"))],
                swap: None,
                counter: ("cpu.stat", "nr_throttled"),
            },
        ])
    }

    /// The kernel kills who needs more memory than that, of what is allocated from then on. `None`, and a
    /// line in the output, where that is not possible.
    pub(crate) fn with_memory_of(bytes: u64) -> Option<Self> {
        Self::by(&[
            Names {
                tree: "memory",
                settings: vec![("memory.limit_in_bytes", bytes.to_string())],
                swap: Some("memory.swappiness"),
                counter: ("memory.oom_control", "oom_kill"),
            },
            Names {
                tree: "",
                settings: vec![("memory.max", bytes.to_string())],
                swap: Some("memory.swap.max"),
                counter: ("memory.events", "oom_kill"),
            },
        ])
    }

    fn by(versions: &[Names]) -> Option<Self> {
        let mut errors = Vec::new();
        for names in versions {
            match Self::with(names) {
                Ok(group) => return Some(group),
                Err(error) => errors.push(format!("{:?}: {error}", names.tree)),
            }
        }
        not_tested("cgroup", &format!("it needs a control group: {errors:?}"));
        None
    }

    fn with(names: &Names) -> io::Result<Self> {
        let name = format!("cluster-test-{}-{:08x}", process::id(), fastrand::u32(..));
        let dir = Path::new(MOUNT).join(names.tree).join(name);
        fs::create_dir(&dir)?;
        let group = Self {
            dir,
            home: home(names.tree),
            counter: names.counter,
        };
        for (file, value) in &names.settings {
            let file = group.dir.join(file);
            fs::metadata(&file)?; // else it would become an ordinary file
            fs::write(file, value)?;
        }
        if let Some(file) = names
            .swap
            .map(|file| group.dir.join(file))
            .filter(|file| file.exists())
        {
            fs::write(file, "0")?;
        }
        Ok(group)
    }

    /// Takes in a running process, with all its threads.
    pub(crate) fn add(&self, process: u32) {
        fs::write(self.dir.join("cgroup.procs"), process.to_string()).unwrap();
    }

    /// How often the kernel has made somebody wait, or killed somebody, for the limit.
    pub(crate) fn count(&self) -> u64 {
        let (file, name) = self.counter;
        let text = fs::read_to_string(self.dir.join(file)).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = within_guard(|| {
            let inside = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for process in inside.lines() {
                let _ = fs::write(self.home.join("cgroup.procs"), process); // it may have ended by itself
            }
            fs::remove_dir(&self.dir).ok()
        });
        if gone.is_none() {
            println!("{} stays", self.dir.display());
        }
    }
}

/// The group in a tree that this process is in, and so is what it starts. The top, where that is not to be
/// seen from here, as in some containers.
fn home(tree: &str) -> PathBuf {
    let top = Path::new(MOUNT).join(tree);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let ours = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?; // none: version 2
        let is_it = controllers.split(',').any(|name| name == tree);
        is_it.then(|| top.join(path.trim_start_matches('/')))
    });
    ours.filter(|ours| ours.exists()).unwrap_or(top)
}
