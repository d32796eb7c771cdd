//! `cluster status`: how a cluster stands, as its leader and each of its members say.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use proto::membership::{ClusterRpcStub, DescribeArgs, DescribeReply};
use proto::raft::Member;
use serde::Serialize;

use crate::args::ServerArgs;
use crate::failure::{Failure, print};
use crate::server::Server;

/// How long a member may take to say how it is, unless the command line says.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A cluster at one moment, or nearly: each member is asked once.
#[derive(Debug, Serialize)]
struct Status {
    /// 16 hex digits, as in the cluster file.
    cluster_id: String,
    /// `None`: no leader is known.
    leader: Option<u64>,
    term: u64,
    commit_index: u64,
    last_log_index: u64,
    /// The entry that brought the members; 0: the cluster began with them.
    membership_index: u64,
    /// Who is to lead next.
    handing_over_to: Option<u64>,
    members: Vec<MemberStatus>,
}

#[derive(Debug, Serialize)]
struct MemberStatus {
    node: u64,
    /// By its own word; `None`: it does not answer.
    role: Option<String>,
    address: String,
    /// `voter`, `learner`; during a change of voters also `joining`, `leaving`.
    member: &'static str,
    /// As far as its log is known to equal the leader's. By the leader's word, as all that follows.
    match_index: Option<u64>,
    /// Entries that it lacks.
    lag: Option<u64>,
    /// Since the leader last heard it.
    silent_ms: Option<u64>,
}

/// Prints the members of the cluster to which the server belongs.
///
/// # Errors
/// The server does not answer; or the cluster has no leader, after the members were printed.
pub(crate) fn status(server: ServerArgs, json: bool) -> Result<(), Failure> {
    let server = Server::new(server)?;
    let stub = ClusterRpcStub::new(server.channel.clone());
    let reply = stub.describe(&mut server.controller(), &DescribeArgs {});
    let asked = reply.map_err(|error| Failure::of_call(&server.addr, &error))?;
    let answers = ask_all(&server, &asked)?;
    let leaders = answers.values().filter(|reply| reply.role == "leader");
    let leader = leaders.max_by_key(|reply| reply.term);
    let status = Status::new(leader.unwrap_or(&asked), leader, &answers);
    if json {
        let text = serde_json::to_string(&status);
        print(text.map_err(|error| Failure::Failed(format!("no JSON: {error}")))?)?;
    } else {
        for line in status.lines() {
            print(line)?;
        }
    }
    match status.leader {
        Some(_) => Ok(()),
        None => Err(Failure::Failed(
            "no member leads: see that a majority of the voters runs and can call each other"
                .to_owned(),
        )),
    }
}

/// What each member says of itself, by its number. Those that do not answer are left out.
fn ask_all(
    server: &Server,
    asked: &DescribeReply,
) -> Result<BTreeMap<u64, DescribeReply>, Failure> {
    let (answer, answers) = mpsc::channel();
    let mut channels = Vec::new(); // kept until all have answered
    for member in members_of(asked) {
        let other = server.other(&member.address)?;
        let controller = other.controller();
        controller.set_timeout(server.timeout().unwrap_or(ANSWER_LIMIT));
        let (answer, node) = (answer.clone(), member.node);
        ClusterRpcStub::new(other.channel.clone()).describe_async(
            controller,
            &DescribeArgs {},
            move |reply| {
                let _ = answer.send((node, reply)); // all are waited for
            },
        );
        channels.push(other);
    }
    drop(answer);
    let answered = answers.into_iter();
    Ok(answered
        .filter_map(|(node, reply)| Some((node, reply.ok()?)))
        .filter(|(node, reply)| reply.node == *node && reply.cluster_id == asked.cluster_id)
        .collect())
}

fn members_of(reply: &DescribeReply) -> &[Member] {
    reply.membership.as_ref().map_or(&[], |all| &all.members)
}

impl Status {
    fn new(
        of: &DescribeReply,
        leader: Option<&DescribeReply>,
        answers: &BTreeMap<u64, DescribeReply>,
    ) -> Self {
        let is_joint = members_of(of).iter().any(|member| member.outgoing);
        let members = members_of(of).iter().map(|member| {
            let followers = leader.iter().flat_map(|leader| &leader.followers);
            let follower = followers.into_iter().find(|it| it.node == member.node);
            let is_leader = leader.is_some_and(|leader| leader.node == member.node);
            let own = is_leader.then_some(of.last_log_index);
            let match_index = follower.map(|it| it.match_index).or(own);
            MemberStatus {
                node: member.node,
                role: answers.get(&member.node).map(|reply| reply.role.clone()),
                address: member.address.clone(),
                member: match (member.voter, member.outgoing) {
                    (true, false) if is_joint => "joining",
                    (true, _) => "voter",
                    (false, true) => "leaving",
                    (false, false) => "learner",
                },
                match_index,
                lag: match_index.map(|index| of.last_log_index.saturating_sub(index)),
                silent_ms: follower.map(|it| it.silent_ms).or(own.map(|_| 0)),
            }
        });
        Self {
            cluster_id: format!("{:016x}", of.cluster_id),
            leader: leader.map(|leader| leader.node),
            term: of.term,
            commit_index: of.commit_index,
            last_log_index: of.last_log_index,
            membership_index: of.membership_index,
            handing_over_to: of.handing_over_to,
            members: members.collect(),
        }
    }

    /// For a reader.
    fn lines(&self) -> Vec<String> {
        let leader = match (self.leader, self.handing_over_to) {
            (Some(leader), Some(to)) => format!("node {leader} hands over to node {to}"),
            (Some(leader), None) => format!("node {leader} leads"),
            (None, _) => "no leader".to_owned(),
        };
        let mut lines = vec![format!(
            "cluster {}: {leader}, term {}, {} of {} entries committed, members of entry {}",
            self.cluster_id,
            self.term,
            self.commit_index,
            self.last_log_index,
            self.membership_index
        )];
        let titles = [
            "NODE",
            "ROLE",
            "ADDRESS",
            "MEMBER",
            "MATCH",
            "LAG",
            "SILENT MS",
        ];
        let mut rows = vec![titles.map(str::to_owned)];
        let known =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
        rows.extend(self.members.iter().map(|member| {
            [
                member.node.to_string(),
                member
                    .role
                    .clone()
                    .unwrap_or_else(|| "no answer".to_owned()),
                member.address.clone(),
                member.member.to_owned(),
                known(member.match_index),
                known(member.lag),
                known(member.silent_ms),
            ]
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max();
        let widths: Vec<usize> = (0..titles.len()).filter_map(width).collect();
        lines.extend(rows.iter().map(|row| {
            let cells = row.iter().zip(&widths);
            let cells = cells.map(|(cell, &width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        }));
        lines
    }
}
