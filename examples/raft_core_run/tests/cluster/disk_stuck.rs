//! Disks that hang, and a leader's disk that fails.

use std::time::Duration;

use clerk::ReadFrom;

use crate::disk_faults::Tracer;
use crate::harness::history::Recorder;
use crate::harness::{Cluster, Load, eventually, seed};

/// Short enough that some calls end with their outcome unknown.
const CALL_TIMEOUT: Duration = Duration::from_millis(800);

/// The next sync takes ten seconds.
const HANG: &str = "fdatasync:delay_enter=10000000:when=1";

/// Faults D10: a follower whose disk hangs holds nobody up. It goes on hearing its leader, so nobody
/// stands for election.
#[test]
fn a_follower_whose_disk_hangs_disturbs_nobody() {
    let mut random = fastrand::Rng::with_seed(seed("stuck_follower"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(100);
    let leader = cluster.leader();
    let follower = (leader + 1 + random.usize(..2)) % 3;
    let term = |cluster: &Cluster, node| eventually("a status", || cluster.status(node)).term;
    let before = term(&cluster, leader);
    let Some(tracer) = Tracer::attach(&mut cluster, follower, HANG) else {
        return;
    };
    load.wait_for_acks(500);
    // Its readers are served: what is committed it applies, whether or not its own disk has it yet.
    let clerk = cluster.clerk(random.u64(..));
    let reader = cluster.clerk_of(&[follower]).with_reads_from(ReadFrom::Any);
    for number in ["1", "2", "3"] {
        clerk.put("x", number).unwrap();
        assert_eq!(reader.get("x").unwrap().as_deref(), Some(number.as_bytes()));
    }
    assert!(
        !tracer.has_delayed(),
        "all that takes less than a hanging sync"
    );
    eventually("the end of the hanging sync", || {
        // It answers all the time, from the thread that also answers its leader.
        assert_eq!(
            term(&cluster, follower),
            before,
            "nobody stood for election"
        );
        tracer.has_delayed().then_some(())
    });
    drop(tracer);
    assert_eq!(cluster.leader(), leader);
    assert_eq!(term(&cluster, leader), before);
    cluster.wait_for_catch_up(follower);

    recorder.finish_linearizable();
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// Faults D10: a leader whose disk hangs steps down long before its disk answers; the others lead on,
/// and it follows.
#[test]
fn a_leader_whose_disk_hangs_steps_down() {
    let mut random = fastrand::Rng::with_seed(seed("stuck_leader"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(100);
    let stuck = cluster.leader();
    let Some(tracer) = Tracer::attach(&mut cluster, stuck, HANG) else {
        return;
    };
    let said = cluster.process(stuck).wait_for_line("the disk hangs");
    assert!(
        said.contains("fdatasync") && said.contains("data_dir"),
        "{said}"
    );
    let others: Vec<usize> = (0..3).filter(|&node| node != stuck).collect();
    let successor = cluster.leader_among(&others);
    load.wait_for_acks(200);
    assert!(!tracer.has_delayed(), "all that before the disk answers");
    let status = eventually("a status", || cluster.status(stuck));
    assert_ne!(status.role, "leader", "{status:?}");

    eventually("the end of the hanging sync", || {
        tracer.has_delayed().then_some(())
    });
    drop(tracer);
    cluster.wait_for_catch_up(stuck);
    println!("node {stuck} was followed by node {successor}");
    recorder.finish_linearizable();
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// Faults D3: the sync of a leader fails once, and would succeed from then on. It ends itself, saying
/// why, and acknowledges nothing of what it could not sync; the others lead on.
#[test]
fn a_leader_whose_sync_fails_ends_and_the_others_go_on() {
    let mut random = fastrand::Rng::with_seed(seed("failed_leader"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(100);
    let broken = cluster.leader();
    let Some(tracer) = Tracer::attach(&mut cluster, broken, "fdatasync:error=EIO:when=1") else {
        return;
    };
    let ended = cluster.process(broken).wait();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let said = cluster.process(broken).wait_for_line("raft_core_run: ");
    for part in ["no longer durable", ".wal", "Input/output error"] {
        assert!(said.contains(part), "{said}");
    }
    let trace = tracer.wait();
    let mut syncs = trace.lines().skip_while(|line| !line.contains("EIO"));
    let failed = syncs.next().expect("one of them failed");
    let ended = syncs.clone().last().expect("the process ended");
    let later = syncs.filter(|line| line.contains("fdatasync(")).count();
    assert_eq!(later, 0, "no sync is tried after one that failed: {trace}");
    println!(
        "ended {:.0} ms after the sync that failed",
        (time_of(ended) - time_of(failed)) * 1e3
    );
    load.wait_for_acks(200);

    cluster.kill(broken);
    cluster.start_node(broken);
    cluster.wait_for_catch_up(broken);
    recorder.finish_linearizable();
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// In seconds: the second word of a line, after the thread's number.
fn time_of(line: &str) -> f64 {
    let word = line.split_whitespace().nth(1);
    word.and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no time in {line}"))
}
