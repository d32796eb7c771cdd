//! The driver: the one thread that owns the core.
//!
//! A turn: take what has gathered in the inbox, step the core over all of it, then carry out what
//! it asks. Messages leave first, the log writer gets its batch next, so that this node's disk works
//! while its peers' do (thesis §10.2.1).

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded, select};
use parking_lot::Mutex;
use rpc::{Code, RpcError};

use super::apply::{ApplyMsg, Refusal, SnapshotJob, Waiter};
use super::calls::PeerCalls;
use super::delivery::Delivery;
use super::inbox::{ClientRequest, Event, Inbox, InboxReceiver, PeerCall};
use super::log_writer::{LogWriter, MAX_WRITES_IN_FLIGHT};
use super::operator::Begun;
use super::options::NodeOptions;
use super::recorder::Recorded;
use super::snapshots::{Chunk, Shipment, SnapshotReceiver, SnapshotSender};
use super::{FatalError, NodeHandle, NodeStatus, StartError};
use crate::core::{
    CallId, Config, Effect, Entry, LogId, Membership, Message, Millis, NodeId, Raft, Role, Term,
};
use crate::driving::{CommitWatch, DiskWatch, OwnSnapshot, why_no_writes};
use crate::peer::Peers;
use crate::storage::{
    Identity, Persister, PersisterOptions, RealDisk, SnapshotStore, StorageError, TornTail,
    first_members,
};

/// Events, and client requests, that one turn takes at most: bounds how long a heartbeat waits.
const MAX_TURN: usize = 1024;

/// Reads that may wait for this node to apply what they must see; more are refused. A follower that
/// lags behind would gather them without end.
const MAX_READS_BEHIND: usize = 65_536;

/// Owns the core. Fields are dropped in order: the receiving end of the inbox before the threads that
/// are joined, so that none of them waits for room in it.
pub(super) struct Driver<W: Waiter> {
    pub(super) raft: Recorded,
    pub(super) options: NodeOptions,
    started: Instant,
    inbox: Inbox<W>,
    pub(super) received: InboxReceiver<W>,
    status: Arc<Mutex<NodeStatus>>,

    peers: Peers,
    calls: PeerCalls,
    delivery: Delivery<W>,

    writer: LogWriter,
    disk: DiskWatch,
    commits: CommitWatch,

    snapshots: SnapshotStore,
    snapshot_receiver: SnapshotReceiver,
    snapshot_senders: BTreeMap<NodeId, SnapshotSender>,
    own_snapshot: OwnSnapshot,
    pub(super) begun: Begun,
    turn: Turn<W>,
}

/// What one turn takes out of the inbox. Empty between turns.
struct Turn<W> {
    events: VecDeque<Event>,
    requests: VecDeque<ClientRequest<W>>,
}

/// What [`Driver::recover`] yields.
type Recovered<W> = (
    Driver<W>,
    NodeHandle<W>,
    Receiver<ApplyMsg<W>>,
    Option<TornTail>,
);

impl<W: Waiter> Driver<W> {
    /// Opens the data directory and starts the helper threads.
    pub(super) fn recover(mut options: NodeOptions) -> Result<Recovered<W>, StartError> {
        if options.snapshot_log_bytes >= options.max_log_bytes {
            return Err(StartError::LogBounds {
                snapshot: options.snapshot_log_bytes,
                max: options.max_log_bytes,
            });
        }
        let identity = Identity {
            node: options.id,
            cluster: options.cluster_id,
        };
        let persister_options = PersisterOptions {
            segment_bytes: options.segment_bytes,
            ..Default::default()
        };
        let disk = RealDisk::open(&options.data_dir)?;
        let (persister, recovered) = Persister::open(disk.clone(), identity, persister_options)?;
        options.initial = members_of(&disk, &options)?;
        let snapshots = persister.snapshots();
        let raft = Recorded::new(
            core_config(&options),
            recovered.restored,
            fastrand::u64(..),
            Millis::ZERO,
            options.record.as_ref(),
        )?;

        let (inbox, received) = Inbox::new(options.max_queued_requests, options.max_queued_bytes);
        let (apply_sender, apply_chan) = bounded(options.apply_queue);
        let writer = LogWriter::start(persister, inbox.clone()).map_err(StartError::Thread)?;
        let initial = Arc::new(options.initial.clone());
        let snapshot_receiver = SnapshotReceiver::start(snapshots.clone(), initial, inbox.clone())
            .map_err(StartError::Thread)?;
        let status = Arc::new(Mutex::new(status_of(&raft)));
        let handle = NodeHandle {
            inbox: inbox.clone(),
            status: Arc::clone(&status),
        };
        let driver = Self {
            raft,
            started: Instant::now(),
            inbox,
            received,
            status,
            peers: Peers::default(),
            calls: PeerCalls::new(),
            delivery: Delivery::new(apply_sender, options.max_message_bytes),
            writer,
            disk: DiskWatch::new(options.disk_stall_limit, Instant::now()),
            commits: CommitWatch::new(options.disk_stall_limit, Instant::now()),
            snapshots,
            snapshot_receiver,
            snapshot_senders: BTreeMap::new(),
            own_snapshot: OwnSnapshot::Idle,
            begun: Begun::default(),
            turn: Turn {
                events: VecDeque::new(),
                requests: VecDeque::new(),
            },
            options,
        };
        Ok((driver, handle, apply_chan, recovered.torn_tail))
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) -> Result<(), FatalError> {
        let node = self.options.id;
        tracing::info!(
            %node, term = %self.raft.term(), last_log = %self.raft.last_log(),
            snapshot = %self.raft.snapshot(), "raft node started"
        );
        let outcome = self.turns();
        if let Err(error) = &outcome {
            tracing::error!(%node, %error, "raft node stops");
        }
        self.inbox.close();
        self.refuse_everybody();
        if outcome.is_ok() {
            self.raft.end_record();
        }
        outcome
    }

