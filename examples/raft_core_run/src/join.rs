//! A new node on its way into a running cluster.
//!
//! ```text
//! absent ── AddLearner ──> learner ── caught up? ── Promote, or Replace OLD ──> voter
//! ```
//!
//! What comes next is read off what the leader says, each time anew: so it does not matter where an
//! earlier attempt stopped, or whether the answer to a change was lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use proto::membership::DescribeReply;

use crate::contact::{Change, Contact};
use crate::failure::Failure;

/// Between two looks at the cluster.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a cluster may have no leader that takes the newcomer in.
const PATIENCE: Duration = Duration::from_secs(30);

/// A newcomer and what it wants.
pub(crate) struct Join {
    pub(crate) node: u64,
    /// Where the others will call it.
    pub(crate) address: SocketAddr,
    pub(crate) goal: Goal,
    pub(crate) contact: Contact,
    pub(crate) started: Instant,
}

/// What it wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// One that receives the log and decides nothing, until an operator promotes it.
    Learner,
    /// One voter more.
    Voter,
    /// A voter in the place of this one.
    Replace(u64),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Ask(Change),
    /// The text is for who watches.
    Wait(String),
    /// It is what it wants to be.
    Done,
    Never(String),
}

impl Join {
    /// Sees the node in, as long as nobody drops the other end of `stopped`. Each new thing that
    /// there is to tell is told to `say`.
    ///
    /// # Errors
    /// It cannot become a member.
    pub(crate) fn run(mut self, stopped: &Receiver<()>, say: impl Fn(&str)) -> Result<(), Failure> {
        let node = self.node;
        let mut said = String::new();
        let mut tell = |text: String| {
            if said != text {
                say(&format!("node {node}: {text}"));
                said = text;
            }
        };
        tell(format!("{}, joins", self.address));
        let give_up = self.started + PATIENCE;
        let mut was_member = false;
        loop {
            match self.contact.leader() {
                Err(why) => tell(format!("waits for a leader: {why}")),
                Ok((leader, reply)) => {
                    let is_member = self.is_member(&reply);
                    if was_member && !is_member {
                        let text =
                            format!("node {node} was removed from the cluster while it joined");
                        return Err(Failure::failed(text));
                    }
                    was_member = is_member;
                    match self.step(&reply) {
                        Step::Done => {
                            let ms = self.started.elapsed().as_millis();
                            tell(match self.goal {
                                Goal::Learner => format!("learner, has caught up, {ms} ms"),
                                Goal::Voter => format!("voter, {ms} ms"),
                                Goal::Replace(old) => {
                                    format!("voter in the place of node {old}, {ms} ms")
                                }
                            });
                            return Ok(());
                        }
                        Step::Never(why) => return Err(Failure::failed(why)),
                        Step::Wait(text) => tell(text),
                        Step::Ask(change) => {
                            if let Err(why) = self.contact.ask(leader, &change) {
                                tell(format!("not yet: {why}"));
                            }
                        }
                    }
                }
            }
            if !was_member && Instant::now() >= give_up {
                let text = format!(
                    "no leader has taken node {node} in within {} s ({said}): see that a majority of \
                     the cluster runs, then start this again",
                    PATIENCE.as_secs()
                );
                return Err(Failure::failed(text));
            }
            if stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected) {
                return Ok(());
            }
        }
    }

    fn is_member(&self, reply: &DescribeReply) -> bool {
        let mut members = reply.membership.iter().flat_map(|all| &all.members);
        members.any(|member| member.node == self.node)
    }

    fn step(&self, reply: &DescribeReply) -> Step {
        let members = reply
            .membership
            .as_ref()
            .map_or(&[][..], |all| &all.members);
        let is_joint = members.iter().any(|member| member.outgoing);
        let me = members.iter().find(|member| member.node == self.node);
        if me.is_some_and(|me| me.voter) && !is_joint {
            return Step::Done;
        }
        if is_joint {
            return Step::Wait("waits for a change of members to be completed".to_owned());
        }
        let voters = members.iter().filter(|member| member.voter);
        let voters: Vec<u64> = voters.map(|member| member.node).collect();
        if let Goal::Replace(old) = self.goal
            && !voters.contains(&old)
        {
            return Step::Never(format!(
                "node {old} is no voter of this cluster, {voters:?} are: give --replace one of them, \
                 or leave it out to add a voter"
            ));
        }
        let Some(_) = me.filter(|me| me.address == self.address.to_string()) else {
            return Step::Ask(Change::AddLearner {
                node: self.node,
                address: self.address,
            });
        };
        let mut followers = reply.followers.iter();
        let mine = followers.find(|follower| follower.node == self.node);
        match mine {
            Some(mine) if mine.caught_up => match self.goal {
                Goal::Learner => Step::Done,
                Goal::Voter => Step::Ask(Change::Promote { node: self.node }),
                Goal::Replace(old) => {
                    let new = self.node;
                    Step::Ask(Change::Replace { old, new })
                }
            },
            Some(mine) if mine.receives_snapshot => {
                Step::Wait("learner, receives a snapshot".to_owned())
            }
            Some(mine) => Step::Wait(format!(
                "learner, has {} of {} entries",
                mine.match_index, reply.last_log_index
            )),
            None => Step::Wait("learner, not called yet".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::membership::FollowerState;
    use proto::raft::{Member, Membership};
    use rpc::EventLoops;

    use super::*;

    const VOTER: (bool, bool) = (true, false);
    const LEARNER: (bool, bool) = (false, false);
    const LEAVING: (bool, bool) = (false, true);

    fn join(goal: Goal) -> Join {
        let address = SocketAddr::from(([127, 0, 0, 1], 103));
        Join {
            node: 3,
            address,
            goal,
            contact: Contact::new(EventLoops::start(1, "test").unwrap(), address),
            started: Instant::now(),
        }
    }

    /// A leader's words: its members, at ports from 100 up, and whether node 3 has caught up.
    fn said(members: &[(u64, (bool, bool))], caught_up: Option<bool>) -> DescribeReply {
        let members = members.iter().map(|&(node, (voter, outgoing))| Member {
            node,
            address: format!("127.0.0.1:{}", 100 + node),
            voter,
            outgoing,
        });
        let follower = |caught_up| FollowerState {
            node: 3,
            match_index: 7,
            caught_up,
            ..FollowerState::default()
        };
        DescribeReply {
            membership: Some(Membership {
                members: members.collect(),
            }),
            last_log_index: 9,
            followers: caught_up.map(follower).into_iter().collect(),
            ..DescribeReply::default()
        }
    }

    #[test]
    fn each_step_follows_from_what_the_leader_says() {
        let voters = [(0, VOTER), (1, VOTER)];
        let with = |me| [(0, VOTER), (1, VOTER), (3, me)];
        let replace = join(Goal::Replace(1));
        let add = Change::AddLearner {
            node: 3,
            address: replace.address,
        };
        assert_eq!(replace.step(&said(&voters, None)), Step::Ask(add.clone()));
        let behind = replace.step(&said(&with(LEARNER), Some(false)));
        assert_eq!(behind, Step::Wait("learner, has 7 of 9 entries".to_owned()));
        let caught_up = said(&with(LEARNER), Some(true));
        let change = Change::Replace { old: 1, new: 3 };
        assert_eq!(replace.step(&caught_up), Step::Ask(change));
        let joint = [(0, VOTER), (1, LEAVING), (3, VOTER)];
        assert!(matches!(
            replace.step(&said(&joint, Some(true))),
            Step::Wait(_)
        ));
        assert_eq!(replace.step(&said(&with(VOTER), Some(true))), Step::Done);

        let promote = Change::Promote { node: 3 };
        assert_eq!(join(Goal::Voter).step(&caught_up), Step::Ask(promote));
        assert_eq!(join(Goal::Learner).step(&caught_up), Step::Done);
    }

    #[test]
    fn a_learner_elsewhere_asks_for_its_new_address_first() {
        let mut moved = join(Goal::Voter);
        moved.address.set_port(1);
        let add = Change::AddLearner {
            node: 3,
            address: moved.address,
        };
        let members = said(&[(0, VOTER), (3, LEARNER)], Some(true));
        assert_eq!(moved.step(&members), Step::Ask(add));
    }

    #[test]
    fn only_a_voter_can_be_replaced() {
        let members = said(&[(0, VOTER), (2, LEARNER)], None);
        for old in [1, 2] {
            let step = join(Goal::Replace(old)).step(&members);
            let Step::Never(why) = step else {
                panic!("{step:?}")
            };
            assert!(why.contains(&format!("node {old} is no voter")), "{why}");
        }
    }
}
