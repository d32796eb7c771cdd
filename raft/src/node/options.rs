//! What a node can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rpc::EventLoops;

use crate::core::{Lease, Membership, NodeId};

/// How to run one node. Every bound on memory and disk stands here.
#[derive(Clone)]
pub struct NodeOptions {
    /// This node.
    pub id: NodeId,
    /// The members with which the cluster began, the same on each of them (where it calls them may
    /// differ). In force until the log or a snapshot says otherwise. Empty in a node that is to join
    /// a running cluster: it waits to be called.
    pub initial: Membership,
    /// Tells clusters apart; a peer of another cluster is refused.
    pub cluster_id: u64,
    /// The node's own directory. Created if missing.
    pub data_dir: PathBuf,
    /// Carries the channels to peers; best shared with the provider.
    pub loops: EventLoops,

    /// A follower that hears nothing for a time drawn from this range stands for election.
    pub election_timeout: (Duration, Duration),
    /// How often a leader speaks when it has nothing to say.
    pub heartbeat: Duration,
    /// Lets a leader answer reads by the clock, under the assumption stated at [`Lease`]; on all
    /// nodes or on none. Off by default: reads then hold with any clocks.
    pub lease: Option<Lease>,

    /// A leader whose disk does not finish a write for so long resigns; one that cannot commit for
    /// so long, since the others do not store what it sends, refuses further writes until it can.
    pub disk_stall_limit: Duration,

    /// Entries in one AppendEntries, in bytes; a larger entry goes alone.
    pub max_message_bytes: usize,
    /// Proposals and reads that may wait for the node; more are refused.
    pub max_queued_requests: usize,
    /// Commands of waiting proposals, in bytes; more are refused.
    pub max_queued_bytes: usize,
    /// A snapshot is taken once more than this of the log was handed to the state machine since the
    /// latest one, or half of `max_log_bytes`, in bytes. Less than `max_log_bytes`.
    pub snapshot_log_bytes: usize,
    /// What of the log stays behind a snapshot for followers that were away briefly, in bytes; up to 32
    /// times as much, and half of `max_log_bytes`, while one of them receives a snapshot.
    pub retained_log_bytes: usize,
    /// While the log in memory is larger than this, in bytes, a leader refuses proposals; a follower
    /// takes no entries while so much of it is committed, and goes on once it has applied some and
    /// taken a snapshot. Its state machine or its snapshots cannot keep up.
    pub max_log_bytes: usize,
    /// Size of a WAL segment, in bytes.
    pub segment_bytes: usize,
    /// Snapshots go to a follower in chunks of this size, in bytes.
    pub snapshot_chunk_bytes: usize,
    /// Snapshots go to one follower no faster than this, in bytes a second.
    pub snapshot_bytes_per_second: u64,
    /// Messages that may wait in applyChan. Each holds at most `max_message_bytes` of entries.
    pub apply_queue: usize,
    /// Writes down what the node's core is told, to be run through one again: see
    /// [`record`](crate::record). Off by default.
    pub record: Option<RecordOptions>,
}

/// Where a node's run is recorded, and how much of it is kept.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// Where; once it is full it becomes `FILE.1`, in place of the one before. What is there from an
    /// earlier process becomes `FILE.1` at the start.
    pub file: PathBuf,
    /// Inputs in both files together, in bytes. What each file begins with comes on top: some ten
    /// bytes for each entry of the log in memory.
    pub max_bytes: usize,
}

impl RecordOptions {
    /// The latest 64 MiB of inputs.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            max_bytes: 64 << 20,
        }
    }
}

impl NodeOptions {
    /// Node `id` of a cluster whose node I listens at `addresses[I]`, with the defaults.
    ///
    /// # Panics
    /// With more addresses than [`MAX_MEMBERS`](crate::core::MAX_MEMBERS).
    #[must_use]
    pub fn new(
        id: NodeId,
        addresses: &[SocketAddr],
        cluster_id: u64,
        data_dir: PathBuf,
        loops: EventLoops,
    ) -> Self {
        let members = (0..)
            .map(NodeId::new)
            .zip(addresses.iter().map(ToString::to_string));
        let initial = Membership::of_voters(members).expect("numbered, short, and not too many");
        Self {
            initial,
            ..Self::joining(id, cluster_id, data_dir, loops)
        }
    }

    /// Node `id`, which is to join a running cluster, with the defaults.
    #[must_use]
    pub fn joining(id: NodeId, cluster_id: u64, data_dir: PathBuf, loops: EventLoops) -> Self {
        const MIB: usize = 1 << 20;
        Self {
            id,
            initial: Membership::default(),
            cluster_id,
            data_dir,
            loops,
            election_timeout: (Duration::from_millis(300), Duration::from_millis(500)),
            heartbeat: Duration::from_millis(25),
            lease: None,
            disk_stall_limit: Duration::from_millis(1500),
            max_message_bytes: MIB,
            max_queued_requests: 16_384,
            max_queued_bytes: 64 * MIB,
            snapshot_log_bytes: 32 * MIB,
            retained_log_bytes: 4 * MIB,
            max_log_bytes: 256 * MIB,
            segment_bytes: 8 * MIB,
            snapshot_chunk_bytes: MIB,
            snapshot_bytes_per_second: 256 * (MIB as u64),
            apply_queue: 32,
            record: None,
        }
    }
}
