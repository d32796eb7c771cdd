//! Waiting for a leader: asks every node for its status until one of them serves.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use proto::kv::{KvServerRpcStub, StatusArgs, StatusReply};
use rpc::{Backoff, ChannelOptions, RpcChannel, RpcController, RpcError};

/// Pause between two rounds of questions: small beside an election.
const ROUND: Duration = Duration::from_millis(10);

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A connection is refused until the node listens; how soon to try again.
const RECONNECT: Backoff = Backoff {
    min: Duration::from_millis(10),
    max: Duration::from_millis(100),
};

/// How long a cluster may be without a leader before the reasons are told, and told again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the watch has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A node leads and serves; the watch is over.
    Ready { node: usize, term: u64 },
    /// Still none after [`PATIENCE`]: what each node last said.
    NotReady(Vec<String>),
}

/// Starts a thread that asks the nodes at `addresses` until one serves, or `tell` takes no more news.
pub(crate) fn watch(
    addresses: &[SocketAddr],
    tell: impl Fn(News) -> bool + Send + 'static,
) -> io::Result<()> {
    let options = ChannelOptions {
        backoff: RECONNECT,
        connect_timeout: ANSWER_LIMIT,
        ..ChannelOptions::default()
    };
    let stub = |&address: &SocketAddr| {
        KvServerRpcStub::new(RpcChannel::with_options(address, options.clone()))
    };
    let stubs: Vec<_> = addresses.iter().map(stub).collect();
    thread::Builder::new()
        .name("ready".to_owned())
        .spawn(move || ask_until_ready(&stubs, tell))?;
    Ok(())
}

/// Each node has at most one question to answer, so a silent one holds up nobody.
fn ask_until_ready(stubs: &[KvServerRpcStub], tell: impl Fn(News) -> bool) {
    let (answer, answers) = bounded::<(usize, Result<StatusReply, RpcError>)>(stubs.len());
    let mut asked = vec![false; stubs.len()];
    let mut last_said = vec!["nothing yet".to_owned(); stubs.len()];
    let mut tell_at = Instant::now() + PATIENCE;

    loop {
        for (node, stub) in stubs.iter().enumerate().filter(|&(node, _)| !asked[node]) {
            let answer = answer.clone();
            stub.status_async(
                RpcController::with_timeout(ANSWER_LIMIT),
                &StatusArgs {},
                move |reply| {
                    let _ = answer.send((node, reply)); // there is room for one of each node
                },
            );
        }
        asked.fill(true);

        let next_round = Instant::now() + ROUND;
        while let Ok((node, reply)) = answers.recv_deadline(next_round) {
            asked[node] = false;
            if let Some(term) = reply
                .as_ref()
                .ok()
                .and_then(|status| term_of_serving_leader(node, status))
            {
                tell(News::Ready { node, term });
                return;
            }
            last_said[node] = said(node, &reply);
        }
        if Instant::now() >= tell_at {
            tell_at = Instant::now() + PATIENCE;
            if !tell(News::NotReady(last_said.clone())) {
                return;
            }
        }
    }
}

fn term_of_serving_leader(node: usize, status: &StatusReply) -> Option<u64> {
    let leads = status.node_id == node as u64 && status.role == "leader" && status.serving;
    leads.then_some(status.term)
}

/// A node's answer as a reason for there being no leader yet.
fn said(node: usize, reply: &Result<StatusReply, RpcError>) -> String {
    match reply {
        Err(error) => error.to_string(),
        Ok(status) if status.node_id != node as u64 => {
            format!(
                "node {} answers at its address: FILE is not the one it was started with",
                status.node_id
            )
        }
        Ok(status) => {
            let StatusReply {
                role,
                term,
                leader_id,
                ..
            } = status;
            let leader = leader_id.map_or_else(
                || "knows no leader".to_owned(),
                |id| format!("follows node {id}"),
            );
            match role.as_str() {
                "leader" => format!("leader in term {term}, no majority has confirmed it yet"),
                _ => format!("{role} in term {term}, {leader}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node_id: u64, role: &str, serving: bool) -> StatusReply {
        StatusReply {
            node_id,
            role: role.to_owned(),
            term: 7,
            serving,
            ..StatusReply::default()
        }
    }

    #[test]
    fn only_a_serving_leader_at_its_own_address_is_ready() {
        assert_eq!(
            term_of_serving_leader(1, &status(1, "leader", true)),
            Some(7)
        );
        assert_eq!(term_of_serving_leader(1, &status(1, "leader", false)), None);
        assert_eq!(
            term_of_serving_leader(1, &status(1, "follower", true)),
            None
        );
        assert_eq!(term_of_serving_leader(1, &status(2, "leader", true)), None);
    }

    #[test]
    fn every_answer_is_a_reason() {
        assert_eq!(
            said(1, &Ok(status(1, "candidate", false))),
            "candidate in term 7, knows no leader"
        );
        let follower = StatusReply {
            leader_id: Some(2),
            ..status(1, "follower", false)
        };
        assert_eq!(said(1, &Ok(follower)), "follower in term 7, follows node 2");
        assert_eq!(
            said(1, &Ok(status(1, "leader", false))),
            "leader in term 7, no majority has confirmed it yet"
        );
        assert!(
            said(1, &Ok(status(0, "leader", true))).starts_with("node 0 answers at its address")
        );
        let refused = RpcError::new(rpc::Code::Unavailable, "connection refused");
        assert_eq!(said(1, &Err(refused)), "UNAVAILABLE: connection refused");
    }
}
