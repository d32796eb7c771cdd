//! Snapshots on their way to a node that was away, when something comes in between.

use clerk::ReadFrom;

use crate::harness::cluster::files_of;
use crate::harness::links::Links;
use crate::harness::{Cluster, eventually};

/// All that the nodes hold: sent in chunks of a mebibyte.
const VALUES: usize = 24;
const VALUE_BYTES: usize = 512 << 10;

/// What is sent of it before the link is cut.
const SENT_BYTES: usize = 6 << 20;

/// What may be sent twice: the chunk that was under way, and the one before it.
const RESENT_BYTES_MAX: u64 = 2 << 20;

const SNAPSHOTS: &str = "--snapshot-log-bytes=2097152";

/// A node that gets a snapshot, the first half of which has arrived.
struct Scene {
    cluster: Cluster,
    links: Links,
    leader: usize,
    behind: usize,
}

impl Scene {
    fn start() -> Self {
        let (mut cluster, links) = Cluster::with_links(3, &[SNAPSHOTS]);
        let leader = cluster.leader();
        let behind = (leader + 1) % 3;
        cluster.kill(behind);
        let had = eventually("a status", || cluster.status(leader)).last_log_index;
        let clerk = cluster.clerk(0);
        for number in 0..VALUES {
            clerk.put(key(number), value(number)).unwrap();
        }
        let all = (VALUES * VALUE_BYTES) as u64;
        eventually("the others have dropped what the node needs", || {
            let mut others = cluster.running();
            others
                .all(|node| {
                    cluster.status(node).is_some_and(|status| {
                        status.snapshot_index > had && status.log_bytes < all / 2
                    })
                })
                .then_some(())
        });
        let leader = cluster.leader();
        links.cut_after(SENT_BYTES, leader, behind);
        cluster.start_node(behind);
        eventually("half of the snapshot", || {
            links.is_cut(leader, behind).then_some(())
        });
        Self {
            cluster,
            links,
            leader,
            behind,
        }
    }

    /// The leader has sent the rest, and hardly anything twice.
    fn assert_resumed(&mut self) {
        let snapshots = files_of(&self.cluster.node_dir(self.behind).join("snapshot"));
        let (_, file_bytes) = snapshots.last().expect("it has arrived");
        let leader = self.cluster.process(self.leader);
        let said = leader.wait_for_line("snapshot installed at follower");
        let (_, sent_bytes) = said.split_once("sent_bytes=").unwrap();
        let (sent_bytes, _) = sent_bytes.split_once(' ').unwrap();
        let sent_bytes: u64 = sent_bytes.parse().unwrap();
        println!("{sent_bytes} bytes sent of a file of {file_bytes}");
        assert!(sent_bytes <= file_bytes + RESENT_BYTES_MAX, "{said}");
    }

    /// The node answers for everything itself.
    fn assert_complete(&self) {
        self.cluster.wait_for_convergence();
        let clerk = self.cluster.clerk_of(&[self.behind]);
        let clerk = clerk.with_reads_from(ReadFrom::Any);
        for number in 0..VALUES {
            let found = clerk.get(key(number)).unwrap();
            assert!(found.as_deref() == Some(&value(number)[..]), "{number}");
        }
    }
}

fn key(number: usize) -> String {
    format!("large {number}")
}

fn value(number: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    std::iter::repeat_with(|| random.u8(..))
        .take(VALUE_BYTES)
        .collect()
}

/// Faults M6: the link is silent until the leader has given the connection up, then whole again.
#[test]
fn a_snapshot_goes_on_where_the_link_was_cut() {
    let mut scene = Scene::start();
    let lost = || {
        let said = scene.cluster.output(scene.leader);
        said.matches("connection lost with calls under way").count()
    };
    let before = lost();
    eventually("the leader gives it up", || (lost() > before).then_some(()));
    scene.links.rejoin(scene.behind);
    scene.cluster.wait_for_catch_up(scene.behind);
    scene.assert_resumed();
    scene.assert_complete();
}

/// Faults M6: the node that receives it dies, and comes back with what had arrived.
#[test]
fn a_snapshot_goes_on_where_its_receiver_died() {
    let mut scene = Scene::start();
    scene.cluster.kill(scene.behind);
    scene.links.rejoin(scene.behind);
    scene.cluster.start_node(scene.behind);
    scene
        .cluster
        .process(scene.behind)
        .wait_for_line("goes on with a snapshot that was arriving");
    scene.cluster.wait_for_catch_up(scene.behind);
    scene.assert_resumed();
    scene.assert_complete();
}

/// Faults M6: the leader dies; another one leads, and sends what may be another snapshot.
#[test]
fn a_snapshot_whose_sender_dies_comes_from_the_next_leader() {
    let mut scene = Scene::start();
    scene.cluster.kill(scene.leader);
    scene.links.rejoin(scene.behind);
    scene.cluster.wait_for_catch_up(scene.behind);
    scene.cluster.start_node(scene.leader);
    scene.assert_complete();
}
