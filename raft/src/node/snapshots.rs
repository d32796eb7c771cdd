//! Snapshots on their way from leader to follower, in chunks (paper §7, Fig. 13).
//!
//! Both ends do file I/O, so each has threads of its own: the receiving end one, the sending end
//! one for each follower that is being sent a snapshot.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::core::{CallId, LogId, Membership, Message, NodeId, Term};
use crate::node::apply::Waiter;
use crate::node::inbox::{Event, Inbox};
use crate::peer::Peer;
use crate::storage::SnapshotStore;

/// Chunks that may wait for the disk; more are refused and sent again. A leader sends one at a time.
const MAX_QUEUED_CHUNKS: usize = 4;

/// Chunks in a row that may bring nothing before the snapshot is given up for now.
const MAX_ATTEMPTS: u32 = 5;

/// How long a chunk may take. The last one covers the follower's check and fsync of the whole file.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(1);

const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A chunk that the core has let in.
pub(super) struct Chunk {
    pub(super) call: CallId,
    pub(super) last_included: LogId,
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) done: bool,
}

/// The thread that stores a leader's chunks.
pub(super) struct SnapshotReceiver {
    chunks: Option<Sender<Chunk>>,
    thread: Option<JoinHandle<()>>,
}

impl SnapshotReceiver {
    /// `initial`: what a file from before there were memberships is taken to include.
    pub(super) fn start<W: Waiter>(
        store: SnapshotStore,
        initial: Arc<Membership>,
        inbox: Inbox<W>,
    ) -> io::Result<Self> {
        let (chunks, receiver) = bounded(MAX_QUEUED_CHUNKS);
        let thread = std::thread::Builder::new()
            .name("snapshot-recv".to_owned())
            .spawn(move || store_chunks(&store, &initial, &receiver, &inbox))?;
        Ok(Self {
            chunks: Some(chunks),
            thread: Some(thread),
        })
    }

    /// False: no room, the chunk is dropped.
    pub(super) fn store(&self, chunk: Chunk) -> bool {
        self.chunks
            .as_ref()
            .is_some_and(|chunks| chunks.try_send(chunk).is_ok())
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the snapshot receiver panicked");
        }
    }
}

fn store_chunks<W: Waiter>(
    store: &SnapshotStore,
    initial: &Arc<Membership>,
    chunks: &Receiver<Chunk>,
    inbox: &Inbox<W>,
) {
    for Chunk {
        call,
        last_included,
        offset,
        data,
        done,
    } in chunks
    {
        let stored = store
            .receive(last_included, offset, &data, done)
            .and_then(|outcome| {
                let complete = if outcome.complete {
                    let membership = store.membership_of(last_included)?;
                    Some(membership.unwrap_or_else(|| Arc::clone(initial)))
                } else {
                    None
                };
                Ok((outcome.next_offset, complete))
            });
        match stored {
            Ok((next_offset, complete)) => inbox.send(Event::ChunkStored {
                call,
                last_included,
                next_offset,
                complete,
            }),
            // The call stays unanswered and times out; the leader starts over later.
            Err(error) => tracing::error!(
                snapshot = %last_included, offset, %error, "cannot store a chunk of the snapshot"
            ),
        }
    }
}

/// One snapshot on its way to one follower.
pub(super) struct SnapshotSender {
    cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`SnapshotSender`] is to do.
pub(super) struct Shipment<W: Waiter> {
    pub(super) peer: Peer,
    pub(super) store: SnapshotStore,
    pub(super) last_included: LogId,
    pub(super) term: Term,
    pub(super) chunk_bytes: usize,
    pub(super) bytes_per_second: u64,
    pub(super) inbox: Inbox<W>,
}

impl SnapshotSender {
    pub(super) fn start<W: Waiter>(shipment: Shipment<W>) -> io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&cancelled);
        let thread = std::thread::Builder::new()
            .name("snapshot-send".to_owned())
            .spawn(move || shipment.run(&stop))?;
        Ok(Self {
            cancelled,
            thread: Some(thread),
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it after the chunk under way.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl<W: Waiter> Shipment<W> {
    fn run(self, stop: &AtomicBool) {
        let to: NodeId = self.peer.id();
        let started = Instant::now();
        let outcome = self.send_all(stop);
        let installed = matches!(outcome, Ok(true));
        match outcome {
            Ok(true) => tracing::info!(
                peer = %to, snapshot = %self.last_included,
                elapsed_ms = started.elapsed().as_millis(), "snapshot installed at follower"
            ),
            Ok(false) => {
                tracing::info!(peer = %to, snapshot = %self.last_included, "snapshot abandoned");
            }
            Err(error) => tracing::warn!(
                peer = %to, snapshot = %self.last_included, error, "snapshot not sent"
            ),
        }
        let last_included = self.last_included;
        self.inbox.send(Event::SnapshotSent {
            to,
            last_included,
            installed,
        });
    }

    /// Whether the follower has installed it; false if this node should stop trying.
    fn send_all(&self, stop: &AtomicBool) -> Result<bool, String> {
        let reader = self
            .store
            .open(self.last_included)
            .map_err(|error| error.to_string())?;
        let file_bytes = reader.len();
        let mut offset = 0;
        let mut furthest = 0;
        let mut attempts = 0;
        while !stop.load(Ordering::Relaxed) {
            let chunk_started = Instant::now();
            let data = reader
                .read_at(offset, self.chunk_bytes)
                .map_err(|error| error.to_string())?;
            let sent_bytes = data.len() as u64;
            let message = Message::InstallSnapshot {
                term: self.term,
                last_included: self.last_included,
                offset,
                done: offset + sent_bytes >= file_bytes,
                data,
            };
            let reply = match self.peer.call(message, CHUNK_TIMEOUT) {
                Ok(reply) => reply,
                Err(error) => {
                    attempts += 1;
                    if attempts >= MAX_ATTEMPTS {
                        return Err(error.to_string());
                    }
                    std::thread::sleep(RETRY_PAUSE);
                    continue;
                }
            };
            self.inbox.send(Event::PeerReply {
                from: self.peer.id(),
                message: reply.clone(),
            });
            let Message::InstallSnapshotReply {
                term,
                next_offset,
                installed,
                ..
            } = reply
            else {
                return Err("the follower answered another question".to_owned());
            };
            if installed {
                return Ok(true);
            }
            if term > self.term {
                return Ok(false);
            }
            if next_offset > furthest {
                furthest = next_offset;
                attempts = 0;
            } else {
                attempts += 1;
                if attempts >= MAX_ATTEMPTS {
                    return Err(format!(
                        "the follower stays at byte {offset} of {file_bytes}"
                    ));
                }
            }
            // The follower says where it is: behind us if it lost a chunk, ahead if it has had some
            // from an earlier try.
            offset = next_offset.min(file_bytes);
            self.pace(sent_bytes, chunk_started.elapsed());
        }
        Ok(false)
    }

    /// Keeps to the rate, so that a snapshot does not crowd out the log.
    fn pace(&self, sent_bytes: u64, elapsed: Duration) {
        let due_us = sent_bytes.saturating_mul(1_000_000) / self.bytes_per_second.max(1);
        std::thread::sleep(Duration::from_micros(due_us).saturating_sub(elapsed));
    }
}
