//! Disks that run full while clients write, and have room again.

use std::time::Duration;

use bytes::Bytes;
use clerk::Clerk;

use crate::disk_faults::SmallDisk;
use crate::harness::history::Recorder;
use crate::harness::{Cluster, Load, eventually, seed};

/// Room for the first segment (8 MiB), and for all that a test writes.
const DISK_MIB: u32 = 40;

/// So large that a segment is full before long.
const LARGE_BYTES: usize = 128 << 10;

/// Short enough that some calls end with their outcome unknown.
const CALL_TIMEOUT: Duration = Duration::from_millis(800);

/// So that snapshots are tried on the full disk as well, and sent to a node that was full for long.
const SNAPSHOTS: &str = "--snapshot-log-bytes=2097152";

const FULL: &str = "the disk is full; writes wait";
const ROOM: &str = "the disk has room again";

/// What a node says instead that is too far behind for the log.
const NO_CHUNK: &str = "cannot store a chunk of the snapshot";

/// Three nodes, each on a file system of its own.
fn cluster_on_small_disks() -> Option<(Cluster, Vec<SmallDisk>)> {
    let mut cluster = Cluster::with_knobs(3, &[SNAPSHOTS]);
    let mut disks = Vec::new();
    for node in 0..3 {
        cluster.kill(node);
        disks.push(SmallDisk::under(&cluster, node, DISK_MIB)?);
        cluster.start_node(node);
    }
    cluster.leader();
    Some((cluster, disks))
}

/// Writes large values, whatever becomes of them, until each of these nodes says that its disk is full.
fn write_until_full(cluster: &mut Cluster, clerk: &Clerk, nodes: &[usize]) {
    let clerk = clerk.with_timeout(Duration::from_millis(200));
    let value = Bytes::from(vec![b'x'; LARGE_BYTES]);
    eventually("the disks run full", || {
        let _ = clerk.put("large", value.clone());
        let mut are_full = nodes
            .iter()
            .map(|&node| cluster.process(node).line(FULL).is_some());
        are_full.all(|is_full| is_full).then_some(())
    });
    for &node in nodes {
        let said = cluster.process(node).wait_for_line(FULL);
        let named = said.contains(&format!("data/node{node}/wal/")) && said.contains("free some");
        assert!(named, "it names the file, and what to do: {said}");
    }
}

fn latest_term(cluster: &Cluster) -> u64 {
    let terms = (0..cluster.len()).map(|node| eventually("a status", || cluster.status(node)).term);
    terms.max().expect("there are nodes")
}

/// Faults D5, one node: a leader whose disk is full hands over and goes on running, also through a
/// restart; when there is room again it catches up by itself.
#[test]
fn a_leader_whose_disk_is_full_resigns_and_comes_back_by_itself() {
    let mut random = fastrand::Rng::with_seed(seed("full_leader"));
    let Some((mut cluster, disks)) = cluster_on_small_disks() else {
        return;
    };
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(100);
    let full = cluster.leader();
    disks[full].fill();
    let clerk = cluster.clerk(random.u64(..));
    write_until_full(&mut cluster, &clerk, &[full]);

    cluster
        .process(full)
        .wait_for_line("this node resigns as leader until there is room");
    let others: Vec<usize> = (0..3).filter(|&node| node != full).collect();
    cluster.leader_among(&others);
    load.wait_for_acks(200);
    assert!(cluster.process(full).is_running());
    let status = eventually("a status", || cluster.status(full));
    assert_ne!(status.role, "leader", "{status:?}");

    // A restart is nothing that would make room.
    cluster.kill(full);
    cluster.start_node(full);
    eventually("its status", || cluster.status(full));
    load.wait_for_acks(100);
    let clerk = cluster
        .clerk_of(&others)
        .with_timeout(Duration::from_millis(200));
    let value = Bytes::from(vec![b'x'; LARGE_BYTES]);
    eventually("no room for what it has missed", || {
        let _ = clerk.put("large", value.clone());
        let process = cluster.process(full);
        let lines = [FULL, NO_CHUNK].map(|line| process.line(line));
        lines.iter().any(Option::is_some).then_some(())
    });

    disks[full].clear();
    if cluster.process(full).line(FULL).is_some() {
        cluster.process(full).wait_for_line(ROOM);
    }
    cluster.wait_for_catch_up(full);
    recorder.finish_linearizable();
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// Faults D5, a majority, or all of them: writes are refused as certainly not done, reads are served,
/// nobody ends or tries to lead instead, and when there is room the service resumes without anybody's
/// help.
#[test]
fn when_the_disks_of_a_majority_are_full_writes_are_refused_until_there_is_room() {
    let mut random = fastrand::Rng::with_seed(seed("full_majority"));
    for (leaders, followers) in [(0, 2), (1, 1), (1, 2)] {
        println!("full disks: of {leaders} leader and {followers} followers");
        let Some((mut cluster, disks)) = cluster_on_small_disks() else {
            return;
        };
        let load = Load::start(&cluster, 4, random.u64(..));
        let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
        load.wait_for_acks(100);
        let clerk = cluster
            .clerk(random.u64(..))
            .with_timeout(Duration::from_secs(3));
        clerk.put("before", "1").unwrap();
        let leader = cluster.leader();
        let mut full: Vec<usize> = (0..3).filter(|&node| node != leader).collect();
        full.truncate(followers);
        full.extend((leaders == 1).then_some(leader));
        for &node in &full {
            disks[node].fill();
        }
        write_until_full(&mut cluster, &clerk, &full);

        let before = eventually("refusals", || {
            let refused = clerk.put("until", "1").is_err();
            refused.then(|| latest_term(&cluster))
        });
        assert_eq!(clerk.get("before").unwrap().as_deref(), Some(&b"1"[..]));
        let refused = clerk.put("meanwhile", "1").unwrap_err();
        assert!(!refused.may_have_taken_effect(), "{refused}");
        println!("{refused}");
        // The two refusals took six seconds: more than ten election timeouts.
        assert_eq!(
            latest_term(&cluster),
            before,
            "nobody else would lead better"
        );
        assert_eq!(clerk.get("before").unwrap().as_deref(), Some(&b"1"[..]));
        for node in 0..3 {
            assert!(cluster.process(node).is_running(), "node {node}");
        }

        for &node in &full {
            disks[node].clear();
        }
        for &node in &full {
            cluster.process(node).wait_for_line(ROOM);
        }
        load.wait_for_acks(200);
        assert_eq!(clerk.get("meanwhile").unwrap(), None, "it was not done");
        recorder.finish_linearizable();
        let journal = load.finish();
        cluster.wait_for_convergence();
        journal.verify(&cluster);
    }
}
