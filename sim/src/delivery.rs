//! What the network does with what is sent, and whom it reaches.

use raft::core::{CallId, Message};

use crate::clock::Micros;
use crate::coverage::Situation;
use crate::network::{Packet, place};
use crate::swarm::{LOSS, REPETITION, SLOW_NETWORK, STRAGGLER};
use crate::world::{CALL_TIMEOUT_US, Event, World};

impl World {
    /// False: nobody waits for it any more.
    pub(crate) fn deliver(&mut self, packet: Packet) -> bool {
        match packet {
            Packet::Request {
                from,
                to,
                call,
                message,
            } => {
                if !self.runs(to) {
                    self.lose_call(call, 2_000);
                    return true;
                }
                let life = self.nodes[place(to)].life;
                // Its caller may have given up on it, or have had an answer to its twin: it arrives.
                if let Some(open) = self.calls.get_mut(call) {
                    open.to_life = Some(life);
                }
                if message.term() < self.process(to).raft.term() {
                    self.coverage.met(Situation::OldTermHeard);
                }
                self.tick(to);
                self.process(to).raft.step(from, call, message);
                self.turn(to);
            }
            Packet::Reply {
                from,
                call,
                message,
            } => {
                let Some(open) = self.calls.close(call) else {
                    return false;
                };
                let to = open.from;
                if !self.lives(to, open.from_life) {
                    return false;
                }
                if let Message::AppendEntriesReply {
                    outcome: raft::core::AppendOutcome::Rejected { .. },
                    ..
                } = message
                {
                    self.coverage.met(Situation::Rejected);
                }
                self.tick(to);
                self.process(to)
                    .raft
                    .step(from, CallId::ZERO, message.clone());
                if open.snapshot.is_some() {
                    self.on_chunk_answered(to, from, &message);
                }
                self.turn(to);
            }
            Packet::Ask {
                client,
                attempt,
                to,
                ask,
            } => {
                if self.runs(to) {
                    self.tick(to);
                    self.on_ask(to, client, attempt, ask);
                } else if self.nodes[place(to)].machine_runs {
                    self.refuse_connection(client, attempt, &ask);
                }
            }
            Packet::Answer {
                client,
                attempt,
                answer,
            } => return self.client_hears(client, attempt, answer),
        }
        true
    }

    /// Sends, or loses, as the links are.
    pub(crate) fn send(&mut self, packet: Packet) {
        let (call, is_cut) = match &packet {
            Packet::Request { from, to, call, .. } => (Some(*call), self.links.is_cut(*from, *to)),
            Packet::Reply { from, call, .. } => {
                let to = self.calls.get_mut(*call).map(|open| open.from);
                let is_cut = to.is_some_and(|to| self.links.is_cut(*from, to));
                (Some(*call), is_cut)
            }
            // Clients reach whoever they can reach; their losses are those of a bad network.
            Packet::Ask { .. } | Packet::Answer { .. } => (None, false),
        };
        let is_lost = !is_cut && self.happens(LOSS, self.links.loss);
        if is_cut || is_lost {
            if let Some(call) = call {
                self.lose_call(call, CALL_TIMEOUT_US);
            }
            return;
        }
        // A client's channel sends a request once; the clerk repeats it.
        if matches!(packet, Packet::Request { .. })
            && self.happens(REPETITION, self.links.repetition)
        {
            let again = packet.clone();
            self.travel(again);
        }
        self.travel(packet);
    }

    fn travel(&mut self, packet: Packet) {
        let mut takes = self.links.delay.draw(&mut self.rng);
        self.faults[SLOW_NETWORK] += u64::from(self.links.is_slow());
        if self.happens(STRAGGLER, self.links.stragglers) {
            takes = match self.rng.u8(..4) {
                0 => self.rng.u64(..CALL_TIMEOUT_US),
                _ => takes * self.rng.u64(2..60),
            };
        }
        let (link, call) = match &packet {
            Packet::Request { from, to, call, .. } => (Some((*from, *to)), Some(*call)),
            Packet::Reply { from, call, .. } => {
                let to = self.calls.get(*call).map(|open| open.from);
                (to.map(|to| (*from, to)), None)
            }
            Packet::Ask { .. } | Packet::Answer { .. } => (None, None),
        };
        if let Some((from, to)) = link {
            let stalled_us = self.links.stalled_until(from, to).saturating_sub(self.now);
            takes += stalled_us;
            if let Some(call) = call
                && stalled_us > CALL_TIMEOUT_US
            {
                self.lose_call(call, CALL_TIMEOUT_US);
            }
        }
        let packet = self.packets.insert(packet);
        self.after(takes, Event::Deliver { packet });
    }

    /// A call will get no reply; its caller hears of that after `us`.
    pub(crate) fn lose_call(&mut self, call: CallId, us: Micros) {
        if let Some(open) = self.calls.close(call) {
            self.after(
                us,
                Event::Lost {
                    node: open.from,
                    life: open.from_life,
                    to: open.to,
                    snapshot: open.snapshot,
                },
            );
        }
    }

    fn happens(&mut self, fault: usize, thousandths: u64) -> bool {
        let happens = thousandths > 0 && self.rng.u64(..1000) < thousandths;
        self.faults[fault] += u64::from(happens);
        happens
    }
}
