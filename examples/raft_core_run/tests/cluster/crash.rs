//! All nodes die at once.

use crate::harness::{Cluster, Load, seed};

/// The original's defects 1 and 2: nothing that was acknowledged survived.
#[test]
fn every_acknowledged_write_survives_the_death_of_all_nodes() {
    let mut random = fastrand::Rng::with_seed(seed("crash"));
    // With snapshots: those are restored as well.
    let mut cluster = Cluster::with_knobs(3, &["--snapshot-log-bytes=262144"]);
    let load = Load::start(&cluster, 8, random.u64(..));
    for _ in 0..4 {
        load.wait_for_acks(random.u64(200..2_000));
        cluster.kill_all();
        for node in 0..cluster.len() {
            cluster.start_node(node);
        }
    }
    load.wait_for_acks(100);
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);

    // Once more with nobody writing: what a restart alone finds.
    cluster.kill_all();
    for node in 0..cluster.len() {
        cluster.start_node(node);
    }
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}
