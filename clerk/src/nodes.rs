//! Whom to ask: the configured nodes, and which of them is believed to lead.

use std::net::SocketAddr;

use crate::error::NodeName;

/// What all calls of a clerk know together about the cluster. A belief only: a node that is asked
/// in vain costs one try, never a wrong result.
#[derive(Debug)]
pub(crate) struct Nodes {
    configured: Vec<SocketAddr>,
    /// Not necessarily configured: a hint may name an address that this clerk's file lacks.
    leader: Option<SocketAddr>,
    /// Where the search goes on while no leader is known. < `configured.len()`
    cursor: usize,
}

impl Nodes {
    /// `start` spreads the first tries of many clerks over the nodes. Duplicates count once.
    pub(crate) fn new(addresses: &[SocketAddr], start: usize) -> Self {
        let mut configured = Vec::with_capacity(addresses.len());
        for addr in addresses {
            if !configured.contains(addr) {
                configured.push(*addr);
            }
        }
        assert!(!configured.is_empty(), "Clerk::new() refuses an empty list");
        let cursor = start % configured.len();
        Self {
            configured,
            leader: None,
            cursor,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.configured.len()
    }

    pub(crate) fn name(&self, addr: SocketAddr) -> NodeName {
        NodeName {
            number: self.configured.iter().position(|node| *node == addr),
            addr,
        }
    }

    /// The best node to ask that is not in `tried`; `None` once all were.
    pub(crate) fn best(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let in_turn = self.configured[self.cursor..]
            .iter()
            .chain(&self.configured[..self.cursor]);
        self.leader
            .iter()
            .chain(in_turn)
            .find(|addr| !tried.contains(addr))
            .copied()
    }

    /// `addr` gave an answer that only a leader gives.
    pub(crate) fn leads(&mut self, addr: SocketAddr) {
        self.leader = Some(addr);
    }

    /// `addr` does not lead, or does not answer. If it was believed to lead, the belief ends; what
    /// another call has learned meanwhile stays.
    pub(crate) fn does_not_lead(&mut self, addr: SocketAddr) {
        if self.leader == Some(addr) {
            self.leader = None;
        }
        if self.configured[self.cursor] == addr {
            self.cursor = (self.cursor + 1) % self.configured.len();
        }
    }

    /// A node named `addr` as its leader. Only believed where nothing better is known: a hint may
    /// be older than another call's success.
    pub(crate) fn hinted(&mut self, addr: SocketAddr) {
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
