//! An empty directory under the number of a node that has run: that node must not vote.
//!
//! It has forgotten for whom it voted and what it confirmed to a leader; with its help the others
//! could elect a leader that lacks what a client was told is safe. A node cannot know by itself
//! that its directory was lost. But those around it may: their logs hold more than a cluster that
//! was never used. This is a help against slips, not a proof: who asks nobody learns nothing.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::cluster::ClusterFile;
use rpc::EventLoops;

use crate::cli::node_dir;
use crate::contact::describe_all;
use crate::failure::Failure;
use crate::home;

/// How long one node may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(300);

/// How long all of them may take.
const CONNECT_LIMIT_ALL: Duration = Duration::from_secs(1);

/// A sign that the cluster has run for a while.
struct Sign {
    what: String,
    /// Whom to ask to be let in, and under which number.
    member: SocketAddr,
    free_number: u64,
}

/// Refuses to start `node`, whose directory is empty, in a cluster that has been used.
///
/// # Errors
/// It has, and what to do.
pub(crate) fn refuse(
    node: usize,
    cluster: &ClusterFile,
    file: &Path,
    data_dir: &Path,
    loops: &EventLoops,
) -> Result<(), Failure> {
    let mut others = (0..cluster.nodes.len()).filter(|other| *other != node);
    let addresses: Vec<SocketAddr> = others.clone().map(|other| cluster.nodes[other]).collect();
    let Some(sign) = sign_from(&addresses, cluster, loops)
        .or_else(|| others.find_map(|other| sign_beside(other, cluster, data_dir)))
    else {
        return Ok(());
    };
    let Sign {
        what,
        member,
        free_number,
    } = sign;
    let (dir, file) = (node_dir(data_dir, node), file.display());
    Err(Failure::failed(format!(
        "{} is empty, but {what}: a node that lost its directory must not vote on votes it has \
         forgotten. Let it join under a number that was never used: `raft_core_run --node {free_number} \
         --join {member} --replace {node} -f {file}`. If node {node} has never run before, start it \
         with --start-empty",
        dir.display(),
    )))
}

/// Nodes of one machine mostly have their directories beside each other.
fn sign_beside(other: usize, cluster: &ClusterFile, data_dir: &Path) -> Option<Sign> {
    let dir = node_dir(data_dir, other);
    let identity = home::identity(&dir).ok()??;
    let (last, term) = home::progress(&dir)?;
    let is_used = identity.cluster == cluster.cluster_id && is_used(last, term);
    is_used.then(|| Sign {
        what: format!("{} has {last} entries", dir.display()),
        member: cluster.nodes[other],
        free_number: cluster.nodes.len() as u64,
    })
}

fn sign_from(nodes: &[SocketAddr], cluster: &ClusterFile, loops: &EventLoops) -> Option<Sign> {
    // In a cluster that begins nobody listens yet, which is no news for the log.
    let give_up = Instant::now() + CONNECT_LIMIT_ALL;
    let listens = |addr: &&SocketAddr| {
        Instant::now() < give_up && TcpStream::connect_timeout(addr, CONNECT_LIMIT).is_ok()
    };
    let nodes: Vec<SocketAddr> = nodes.iter().filter(listens).copied().collect();
    let answers = describe_all(loops, &nodes);
    answers.into_iter().find_map(|(addr, reply)| {
        let has_changed = reply.membership_index > 0;
        let is_used = is_used(reply.last_log_index, reply.term) || has_changed;
        let members = reply.membership.iter().flat_map(|all| &all.members);
        let numbers = members.map(|member| member.node + 1);
        (reply.cluster_id == cluster.cluster_id && is_used).then(|| Sign {
            what: format!(
                "node {} ({addr}) has {} entries",
                reply.node, reply.last_log_index
            ),
            member: addr,
            free_number: numbers.fold(cluster.nodes.len() as u64, u64::max),
        })
    })
}

/// Each leader begins with one entry, so a log with more entries than terms has been written to.
fn is_used(last_log_index: u64, term: u64) -> bool {
    last_log_index > term
}
