//! Nodes that get too little of the machine: of its processors, or of its memory.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;

use crate::harness::scene::{KNOBS, SERVED_WITHIN};
use crate::harness::{Cgroup, Cluster, Scene, seed};

/// One twentieth of a processor, in turns of a second: standing still in between takes longer than most
/// election timeouts.
const CPU_MS_A_SECOND: u32 = 50;

/// Faults P4: the leader, then a follower, has a twentieth of a processor. The leader may lose its lead,
/// once and no more; a starved follower disturbs nobody. Clients are served. `STARVED_SECONDS=60` has
/// each of them starve that long in place of four seconds.
#[test]
fn a_starved_node_costs_one_change_of_leaders_at_most() {
    let seconds: u64 = std::env::var("STARVED_SECONDS").map_or(4, |text| text.parse().unwrap());
    let duration = Duration::from_secs(seconds);
    let group = || Cgroup::with_cpu_of(CPU_MS_A_SECOND);
    let (Some(first), Some(second)) = (group(), group()) else {
        return;
    };
    let seed = seed("starved");
    let mut scene = Scene::begin(Cluster::with_knobs(3, &KNOBS), seed);
    for (is_leader, group) in [(true, first), (false, second)] {
        let (leader, [follower, _]) = scene.cast();
        let node = if is_leader { leader } else { follower };
        let (elections, term) = (scene.elections(), scene.latest_term());
        group.add(scene.cluster.process(node).id());
        scene.assert_served_for(duration);
        let waited = group.count();
        drop(group);
        scene.cluster.wait_for_catch_up(node);
        let changes = scene.elections() - elections;
        println!("node {node} waited {waited} times; {changes} changes of leaders");
        assert!(waited > seconds / 2, "it did not starve: {waited}");
        assert!(
            changes <= usize::from(is_leader),
            "{changes} changes of leaders"
        );
        scene.assert_few_terms_since(term);
    }
    scene.assert_at_rest(2);
    let (_, journal) = scene.end();
    let gap = journal.longest_gap;
    assert!(gap < SERVED_WITHIN, "no write for {gap:?}");
}

/// Far less than what [`HOARD`] takes.
const MEMORY_BYTES: u64 = 16 << 20;

/// Values of 64 KiB, under a key each.
const HOARD: usize = 1_024;

/// Faults P5: the leader, then a follower, reaches the limit of its memory, and the kernel kills it. The
/// others serve; without the limit it starts and catches up.
#[test]
fn a_node_killed_for_want_of_memory_comes_back_with_all_it_promised() {
    let group = || Cgroup::with_memory_of(MEMORY_BYTES);
    let (Some(first), Some(second)) = (group(), group()) else {
        return;
    };
    let seed = seed("out_of_memory");
    let mut scene = Scene::begin(Cluster::with_knobs(3, &KNOBS), seed);
    for (is_leader, group) in [(true, first), (false, second)] {
        let (leader, [follower, _]) = scene.cast();
        let node = if is_leader { leader } else { follower };
        group.add(scene.cluster.process(node).id());
        let clerk = scene.cluster.clerk(seed);
        let value = Bytes::from(vec![b'x'; 64 << 10]);
        let written = (0..HOARD).find(|number| {
            clerk.put(format!("hoard {number}"), value.clone()).unwrap();
            !scene.cluster.process(node).is_running()
        });
        let written = written.expect("it reaches its limit long before");
        let ended = scene.cluster.process(node).wait();
        println!("node {node}: {ended} at value {written}");
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{ended}");
        assert!(group.count() > 0, "it was not the kernel that killed it");
        scene.cluster.kill(node);
        let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
        scene.assert_served_by(&others);
        scene.load.wait_for_acks(200);
        drop(group);
        scene.cluster.start_node(node);
        scene.cluster.wait_for_catch_up(node);
        let read = scene.cluster.clerk(seed);
        for number in 0..written {
            let found = read.get(format!("hoard {number}")).unwrap();
            assert_eq!(found.as_ref(), Some(&value), "value {number}");
        }
    }
    scene.end();
}
