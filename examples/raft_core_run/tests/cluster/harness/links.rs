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
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    /// So many bytes pass before it is cut.
    left: Option<usize>,
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

    /// Undoes all that was cut of `node`.
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

    /// Once `from` has sent so many bytes more in its calls to `to`, nothing that it sends there arrives.
    pub(crate) fn cut_after(&self, bytes: usize, from: usize, to: usize) {
        let mut state = self.relays[from][to].there.state.lock().unwrap();
        state.left = Some(bytes);
    }

    /// Whether calls of `from` to `to` are lost.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.relays[from][to].there.state.lock().unwrap().is_cut
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
    there.pass(0);
    back.pass(0);
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
        gate.pass(read);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Gate {
    fn set(&self, is_cut: bool) {
        let left = None;
        *self.state.lock().unwrap() = State { is_cut, left };
        self.changed.notify_all();
    }

    /// Returns once the link is whole; then `bytes` may pass.
    fn pass(&self, bytes: usize) {
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| state.is_cut)
            .unwrap();
        if let Some(left) = &mut state.left {
            *left = left.saturating_sub(bytes);
            state.is_cut = *left == 0;
        }
    }
}
