//! Connections between nodes that a test can cut: each node calls each other one through a relay.
//!
//! A cut link is silent, like a cable that was pulled out: bytes stay where they are until it is whole
//! again. Nothing is closed, refused or lost. Each direction can be cut alone.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// The relays of a cluster.
pub(crate) struct Links {
    /// `relays[from][to]`.
    relays: Vec<Vec<Relay>>,
}

struct Relay {
    addr: SocketAddr,
    /// What the caller sends, and what it is answered.
    there: Arc<Gate>,
    back: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_cut: Mutex<bool>,
    changed: Condvar,
}

impl Links {
    /// Relays between all pairs of `nodes`. They end with the test's process.
    pub(crate) fn between(nodes: &[SocketAddr]) -> Self {
        let relays = nodes
            .iter()
            .map(|_| nodes.iter().map(|&to| Relay::to(to)).collect());
        Self {
            relays: relays.collect(),
        }
    }

    /// Where `from` finds the nodes: itself as it is, the others behind their relays.
    pub(crate) fn addresses_for(&self, from: usize, nodes: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> =
            self.relays[from].iter().map(|relay| relay.addr).collect();
        addresses[from] = nodes[from];
        addresses
    }

    /// Cuts all links of `node` to other nodes, both ways. Clients still reach it.
    pub(crate) fn isolate(&self, node: usize) {
        self.set(node, true);
    }

    /// Undoes [`isolate`](Self::isolate), [`mute`](Self::mute) and [`deafen`](Self::deafen).
    pub(crate) fn rejoin(&self, node: usize) {
        self.set(node, false);
    }

    /// Nothing that `node` sends reaches another node, be it a call or an answer. It hears them.
    pub(crate) fn mute(&self, node: usize) {
        self.set_outgoing(node, true);
    }

    /// Nothing that other nodes send reaches `node`, be it a call or an answer. They hear it.
    pub(crate) fn deafen(&self, node: usize) {
        self.set_incoming(node, true);
    }

    fn set(&self, node: usize, is_cut: bool) {
        self.set_outgoing(node, is_cut);
        self.set_incoming(node, is_cut);
    }

    fn set_outgoing(&self, node: usize, is_cut: bool) {
        for other in 0..self.relays.len() {
            self.relays[node][other].there.set(is_cut);
            self.relays[other][node].back.set(is_cut);
        }
    }

    fn set_incoming(&self, node: usize, is_cut: bool) {
        for other in 0..self.relays.len() {
            self.relays[node][other].back.set(is_cut);
            self.relays[other][node].there.set(is_cut);
        }
    }
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (there, back) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
        let gates = (Arc::clone(&there), Arc::clone(&back));
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let (there, back) = gates.clone();
                thread::spawn(move || join(&caller, target, &there, back));
            }
        });
        Self { addr, there, back }
    }
}

/// Carries a connection's bytes both ways until one side ends.
fn join(caller: &TcpStream, target: SocketAddr, there: &Gate, back: Arc<Gate>) {
    there.wait();
    back.wait();
    let Ok(target) = TcpStream::connect(target) else {
        return; // the caller sees its connection closed
    };
    let (back_from, back_to) = (target.try_clone().unwrap(), caller.try_clone().unwrap());
    thread::spawn(move || carry(&back_from, &back_to, &back));
    carry(caller, &target, there);
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, gate: &Gate) {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        gate.wait();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Gate {
    fn set(&self, is_cut: bool) {
        *self.is_cut.lock().unwrap() = is_cut;
        self.changed.notify_all();
    }

    /// Returns once the link is whole.
    fn wait(&self) {
        let whole = self
            .changed
            .wait_while(self.is_cut.lock().unwrap(), |is_cut| *is_cut);
        drop(whole.unwrap());
    }
}
