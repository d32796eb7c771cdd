//! Who gets which answer, and in which order things come out of applyChan.

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::core::{Config, Membership, Millis, Raft, Restored, Term};
use crate::node::apply::SnapshotJob;
use crate::node::inbox::Inbox;
use crate::storage::{Identity, Persister, PersisterOptions, sim_disk::SimDisk};

/// A client, known by its name.
struct Client {
    name: &'static str,
    refused: mpsc::Sender<(&'static str, Refusal)>,
}

impl Waiter for Client {
    fn refuse(self, why: Refusal) {
        self.refused.send((self.name, why)).unwrap();
    }
}

/// A cluster of one: it leads, and what it proposes is committed once its disk says so.
struct Alone {
    raft: Recorded,
    delivery: Delivery<Client>,
    apply_chan: Receiver<ApplyMsg<Client>>,
    snapshots: SnapshotStore,
    refused: mpsc::Receiver<(&'static str, Refusal)>,
    clients: mpsc::Sender<(&'static str, Refusal)>,
}

impl Alone {
    fn with_room_for(messages: usize) -> Self {
        let id = NodeId::new(0);
        let config = Config::new(id, Membership::of_voters([(id, String::new())]).unwrap());
        let mut raft = Raft::new(config, Restored::default(), 1, Millis::ZERO).unwrap();
        raft.tick(Millis::new(1));
        let identity = Identity {
            node: id,
            cluster: 1,
        };
        let (persister, _) =
            Persister::open(SimDisk::new(), identity, PersisterOptions::default()).unwrap();
        let (sender, apply_chan) = bounded(messages);
        let (clients, refused) = mpsc::channel();
        let mut alone = Self {
            raft: Recorded::unrecorded(raft),
            delivery: Delivery::new(sender, usize::MAX),
            apply_chan,
            snapshots: persister.snapshots(),
            refused,
            clients,
        };
        alone.turn(); // its term becomes durable, its vote counts
        alone.turn(); // its empty entry becomes durable
        assert!(alone.raft.is_serving());
        alone
    }

    fn client(&self, name: &'static str) -> Client {
        Client {
            name,
            refused: self.clients.clone(),
        }
    }

    fn propose(&mut self, name: &'static str) {
        let id = self.raft.propose(Bytes::from_static(b"x")).unwrap();
        let client = self.client(name);
        self.delivery.await_entry(id, client);
    }

    fn read(&mut self, name: &'static str) {
        let read = self.delivery.next_read();
        self.raft.read(read).unwrap();
        let client = self.client(name);
        self.delivery.await_read(read, client);
    }

    /// What the driver does, with a disk that takes no time.
    fn turn(&mut self) {
        let mut effects = Vec::new();
        self.raft.flush(&mut effects);
        for effect in effects {
            if let crate::core::Effect::ReadReady { read, index } = effect {
                self.delivery.read_ready(read, index);
            }
        }
        if let Some(batch) = self.raft.take_write() {
            self.raft.persisted(batch.id);
        }
        self.delivery.deliver(&mut self.raft, &self.snapshots);
    }

    /// What has come out, in order: entries as `index:waiter`, reads as `?waiter`.
    fn applied(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        for message in self.apply_chan.try_iter() {
            match message {
                ApplyMsg::Entries(entries) => {
                    seen.extend(entries.iter().map(|CommittedEntry { entry, waiter }| {
                        let waiter = waiter.as_ref().map_or("-", |client| client.name);
                        format!("{}:{waiter}", entry.id.index)
                    }));
                }
                ApplyMsg::Reads(reads) => {
                    seen.extend(reads.iter().map(|client| format!("?{}", client.name)));
                }
                ApplyMsg::Install(_) | ApplyMsg::TakeSnapshot(_) => {
                    seen.push("snapshot".to_owned());
                }
            }
        }
        seen
    }
}

/// Failure 55: the waiter is there before the entry can come.
#[test]
fn an_entry_comes_with_whoever_proposed_it() {
    let mut alone = Alone::with_room_for(8);
    alone.propose("ann");
    alone.propose("bob");
    alone.turn();
    assert_eq!(alone.applied(), ["1:-", "2:ann", "3:bob"]);
    assert!(
        alone.refused.try_recv().is_err(),
        "nobody is refused as well"
    );
}

/// Failure 56: an entry of another term at a waiter's index is not that waiter's.
#[test]
fn a_waiter_whose_index_went_to_another_entry_is_refused() {
    let mut alone = Alone::with_room_for(8);
    let lost = LogId::new(Term::ZERO, LogIndex::new(2));
    let client = alone.client("lost");
    alone.delivery.await_entry(lost, client);
    alone.raft.propose(Bytes::from_static(b"x")).unwrap();
    alone.turn();
    assert_eq!(alone.applied(), ["1:-", "2:-"]);
    let (name, why) = alone.refused.try_recv().unwrap();
    assert_eq!(name, "lost");
    assert!(matches!(why, Refusal::LeadershipLost { .. }));
}

#[test]
fn a_read_comes_behind_what_it_must_see() {
    let mut alone = Alone::with_room_for(8);
    alone.propose("ann");
    alone.turn();
    alone.read("reader");
    alone.propose("bob");
    alone.turn();
    let applied = alone.applied();
    let place = |what: &str| applied.iter().position(|seen| seen == what).unwrap();
    assert!(place("2:ann") < place("?reader"), "{applied:?}");
}

/// Failure 53: the state machine is slow, and the driver goes on: entries stay in the core, reads behind
/// them, and nothing is lost.
#[test]
fn a_full_channel_holds_up_but_loses_nothing() {
    let mut alone = Alone::with_room_for(1);
    for name in ["a", "b", "c"] {
        alone.propose(name);
        alone.turn();
    }
    alone.read("reader");
    alone.turn();
    let mut seen = Vec::new();
    for _ in 0..8 {
        seen.extend(alone.applied());
        alone.turn();
    }
    assert_eq!(seen, ["1:-", "2:a", "3:b", "4:c", "?reader"]);
}

/// Failure 54: nobody waits for a leader that is gone.
#[test]
fn everybody_is_answered_when_the_leadership_or_the_node_ends() {
    let mut alone = Alone::with_room_for(8);
    alone.propose("ann");
    alone.delivery.leadership_lost(Some(NodeId::new(2)));
    let leader = Some(NodeId::new(2));
    assert_eq!(
        alone.refused.try_recv().unwrap(),
        ("ann", Refusal::LeadershipLost { leader })
    );

    alone.propose("bob");
    alone.read("reader");
    alone.delivery.refuse_everybody();
    let mut refused: Vec<_> = alone.refused.try_iter().collect();
    refused.sort_by_key(|(name, _)| *name);
    assert_eq!(
        refused,
        [
            ("bob", Refusal::ShuttingDown),
            ("reader", Refusal::ShuttingDown)
        ]
    );
}

/// The state machine has an entry before it; what had no room behind that one is answered too.
#[test]
fn who_waits_in_a_full_channel_is_answered_when_the_node_ends() {
    let mut alone = Alone::with_room_for(1);
    alone.propose("ann");
    alone.turn();
    alone.delivery.refuse_everybody();
    let refused: Vec<_> = alone.refused.try_iter().collect();
    assert_eq!(refused, [("ann", Refusal::ShuttingDown)]);
    assert_eq!(alone.applied(), ["1:-"]);
}

/// The state machine has stopped, the node not yet.
#[test]
fn without_a_state_machine_everybody_is_answered_and_the_driver_waits_for_nobody() {
    let mut alone = Alone::with_room_for(8);
    alone.apply_chan = bounded(1).1;
    alone.propose("ann");
    alone.read("reader");
    for _ in 0..3 {
        alone.turn();
    }
    let mut refused: Vec<_> = alone.refused.try_iter().collect();
    refused.sort_by_key(|(name, _)| *name);
    assert_eq!(
        refused,
        [
            ("ann", Refusal::ShuttingDown),
            ("reader", Refusal::ShuttingDown)
        ]
    );

    // The driver, were the inbox full, would wait for itself.
    let (inbox, received) = Inbox::new(1, 1);
    let job = SnapshotJob::new(alone.snapshots.clone(), Arc::default(), inbox);
    assert!(alone.delivery.has_room());
    alone.delivery.send(ApplyMsg::TakeSnapshot(job));
    assert!(received.events.try_recv().is_err());
}
