//! Faults put upon the disk of a node that runs: by `strace`, or by a small file system of its own.
//!
//! Where the machine does not allow it, a test says `NOT TESTED` and passes ([`not_tested`]).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Cluster, Process, eventually, not_tested};

/// Delays, or fails, system calls of a running process; everything goes on as before once it is dropped.
pub(crate) struct Tracer {
    /// Dropped, it is killed, and lets go of what it traces.
    strace: Process,
    trace: PathBuf,
}

impl Tracer {
    /// Does to the calls of `node` what `inject` says, from the next one on. `None`, and a line in the
    /// output, where that is not possible.
    pub(crate) fn attach(cluster: &mut Cluster, node: usize, inject: &str) -> Option<Self> {
        let dir = cluster.dir().to_owned();
        let pid = cluster.process(node).id();
        let (log, trace) = (dir.join("strace.log"), dir.join("strace.trace"));
        let _ = fs::remove_file(&trace); // of an earlier tracer
        let call = inject.split(':').next().expect("it names a call");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-ttt", "-p", &pid.to_string(), "-o"])
            .arg(&trace)
            .args([
                "-e",
                &format!("trace={call}"),
                "-e",
                &format!("inject={inject}"),
            ]);
        let exists = Command::new("strace")
            .arg("-V")
            .stdout(Stdio::null())
            .status();
        if !exists.is_ok_and(|status| status.success()) {
            not_tested("trace", "it needs strace");
            return None;
        }
        let mut strace = Process::start("strace", command, &log);
        let is_attached = eventually("strace", || {
            let running = strace.is_running();
            let attached = strace.line("attached").is_some();
            (attached || !running).then_some(attached)
        });
        if !is_attached {
            not_tested("trace", &strace.output());
            return None;
        }
        Some(Self { strace, trace })
    }

    /// What it has seen so far, a line for each call that has returned.
    pub(crate) fn seen(&self) -> String {
        fs::read_to_string(&self.trace).unwrap_or_default()
    }

    /// Whether a call that was to be delayed has returned.
    pub(crate) fn has_delayed(&self) -> bool {
        self.seen().contains("(DELAYED)")
    }

    /// Waits for the end of a process that it traces to the end.
    pub(crate) fn wait(mut self) -> String {
        self.strace.wait();
        self.seen()
    }
}

/// The directory of one node, on a file system of its own that can be filled.
pub(crate) struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Moves the directory of a node, which must not run, onto a file system of `mib` MiB. `None`, and a
    /// line in the output, where that is not possible.
    pub(crate) fn under(cluster: &Cluster, node: usize, mib: u32) -> Option<Self> {
        let dir = cluster.node_dir(node);
        let aside = dir.with_extension("aside");
        fs::rename(&dir, &aside).unwrap();
        fs::create_dir(&dir).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&dir)
            .output();
        if !mounted.as_ref().is_ok_and(|mount| mount.status.success()) {
            not_tested("loop", &format!("cannot mount a file system: {mounted:?}"));
            return None;
        }
        let disk = Self { dir };
        copy(&aside, &disk.dir);
        Some(disk)
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let mut bytes = vec![1; 1 << 20];
        while !bytes.is_empty() {
            // Of the last one, as much as fits was written.
            if ballast.write_all(&bytes).is_err() {
                bytes.truncate(bytes.len() / 2);
            }
        }
    }

    /// Makes room.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount_lazily(&self.dir);
    }
}

/// A node of a failed test may still run there.
pub(crate) fn unmount_lazily(dir: &Path) {
    let unmounted = Command::new("umount").arg("-l").arg(dir).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        println!("{} stays mounted", dir.display());
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
