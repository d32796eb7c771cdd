//! Many tiny keys, which are as many entries, and a node that was away for all of them.

use std::env;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::bounded;

use crate::harness::proc::resident_bytes;
use crate::harness::{Cluster, HANG_GUARD, eventually, seed};

/// How many, unless `MANY_KEYS` says otherwise.
const KEYS: u64 = 30_000;

/// Writes under way at once.
const IN_FLIGHT: usize = 1024;

/// One in so many is read back.
const READ_EVERY: usize = 997;

/// Faults C8 and N9. All keys are there in the end, on each node, also after all have died.
#[test]
fn a_node_that_missed_all_of_many_tiny_keys_comes_to_have_them() {
    let keys = env::var("MANY_KEYS").map_or(KEYS, |text| text.parse().unwrap());
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let away = (leader + 1) % 3;
    cluster.kill(away);

    let clerk = cluster.clerk(seed("many_keys"));
    let begun = Instant::now();
    let (ended, end) = bounded(IN_FLIGHT);
    for _ in 0..IN_FLIGHT {
        ended.send(Ok(())).unwrap();
    }
    for key in 0..keys {
        end.recv_timeout(HANG_GUARD).unwrap().unwrap(); // an older write ended: there is room
        let ended = ended.clone();
        clerk.put_async(name(key), "", move |result| {
            let _ = ended.send(result);
        });
    }
    for _ in 0..IN_FLIGHT {
        end.recv_timeout(HANG_GUARD).unwrap().unwrap();
    }
    println!("{keys} keys in {:?}", begun.elapsed());

    let back = Instant::now();
    cluster.start_node(away);
    cluster.wait_for_catch_up(away);
    println!("caught up after {:?}", back.elapsed());
    has_all(&cluster, keys);
    for node in 0..3 {
        let resident = resident_bytes(cluster.process(node).id()) >> 20;
        println!("node {node} has {resident} MiB");
    }

    cluster.kill_all();
    let again = Instant::now();
    for node in 0..3 {
        cluster.start_node(node);
    }
    cluster.leader();
    println!("served again after {:?}", again.elapsed());
    has_all(&cluster, keys);
    let clerk = cluster.clerk(seed("many_keys"));
    for key in (0..keys).step_by(READ_EVERY) {
        assert_eq!(clerk.get(name(key)).unwrap(), Some(Bytes::new()), "{key}");
    }
}

fn has_all(cluster: &Cluster, keys: u64) {
    cluster.wait_for_convergence();
    for node in cluster.running() {
        let status = eventually("a status", || cluster.status(node));
        assert_eq!(status.keys, keys, "node {node}");
    }
}

/// A few bytes, and no text: a number's, without those that are 0 above it.
fn name(key: u64) -> Bytes {
    let bytes = key.to_le_bytes();
    let len = bytes.len() - key.leading_zeros() as usize / 8;
    Bytes::copy_from_slice(&bytes[..len.max(1)])
}
