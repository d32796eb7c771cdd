//! Snapshots on their way from leader to follower, in chunks (paper §7, Fig. 13).
//!
//! Both ends do file I/O, so each has threads of its own: the receiving end one, the sending end
//! one for each follower that is being sent a snapshot. What they say to each other:
//! [`Transfer`](super::snapshot_transfer::Transfer).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::snapshot_transfer::{Transfer, content_bytes};
use crate::core::{CallId, LogId, Membership, NodeId, Term};
use crate::node::apply::Waiter;
use crate::node::inbox::{Event, Inbox};
use crate::peer::Peer;
use crate::storage::SnapshotStore;

/// Chunks that may wait for the disk; more are refused and sent again. A leader sends one at a time.
const MAX_QUEUED_CHUNKS: usize = 4;

/// How long a chunk may take. The last one covers the follower's check and fsync of the whole file.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(1);

/// The first and the longest pause before a chunk is sent again.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A follower that does not answer for so long is given up for now. Long enough for its restart, so
/// that the transfer goes on where it was: later the leader may have another snapshot.
const PATIENCE: Duration = Duration::from_secs(30);

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
            Err(error) => {
                tracing::error!(
                    snapshot = %last_included, offset, %error,
                    "cannot store a chunk of the snapshot"
                );
                inbox.send(Event::ChunkNotStored(call));
            }
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
        let mut sent_bytes = 0;
        let outcome = self.send_all(stop, &mut sent_bytes);
        let installed = matches!(outcome, Ok(true));
        match outcome {
            Ok(true) => tracing::info!(
                peer = %to, snapshot = %self.last_included, sent_bytes,
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

    /// Whether the follower has installed it; false if this node should stop trying. `sent_bytes`
    /// counts what it has answered, also what it had before.
    fn send_all(&self, stop: &AtomicBool, sent_bytes: &mut usize) -> Result<bool, String> {
        let reader = self
            .store
            .open(self.last_included)
            .map_err(|error| error.to_string())?;
        let transfer = Transfer {
            reader: &reader,
            term: self.term,
            chunk_bytes: self.chunk_bytes,
            bytes_per_second: self.bytes_per_second,
            retry_pause: RETRY_PAUSE,
            patience: PATIENCE,
        };
        transfer.run(stop, |message| {
            let bytes = content_bytes(&message);
            let reply = self.peer.call(message, CHUNK_TIMEOUT)?;
            *sent_bytes += bytes;
            self.inbox.send(Event::PeerReply {
                from: self.peer.id(),
                message: reply.clone(),
            });
            Ok(reply)
        })
    }
}
