//! Several cores, a network and disks, all in one thread and one clock's reach.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use raft::core::{
    AppendOutcome, CallId, Committed, Config, Effect, Entry, LogId, LogIndex, Membership,
    MembershipChange, Message, Millis, NodeId, Payload, Raft, ReadId, Role, WriteBatch,
};

use crate::disk::{Disk, State};
use crate::safety::Safety;

/// A snapshot file travels in this many chunks of one byte.
const SNAPSHOT_CHUNKS: u64 = 2;

/// A message on its way. A request has the call that its reply will name.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
    call: CallId,
    /// The caller's incarnation: no answer finds a process that did not ask.
    caller: u64,
    /// True for a reply.
    is_reply: bool,
}

/// One process: a core, while it runs, and what surrounds it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) raft: Option<Raft>,
    pub(crate) now: Millis,
    pub(crate) disk: Disk,
    /// The disk takes batches and finishes none.
    pub(crate) disk_stalls: bool,
    /// The state machine stands still.
    pub(crate) apply_stalls: bool,
    state: State,
    /// Bytes of a snapshot that is being received.
    receiving: (LogId, u64),
    incarnation: u64,
    /// As last told.
    members: Arc<Membership>,
}

impl Node {
    fn new(disk: Disk, now: Millis, members: Membership) -> Self {
        Self {
            raft: None,
            now,
            disk,
            disk_stalls: false,
            apply_stalls: false,
            state: State::new(),
            receiving: (LogId::ZERO, 0),
            incarnation: 0,
            members: Arc::new(members),
        }
    }
}

/// The whole.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) network: VecDeque<Packet>,
    pub(crate) safety: Safety,
    /// Directed pairs between which nothing passes.
    pub(crate) cut: Vec<(NodeId, NodeId)>,
    /// What happened, one line each, while `tracing`.
    pub(crate) trace: String,
    pub(crate) tracing: bool,
    /// Reads accepted, and the least index that each may return.
    reads: BTreeMap<ReadId, LogIndex>,
    pub(crate) reads_ready: usize,
    pub(crate) fatal: Option<String>,
    configs: BTreeMap<NodeId, Config>,
    calls: BTreeMap<CallId, Packet>,
    next_call: u64,
    seed: u64,
}

impl Cluster {
    /// Nodes 1 to `count`, on the disks given or on empty ones, not yet ticked.
    pub(crate) fn new(
        count: u64,
        seed: u64,
        mut disks: BTreeMap<NodeId, Disk>,
        adapt: impl Fn(&mut Config),
    ) -> Self {
        let voters: Vec<NodeId> = (1..=count).map(NodeId::new).collect();
        let address = |id: &NodeId| (*id, format!("host{id}:1"));
        let initial = Membership::of_voters(voters.iter().map(address)).expect("numbered");
        let mut configs = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for id in &voters {
            let mut config = Config::new(*id, initial.clone());
            adapt(&mut config);
            configs.insert(*id, config);
            let disk = disks.remove(id).unwrap_or_default();
            nodes.insert(*id, Node::new(disk, Millis::ZERO, initial.clone()));
        }
        let mut cluster = Self {
            nodes,
            network: VecDeque::new(),
            safety: Safety::new(initial),
            cut: Vec::new(),
            trace: String::new(),
            tracing: false,
            reads: BTreeMap::new(),
            reads_ready: 0,
            fatal: None,
            configs,
            calls: BTreeMap::new(),
            next_call: 1,
            seed,
        };
        for id in voters {
            cluster.start(id);
        }
        cluster
    }

    /// The core of a node that runs.
    pub(crate) fn raft(&mut self, id: NodeId) -> &mut Raft {
        self.node(id).raft.as_mut().expect("the node runs")
    }

