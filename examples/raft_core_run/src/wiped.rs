//! An empty directory of a node that FILE lists: it may be a node's first start, or must not be one.
//!
//! **The node has run before.** It has forgotten for whom it voted and what it confirmed to a leader;
//! with its help the others could elect a leader that lacks what a client was told is safe.
//!
//! **FILE was enlarged.** Voters change by entries of the log, never by a line of FILE. A node that took
//! that line for a vote would ask other such nodes; where those are more than the members there were,
//! they elect a leader among themselves, and there are two clusters of one name. Nor is a member one that was
//! removed, or replaced, and comes back with nothing: its number is used.
//!
//! A node cannot know either by itself. But those around it may: their logs hold more than a cluster that
//! was never used, and they know who their members are. This is a help against slips, not a proof: who
//! asks nobody learns nothing.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::cluster::ClusterFile;
use proto::membership::DescribeReply;
use raft::NodeId;
use rpc::EventLoops;

use crate::cli::{Cli, node_dir};
use crate::contact::describe_all;
use crate::failure::Failure;
use crate::home;

/// How long one node may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(300);

/// How long all of them may take.
const CONNECT_LIMIT_ALL: Duration = Duration::from_secs(1);

/// A sign that the node must not simply start.
struct Sign {
    what: String,
    /// Whom to ask to be let in, and under which number.
    member: SocketAddr,
    free_number: u64,
}

/// Refuses to start `node`, whose directory is empty, beside a cluster of which it is no member, or,
/// unless it is told that this is the first time, in one that has been used.
///
/// # Errors
/// Which of them, and what to do.
pub(crate) fn refuse(
    node: usize,
    cluster: &ClusterFile,
    cli: &Cli,
    loops: &EventLoops,
) -> Result<(), Failure> {
    let data_dir = cli.data_dir();
    let others = || (0..cluster.nodes.len()).filter(|other| *other != node);
    let addresses: Vec<SocketAddr> = others().map(|other| cluster.nodes[other]).collect();
    let answers = answers_from(&addresses, cluster, loops);
    let (dir, file) = (node_dir(&data_dir, node), cli.file.display());

    let stranger = answers
        .iter()
        .find_map(|(addr, reply)| stranger_to(*addr, reply, node, cluster))
        .or_else(|| others().find_map(|other| stranger_beside(other, node, cluster, &data_dir)));
    if let Some(Sign {
        what,
        member,
        free_number,
    }) = stranger
    {
        return Err(Failure::failed(format!(
            "{what}: a line in {file} makes no member, and nodes that took it for one would found a second \
             cluster beside the first. Delete the lines of {file} that were added by hand, if any, and let a \
             node join under a number that was never used: `raft_core_run --node {free_number} --join {member} \
             -f {file}`",
        )));
    }
    if cli.one.start_empty {
        return Ok(());
    }
    let used = answers
        .iter()
        .find_map(|(addr, reply)| used_by(*addr, reply, cluster))
        .or_else(|| others().find_map(|other| sign_beside(other, cluster, &data_dir)));
    let Some(Sign {
        what,
        member,
        free_number,
    }) = used
    else {
        return Ok(());
    };
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

fn stranger_beside(
    other: usize,
    node: usize,
    cluster: &ClusterFile,
    data_dir: &Path,
) -> Option<Sign> {
    let dir = node_dir(data_dir, other);
    let identity = home::identity(&dir).ok()??;
    let is_member = home::has_member(&dir, NodeId::new(node as u64))?;
    (identity.cluster == cluster.cluster_id && !is_member).then(|| Sign {
        what: format!("{} is of a cluster without a node {node}", dir.display()),
        member: cluster.nodes[other],
        free_number: cluster.nodes.len() as u64,
    })
}

/// What the other nodes of this cluster say, as far as they run.
fn answers_from(
    nodes: &[SocketAddr],
    cluster: &ClusterFile,
    loops: &EventLoops,
) -> Vec<(SocketAddr, DescribeReply)> {
    // In a cluster that begins nobody listens yet, which is no news for the log.
    let give_up = Instant::now() + CONNECT_LIMIT_ALL;
    let listens = |addr: &&SocketAddr| {
        Instant::now() < give_up && TcpStream::connect_timeout(addr, CONNECT_LIMIT).is_ok()
    };
    let nodes: Vec<SocketAddr> = nodes.iter().filter(listens).copied().collect();
    let mut answers = describe_all(loops, &nodes);
    answers.retain(|(_, reply)| reply.cluster_id == cluster.cluster_id);
    answers
}

/// That a node knows its members, and `node` is none of them.
fn stranger_to(
    addr: SocketAddr,
    reply: &DescribeReply,
    node: usize,
    cluster: &ClusterFile,
) -> Option<Sign> {
    let members = &reply.membership.as_ref()?.members;
    let is_member = members.iter().any(|member| member.node == node as u64);
    // One that is about to join knows of none.
    (!members.is_empty() && !is_member).then(|| Sign {
        what: format!(
            "node {} ({addr}) is of a cluster of {} members, without a node {node}",
            reply.node,
            members.len()
        ),
        member: addr,
        free_number: free_number(reply, cluster.nodes.len() as u64),
    })
}

fn used_by(addr: SocketAddr, reply: &DescribeReply, cluster: &ClusterFile) -> Option<Sign> {
    let has_changed = reply.membership_index > 0;
    let is_used = is_used(reply.last_log_index, reply.term) || has_changed;
    is_used.then(|| Sign {
        what: format!(
            "node {} ({addr}) has {} entries",
            reply.node, reply.last_log_index
        ),
        member: addr,
        free_number: free_number(reply, cluster.nodes.len() as u64),
    })
}

fn free_number(reply: &DescribeReply, at_least: u64) -> u64 {
    let members = reply.membership.iter().flat_map(|all| &all.members);
    members
        .map(|member| member.node + 1)
        .fold(at_least, u64::max)
}

/// Each leader begins with one entry, so a log with more entries than terms has been written to.
fn is_used(last_log_index: u64, term: u64) -> bool {
    last_log_index > term
}
