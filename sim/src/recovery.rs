//! After the faults: the cluster must serve, come to be of one mind, and have kept its word.

use std::time::Duration;

use raft::core::LogIndex;

use crate::client::Client;
use crate::clock::Micros;
use crate::coverage::Situation;
use crate::history::What;
use crate::network::place;
use crate::world::{ELECTION_TIMEOUT_US, World};

/// Within so many of them a healed cluster must serve, and within so many converge.
const SERVES_WITHIN: u64 = 10;
const CONVERGES_WITHIN: u64 = 50;

impl World {
    /// Faults stop. The cluster must serve, and then be of one mind.
    pub(crate) fn recover(&mut self) {
        self.note(|| "-- faults stop --".to_owned());
        self.calm = true;
        self.end_mischief();
        self.add_calm_client();
        self.start_client(self.clients.len() - 1);
        let serves_until = self.now + SERVES_WITHIN * ELECTION_TIMEOUT_US + self.outage_left();
        let calm_since = self.next_token;
        while !self.was_written_since(calm_since) {
            if self.now > serves_until {
                return self.oracle.fail(
                    "a healed cluster serves within ten election timeouts",
                    self.describe_nodes(),
                );
            }
            self.step();
            if self.oracle.violation.is_some() {
                return;
            }
        }
        for client in &mut self.clients {
            client.rests = true;
        }
        let converges_until = self.now + CONVERGES_WITHIN * ELECTION_TIMEOUT_US;
        while !self.is_of_one_mind() {
            if self.now > converges_until {
                return self.oracle.fail(
                    "a healed cluster converges within fifty election timeouts",
                    self.describe_nodes(),
                );
            }
            self.step();
            if self.oracle.violation.is_some() {
                return;
            }
        }
    }

    /// Until everybody whom a pause or a hanging disk holds up is back, and whoever takes no entries, for
    /// its log is at its bound and it could take no snapshot, tries again.
    fn outage_left(&self) -> Micros {
        let max_log_bytes = self.tuning.max_log_bytes();
        let left = self.nodes.iter().map(|node| {
            let back_at = node.paused_until.max(node.hangs_until);
            let pause = match &node.process {
                Some(process) if process.raft.log_bytes() > max_log_bytes => {
                    let now = self.local_instant(node.id);
                    process.own_snapshot.pause_left(now)
                }
                _ => Duration::ZERO,
            };
            let pause_us = u64::try_from(pause.as_micros()).expect("seconds");
            back_at.saturating_sub(self.now).max(pause_us)
        });
        left.max().unwrap_or(0)
    }

    pub(crate) fn was_written_since(&self, token: u64) -> bool {
        self.clients
            .iter()
            .any(|client| client.last_written >= token)
    }

    /// A leader serves, every member has applied all of its log, and no change is under way.
    fn is_of_one_mind(&self) -> bool {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let Some(leader) = running.clone().find(|process| process.is_serving()) else {
            return false;
        };
        let (members, last) = (leader.raft.membership(), leader.raft.last_log().index);
        !members.is_joint()
            && self.clients.iter().all(Client::is_idle)
            && members.addresses().keys().all(|member| {
                let process = self.nodes[place(*member)].process.as_ref();
                process.is_some_and(|process| {
                    LogIndex::new(process.state.last_applied().index) == last
                })
            })
    }

    fn describe_nodes(&self) -> String {
        let each = self.nodes.iter().map(|node| match &node.process {
            None => format!("{} down", node.id),
            Some(process) => {
                let raft = &process.raft;
                format!(
                    "{} {:?}@{} commit {} applied {} last {} members {}",
                    node.id,
                    raft.role(),
                    raft.term(),
                    raft.commit_index(),
                    process.state.last_applied().index,
                    raft.last_log(),
                    raft.membership(),
                )
            }
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// What the clients saw must follow from the log.
    pub(crate) fn judge(&mut self) {
        if let Err(violation) = self.history.check(&self.oracle.effects) {
            return self.oracle.fail("linearizability", violation.0);
        }
        for call in &self.history.calls {
            let (What::Put(token) | What::Append(token)) = call.what else {
                continue;
            };
            if call.returned.is_none() {
                let took_effect = self.oracle.took_effect(token);
                self.coverage.met(if took_effect {
                    Situation::UnknownTookEffect
                } else {
                    Situation::UnknownTookNone
                });
            }
        }
    }
}