    /// A node.
    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("there is such a node")
    }

    /// All nodes that run.
    pub(crate) fn running(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.raft.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// The leader of the latest term, if one runs.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.values().filter_map(|node| node.raft.as_ref());
        let leaders = leaders.filter(|raft| raft.role() == Role::Leader);
        leaders.max_by_key(|raft| raft.term()).map(Raft::id)
    }

    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, id: NodeId) {
        let config = self.configs[&id].clone();
        let seed = self.seed;
        let node = self.node(id);
        let restored = node.disk.recover(0);
        node.incarnation += 1;
        let seed = seed ^ (id.get() << 32) ^ node.incarnation;
        node.apply_stalls = false;
        node.state.clear();
        node.receiving = (LogId::ZERO, 0);
        node.raft = Some(Raft::new(config, restored, seed, node.now).expect("disks are sound"));
        self.safety.on_restart(id);
        self.settle(id);
    }

    /// Kills a node: what is not durable is lost, but for the first `keep` batches under way.
    pub(crate) fn crash(&mut self, id: NodeId, keep: usize) {
        let node = self.node(id);
        node.raft = None;
        let restored = node.disk.recover(keep);
        self.safety.on_crash(id, restored.hard_state.current_term);
        self.note(&format!("{} crashes", name(id)));
        // Its connections break: calls that it took and has not answered have failed.
        let queued: Vec<CallId> = self.network.iter().map(|packet| packet.call).collect();
        let broken = self
            .calls
            .values()
            .filter(|packet| packet.to == id && !queued.contains(&packet.call));
        for packet in broken.cloned().collect::<Vec<_>>() {
            self.lose(&packet, true);
        }
    }

    /// Advances a node's clock to `now`.
    pub(crate) fn tick(&mut self, id: NodeId, now: Millis) {
        let node = self.node(id);
        node.now = node.now.max(now);
        let now = node.now;
        if let Some(raft) = &mut node.raft {
            raft.tick(now);
            self.settle(id);
        }
    }

    /// Proposes at a node; true if it was taken.
    pub(crate) fn propose(&mut self, id: NodeId, command: &str) -> bool {
        let proposed = self
            .raft(id)
            .propose(Bytes::copy_from_slice(command.as_bytes()));
        if let Err(error) = &proposed {
            self.note(&format!("{} refuses {command}: {error}", name(id)));
        }
        proposed.is_ok()
    }

    /// Reads at a node; true if it was taken.
    pub(crate) fn read(&mut self, id: NodeId, read: u64) -> bool {
        let read = ReadId::new(read);
        let committed = self.committed();
        match self.raft(id).read(read) {
            Ok(()) => {
                self.reads.insert(read, committed);
                true
            }
            Err(error) => {
                self.note(&format!("{} refuses read {read}: {error}", name(id)));
                false
            }
        }
    }

    /// Reads at a node that need not lead; true if it was taken.
    pub(crate) fn read_anywhere(&mut self, id: NodeId, read: u64) -> bool {
        let read = ReadId::new(read);
        let committed = self.committed();
        match self.raft(id).read_anywhere(read) {
            Ok(()) => {
                self.reads.insert(read, committed);
                true
            }
            Err(error) => {
                self.note(&format!("{} refuses read {read}: {error}", name(id)));
                false
            }
        }
    }

    /// Asks a node for other members.
    pub(crate) fn change(&mut self, id: NodeId, change: MembershipChange) -> bool {
        let outcome = self.raft(id).change_membership(change);
        if let Err(error) = &outcome {
            self.note(&format!("{} refuses the change: {error}", name(id)));
        }
        self.settle(id);
        outcome.is_ok()
    }

    /// Asks a node to hand over.
    pub(crate) fn transfer(&mut self, id: NodeId, to: Option<NodeId>) -> bool {
        let outcome = self.raft(id).transfer_leadership(to);
        if let Err(error) = &outcome {
            self.note(&format!("{} does not hand over: {error}", name(id)));
        }
        self.settle(id);
        outcome.is_ok()
    }

    /// Starts a node that knows of no cluster.
    pub(crate) fn join(&mut self, id: NodeId, now: Millis) {
        let (_, config) = self.configs.first_key_value().expect("there are nodes");
        let config = Config {
            id,
            initial: Membership::default(),
            ..config.clone()
        };
        self.configs.insert(id, config);
        self.nodes
            .insert(id, Node::new(Disk::default(), now, Membership::default()));
        self.start(id);
    }

    /// Takes a snapshot of everything applied, if there is news.
    pub(crate) fn snapshot(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(last) = node.state.last().map(|entry| entry.id) else {
            return;
        };
        let state = node.state.clone();
        if node
            .raft
            .as_ref()
            .is_some_and(|raft| raft.snapshot() < last)
        {
            let raft = node.raft.as_ref().expect("it runs");
            let membership = Arc::clone(raft.membership_at(last.index));
            let file = (state.clone(), membership);
            node.disk.snapshots.insert(last, file);
            self.safety.on_snapshot(last, &state);
            self.note(&format!("{} takes snapshot {last}", name(id)));
            self.raft(id).snapshot_taken(last);
            self.settle(id);
        }
    }

    /// Delivers the message at `position` of the network, or loses it in a cut.
    pub(crate) fn deliver(&mut self, position: usize) {
        let Some(packet) = self.network.remove(position) else {
            return;
        };
        let Packet { from, to, call, .. } = packet.clone();
        if self.cut.contains(&(from, to)) || self.node(to).raft.is_none() {
            self.lose(&packet, true);
            return;
        }
        if packet.is_reply {
            self.calls.remove(&call);
            if packet.caller != self.node(to).incarnation {
                return;
            }
            self.raft(to)
                .step(from, CallId::ZERO, packet.message.clone());
            self.continue_stream(&packet);
        } else {
            self.raft(to).step(from, call, packet.message);
        }
        self.settle(to);
    }

    /// Loses the message at `position`. `reported`: its sender learns that the call failed.
    pub(crate) fn drop(&mut self, position: usize, reported: bool) {
        if let Some(packet) = self.network.remove(position) {
            self.lose(&packet, reported);
        }
    }

    /// Sends copies of all messages that wait between two nodes.
    pub(crate) fn repeat(&mut self, from: NodeId, to: NodeId) {
        let waiting = self.network.iter();
        let copies: Vec<Packet> = waiting
            .filter(|packet| (packet.from, packet.to) == (from, to))
            .cloned()
            .collect();
        for copy in copies {
            self.note(&format!("again: {}", describe_packet(&copy)));
            self.network.push_back(copy);
        }
    }

    /// The disk of a node that is down loses what was durable after `last`.
    pub(crate) fn forget(&mut self, id: NodeId, last: LogIndex) {
        assert!(self.node(id).raft.is_none(), "{} runs", name(id));
        self.node(id).disk.forget(last);
        self.note(&format!(
            "{} has an older copy of its disk: nothing after {last}",
            name(id)
        ));
    }

    /// Delivers until nothing is left.
    pub(crate) fn deliver_all(&mut self) {
        for _ in 0..100_000 {
            if self.network.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("messages go on for ever:\n{}", self.trace);
    }

    /// Makes the oldest batch under way of a node durable.
    pub(crate) fn sync_one(&mut self, id: NodeId) {
        if let Some(write) = self.node(id).disk.sync_one() {
            self.note(&format!("{} durable #{write}", name(id)));
            self.raft(id).persisted(write);
            self.settle(id);
        }
    }

    /// Carries out what a node wants until it wants nothing more.
    pub(crate) fn settle(&mut self, id: NodeId) {
        for _ in 0..1_000 {
            let mut effects = Vec::new();
            self.raft(id).flush(&mut effects);
            let mut idle = effects.is_empty();
            for effect in effects {
                self.carry_out(id, effect);
            }
            let node = &self.nodes[&id];
            self.safety.on_step(node.raft.as_ref().expect("it runs"));
            while let Some(batch) = self.raft(id).take_write() {
                self.note(&format!("{} {}", name(id), describe_write(&batch)));
                self.node(id).disk.write(batch);
                idle = false;
            }
            if !self.node(id).disk_stalls {
                while let Some(write) = self.node(id).disk.sync_one() {
                    self.raft(id).persisted(write);
                    idle = false;
                }
            }
            while !self.node(id).apply_stalls
                && let Some(committed) = self.raft(id).take_committed(200)
            {
                self.apply(id, committed);
                idle = false;
            }
            if idle {
                return;
            }
        }
        panic!("{} never comes to rest:\n{}", name(id), self.trace);
    }

    /// One line a node: role, term, commit, applied, log.
    pub(crate) fn describe(&self, id: NodeId) -> String {
        let Some(raft) = &self.nodes[&id].raft else {
            return format!("{} down", name(id));
        };
        let mut line = format!(
            "{} {}",
            name(id),
            describe_role(raft.role(), raft.term().get(), raft.leader())
        );
        let _ = write!(
            line,
            ", commit {}, applied {}",
            raft.commit_index(),
            raft.last_applied()
        );
        if raft.snapshot() != LogId::ZERO {
            let _ = write!(line, ", snapshot {}", raft.snapshot());
        }
        let mut terms = Vec::new();
        for index in (1..=raft.last_log().index.get()).map(LogIndex::new) {
            terms.push(
                raft.term_at(index)
                    .map_or("-".to_owned(), |term| term.to_string()),
            );
        }
        let _ = write!(
            line,
            ", log {}",
            if terms.is_empty() {
                "empty".to_owned()
            } else {
                terms.join(" ")
            }
        );
        line
    }

    /// The most that any node knows to be committed.
    fn committed(&self) -> LogIndex {
        let running = self.nodes.values().filter_map(|node| node.raft.as_ref());
        running.map(Raft::commit_index).max().unwrap_or_default()
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.request(id, to, message),
            Effect::Reply { call, message } => {
                let Some(request) = self.calls.get(&call).cloned() else {
                    return;
                };
                assert_eq!(request.to, id, "a node answers its own calls");
                let packet = Packet {
                    from: id,
                    to: request.from,
                    message,
                    call,
                    caller: request.caller,
                    is_reply: true,
                };
                self.note(&describe_packet(&packet));
                self.network.push_back(packet);
            }
            Effect::SendSnapshot {
                to,
                last_included,
                term,
            } => {
                assert!(
                    self.node(id).disk.snapshots.contains_key(&last_included),
                    "no such file"
                );
                self.request(id, to, chunk(last_included, term, 0));
            }
            Effect::ReceiveSnapshot {
                call,
                last_included,
                offset,
                done,
                ..
            } => {
                self.receive(id, call, last_included, offset, done);
            }
            Effect::ReadReady { read, index } => {
                self.note(&format!("{} read {read} ready at {index}", name(id)));
                let least = self
                    .reads
                    .remove(&read)
                    .expect("it was accepted, and answered once");
                assert!(
                    index >= least,
                    "read {read} at {index} misses what was committed: {least}"
                );
                self.reads_ready += 1;
            }
            Effect::ReadRefused { read } => {
                self.note(&format!("{} refuses read {read}", name(id)));
                self.reads
                    .remove(&read)
                    .expect("it was accepted, and answered once");
            }
            Effect::RoleChanged { role, term, leader } => {
                self.note(&format!(
                    "{} becomes {}",
                    name(id),
                    describe_role(role, term.get(), leader)
                ));
                if role == Role::Leader {
                    let raft = self.nodes[&id].raft.as_ref().expect("it runs");
                    if raft.role() == Role::Leader && raft.term() == term {
                        self.safety.on_leader(raft);
                    }
                }
            }
            Effect::MembershipChanged { membership } => {
                let node = self.node(id);
                if node.members != membership {
                    node.members = Arc::clone(&membership);
                    self.note(&format!("{} takes {membership} for the members", name(id)));
                }
            }
            Effect::TransferFailed { to } => {
                self.note(&format!("{}: {} did not take over", name(id), name(to)));
            }
            Effect::Fatal { reason } => {
                self.note(&format!("{} halts: {reason}", name(id)));
                self.fatal = Some(reason);
            }
        }
    }

    fn request(&mut self, from: NodeId, to: NodeId, message: Message) {
        let call = CallId::new(self.next_call);
        self.next_call += 1;
        let packet = Packet {
            from,
            to,
            message,
            call,
            caller: self.node(from).incarnation,
            is_reply: false,
        };
        self.note(&describe_packet(&packet));
        self.calls.insert(call, packet.clone());
        self.network.push_back(packet);
    }

    fn lose(&mut self, packet: &Packet, reported: bool) {
        self.note(&format!("lost: {}", describe_packet(packet)));
        let Some(request) = self.calls.remove(&packet.call) else {
            return;
        };
        let sender = request.from;
        let Some(raft) = &mut self.node(sender).raft else {
            return;
        };
        if let Message::InstallSnapshot { last_included, .. } = request.message {
            raft.snapshot_sent(request.to, last_included, false);
        }
        if reported {
            raft.unreachable(request.to);
        }
        self.settle(sender);
    }

    /// As the driver of a leader: sends the next chunk.
    fn continue_stream(&mut self, packet: &Packet) {
        let Message::InstallSnapshotReply {
            term,
            last_included,
            next_offset,
            installed,
        } = packet.message
        else {
            return;
        };
        let (leader, follower) = (packet.to, packet.from);
        let raft = self.raft(leader);
        let goes_on =
            raft.term() == term && raft.role() == Role::Leader && next_offset < SNAPSHOT_CHUNKS;
        if installed || !goes_on {
            raft.snapshot_sent(follower, last_included, installed);
        } else {
            self.request(leader, follower, chunk(last_included, term, next_offset));
        }
    }

    /// As the driver of a follower: stores a chunk.
    fn receive(&mut self, id: NodeId, call: CallId, last_included: LogId, offset: u64, done: bool) {
        let content: Vec<Entry> = self.safety.applied()[..=position(last_included.index)].to_vec();
        let node = self.node(id);
        if offset == 0 {
            node.receiving = (last_included, 0);
        }
        let in_place = node.receiving == (last_included, offset);
        if in_place {
            node.receiving.1 += 1;
        }
        let next_offset = if node.receiving.0 == last_included {
            node.receiving.1
        } else {
            0
        };
        let complete = in_place && done;
        let membership = complete.then(|| self.safety.membership_at(last_included.index));
        if let Some(membership) = &membership {
            let file = (content, Arc::clone(membership));
            self.node(id).disk.snapshots.insert(last_included, file);
        }
        self.raft(id)
            .chunk_stored(call, last_included, next_offset, membership);
    }

    fn apply(&mut self, id: NodeId, committed: Committed) {
        match committed {
            Committed::Snapshot(snapshot) => {
                self.note(&format!("{} loads snapshot {snapshot}", name(id)));
                let node = self.node(id);
                node.state = node.disk.snapshots[&snapshot].0.clone();
            }
            Committed::Entries(entries) => {
                self.note(&format!(
                    "{} applies {}",
                    name(id),
                    describe_entries(&entries)
                ));
                for entry in entries {
                    let applied = self.node(id).state.len();
                    assert_eq!(
                        applied,
                        position(entry.id.index),
                        "{} skips or repeats",
                        name(id)
                    );
                    self.safety.on_apply(id, &entry);
                    self.node(id).state.push(entry);
                }
            }
        }
        let applied = LogIndex::new(self.node(id).state.len() as u64);
        self.raft(id).applied(applied);
    }

    pub(crate) fn note(&mut self, line: &str) {
        if self.tracing {
            self.trace.push_str(line);
            self.trace.push('\n');
        }
    }
}

