//! The inbox: everything that reaches the driver, through three bounded channels.
//!
//! A channel that has lost its receiver keeps what is in it until its last sender is gone, and the
//! senders belong to services whose provider waits for just those calls. So the inbox is closed
//! before it is emptied for the last time: whoever comes later is refused.
//!
//! Clients have a channel of their own, so that a flood of proposals cannot hold up what keeps the
//! cluster alive: peers' calls, their replies, the disk's completions; and so do operators, who are
//! to be heard during such a flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::RwLock;
use proto::raft::{
    AppendEntriesReply, InstallSnapshotReply, ReadIndexReply, RequestVoteReply, TimeoutNowReply,
};
use rpc::{Code, Done, RpcError};

use crate::core::{CallId, LogId, LogIndex, Membership, Message, NodeId, WriteId};
use crate::node::apply::{Refusal, Waiter};
use crate::node::operator::{MAX_QUEUED_WISHES, Wish};
use crate::storage::StorageError;

/// Events that may wait. Calls of peers beyond it are refused and their replies dropped, as if the
/// network had lost them; the node's own threads wait for room instead.
const MAX_QUEUED_EVENTS: usize = 16_384;

/// What happened, other than a client's wish.
pub(super) enum Event {
    PeerCall(PeerCall),
    /// The reply to a call of ours.
    PeerReply {
        from: NodeId,
        message: Message,
    },
    /// A call of ours failed or timed out.
    PeerUnreachable(NodeId),
    /// Every write up to this one is durable.
    Persisted(WriteId),
    /// The log writer lacks space. It goes on by itself, and reports with the next `Persisted`.
    DiskFull,
    /// The log writer has given up.
    WriteFailed(StorageError),
    Applied(LogIndex),
    /// A snapshot job ended; `None`: without a snapshot.
    SnapshotTaken(Option<LogId>),
    /// A chunk of the leader's snapshot is stored. `complete`: the whole file is verified, durable,
    /// and has this membership.
    ChunkStored {
        call: CallId,
        last_included: LogId,
        next_offset: u64,
        complete: Option<Arc<Membership>>,
    },
    /// A chunk could not be stored, and what came before it is gone; the log says why.
    ChunkNotStored(CallId),
    /// Streaming a snapshot to a follower ended.
    SnapshotSent {
        to: NodeId,
        last_included: LogId,
        installed: bool,
    },
    ShutDown,
}

/// A peer's call, already known to be meant for this node.
pub(crate) struct PeerCall {
    pub(crate) from: NodeId,
    pub(crate) message: Message,
    pub(crate) reply: PeerReply,
}

/// How to answer a [`PeerCall`]. Dropped, it answers `INTERNAL`.
pub(crate) enum PeerReply {
    AppendEntries(Done<AppendEntriesReply>),
    RequestVote(Done<RequestVoteReply>),
    InstallSnapshot(Done<InstallSnapshotReply>),
    TimeoutNow(Done<TimeoutNowReply>),
    ReadIndex(Done<ReadIndexReply>),
}

impl PeerReply {
    pub(crate) fn fail(self, error: RpcError) {
        match self {
            Self::AppendEntries(done) => done.fail(error),
            Self::RequestVote(done) => done.fail(error),
            Self::InstallSnapshot(done) => done.fail(error),
            Self::TimeoutNow(done) => done.fail(error),
            Self::ReadIndex(done) => done.fail(error),
        }
    }
}

/// A client's wish.
pub(super) enum ClientRequest<W> {
    Propose {
        command: Bytes,
        waiter: W,
    },
    /// `anywhere`: also where this node does not lead.
    Read {
        waiter: W,
        anywhere: bool,
    },
}

/// The sending end, shared by all threads.
pub(super) struct Inbox<W: Waiter> {
    events: Sender<Event>,
    clients: Sender<ClientRequest<W>>,
    wishes: Sender<Wish>,
    queued: Arc<QueuedBytes>,
    /// Held for reading while something that somebody waits for is put in.
    is_closed: Arc<RwLock<bool>>,
}