    fn turns(&mut self) -> Result<(), FatalError> {
        let mut effects = Vec::new();
        loop {
            if self.take_inputs()?.is_break() {
                return Ok(());
            }
            self.resign_if_disk_is_full();
            self.raft.flush(&mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect)?;
            }
            self.hand_to_writer()?;
            self.delivery.deliver(&mut self.raft, &self.snapshots);
            self.take_snapshot_if_due();
            self.answer_change();
            self.calls.forget_lost();
            *self.status.lock() = status_of(&self.raft);
        }
    }

    /// Sleeps until something happens or the core's next deadline, then takes what has gathered.
    fn take_inputs(&mut self) -> Result<ControlFlow<()>, FatalError> {
        let timeout = Duration::from_millis(self.raft.next_deadline().since(self.now()));
        let (event, request, wish) = select! {
            recv(self.received.events) -> event => (event.ok(), None, None),
            recv(self.received.clients) -> request => (None, request.ok(), None),
            recv(self.received.wishes) -> wish => (None, None, wish.ok()),
            default(timeout) => (None, None, None),
        };
        // Taken out first, the clock read after: the core must not take what has just come for
        // something older.
        self.turn.events.extend(event);
        let events = self.received.events.try_iter().take(MAX_TURN);
        self.turn.events.extend(events);
        self.turn.requests.extend(request);
        let requests = self.received.clients.try_iter().take(MAX_TURN);
        self.turn.requests.extend(requests);
        self.raft.tick(self.now());
        self.resign_if_disk_hangs();
        self.commits.watch(&self.raft, Instant::now());

        while let Some(event) = self.turn.events.pop_front() {
            if self.on_event(event)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        while let Some(request) = self.turn.requests.pop_front() {
            self.on_request(request);
        }
        if let Some(wish) = wish {
            self.on_wish(wish);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn now(&self) -> Millis {
        Millis::new(millis(self.started.elapsed()))
    }

    fn on_event(&mut self, event: Event) -> Result<ControlFlow<()>, FatalError> {
        match event {
            Event::PeerCall(PeerCall {
                from,
                message,
                reply,
            }) => {
                let call = self.calls.add(reply);
                self.raft.step(from, call, message);
            }
            Event::PeerReply { from, message } => self.raft.step(from, CallId::ZERO, message),
            Event::PeerUnreachable(peer) => self.raft.unreachable(peer),
            Event::Persisted(write) => {
                self.disk.written(write, Instant::now());
                self.raft.persisted(write);
            }
            Event::DiskFull => self.disk.ran_full(),
            Event::WriteFailed(error) => return Err(FatalError::Storage(error)),
            Event::Applied(index) => self.raft.applied(index),
            Event::SnapshotTaken(Some(last_included)) => {
                self.own_snapshot = OwnSnapshot::Idle;
                self.raft.snapshot_taken(last_included);
            }
            Event::SnapshotTaken(None) => {
                self.snapshots.check().map_err(FatalError::Storage)?;
                self.own_snapshot = OwnSnapshot::Failed(Instant::now());
            }
            Event::ChunkStored {
                call,
                last_included,
                next_offset,
                complete,
            } => {
                self.raft
                    .chunk_stored(call, last_included, next_offset, complete);
            }
            Event::ChunkNotStored(call) => {
                self.snapshots.check().map_err(FatalError::Storage)?;
                let text = "the chunk was not stored; this node's log says why";
                self.calls.fail(call, Code::ResourceExhausted, text);
            }
            Event::SnapshotSent {
                to,
                last_included,
                installed,
            } => {
                self.raft.snapshot_sent(to, last_included, installed);
            }
            Event::ShutDown => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_request(&mut self, request: ClientRequest<W>) {
        match request {
            ClientRequest::Propose { command, waiter } => {
                self.received.queued.release(command.len());
                self.propose(command, waiter);
            }
            ClientRequest::Read { waiter, anywhere } => {
                if self.delivery.reads_behind() >= MAX_READS_BEHIND {
                    return waiter.refuse(Refusal::Overloaded);
                }
                let read = self.delivery.next_read();
                let taken = if anywhere {
                    self.raft.read_anywhere(read)
                } else {
                    self.raft.read(read)
                };
                match taken {
                    Ok(()) => self.delivery.await_read(read, waiter),
                    Err(error) => waiter.refuse(error.into()),
                }
            }
        }
    }

    fn propose(&mut self, command: Bytes, waiter: W) {
        if let Some(why) = why_no_writes(&self.raft, &self.disk, &self.commits) {
            return waiter.refuse(why);
        }
        match self.raft.propose(command) {
            Ok(id) => self.delivery.await_entry(id, waiter),
            Err(error) => waiter.refuse(error.into()),
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), FatalError> {
        match effect {
            Effect::Send { to, message } => self.send(to, message),
            Effect::Reply { call, message } => self.calls.answer(call, message),
            Effect::SendSnapshot {
                to,
                last_included,
                term,
            } => {
                self.send_snapshot(to, last_included, term);
            }
            Effect::ReceiveSnapshot {
                call,
                last_included,
                offset,
                data,
                done,
            } => {
                let chunk = Chunk {
                    call,
                    last_included,
                    offset,
                    data,
                    done,
                };
                if !self.snapshot_receiver.store(chunk) {
                    self.calls
                        .fail(call, Code::ResourceExhausted, "earlier chunks still wait");
                }
            }
            Effect::ReadReady { read, index } => self.delivery.read_ready(read, index),
            Effect::ReadRefused { read } => {
                self.delivery.read_refused(read, self.raft.leader());
            }
            Effect::RoleChanged { role, term, leader } => self.on_role_change(role, term, leader),
            Effect::MembershipChanged { membership } => {
                self.peers.follow(&self.options, &membership);
            }
            Effect::TransferFailed { to } => self.transfer_failed(to),
            Effect::Fatal { reason } => return Err(FatalError::Safety(reason)),
        }
        Ok(())
    }

    fn send(&self, to: NodeId, message: Message) {
        let Some(peer) = self.peers.get(to) else {
            // Its address is none. As if the network had lost it, so that nothing waits for it.
            return self.inbox.peer_reply(to, Err(no_address()));
        };
        let timeout = match &message {
            // An election that waits longer than its timeout is over.
            Message::RequestVote { .. } => self.options.election_timeout.1,
            Message::TimeoutNow { .. } => self.options.election_timeout.0,
            // Covers a slow fdatasync at the follower; heartbeats tell meanwhile that it lives. A
            // large entry must not be given up, and sent again, while it is still travelling.
            Message::AppendEntries { entries, .. } => {
                let bytes: usize = entries.iter().map(Entry::size_bytes).sum();
                self.options.election_timeout.1 * 2 + transfer_time(bytes)
            }
            _ => self.options.election_timeout.1 * 2,
        };
        let inbox = self.inbox.clone();
        peer.call_async(message, timeout, move |outcome| {
            inbox.peer_reply(to, outcome);
        });
    }

    /// One shipment at a time a follower: while an older one ends, the core is told to ask again.
    fn send_snapshot(&mut self, to: NodeId, last_included: LogId, term: Term) {
        let Some(peer) = self.peers.get(to) else {
            return self.raft.snapshot_sent(to, last_included, false);
        };
        if let Some(running) = self.snapshot_senders.get(&to)
            && !running.is_finished()
        {
            running.cancel();
            return self.raft.snapshot_postponed(to, last_included);
        }
        tracing::info!(peer = %to, snapshot = %last_included, "sending a snapshot");
        let shipment = Shipment {
            peer: peer.clone(),
            store: self.snapshots.clone(),
            last_included,
            term,
            chunk_bytes: self.options.snapshot_chunk_bytes,
            bytes_per_second: self.options.snapshot_bytes_per_second,
            inbox: self.inbox.clone(),
        };
        match SnapshotSender::start(shipment) {
            Ok(sender) => {
                self.snapshot_senders.insert(to, sender);
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a thread to send a snapshot");
                self.raft.snapshot_sent(to, last_included, false);
            }
        }
    }

    fn on_role_change(&mut self, role: Role, term: Term, leader: Option<NodeId>) {
        tracing::debug!(
            node = %self.options.id, %term, ?role, leader = leader.map(tracing::field::display),
            "role or leader changed"
        );
        if let Some(leader) = leader {
            self.transfer_succeeded(leader);
        }
        if role == Role::Leader {
            self.transfer_is_over();
        } else {
            self.delivery.leadership_lost(leader);
            for sender in self.snapshot_senders.values() {
                sender.cancel();
            }
        }
    }

    fn hand_to_writer(&mut self) -> Result<(), FatalError> {
        while self.disk.in_flight() < MAX_WRITES_IN_FLIGHT as u64
            && let Some(batch) = self.raft.take_write()
        {
            self.disk.handed_over(batch.id, Instant::now());
            if !self.writer.write(batch) {
                return Err(self.why_the_writer_ended());
            }
        }
        Ok(())
    }

    /// The log writer reports a failure before it ends: that may still wait in the inbox.
    fn why_the_writer_ended(&self) -> FatalError {
        let mut waiting = self.received.events.try_iter();
        let failure = waiting.find_map(|event| match event {
            Event::WriteFailed(error) => Some(FatalError::Storage(error)),
            _ => None,
        });
        failure.unwrap_or(FatalError::Thread("log writer"))
    }

    fn resign_if_disk_hangs(&mut self) {
        if self.raft.role() == Role::Leader
            && let Some(waited) = self.disk.hangs_for(Instant::now())
            && self.raft.resign()
        {
            tracing::error!(
                node = %self.options.id, waited_ms = waited.as_millis(), stage = "log write and fdatasync",
                data_dir = %self.options.data_dir.display(),
                "the disk hangs; this node resigns as leader until it answers"
            );
        }
    }

    /// Once the others have committed what this leader took, they lead on while it waits for room.
    fn resign_if_disk_is_full(&mut self) {
        if self.disk.others_can_lead(&self.raft) && self.raft.resign() {
            tracing::error!(
                node = %self.options.id, data_dir = %self.options.data_dir.display(),
                "the disk is full; this node resigns as leader until there is room"
            );
        }
    }

    fn take_snapshot_if_due(&mut self) {
        if self.own_snapshot.may_start(Instant::now())
            && self.raft.snapshot_is_due(self.options.snapshot_log_bytes)
            && self.delivery.has_room()
        {
            self.own_snapshot = OwnSnapshot::Running;
            let job = SnapshotJob::new(
                self.snapshots.clone(),
                Arc::clone(self.raft.membership_at(self.delivery.delivered())),
                self.inbox.clone(),
            );
            self.delivery.send(ApplyMsg::TakeSnapshot(job));
        }
    }

    fn refuse_everybody(&mut self) {
        self.delivery.refuse_everybody();
        self.refuse_wishes();
        let taken = std::mem::take(&mut self.turn.requests);
        for request in taken.into_iter().chain(self.received.clients.try_iter()) {
            let (ClientRequest::Propose { waiter, .. } | ClientRequest::Read { waiter, .. }) =
                request;
            waiter.refuse(Refusal::ShuttingDown);
        }
        let taken = std::mem::take(&mut self.turn.events);
        for event in taken.into_iter().chain(self.received.events.try_iter()) {
            event.refuse();
        }
        for sender in self.snapshot_senders.values() {
            sender.cancel();
        }
    }
}

/// The members with which this directory began, whoever is listed now.
fn members_of(disk: &RealDisk, options: &NodeOptions) -> Result<Membership, StorageError> {
    let first = first_members(disk, &options.initial)?;
    if first != options.initial {
        tracing::info!(
            node = %options.id, listed = %options.initial, began_with = %first,
            "other voters are listed than this directory began with; `kvctl cluster` changes members"
        );
    }
    Ok(first)
}

fn core_config(options: &NodeOptions) -> Config {
    let (shortest, longest) = options.election_timeout;
    Config {
        election_timeout_ms: (millis(shortest), millis(longest)),
        heartbeat_ms: millis(options.heartbeat),
        max_message_bytes: options.max_message_bytes,
        max_log_bytes: options.max_log_bytes,
        retained_log_bytes: options.retained_log_bytes,
        lease: options.lease,
        ..Config::new(options.id, options.initial.clone())
    }
}

fn status_of(raft: &Raft) -> NodeStatus {
    NodeStatus {
        id: raft.id(),
        role: raft.role(),
        term: raft.term(),
        leader: raft.leader(),
        serving: raft.is_serving(),
        last_log: raft.last_log(),
        commit_index: raft.commit_index(),
        last_applied: raft.last_applied(),
        snapshot: raft.snapshot(),
        log_bytes: raft.log_bytes(),
        membership: Arc::clone(raft.membership()),
        membership_index: raft.membership_index(),
        handing_over_to: raft.handing_over_to(),
    }
}

fn no_address() -> RpcError {
    RpcError::new(Code::Unavailable, "this member's address is no ip:port")
}

/// How long `bytes` take to a follower at the slowest rate worth waiting for, 1 MiB a second.
fn transfer_time(bytes: usize) -> Duration {
    Duration::from_millis((bytes >> 10) as u64)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