fn position(index: LogIndex) -> usize {
    usize::try_from(index.get() - 1).expect("small")
}

fn chunk(last_included: LogId, term: raft::core::Term, offset: u64) -> Message {
    let done = offset + 1 == SNAPSHOT_CHUNKS;
    Message::InstallSnapshot {
        term,
        last_included,
        offset,
        data: Bytes::from_static(b"#"),
        done,
    }
}

pub(crate) fn name(id: NodeId) -> String {
    format!("n{id}")
}

fn describe_role(role: Role, term: u64, leader: Option<NodeId>) -> String {
    let role_name = match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    };
    match leader {
        Some(leader) if role == Role::Follower => format!("{role_name}@{term} of {}", name(leader)),
        _ => format!("{role_name}@{term}"),
    }
}

fn describe_entries(entries: &[Entry]) -> String {
    let each = entries.iter().map(|entry| match &entry.payload {
        Payload::Empty => entry.id.to_string(),
        Payload::Command(command) if command.len() > 8 => {
            format!("{}={}B", entry.id, command.len())
        }
        Payload::Command(command) => format!("{}={}", entry.id, String::from_utf8_lossy(command)),
        Payload::Membership(membership) => format!("{}={membership}", entry.id),
    });
    each.collect::<Vec<_>>().join(" ")
}