/// The driver's end.
pub(super) struct InboxReceiver<W: Waiter> {
    pub(super) events: Receiver<Event>,
    pub(super) clients: Receiver<ClientRequest<W>>,
    pub(super) wishes: Receiver<Wish>,
    pub(super) queued: Arc<QueuedBytes>,
}

/// Commands that wait in the inbox, in bytes, and their bound.
pub(super) struct QueuedBytes {
    bytes: AtomicUsize,
    limit: usize,
}

impl QueuedBytes {
    /// Whether `bytes` more fit; if so they count until [`QueuedBytes::release`].
    fn reserve(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One command alone is always let in, however large: its own size has a bound elsewhere.
        let fits = before == 0 || before.saturating_add(bytes) <= self.limit;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<W: Waiter> Clone for Inbox<W> {
    fn clone(&self) -> Self {
        Self {
            events: self.events.clone(),
            clients: self.clients.clone(),
            wishes: self.wishes.clone(),
            queued: Arc::clone(&self.queued),
            is_closed: Arc::clone(&self.is_closed),
        }
    }
}

impl<W: Waiter> Inbox<W> {
    pub(super) fn new(max_requests: usize, max_bytes: usize) -> (Self, InboxReceiver<W>) {
        let (events, events_receiver) = bounded(MAX_QUEUED_EVENTS);
        let (clients, clients_receiver) = bounded(max_requests);
        let (wishes, wishes_receiver) = bounded(MAX_QUEUED_WISHES);
        let queued = Arc::new(QueuedBytes {
            bytes: AtomicUsize::new(0),
            limit: max_bytes,
        });
        let receiver = InboxReceiver {
            events: events_receiver,
            clients: clients_receiver,
            wishes: wishes_receiver,
            queued: Arc::clone(&queued),
        };
        (
            Self {
                events,
                clients,
                wishes,
                queued,
                is_closed: Arc::default(),
            },
            receiver,
        )
    }

    /// From here on nothing comes in that somebody waits for. Of this node's own threads something
    /// may: they are joined.
    pub(super) fn close(&self) {
        *self.is_closed.write() = true;
    }

    pub(super) fn propose(&self, command: Bytes, waiter: W) {
        let bytes = command.len();
        if !self.queued.reserve(bytes) {
            return waiter.refuse(Refusal::Overloaded);
        }
        if !self.request(ClientRequest::Propose { command, waiter }) {
            self.queued.release(bytes);
        }
    }

    pub(super) fn read(&self, waiter: W, anywhere: bool) {
        self.request(ClientRequest::Read { waiter, anywhere });
    }

    /// Gives the wish back if it does not fit.
    pub(super) fn wish(&self, wish: Wish) -> Result<(), TrySendError<Wish>> {
        let is_closed = self.is_closed.read();
        if *is_closed {
            return Err(TrySendError::Disconnected(wish));
        }
        self.wishes.try_send(wish)
    }

    /// Whether the request went in; if not, its waiter has been refused.
    fn request(&self, request: ClientRequest<W>) -> bool {
        let is_closed = self.is_closed.read();
        let sent = if *is_closed {
            Err(TrySendError::Disconnected(request))
        } else {
            self.clients.try_send(request)
        };
        drop(is_closed);
        let (request, why) = match sent {
            Ok(()) => return true,
            Err(TrySendError::Full(request)) => (request, Refusal::Overloaded),
            Err(TrySendError::Disconnected(request)) => (request, Refusal::ShuttingDown),
        };
        let (ClientRequest::Propose { waiter, .. } | ClientRequest::Read { waiter, .. }) = request;
        waiter.refuse(why);
        false
    }

    /// Never blocks: the caller is an event loop.
    pub(super) fn peer_call(&self, call: PeerCall) {
        let event = Event::PeerCall(call);
        let is_closed = self.is_closed.read();
        let sent = if *is_closed {
            Err(TrySendError::Disconnected(event))
        } else {
            self.events.try_send(event)
        };
        drop(is_closed);
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(event)) => refuse_call(
                event,
                Code::ResourceExhausted,
                "the node's inbox is full; the call was not looked at",
            ),
            Err(TrySendError::Disconnected(event)) => {
                refuse_call(event, Code::Unavailable, STOPPING);
            }
        }
    }

