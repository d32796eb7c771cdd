//! `force-new-cluster`: the last resort when a majority is lost for good.

use raft::NodeId;
use raft::core::LogId;
use raft::storage::inspect::{Directory, LogState};
use raft::storage::{NewCluster, force_new_cluster};

use crate::args::ForceArgs;
use crate::failure::{Failure, print};

pub(crate) fn force(args: ForceArgs) -> Result<(), Failure> {
    let ForceArgs {
        dir,
        node,
        address,
        accepted,
    } = args;
    if !accepted {
        let directory = Directory::open(&dir)?;
        let report = directory.verify_log()?;
        let LogState {
            hard_state,
            last_index,
            compaction,
        } = report.state;
        let kept = last_index.max(compaction.snapshot.index);
        return Err(Failure::Usage(format!(
            "nothing was done. {} would become a NEW CLUSTER of node {node} alone, from what this node has: \
             entries up to {kept}, term {}, snapshot up to {}. WRITES THAT WERE ACKNOWLEDGED AND THAT THIS NODE \
             HAD NOT RECEIVED WOULD BE LOST FOR EVER, and none of the other nodes may ever run again. If a \
             majority of the nodes can be brought back, do that instead. Read \"When a majority is lost for \
             good\" in docs/operations.md; then give --i-accept-that-acknowledged-writes-may-be-lost",
            dir.display(),
            hard_state.current_term,
            compaction.snapshot.index,
        )));
    }
    let forced = force_new_cluster(&dir, NodeId::new(node), address)
        .map_err(|error| Failure::Failed(format!("nothing was done: {error}")))?;
    report(&dir.display().to_string(), &forced)
}

fn report(dir: &str, forced: &NewCluster) -> Result<(), Failure> {
    let NewCluster {
        old,
        new,
        old_members,
        address,
        snapshot,
        last_log,
        membership,
        aside,
        ..
    } = forced;
    let node = new.node;
    let members = old_members
        .as_ref()
        .map_or("as its cluster file has them".to_owned(), |members| {
            members.to_string()
        });
    let committed = match *snapshot {
        LogId::ZERO => "no entry of it is known to have been committed".to_owned(),
        snapshot => format!(
            "those up to {} are in a snapshot and were committed",
            snapshot.index
        ),
    };
    print(format_args!(
        "{dir} is the beginning of cluster {:#018x}, of which node {node} at {address} is the only member.\n\
         \n\
         Done:\n  \
         - kept all entries of this node, up to {} of term {}; {committed}\n  \
         - added entry {} of term {}: node {node} decides alone from here on\n  \
         - gave it another cluster id: it was {:#018x}, members {members}\n  \
         - moved the old directory, unchanged, to {}\n\
         \n\
         May be lost: every write that the old cluster acknowledged and that this node had not received.\n\
         May be found: entries up to {} that were never acknowledged; they are committed when the node starts.\n\
         \n\
         To do:\n  \
         - NEVER START ANOTHER NODE OF THE OLD CLUSTER AGAIN: a majority of them would go on as if nothing had\n    \
           happened, beside this one. Move their directories away.\n  \
         - start node {node} with its directory alone, by a cluster file that does not list it:\n    \
           raft_core_run --node {node} --data-dir {} -f new.conf\n  \
         - add empty nodes under numbers that were never used:\n    \
           raft_core_run --node N --join {address} --data-dir DIR",
        new.cluster,
        last_log.index,
        last_log.term,
        membership.index,
        membership.term,
        old.cluster,
        aside.display(),
        last_log.index,
        parent(dir),
    ))
}

fn parent(dir: &str) -> String {
    let dir = std::path::Path::new(dir);
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.display().to_string(),
        _ => ".".to_owned(),
    }
}