fn describe_write(batch: &WriteBatch) -> String {
    let mut line = format!("writes #{}:", batch.id);
    if let Some(hard_state) = batch.hard_state {
        let vote = hard_state.voted_for.map_or("nobody".to_owned(), name);
        let _ = write!(line, " term {} vote {vote}", hard_state.current_term);
    }
    if let Some(snapshot) = batch.reset_to {
        let _ = write!(line, " reset to {snapshot}");
    }
    if let Some(from) = batch.truncate_from {
        let _ = write!(line, " truncate from {from}");
    }
    if !batch.entries.is_empty() {
        let _ = write!(line, " entries {}", describe_entries(&batch.entries));
    }
    if let Some(compaction) = batch.compaction {
        let _ = write!(
            line,
            " snapshot {} drops to {}",
            compaction.snapshot, compaction.drop_upto
        );
    }
    line
}

fn describe_packet(packet: &Packet) -> String {
    let message = match &packet.message {
        Message::AppendEntries {
            term,
            prev_log,
            entries,
            leader_commit,
            round,
        } => {
            let what = if entries.is_empty() {
                "heartbeat"
            } else {
                "append"
            };
            let mut line = format!("{what} t{term} after {prev_log}");
            if !entries.is_empty() {
                let _ = write!(line, " [{}]", describe_entries(entries));
            }
            let _ = write!(line, " commit {leader_commit}");
            if *round > 0 {
                let _ = write!(line, " round {round}");
            }
            line
        }
        Message::AppendEntriesReply {
            term,
            outcome,
            round,
        } => {
            let mut line = match outcome {
                AppendOutcome::Accepted { match_index } => {
                    format!("accepted t{term} match {match_index}")
                }
                AppendOutcome::Full { match_index } => {
                    format!("full t{term} match {match_index}")
                }
                AppendOutcome::Rejected { rejected, hint } => {
                    format!("rejected t{term} at {rejected} hint {hint}")
                }
            };
            if *round > 0 {
                let _ = write!(line, " round {round}");
            }
            line
        }
        Message::RequestVote {
            term,
            last_log,
            pre_vote,
            transfer,
        } => {
            let what = if *pre_vote { "pre-vote?" } else { "vote?" };
            let why = if *transfer { " by transfer" } else { "" };
            format!("{what} t{term} last {last_log}{why}")
        }
        Message::RequestVoteReply {
            term,
            vote_granted,
            pre_vote,
        } => {
            let what = if *pre_vote { "pre-vote" } else { "vote" };
            format!(
                "{what} {} t{term}",
                if *vote_granted { "granted" } else { "refused" }
            )
        }
        Message::InstallSnapshot {
            term,
            last_included,
            offset,
            done,
            ..
        } => {
            let last = if *done { " last" } else { "" };
            format!("snapshot t{term} {last_included} offset {offset}{last}")
        }
        Message::InstallSnapshotReply {
            term,
            last_included,
            next_offset,
            installed,
        } => {
            let what = if *installed {
                "installed".to_owned()
            } else {
                format!("next {next_offset}")
            };
            format!("snapshot t{term} {last_included} {what}")
        }
        Message::TimeoutNow { term } => format!("stand now t{term}"),
        Message::TimeoutNowReply { term } => format!("heard t{term}"),
        Message::ReadIndex { term, number } => format!("read index? t{term} number {number}"),
        Message::ReadIndexReply {
            term,
            number,
            index,
        } => match index {
            Some(index) => format!("read index {index} t{term} number {number}"),
            None => format!("read index refused t{term} number {number}"),
        },
    };
    let arrow = if packet.is_reply { "=>" } else { "->" };
    format!(
        "{} {arrow} {}: {message}",
        name(packet.from),
        name(packet.to)
    )
}