    /// Never blocks: the caller is an event loop. Without room it counts as lost on the way.
    pub(super) fn peer_reply(&self, from: NodeId, outcome: Result<Message, RpcError>) {
        let event = match outcome {
            Ok(message) => Event::PeerReply { from, message },
            Err(error) => {
                tracing::debug!(peer = %from, %error, "call failed");
                Event::PeerUnreachable(from)
            }
        };
        if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::warn!(peer = %from, "inbox full, a peer's reply is dropped");
        }
    }

    /// Waits for room: for the node's own threads, which the driver never waits for.
    pub(super) fn send(&self, event: Event) {
        // A driver that is gone needs no news.
        let _ = self.events.send(event);
    }

    pub(super) fn applied(&self, index: LogIndex) {
        self.send(Event::Applied(index));
    }

    pub(super) fn snapshot_taken(&self, last_included: Option<LogId>) {
        self.send(Event::SnapshotTaken(last_included));
    }

    pub(super) fn shut_down(&self) {
        self.send(Event::ShutDown);
    }
}

const STOPPING: &str = "the node is stopping";

impl Event {
    /// Answers whoever waits for this, when the node stops.
    pub(super) fn refuse(self) {
        refuse_call(self, Code::Unavailable, STOPPING);
    }
}

fn refuse_call(event: Event, code: Code, text: &'static str) {
    if let Event::PeerCall(call) = event {
        call.reply.fail(RpcError::new(code, text));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Client(mpsc::Sender<Refusal>);

    impl Waiter for Client {
        fn refuse(self, why: Refusal) {
            self.0.send(why).unwrap();
        }
    }

    /// At the bound of requests, of bytes, and after the end, a request is refused at once.
    #[test]
    fn what_does_not_fit_is_refused_at_once() {
        let (inbox, receiver) = Inbox::new(2, 100);
        let (sender, refused) = mpsc::channel();
        let propose = |bytes: usize| {
            inbox.propose(Bytes::from(vec![0; bytes]), Client(sender.clone()));
            refused.try_recv().ok()
        };
        assert_eq!(propose(60), None);
        assert_eq!(propose(60), Some(Refusal::Overloaded), "over the bytes");
        assert_eq!(propose(40), None);
        assert_eq!(propose(0), Some(Refusal::Overloaded), "over the requests");

        receiver.clients.try_recv().unwrap();
        receiver.queued.release(60);
        assert_eq!(propose(60), None, "there is room again");
        drop(receiver);
        assert_eq!(propose(0), Some(Refusal::ShuttingDown));
    }

    /// What comes between the driver's last look and the end of its receivers would stay in the
    /// channel, unanswered, as long as there is a sender.
    #[test]
    fn a_closed_inbox_takes_nothing_in_while_its_receivers_are_still_there() {
        let (inbox, receiver) = Inbox::new(2, 100);
        let (sender, refused) = mpsc::channel();
        inbox.propose(Bytes::new(), Client(sender.clone()));
        inbox.close();
        assert!(
            receiver.clients.try_recv().is_ok(),
            "the driver's last look"
        );
        inbox.propose(Bytes::new(), Client(sender.clone()));
        inbox.read(Client(sender), true);
        assert_eq!(
            refused.try_iter().collect::<Vec<_>>(),
            [Refusal::ShuttingDown, Refusal::ShuttingDown]
        );
        let wish = Wish::Followers(Box::new(|_| {}));
        assert!(matches!(
            inbox.wish(wish),
            Err(TrySendError::Disconnected(_))
        ));
        assert!(receiver.clients.is_empty() && receiver.wishes.is_empty());
        inbox.shut_down();
        assert_eq!(
            receiver.events.len(),
            1,
            "its own threads are heard to the end"
        );
    }

    #[test]
    fn a_command_larger_than_the_bound_goes_alone() {
        let (inbox, _receiver) = Inbox::new(2, 100);
        let (sender, refused) = mpsc::channel();
        inbox.propose(Bytes::from(vec![0; 500]), Client(sender.clone()));
        assert!(refused.try_recv().is_err());
        inbox.propose(Bytes::from(vec![0; 1]), Client(sender));
        assert_eq!(refused.try_recv(), Ok(Refusal::Overloaded));
    }
}
