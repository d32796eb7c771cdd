//! Real file systems that lose what was not synced, as when the power fails.
//!
//! Each node runs on an ext4 in a file of its own. To be shut down means for a file system that nothing
//! reaches its disk any longer, not even its journal; mounted anew, it has what was on the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::disk_faults::{copy, unmount_lazily};
use crate::harness::namespaces::is_inside;
use crate::harness::scene::KNOBS;
use crate::harness::tool::run;
use crate::harness::wait::within_guard;
use crate::harness::{Cluster, Scene, not_tested, seed};

/// Room for some segments of 8 MiB, and the journal of the file system.
const DISK_MIB: u64 = 96;

/// Does nothing but need the tools.
const PROBE: [&str; 3] = ["sh", "-ec", "mkfs.ext4 -V; xfs_io -V"];

/// So that power fails while snapshots are written, and segments of the log removed, as well.
const SNAPSHOTS: &str = "--snapshot-log-bytes=131072";

/// The directory of a node on a file system that can be shut down.
struct LoopDisk {
    image: PathBuf,
    dir: PathBuf,
}

impl LoopDisk {
    /// Moves the directory of a node, which must not run, onto a file system of its own.
    fn under(cluster: &Cluster, node: usize) -> Result<Self, String> {
        let image = cluster.dir().join(format!("node{node}.image"));
        let dir = cluster.node_dir(node);
        let file = File::create(&image).unwrap();
        file.set_len(DISK_MIB << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image), "")?;
        let aside = dir.with_extension("aside");
        fs::rename(&dir, &aside).unwrap();
        fs::create_dir(&dir).unwrap();
        mount(&image, &dir)?;
        let disk = Self { image, dir };
        fs::remove_dir(disk.dir.join("lost+found")).unwrap();
        copy(&aside, &disk.dir);
        run(Command::new("sync").arg("-f").arg(&disk.dir), "")?;
        Ok(disk)
    }

    /// The system may take a moment to let go of the image.
    fn mount_anew(&self) {
        run(Command::new("umount").arg(&self.dir), "").unwrap();
        let mut mounted = Ok(());
        within_guard(|| {
            mounted = mount(&self.image, &self.dir);
            mounted.is_ok().then_some(())
        });
        mounted.unwrap();
    }

    /// A file that nobody syncs: another one each time, since ext4 does sync what replaces a file.
    fn canary(&self, cut: usize) -> PathBuf {
        self.dir.join(format!("canary{cut}"))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- what the node had is kept: {}", self.image.display());
        }
        unmount_lazily(&self.dir);
    }
}

/// The loop device goes with the mount, and that with the test's namespace at the latest.
fn mount(image: &Path, dir: &Path) -> Result<(), String> {
    let mut mount = Command::new("mount");
    run(mount.args(["-o", "loop"]).args([image, dir]), "")
}

/// As nearly at once as a machine can.
fn shut_down(disks: &[LoopDisk]) {
    let cuts: Vec<_> = disks
        .iter()
        .map(|disk| shutdown_of(&disk.dir).spawn().unwrap())
        .collect();
    for mut cut in cuts {
        let ended = cut.wait().unwrap();
        assert!(ended.success(), "a file system was not shut down: {ended}");
    }
}

/// The call is the same for ext4 as for XFS.
fn shutdown_of(dir: &Path) -> Command {
    let mut command = Command::new("xfs_io");
    command.args(["-x", "-c", "shutdown"]).arg(dir);
    command
}

/// Faults D1: power fails on all nodes at once, again and again, while clients read and write. What was
/// acknowledged then has to come from the disks. `POWER_CUTS=100` has that many in place of three.
#[test]
fn what_was_acknowledged_is_there_when_power_fails_on_all_nodes_at_once() {
    let test = what_was_acknowledged_is_there_when_power_fails_on_all_nodes_at_once;
    if !is_inside(test, "loop", &["--mount"], &PROBE) {
        return;
    }
    let cuts: usize = std::env::var("POWER_CUTS").map_or(3, |text| text.parse().unwrap());
    let seed = seed("power_cut");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::with_knobs(3, &[&KNOBS[..], &[SNAPSHOTS]].concat());
    cluster.kill_all();
    let disks: Result<Vec<_>, _> = (0..3).map(|node| LoopDisk::under(&cluster, node)).collect();
    let disks = match disks {
        Ok(disks) => disks,
        Err(error) => return not_tested("loop", &error),
    };
    for node in 0..3 {
        cluster.start_node(node);
    }
    cluster.leader();
    let mut scene = Scene::begin(cluster, seed);
    for cut in 0..cuts {
        scene.load.wait_for_acks(random.u64(100..600));
        for disk in &disks {
            fs::write(disk.canary(cut), "not synced").unwrap();
        }
        shut_down(&disks);
        scene.cluster.kill_all();
        for (node, disk) in disks.iter().enumerate() {
            disk.mount_anew();
            let left = fs::read(disk.canary(cut)).unwrap_or_default();
            assert!(left.is_empty(), "node {node} has lost nothing");
            scene.cluster.start_node(node);
        }
        let leader = scene.cluster.leader();
        println!("cut {cut}: node {leader} leads");
        for node in 0..3 {
            scene.cluster.wait_for_catch_up(node);
        }
    }
    let (cluster, _) = scene.end();
    drop(disks); // before the directories that they are mounted on
    drop(cluster);
}
