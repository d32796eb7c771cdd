//! Histories of concurrent clients, checked as a whole.

use std::time::Duration;

use crate::harness::history::Recorder;
use crate::harness::{Cluster, seed};

/// Short enough that some calls end with their outcome unknown while there is no leader.
const CALL_TIMEOUT: Duration = Duration::from_millis(400);

/// Leaders are killed and paused while clients read and write a few keys.
#[test]
fn every_history_is_linearizable() {
    let mut random = fastrand::Rng::with_seed(seed("linearizability"));
    let mut cluster = Cluster::with_knobs(3, &["--snapshot-log-bytes=131072"]);
    let recorder = Recorder::start(&cluster, 8, CALL_TIMEOUT, random.u64(..));
    let progress = |more: u64| recorder.progress(more);
    for _ in 0..3 {
        progress(random.u64(500..1_500));
        let leader = cluster.leader();
        cluster.kill(leader);
        progress(random.u64(200..800));
        cluster.start_node(leader);

        progress(random.u64(500..1_500));
        let leader = cluster.leader();
        cluster.pause(leader);
        let others: Vec<usize> = cluster.running().filter(|&node| node != leader).collect();
        cluster.leader_among(&others);
        progress(random.u64(200..800));
        cluster.resume(leader);
    }
    progress(500);
    recorder.finish_linearizable();
}
