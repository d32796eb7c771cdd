//! A cluster and its clients, who read and write all the time, and what may be said of it meanwhile.
//!
//! Every history is checked, and every acknowledged write read back. Bounds are in election timeouts
//! and in terms; how long something took is printed.

use std::any::type_name;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::history::Recorder;
use super::load::{Journal, Load};
use super::network::Network;
use super::wait::{HANG_GUARD, eventually, seed};

/// Long enough that a busy machine brings about no election by itself.
pub(crate) const KNOBS: [&str; 2] = ["--election-timeout-ms=500-1000", "--log=debug"];

/// The longest.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Service is back by then wherever a majority has it.
pub(crate) const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// Short enough that some calls end with their outcome unknown while there is no leader.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_millis(800);

/// A cluster and its clients.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
    pub(crate) recorder: Recorder,
}

impl Scene {
    /// On a network, for the test that names itself. `None`: it has passed elsewhere, or cannot run.
    pub(crate) fn of<T: Fn()>(test: T, nodes: usize, hosts: usize) -> Option<Self> {
        Self::with_knobs(test, nodes, hosts, &[])
    }

    /// As [`of`](Self::of), each node with these further options.
    pub(crate) fn with_knobs<T: Fn()>(
        test: T,
        nodes: usize,
        hosts: usize,
        knobs: &[&str],
    ) -> Option<Self> {
        let network = Network::of(test, hosts)?;
        let knobs: Vec<&str> = KNOBS.iter().chain(knobs).copied().collect();
        let cluster = Cluster::on(&network, nodes, &knobs);
        Some(Self::begin(cluster, seed(type_name::<T>())))
    }

    /// The clients begin.
    pub(crate) fn begin(cluster: Cluster, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let load = Load::start(&cluster, 4, random.u64(..));
        let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
        load.wait_for_acks(100);
        recorder.progress(100);
        Self {
            cluster,
            load,
            recorder,
        }
    }

    pub(crate) fn network(&self) -> &Network {
        self.cluster.network().expect("this cluster is on one")
    }

    pub(crate) fn term(&self, node: usize) -> u64 {
        eventually("a status", || self.cluster.status(node)).term
    }

    /// The latest that any node is in.
    pub(crate) fn latest_term(&self) -> u64 {
        let terms = self.cluster.running().map(|node| self.term(node));
        terms.max().expect("some node runs")
    }

    /// A client of these nodes gets a write done in time.
    pub(crate) fn assert_served_by(&self, nodes: &[usize]) {
        let begun = Instant::now();
        let clerk = self.cluster.clerk_of(nodes).with_timeout(HANG_GUARD);
        clerk.put("through", "it").unwrap();
        let took = begun.elapsed();
        println!("the nodes {nodes:?} serve after {} ms", took.as_millis());
        assert!(took < SERVED_WITHIN, "{took:?}");
    }

    /// For so long all nodes' clients are served in time, whenever they ask.
    pub(crate) fn assert_served_for(&self, duration: Duration) {
        let nodes: Vec<usize> = self.cluster.running().collect();
        let begun = Instant::now();
        while begun.elapsed() < duration {
            self.assert_served_by(&nodes);
            let served = Instant::now();
            while served.elapsed() < ELECTION_TIMEOUT {
                self.load.wait_for_acks(20);
            }
        }
    }

    /// Who leads, and since which term.
    pub(crate) fn leadership(&self) -> (usize, u64) {
        let leader = self.cluster.leader();
        (leader, self.term(leader))
    }

    /// For some election timeouts clients are served, and nobody comes to a new term.
    pub(crate) fn assert_at_rest(&self, timeouts: u32) {
        let before = (self.leadership(), self.latest_term());
        let begun = Instant::now();
        while begun.elapsed() < ELECTION_TIMEOUT * timeouts {
            self.load.wait_for_acks(20);
        }
        let now = (self.leadership(), self.latest_term());
        assert_eq!(now, before, "a disturbance");
    }

    /// Nothing is cut any longer: all nodes catch up, and none disturbs the others.
    pub(crate) fn heal_and_settle(&self) {
        let before = self.leadership();
        self.network().heal();
        let nodes: Vec<usize> = self.cluster.running().collect();
        for node in nodes {
            self.cluster.wait_for_catch_up(node);
        }
        self.assert_at_rest(2);
        assert_eq!(self.leadership(), before, "who comes back disturbs them");
    }

    /// All that was promised holds. The cluster goes on running.
    pub(crate) fn end(self) -> (Cluster, Journal) {
        if let Some(network) = self.cluster.network() {
            network.heal();
        }
        let journal = self.load.finish();
        self.recorder.finish_linearizable();
        self.cluster.wait_for_convergence();
        journal.verify(&self.cluster);
        (self.cluster, journal)
    }

    /// The leader and the others.
    pub(crate) fn cast<const FOLLOWERS: usize>(&self) -> (usize, [usize; FOLLOWERS]) {
        let leader = self.cluster.leader();
        let others: Vec<usize> = self
            .cluster
            .running()
            .filter(|node| *node != leader)
            .collect();
        let others = others.try_into();
        (
            leader,
            others.expect("the test knows how many nodes it has"),
        )
    }

    /// Proves that something is cut: a node does not hear its leader any longer.
    pub(crate) fn wait_until_missed_by(&self, leader: usize, node: usize) {
        eventually("it misses its leader", || {
            let status = self.cluster.status(node)?;
            (status.leader_id != Some(leader as u64)).then_some(())
        });
    }

    /// How often a node has asked whether it could win.
    pub(crate) fn campaigns(&self, node: usize) -> usize {
        let said = self.cluster.output(node);
        said.matches("asks for pre-votes").count()
    }

    /// How often somebody has been elected, by what the nodes have said since they started.
    pub(crate) fn elections(&self) -> usize {
        let won = |node| self.cluster.output(node).matches("became leader").count();
        self.cluster.running().map(won).sum()
    }

    /// A fault may take some terms, since an election may be in vain, but not one after the other.
    pub(crate) fn assert_few_terms_since(&self, before: u64) {
        let terms = self.latest_term() - before;
        println!("{terms} terms");
        assert!(terms <= 3, "{terms} terms");
    }
}
