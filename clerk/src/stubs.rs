//! The connections: one channel to each node, made when it is first used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use proto::kv::KvServerRpcStub;
use proto::membership::ClusterRpcStub;
use rpc::{ChannelOptions, RpcChannel};

use crate::options::ClerkOptions;

/// Connections kept to nodes that are not in the list but were named as leaders. The oldest goes
/// first; calls under way on it end as they would have.
const HINTED_CHANNELS_MAX: usize = 8;

/// A channel's pauses between attempts to connect. Short: a call that finds its node in such a
/// pause fails at once, and the node may have come back and lead.
const RECONNECT: rpc::Backoff = rpc::Backoff {
    min: Duration::from_millis(5),
    max: Duration::from_millis(100),
};

/// How to call one node, all on one connection.
#[derive(Clone)]
pub(crate) struct NodeStubs {
    pub(crate) kv: KvServerRpcStub,
    pub(crate) cluster: ClusterRpcStub,
}

pub(crate) struct Stubs {
    configured: BTreeSet<SocketAddr>,
    /// Configured, or a member.
    listed: BTreeMap<SocketAddr, NodeStubs>,
    hinted: VecDeque<(SocketAddr, NodeStubs)>,
    options: ChannelOptions,
}

impl Stubs {
    pub(crate) fn new(addresses: &[SocketAddr], options: ClerkOptions) -> Self {
        let options = ChannelOptions {
            loops: options.loops,
            connect_timeout: options.attempt_timeout,
            backoff: RECONNECT,
            ..ChannelOptions::default()
        };
        let listed = addresses
            .iter()
            .map(|addr| (*addr, connect(*addr, &options)))
            .collect();
        Self {
            configured: addresses.iter().copied().collect(),
            listed,
            hinted: VecDeque::new(),
            options,
        }
    }

    /// How to call the node at `addr`.
    pub(crate) fn to(&mut self, addr: SocketAddr) -> NodeStubs {
        if let Some(stub) = self.listed.get(&addr) {
            return stub.clone();
        }
        if let Some((_, stub)) = self.hinted.iter().find(|(hinted, _)| *hinted == addr) {
            return stub.clone();
        }
        if self.hinted.len() == HINTED_CHANNELS_MAX {
            self.hinted.pop_front();
        }
        let stub = connect(addr, &self.options);
        self.hinted.push_back((addr, stub.clone()));
        stub
    }

    /// These are the members. Connections to those that are none any more go, unless configured;
    /// calls under way on them end as they would have.
    pub(crate) fn learn(&mut self, members: &[SocketAddr]) {
        let Self {
            configured,
            listed,
            hinted,
            options,
        } = self;
        listed.retain(|addr, _| configured.contains(addr) || members.contains(addr));
        for addr in members {
            let known = hinted.iter().find(|(hinted, _)| hinted == addr);
            listed.entry(*addr).or_insert_with(|| match known {
                Some((_, stubs)) => stubs.clone(),
                None => connect(*addr, options),
            });
        }
        hinted.retain(|(addr, _)| !listed.contains_key(addr));
    }
}

fn connect(addr: SocketAddr, options: &ChannelOptions) -> NodeStubs {
    let channel = RpcChannel::with_options(addr, options.clone());
    NodeStubs {
        kv: KvServerRpcStub::new(channel.clone()),
        cluster: ClusterRpcStub::new(channel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_to_nodes_known_by_hints_are_bounded() {
        let mut stubs = Stubs::new(
            &[SocketAddr::from(([127, 0, 0, 1], 1))],
            ClerkOptions::default(),
        );
        for port in 1..100 {
            let _ = stubs.to(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        assert_eq!(stubs.hinted.len(), HINTED_CHANNELS_MAX);
        assert_eq!(stubs.hinted.back().unwrap().0.port(), 99);

        let members = [98, 200, 201].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        stubs.learn(&members);
        assert_eq!(stubs.listed.len(), 4);
        assert_eq!(stubs.hinted.len(), HINTED_CHANNELS_MAX - 1);
        stubs.learn(&members[1..2]);
        let ports: Vec<u16> = stubs.listed.keys().map(SocketAddr::port).collect();
        assert_eq!(ports, [1, 200], "the one configured stays");
    }
}
