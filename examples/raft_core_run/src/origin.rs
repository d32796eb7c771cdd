//! With which members, identity and address a node starts.
//!
//! ```text
//! --join ADDR                   the cluster that ADDR belongs to; a member when that has let it in
//! FILE lists it                 FILE's members, and those of its log where that knows better
//! its directory was in use      its cluster, its members and its address are in there
//! ```

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Instant;

use kvserver::KvServerOptions;
use proto::cluster::ClusterFile;
use proto::membership::DescribeReply;
use raft::{NodeId, NodeOptions};
use rpc::EventLoops;

use crate::cli::{Cli, node_dir};
use crate::contact::{self, Contact};
use crate::failure::Failure;
use crate::join::{Goal, Join};
use crate::node::one_line;
use crate::{home, wiped};

/// How to start a node, and what it does then.
pub(crate) struct Origin {
    pub(crate) options: KvServerOptions,
    /// It is, or may be, no voter yet.
    pub(crate) join: Option<Join>,
}

/// Looks at the command line, FILE, the node's directory and the cluster, in this order.
pub(crate) fn of(
    node: usize,
    cli: &Cli,
    loops: &EventLoops,
    started: Instant,
) -> Result<Origin, Failure> {
    if let Some(member) = cli.one.join {
        return joining(node, member, cli, loops, started);
    }
    let dir = node_dir(&cli.data_dir(), node);
    let cluster = match ClusterFile::load(&cli.file) {
        Ok(cluster) if node < cluster.nodes.len() => cluster,
        other => {
            return unlisted(
                node,
                &dir,
                other.map_err(|error| error.to_string()),
                cli,
                loops,
            );
        }
    };
    if matches!(home::identity(&dir), Ok(None)) {
        wiped::refuse(node, &cluster, cli, loops)?;
    }
    let id = NodeId::new(node as u64);
    let ClusterFile { nodes, cluster_id } = cluster;
    let options = NodeOptions::new(id, &nodes, cluster_id, dir, loops.clone());
    let options = KvServerOptions::listening(options, cli.one.listen.unwrap_or(nodes[node]));
    Ok(Origin {
        options,
        join: None,
    })
}

/// A node that joined once and is no node of FILE.
fn unlisted(
    node: usize,
    dir: &Path,
    file: Result<ClusterFile, String>,
    cli: &Cli,
    loops: &EventLoops,
) -> Result<Origin, Failure> {
    let identity = home::identity(dir).map_err(|error| Failure::failed(one_line(&error)))?;
    let Some(identity) = identity else {
        let cluster = file.map_err(Failure::failed)?;
        let (file, count) = (cli.file.display(), cluster.nodes.len());
        let last = count - 1;
        return Err(Failure::Usage(format!(
            "{file} lists {count} nodes: give --node a number from 0 to {last}, or let node {node} join \
             with --join ADDRESS-OF-A-MEMBER"
        )));
    };
    let id = NodeId::new(node as u64);
    let recorded = || home::address(dir, id).map_err(|error| Failure::failed(one_line(&error)));
    let listen = match cli.one.listen {
        Some(listen) => listen,
        None => recorded()?.ok_or_else(|| {
            Failure::failed(format!(
                "{} does not say where node {node} listens: it had not joined yet; start it with --join \
                 ADDRESS-OF-A-MEMBER",
                dir.display()
            ))
        })?,
    };
    let options = NodeOptions::joining(id, identity.cluster, dir.to_owned(), loops.clone());
    Ok(Origin {
        options: KvServerOptions::listening(options, listen),
        join: None,
    })
}

/// A node that joins the cluster of `member`, or goes on with it.
fn joining(
    node: usize,
    member: SocketAddr,
    cli: &Cli,
    loops: &EventLoops,
    started: Instant,
) -> Result<Origin, Failure> {
    let dir = node_dir(&cli.data_dir(), node);
    let mut contact = Contact::new(loops.clone(), member);
    let (leader, cluster) = contact.leader_soon().map_err(|why| {
        Failure::failed(format!(
            "no leader to be found by {member}: {why}: give --join the address of a member that runs, \
             in a cluster of which a majority does"
        ))
    })?;
    let identity = home::identity(&dir).map_err(|error| Failure::failed(one_line(&error)))?;
    let id = node as u64;
    let known_at = address_in(&cluster, id);
    if identity.is_none() {
        refuse_used_number(id, known_at, &cluster, leader, cli)?;
    }
    let listen = match (cli.one.listen, known_at) {
        (Some(listen), _) => listen,
        (None, Some(known)) => known,
        (None, None) => free_address(member, cli.base_port, &cluster)?,
    };
    let id_of_node = NodeId::new(id);
    let options = NodeOptions::joining(id_of_node, cluster.cluster_id, dir, loops.clone());
    Ok(Origin {
        options: KvServerOptions::listening(options, listen),
        join: Some(Join {
            node: id,
            address: listen,
            goal: match cli.one.replace {
                Some(old) => Goal::Replace(old),
                None if cli.one.learner => Goal::Learner,
                None => Goal::Voter,
            },
            contact,
            started,
        }),
    })
}

/// A number stands for what its node has promised. One that belongs, or belonged, to another node
/// must not be given to one that knows nothing of that.
fn refuse_used_number(
    node: u64,
    known_at: Option<SocketAddr>,
    cluster: &DescribeReply,
    leader: SocketAddr,
    cli: &Cli,
) -> Result<(), Failure> {
    let listed = ClusterFile::load(&cli.file).ok();
    let listed = listed.filter(|file| file.cluster_id == cluster.cluster_id);
    let listed = listed.map_or(0, |file| file.nodes.len() as u64);
    if known_at.is_none() && node >= listed {
        return Ok(());
    }
    let members = cluster.membership.iter().flat_map(|all| &all.members);
    let free = members.map(|member| member.node + 1).fold(listed, u64::max);
    let instead_of = if known_at.is_some() {
        node
    } else {
        cli.one.replace.unwrap_or(node)
    };
    Err(Failure::failed(format!(
        "node {node} is, or was, a member of this cluster, and {} is empty: a node must not vote on votes \
         it has forgotten, so no number is used twice: `raft_core_run --node {free} --join {leader} \
         --replace {instead_of}`",
        node_dir(&cli.data_dir(), usize::try_from(node).unwrap_or(usize::MAX)).display(),
    )))
}

fn address_in(cluster: &DescribeReply, node: u64) -> Option<SocketAddr> {
    let mut members = cluster.membership.iter().flat_map(|all| &all.members);
    members
        .find(|member| member.node == node)?
        .address
        .parse()
        .ok()
}

/// Where the others can call this node: the address by which it reaches them, and a free port. One of a
/// member that is down is not free: it is called there.
fn free_address(
    member: SocketAddr,
    base_port: u16,
    cluster: &DescribeReply,
) -> Result<SocketAddr, Failure> {
    let taken: Vec<SocketAddr> = contact::addresses(cluster).collect();
    let unspecified = if member.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let own_ip = UdpSocket::bind(unspecified).and_then(|socket| {
        socket.connect(member)?; // sends nothing
        socket.local_addr()
    });
    let found = own_ip.ok().and_then(|own| {
        let mut ports = (base_port..=u16::MAX).map(|port| SocketAddr::new(own.ip(), port));
        ports.find(|address| !taken.contains(address) && TcpListener::bind(address).is_ok())
    });
    found.ok_or_else(|| {
        Failure::failed(format!(
            "cannot find a free address from which {member} is reached: give --listen IP:PORT"
        ))
    })
}
