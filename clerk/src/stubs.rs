//! The connections: one channel to each node, made when it is first used.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use proto::kv::KvServerRpcStub;
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

pub(crate) struct Stubs {
    configured: BTreeMap<SocketAddr, KvServerRpcStub>,
    hinted: VecDeque<(SocketAddr, KvServerRpcStub)>,
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
        let configured = addresses
            .iter()
            .map(|addr| (*addr, connect(*addr, &options)))
            .collect();
        Self {
            configured,
            hinted: VecDeque::new(),
            options,
        }
    }

    /// How to call the node at `addr`.
    pub(crate) fn to(&mut self, addr: SocketAddr) -> KvServerRpcStub {
        if let Some(stub) = self.configured.get(&addr) {
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
}

fn connect(addr: SocketAddr, options: &ChannelOptions) -> KvServerRpcStub {
    KvServerRpcStub::new(RpcChannel::with_options(addr, options.clone()))
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
    }
}
