//! The network: what is on its way, and which links are cut.

use std::net::SocketAddr;

use clerk::logic::{Reply, Request};
use proto::membership::DescribeReply;
use raft::core::{CallId, LogId, Message, NodeId};
use rpc::RpcError;
use slab::Slab;

use crate::clock::Micros;

/// Nodes at most, over a whole run: members, and those that joined.
pub(crate) const MAX_NODES: usize = 10;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// A request between nodes, with the call that its reply will name.
    Request {
        from: NodeId,
        to: NodeId,
        call: CallId,
        message: Message,
    },
    /// The reply to a call.
    Reply {
        from: NodeId,
        call: CallId,
        message: Message,
    },
    /// A client asks a node.
    Ask {
        client: usize,
        /// Tells the answer to this attempt from all others.
        attempt: u64,
        to: NodeId,
        ask: Ask,
    },
    /// A node answers a client.
    Answer {
        client: usize,
        attempt: u64,
        answer: Answer,
    },
}

/// What a client asks, as it asks real nodes.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Call(Request),
    /// Who are the members?
    Describe,
}

/// What it hears.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Call(Reply),
    Described(Result<DescribeReply, RpcError>),
}

/// A call between nodes that is not answered yet.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    generation: u64,
    pub(crate) from: NodeId,
    /// The caller's life: a restarted process hears no replies to its predecessor's calls.
    pub(crate) from_life: u64,
    pub(crate) to: NodeId,
    /// The callee's life, once the request was delivered.
    pub(crate) to_life: Option<u64>,
    /// It carries a chunk of this snapshot.
    pub(crate) snapshot: Option<LogId>,
}

/// The calls under way, by their id.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: Slab<Call>,
    generation: u64,
}

const SLOT_BITS: u32 = 24;

impl Calls {
    pub(crate) fn open(
        &mut self,
        from: NodeId,
        from_life: u64,
        to: NodeId,
        snapshot: Option<LogId>,
    ) -> CallId {
        self.generation += 1;
        let slot = self.open.insert(Call {
            generation: self.generation,
            from,
            from_life,
            to,
            to_life: None,
            snapshot,
        });
        CallId::new((self.generation << SLOT_BITS) | slot as u64)
    }

    pub(crate) fn get(&self, call: CallId) -> Option<&Call> {
        let (generation, slot) = split(call);
        self.open
            .get(slot)
            .filter(|call| call.generation == generation)
    }

    pub(crate) fn get_mut(&mut self, call: CallId) -> Option<&mut Call> {
        let (generation, slot) = split(call);
        self.open
            .get_mut(slot)
            .filter(|call| call.generation == generation)
    }

    /// Ends a call; `None` if it has ended already.
    pub(crate) fn close(&mut self, call: CallId) -> Option<Call> {
        let (generation, slot) = split(call);
        let found = self.open.get(slot)?;
        (found.generation == generation).then(|| self.open.remove(slot))
    }

    /// Ends the calls that `node`, in the life that is over, took. Those that it made are still on their
    /// way, or lie in a socket; it just hears of no answer.
    pub(crate) fn close_of(&mut self, node: NodeId, life: u64) -> Vec<Call> {
        let of_node = |call: &Call| call.to == node && call.to_life == Some(life);
        let slots: Vec<usize> = self
            .open
            .iter()
            .filter(|(_, call)| of_node(call))
            .map(|(slot, _)| slot)
            .collect();
        slots
            .into_iter()
            .map(|slot| self.open.remove(slot))
            .collect()
    }
}

fn split(call: CallId) -> (u64, usize) {
    let slot = call.get() & ((1 << SLOT_BITS) - 1);
    let slot = usize::try_from(slot).expect("a slot of 24 bits");
    (call.get() >> SLOT_BITS, slot)
}

/// Which links are cut, and how bad the others are.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// `cut[from][to]`
    cut: [[bool; MAX_NODES]; MAX_NODES],
    pub(crate) cuts: usize,
    /// `stalled_until[from][to]`: what is sent before arrives then, as what a network takes up again.
    stalled_until: [[Micros; MAX_NODES]; MAX_NODES],
    /// In thousandths.
    pub(crate) loss: u64,
    pub(crate) repetition: u64,
    /// How many messages take much longer than the others, in thousandths.
    pub(crate) stragglers: u64,
    pub(crate) delay: Delay,
}

/// How long a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    /// Any time between these, in microseconds.
    Between(Micros, Micros),
    /// Half of the messages take up to `half_life_us`, half of the others up to twice that, and so on.
    Exponential { half_life_us: Micros },
}

/// Of a good network.
const FAST: Delay = Delay::Between(100, 1_000);

impl Delay {
    pub(crate) fn draw(self, rng: &mut fastrand::Rng) -> Micros {
        match self {
            Self::Between(least, most) => rng.u64(least..=most),
            // In whole numbers: a logarithm may differ from one machine to another.
            Self::Exponential { half_life_us } => {
                let halvings = u64::from(rng.u64(..).trailing_zeros());
                halvings * half_life_us + rng.u64(..half_life_us)
            }
        }
    }
}

impl Links {
    pub(crate) fn perfect() -> Self {
        Self {
            cut: [[false; MAX_NODES]; MAX_NODES],
            cuts: 0,
            stalled_until: [[0; MAX_NODES]; MAX_NODES],
            loss: 0,
            repetition: 0,
            stragglers: 0,
            delay: FAST,
        }
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.delay != FAST
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        if from != to && !self.cut[from][to] {
            self.cut[from][to] = true;
            self.cuts += 1;
        }
    }

    pub(crate) fn stall(&mut self, from: usize, to: usize, until: Micros) {
        self.stalled_until[from][to] = until;
    }

    pub(crate) fn stalled_until(&self, from: NodeId, to: NodeId) -> Micros {
        self.stalled_until[place(from)][place(to)]
    }

    pub(crate) fn heal(&mut self) {
        self.cut = [[false; MAX_NODES]; MAX_NODES];
        self.cuts = 0;
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts > 0 && self.cut[place(from)][place(to)]
    }

    /// Some link is cut in one direction only.
    pub(crate) fn is_one_way(&self) -> bool {
        let pairs = (0..MAX_NODES).flat_map(|a| (0..a).map(move |b| (a, b)));
        self.cuts > 0
            && pairs
                .into_iter()
                .any(|(a, b)| self.cut[a][b] != self.cut[b][a])
    }
}

/// Where clients find a node.
pub(crate) fn address(node: NodeId) -> SocketAddr {
    let number = u8::try_from(node.get()).expect("few nodes");
    SocketAddr::from(([10, 0, 0, number], 1))
}

/// The node at an address of [`address`].
pub(crate) fn node_at(addr: SocketAddr) -> NodeId {
    match addr {
        SocketAddr::V4(addr) => NodeId::new(addr.ip().octets()[3].into()),
        SocketAddr::V6(_) => unreachable!("no node has such an address"),
    }
}

/// A node's place in tables: its number.
pub(crate) fn place(node: NodeId) -> usize {
    usize::try_from(node.get()).expect("few nodes")
}
