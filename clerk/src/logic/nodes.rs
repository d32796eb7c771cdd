//! Whom to ask: the nodes that the cluster names as its members, those that were configured as the
//! last resort, and which of them is believed to lead.

use std::net::SocketAddr;

use crate::error::NodeName;

/// What all calls of a clerk know together about the cluster. A belief only: a node that is asked
/// in vain costs one try, never a wrong result.
#[derive(Debug)]
pub(super) struct Nodes {
    configured: Vec<SocketAddr>,
    /// The members, as the cluster has named them, then those configured that are none (any more).
    listed: Vec<SocketAddr>,
    /// How many of `listed` are asked in turn before the others: the members; all, while nobody has
    /// named any. 1 to `listed.len()`.
    first: usize,
    /// Not necessarily configured: a hint may name an address that this clerk's file lacks.
    leader: Option<SocketAddr>,
    /// Where the search goes on while no leader is known. < `first`
    cursor: usize,
    /// Who is asked for reads that any node may answer, until it fails. < `first`
    reader: usize,
}

impl Nodes {
    /// `start` spreads the first tries of many clerks over the nodes. Duplicates count once.
    pub(super) fn new(addresses: &[SocketAddr], start: usize) -> Self {
        let mut configured = Vec::with_capacity(addresses.len());
        for addr in addresses {
            if !configured.contains(addr) {
                configured.push(*addr);
            }
        }
        assert!(!configured.is_empty(), "Clerk::new() refuses an empty list");
        let cursor = start % configured.len();
        Self {
            listed: configured.clone(),
            first: configured.len(),
            configured,
            leader: None,
            cursor,
            reader: cursor,
        }
    }

    /// Nodes that a search asks, those aside that hints name.
    pub(super) fn count(&self) -> usize {
        self.listed.len()
    }

    /// In the order in which they are asked, but for where the search begins.
    pub(super) fn listed(&self) -> &[SocketAddr] {
        &self.listed
    }

    /// The cluster names its members. Those configured stay in the list, as the last to be asked.
    pub(super) fn learn(&mut self, members: &[SocketAddr]) {
        let known = self.listed.iter().take(self.first);
        if members.is_empty() || known.eq(members) {
            return;
        }
        let mut listed = Vec::with_capacity(members.len() + self.configured.len());
        for addr in members {
            if !listed.contains(addr) {
                listed.push(*addr);
            }
        }
        self.first = listed.len();
        let others = self.configured.iter();
        let others = others.filter(|addr| !members.contains(addr));
        listed.extend(others);
        self.listed = listed;
        self.cursor %= self.first;
        self.reader %= self.first;
    }

    pub(super) fn name(&self, addr: SocketAddr) -> NodeName {
        NodeName {
            number: self.configured.iter().position(|node| *node == addr),
            addr,
        }
    }

    /// The best node to ask that is not in `tried`; `None` once all were.
    pub(super) fn best(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        self.leader
            .iter()
            .chain(self.in_turn_from(self.cursor))
            .find(|addr| !tried.contains(addr))
            .copied()
    }

    /// As [`best`](Self::best), for a read that any node may answer.
    pub(super) fn best_reader(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        self.in_turn_from(self.reader)
            .find(|addr| !tried.contains(addr))
            .copied()
    }

    /// `addr` did not answer a read that any node may answer.
    pub(super) fn does_not_read(&mut self, addr: SocketAddr) {
        if self.listed[self.reader] == addr {
            self.reader = (self.reader + 1) % self.first;
        }
    }

    fn in_turn_from(&self, start: usize) -> impl Iterator<Item = &SocketAddr> {
        let (first, others) = self.listed.split_at(self.first);
        first[start..].iter().chain(&first[..start]).chain(others)
    }

    /// `addr` gave an answer that only a leader gives.
    pub(super) fn leads(&mut self, addr: SocketAddr) {
        self.leader = Some(addr);
    }

