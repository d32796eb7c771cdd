//! When to ask the cluster who its members are, and which answer to believe.
//!
//! A cluster may come to consist of other nodes than those that its clients were told of. So a clerk
//! asks, in the background and rarely, a node that has just answered it: after its first answer, when
//! another node turns out to lead, and from time to time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::cluster::MAX_NODES;
use proto::membership::DescribeReply;

/// Between two questions, also where the leader changes all the time.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// At most one question is under way.
#[derive(Debug)]
pub(super) struct Members {
    /// How old an answer may be; `None`: nobody is asked.
    every: Option<Duration>,
    asked_at: Option<Instant>,
    under_way: bool,
    /// The leader that was known when the last question was answered.
    leader: Option<SocketAddr>,
    /// Term and membership index of the best answer. A node that was left behind knows older ones.
    known: (u64, u64),
}

impl Members {
    pub(super) fn new(every: Option<Duration>) -> Self {
        Self {
            every,
            asked_at: None,
            under_way: false,
            leader: None,
            known: (0, 0),
        }
    }

    /// `addr` has answered a call, as the leader or not. Whether it is to be asked now; then
    /// [`ended`](Self::ended) is called once.
    pub(super) fn is_due(&mut self, addr: SocketAddr, leads: bool, now: Instant) -> bool {
        let Some(every) = self.every.filter(|_| !self.under_way) else {
            return false;
        };
        let is_due = self.asked_at.is_none_or(|asked_at| {
            let age = now.saturating_duration_since(asked_at);
            let is_news = leads && self.leader != Some(addr);
            age >= every || is_news && age >= PAUSE_MIN.min(every)
        });
        if is_due {
            self.asked_at = Some(now);
            self.under_way = true;
        }
        is_due
    }

    /// The voters' addresses, unless a better answer is known. Learners are left out: they never lead.
    pub(super) fn answered(
        &mut self,
        addr: SocketAddr,
        reply: &DescribeReply,
    ) -> Option<Vec<SocketAddr>> {
        if reply.role == "leader" {
            self.leader = Some(addr);
        }
        let version = (reply.term, reply.membership_index);
        if version < self.known {
            return None;
        }
        let members = reply.membership.iter().flat_map(|all| &all.members);
        let voters = members.filter(|member| member.voter || member.outgoing);
        let addresses = voters.filter_map(|member| member.address.parse::<SocketAddr>().ok());
        let addresses = addresses.filter(|addr| addr.port() != 0 && !addr.ip().is_unspecified());
        let addresses: Vec<SocketAddr> = addresses.take(MAX_NODES).collect();
        if addresses.is_empty() {
            return None;
        }
        self.known = version;
        Some(addresses)
    }

    /// The question was answered, and the answer told to whom it concerns; or it was not.
    pub(super) fn ended(&mut self) {
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::{Member, Membership};

    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn reply(role: &str, term: u64, membership_index: u64, addresses: &[&str]) -> DescribeReply {
        let members = addresses.iter().map(|address| Member {
            node: 0,
            address: (*address).to_owned(),
            voter: !address.ends_with('9'),
            outgoing: false,
        });
        DescribeReply {
            role: role.to_owned(),
            term,
            membership_index,
            membership: Some(Membership {
                members: members.collect(),
            }),
            ..DescribeReply::default()
        }
    }

    #[test]
    fn one_question_at_a_time_soon_after_news_and_seldom_without() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let mut members = Members::new(Some(Duration::from_secs(10)));
        assert!(members.is_due(addr(1), true, now), "nothing is known");
        assert!(!members.is_due(addr(2), true, after(60_000)), "under way");
        members.answered(addr(1), &reply("leader", 1, 0, &["127.0.0.1:1"]));
        members.ended();
        assert!(!members.is_due(addr(1), true, after(9_999)));
        assert!(!members.is_due(addr(2), true, after(999)));
        assert!(
            !members.is_due(addr(2), false, after(5_000)),
            "no news of a leader"
        );
        assert!(
            members.is_due(addr(2), true, after(1_000)),
            "another leader"
        );
        members.ended();
        assert!(members.is_due(addr(2), false, after(11_000)), "time to ask");
        assert!(
            !Members::new(None).is_due(addr(1), true, now),
            "switched off"
        );
    }

    #[test]
    fn only_voters_that_can_be_called_and_no_older_answer_count() {
        let mut members = Members::new(Some(Duration::ZERO));
        let mut answered = |reply: &DescribeReply| members.answered(addr(1), reply);
        let odd = [
            "127.0.0.1:1",
            "",
            "host:1",
            "0.0.0.0:1",
            "127.0.0.1:0",
            "127.0.0.1:9",
        ];
        assert_eq!(answered(&reply("leader", 2, 7, &odd)), Some(vec![addr(1)]));
        assert_eq!(answered(&reply("follower", 2, 6, &["127.0.0.1:2"])), None);
        assert_eq!(answered(&reply("leader", 1, 9, &["127.0.0.1:2"])), None);
        assert_eq!(answered(&reply("leader", 3, 9, &[])), None);
        let newer = reply("follower", 3, 7, &["127.0.0.1:2"]);
        assert_eq!(answered(&newer), Some(vec![addr(2)]));
        let port = |port: u16| format!("127.0.0.1:{port}");
        let many: Vec<String> = (1000..2000)
            .map(port)
            .filter(|text| !text.ends_with('9'))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(
            answered(&reply("leader", 3, 8, &many)).unwrap().len(),
            MAX_NODES
        );
    }
}