    /// `addr` does not lead, or does not answer. If it was believed to lead, the belief ends; what
    /// another call has learned meanwhile stays.
    pub(super) fn does_not_lead(&mut self, addr: SocketAddr) {
        if self.leader == Some(addr) {
            self.leader = None;
        }
        if self.listed[self.cursor] == addr {
            self.cursor = (self.cursor + 1) % self.first;
        }
    }

    /// A node named `addr` as its leader. Only believed where nothing better is known: a hint may
    /// be older than another call's success.
    pub(super) fn hinted(&mut self, addr: SocketAddr) {
        self.leader.get_or_insert(addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn three() -> Nodes {
        Nodes::new(&[addr(1), addr(2), addr(3), addr(2)], 1)
    }

    #[test]
    fn all_nodes_are_tried_in_turn_from_the_start_and_each_once() {
        let nodes = three();
        let mut tried = Vec::new();
        while let Some(next) = nodes.best(&tried) {
            tried.push(next);
        }
        assert_eq!(tried, [addr(2), addr(3), addr(1)]);
    }

    fn all_in_turn(
        nodes: &Nodes,
        next: impl Fn(&Nodes, &[SocketAddr]) -> Option<SocketAddr>,
    ) -> Vec<u16> {
        let mut tried = Vec::new();
        while let Some(addr) = next(nodes, &tried) {
            tried.push(addr);
        }
        tried.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn members_are_asked_before_those_that_were_configured() {
        let mut nodes = three();
        nodes.learn(&[addr(3), addr(4), addr(5), addr(4)]);
        assert_eq!(all_in_turn(&nodes, Nodes::best), [4, 5, 3, 1, 2]);
        nodes.does_not_lead(addr(4));
        nodes.does_not_lead(addr(5));
        assert_eq!(all_in_turn(&nodes, Nodes::best), [3, 4, 5, 1, 2]);
        nodes.does_not_read(addr(4));
        assert_eq!(all_in_turn(&nodes, Nodes::best_reader), [5, 3, 4, 1, 2]);
        nodes.learn(&[addr(7)]);
        assert_eq!(all_in_turn(&nodes, Nodes::best_reader), [7, 1, 2, 3]);
        nodes.does_not_lead(addr(7));
        nodes.does_not_read(addr(7));
        nodes.learn(&[]);
        assert_eq!(nodes.count(), 4);
        assert_eq!(
            nodes.name(addr(2)).number,
            Some(1),
            "as its file numbers it"
        );
    }

    #[test]
    fn a_reader_stays_with_a_node_that_answers_whoever_leads() {
        let mut nodes = three();
        nodes.leads(addr(1));
        assert_eq!(nodes.best_reader(&[]), Some(addr(2)));
        nodes.does_not_lead(addr(2));
        assert_eq!(nodes.best_reader(&[]), Some(addr(2)));
        nodes.does_not_read(addr(2));
        assert_eq!(nodes.best_reader(&[]), Some(addr(3)));
    }

    #[test]
    fn the_last_leader_is_asked_first_until_it_fails() {
        let mut nodes = three();
        nodes.leads(addr(1));
        assert_eq!(nodes.best(&[]), Some(addr(1)));
        nodes.does_not_lead(addr(1));
        assert_eq!(nodes.best(&[]), Some(addr(2)));
    }

    #[test]
    fn one_calls_failure_does_not_undo_what_another_has_learned() {
        let mut nodes = three();
        nodes.leads(addr(3));
        nodes.does_not_lead(addr(1));
        nodes.hinted(addr(1));
        assert_eq!(nodes.best(&[]), Some(addr(3)));
    }

    #[test]
    fn a_leader_outside_the_list_is_remembered_too_and_named_by_its_address() {
        let mut nodes = three();
        nodes.hinted(addr(9));
        assert_eq!(nodes.best(&[]), Some(addr(9)));
        assert_eq!(nodes.name(addr(9)).number, None);
        assert_eq!(nodes.name(addr(2)).number, Some(1));
    }
}
