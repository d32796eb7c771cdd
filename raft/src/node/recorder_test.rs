use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::core::{Payload, Role};
use crate::record::{Event, Replay, ReplayError};

const HANG_GUARD: Duration = Duration::from_mins(1);

fn members(count: u64) -> Membership {
    let address = |id| (NodeId::new(id), format!("host{id}:1"));
    Membership::of_voters((1..=count).map(address)).unwrap()
}

/// Recorded cores, a network that loses messages, and disks that take their time, all from one seed.
struct Cluster {
    random: fastrand::Rng,
    now: u64,
    cores: BTreeMap<NodeId, Recorded>,
    /// Batches that are being written, of each node.
    writing: BTreeMap<NodeId, Vec<WriteId>>,
    calls: BTreeMap<CallId, (NodeId, NodeId)>,
    next_call: CallId,
    network: Vec<(NodeId, NodeId, CallId, Message)>,
    /// Loses what it sends and what is sent to it.
    cut: Option<NodeId>,
    leaders: usize,
    snapshots_installed: usize,
    changes: usize,
    dir: TempDir,
}

impl Cluster {
    fn new(seed: u64, max_bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cores = BTreeMap::new();
        for id in (1..=4).map(NodeId::new) {
            // The fourth waits to be asked in.
            let initial = if id.get() == 4 {
                Membership::default()
            } else {
                members(3)
            };
            let config = Config {
                retained_log_bytes: 500,
                ..Config::new(id, initial)
            };
            let file = dir.path().join(id.to_string());
            let record = RecordOptions { file, max_bytes };
            let restored = Restored::default();
            let seed = seed + id.get();
            let core = Recorded::new(config, restored, seed, Millis::ZERO, Some(&record));
            cores.insert(id, core.unwrap());
        }
        Self {
            random: fastrand::Rng::with_seed(seed),
            now: 0,
            writing: cores.keys().map(|id| (*id, Vec::new())).collect(),
            cores,
            calls: BTreeMap::new(),
            next_call: CallId::ZERO.next(),
            network: Vec::new(),
            cut: None,
            leaders: 0,
            snapshots_installed: 0,
            changes: 0,
            dir,
        }
    }

    fn run(&mut self, turns: usize) {
        let ids: Vec<NodeId> = self.cores.keys().copied().collect();
        for turn in 0..turns {
            if turn % 300 == 0 {
                self.cut = (self.random.u8(..2) == 0).then(|| ids[self.random.usize(..3)]);
            }
            self.now += self.random.u64(..20);
            for id in ids.clone() {
                self.turn(id);
            }
        }
    }

    fn turn(&mut self, id: NodeId) {
        let (arrived, on_their_way) = std::mem::take(&mut self.network)
            .into_iter()
            .partition(|(_, to, ..)| *to == id);
        self.network = on_their_way;
        let core = self.cores.get_mut(&id).unwrap();
        core.tick(Millis::new(self.now));
        let arrived: Vec<(NodeId, NodeId, CallId, Message)> = arrived;
        for (from, _, call, message) in arrived {
            core.step(from, call, message);
        }
        for _ in 0..self.random.usize(..4) {
            let command = vec![7; self.random.usize(..100)];
            let _ = core.propose(command.into());
        }
        let read = ReadId::new(self.now);
        let _ = match self.random.u8(..20) {
            0 => core.read(read),
            1 => core.read_anywhere(read),
            _ => Ok(()),
        };
        self.wish(id);
        let core = self.cores.get_mut(&id).unwrap();
        let writing = self.writing.get_mut(&id).unwrap();
        if self.random.bool() {
            for write in writing.drain(..) {
                core.persisted(write);
            }
        }
        let mut effects = Vec::new();
        core.flush(&mut effects);
        if let Some(batch) = core.take_write() {
            writing.push(batch.id);
        }
        match core.take_committed(1000) {
            Some(Committed::Entries(entries)) => {
                let last = entries.last().unwrap().id;
                let of_members =
                    |entry: &&crate::core::Entry| matches!(entry.payload, Payload::Membership(_));
                self.changes += entries.iter().filter(of_members).count();
                core.applied(last.index);
                if self.random.u8(..50) == 0 {
                    core.snapshot_taken(last);
                }
            }
            Some(Committed::Snapshot(snapshot)) => {
                self.snapshots_installed += 1;
                core.applied(snapshot.index);
            }
            None => {}
        }
        for effect in effects {
            self.carry_out(id, effect);
        }
    }

    fn wish(&mut self, id: NodeId) {
        let core = self.cores.get_mut(&id).unwrap();
        let (four, what) = (NodeId::new(4), self.random.u16(..1000));
        let change = match what {
            0..5 => MembershipChange::AddLearner {
                node: four,
                address: "host4:1".to_owned(),
            },
            5..20 => MembershipChange::Promote { node: four },
            20..30 => MembershipChange::Remove { node: four },
            30..35 => {
                let _ = core.transfer_leadership(None);
                return;
            }
            35 => {
                core.resign();
                return;
            }
            _ => return,
        };
        let _ = core.change_membership(change);
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(id, to, message),
            Effect::Reply { call, message } => {
                let (from, to) = self.calls.remove(&call).expect("one reply a call");
                self.deliver(to, from, CallId::ZERO, message);
            }
            Effect::SendSnapshot {
                to,
                last_included,
                term,
            } => {
                let data = vec![0; 10].into();
                let chunk = Message::InstallSnapshot {
                    term,
                    last_included,
                    offset: 0,
                    data,
                    done: true,
                };
                self.send(id, to, chunk);
                let core = self.cores.get_mut(&id).unwrap();
                core.snapshot_sent(to, last_included, false);
            }
            Effect::ReceiveSnapshot {
                call,
                last_included,
                ..
            } => {
                let leader = self.calls[&call].0;
                let membership = Arc::clone(self.cores[&leader].membership_at(last_included.index));
                let core = self.cores.get_mut(&id).unwrap();
                core.chunk_stored(call, last_included, 10, Some(membership));
            }
            Effect::RoleChanged {
                role: Role::Leader, ..
            } => self.leaders += 1,
            Effect::Fatal { reason } => panic!("{reason}"),
            _ => {}
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let call = self.next_call;
        self.next_call = call.next();
        self.calls.insert(call, (from, to));
        self.deliver(from, to, call, message);
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, call: CallId, message: Message) {
        let is_lost = self.cut == Some(from) || self.cut == Some(to) || self.random.u8(..50) == 0;
        if !is_lost {
            self.network.push((from, to, call, message));
        } else if call == CallId::ZERO {
            self.cores.get_mut(&to).unwrap().unreachable(from);
        } else {
            self.cores.get_mut(&from).unwrap().unreachable(to);
        }
    }

    /// Ends the cores in order; where they are recorded.
    fn stop(mut self) -> (TempDir, Vec<PathBuf>) {
        let mut files = Vec::new();
        for (id, mut core) in std::mem::take(&mut self.cores) {
            core.end_record();
            files.push(self.dir.path().join(id.to_string()));
        }
        (self.dir, files)
    }
}

fn aside(file: &Path) -> PathBuf {
    file.with_extension("1")
}

/// Every input of every core leads to what it led to then: from its start, and from what a later
/// file begins with, across the turn of the files.
#[test]
fn a_run_is_replayed_as_it_was() {
    for (seed, max_bytes, is_turned) in [(4711, 64 << 20, false), (4712, 300_000, true)] {
        println!("seed {seed}");
        let mut cluster = Cluster::new(seed, max_bytes);
        cluster.run(6000);
        assert!(cluster.leaders > 5, "{} leaders", cluster.leaders);
        assert!(cluster.snapshots_installed > 0);
        assert!(cluster.changes > 4, "{} changes", cluster.changes);
        let last: Vec<_> = cluster.cores.values().map(|core| core.state()).collect();

        let (_dir, files) = cluster.stop();
        for (file, last) in files.iter().zip(last) {
            assert_eq!(aside(file).exists(), is_turned, "a full file is put aside");
            let (mut steps, mut confirmed, mut state) = (0, false, None);
            let mut both = vec![file.clone()];
            both.splice(..0, is_turned.then(|| aside(file)));
            for event in Replay::open(both.clone()).unwrap() {
                match event.unwrap() {
                    Event::Step { state: now, .. } => {
                        state = Some(now);
                        steps += 1;
                    }
                    Event::Began {
                        confirmed: is,
                        lost,
                        ..
                    } => {
                        assert_eq!(lost, 0);
                        confirmed |= is;
                    }
                    Event::Started { .. } | Event::Ended => {}
                    Event::CutOff => panic!("it was ended in order"),
                }
            }
            assert!(steps > 1000, "{steps}");
            assert_eq!(
                confirmed, is_turned,
                "a file begins where the one before ended"
            );
            assert_eq!(state, Some(last));
            let bytes = |file: &PathBuf| fs::metadata(file).unwrap().len();
            let both: u64 = both.iter().map(bytes).sum();
            assert!(!is_turned || both < 450_000, "{both} bytes");
        }
    }
}

/// The record of one core that elects itself and takes some commands.
fn record_alone(dir: &TempDir) -> PathBuf {
    let file = dir.path().join("record");
    let mut core = alone(Some(&RecordOptions::new(file.clone())));
    for turn in 1..50 {
        drive(&mut core, turn);
    }
    core.end_record();
    file
}

fn alone(record: Option<&RecordOptions>) -> Recorded {
    let config = Config::new(NodeId::new(1), members(1));
    Recorded::new(config, Restored::default(), 1, Millis::ZERO, record).unwrap()
}

fn drive(core: &mut Recorded, turn: u64) {
    core.tick(Millis::new(turn * 10));
    let _ = core.propose(vec![0; 10].into());
    core.flush(&mut Vec::new());
    if let Some(batch) = core.take_write() {
        core.persisted(batch.id);
    }
    if let Some(Committed::Entries(entries)) = core.take_committed(1000) {
        core.applied(entries.last().unwrap().id.index);
    }
}

fn outcome(file: &Path) -> Result<Vec<Event>, ReplayError> {
    Replay::open([file.to_owned()])?.collect()
}

/// Writes the items of `file` anew, each as `change` leaves it.
fn forge(file: &Path, mut change: impl FnMut(&mut Item)) {
    let bytes = fs::read(file).unwrap();
    let mut forged = header();
    let mut checksum = crc32c::crc32c(&forged);
    let mut at = forged.len();
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut items = &bytes[at + 12..at + 12 + length];
        at += 12 + length;
        let mut changed = Vec::new();
        while !items.is_empty() {
            let config = bincode::config::standard();
            let (mut item, used) = bincode::serde::decode_from_slice(items, config).unwrap();
            items = &items[used..];
            change(&mut item);
            encode(&item, &mut changed);
        }
        forged.extend_from_slice(&frame_header(&changed, &mut checksum));
        forged.extend_from_slice(&changed);
    }
    fs::write(file, forged).unwrap();
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = record_alone(&dir);
    assert!(outcome(&file).is_ok());
    let bytes = fs::read(&file).unwrap();
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 0x10;
        fs::write(&file, &other).unwrap();
        assert!(outcome(&file).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn whoever_forges_an_input_is_told_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let file = record_alone(&dir);
    let mut step = 0;
    forge(&file, |item| {
        if let Item::Input(input) = item {
            step += 1;
            if step == 92 {
                *input = Input::Unreachable { to: NodeId::new(2) };
            }
        }
    });
    match outcome(&file) {
        Err(ReplayError::Differs { step, .. }) => assert!((92..100).contains(&step), "{step}"),
        other => panic!("{other:?}"),
    }

    let file = record_alone(&dir);
    forge(&file, |item| {
        if let Item::State { state, .. } = item
            && state.commit_index == LogIndex::new(9)
        {
            state.commit_index = LogIndex::new(10);
        }
    });
    assert!(matches!(outcome(&file), Err(ReplayError::Differs { .. })));
}

#[test]
fn a_record_cut_off_anywhere_is_replayed_up_to_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = record_alone(&dir);
    let bytes = fs::read(&file).unwrap();
    let whole = outcome(&file).unwrap();
    for length in header().len()..bytes.len() {
        fs::write(&file, &bytes[..length]).unwrap();
        let mut events = outcome(&file).unwrap();
        if events.last() == Some(&Event::CutOff) {
            events.pop();
        }
        assert!(whole.starts_with(&events), "{length} of {}", bytes.len());
    }
    fs::write(&file, &bytes[..5]).unwrap();
    assert!(matches!(
        outcome(&file),
        Err(ReplayError::NotARecord { .. })
    ));
}

#[test]
fn a_core_that_panics_leaves_the_input_that_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("record");
    let options = RecordOptions::new(file.clone());
    let panic = std::thread::spawn(move || {
        let mut core = alone(Some(&options));
        drive(&mut core, 1);
        core.persisted(WriteId::new(99));
    });
    assert!(panic.join().is_err());
    match outcome(&file) {
        Err(ReplayError::Panicked { input, text, .. }) => {
            let write = WriteId::new(99);
            assert_eq!(*input, Input::Persisted { write });
            assert!(text.contains("only what it took"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

/// A disk that takes nothing until it is told to.
struct Stuck {
    go_on: mpsc::Receiver<()>,
    inner: Files,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.go_on.recv_timeout(HANG_GUARD);
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Stuck {
    fn begin_next(&mut self) -> io::Result<()> {
        self.inner.begin_next()
    }
}

/// The driver goes on at once, and the record says what it lacks.
#[test]
fn a_disk_that_hangs_costs_a_hole_in_the_record_and_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("record");
    let (go_on, stuck) = mpsc::channel();
    let sink = Stuck {
        go_on: stuck,
        inner: Files::begin(&file).unwrap(),
    };
    let mut core = alone(None);
    let start = Start {
        config: Config::new(NodeId::new(1), members(1)),
        restored: Restored::default(),
        seed: 1,
        now: Millis::ZERO,
    };
    core.recorder = Some(Recorder::writing_to(sink, start, 64 << 20).unwrap());

    let mode = |core: &Recorded| core.recorder.as_ref().unwrap().mode;
    let mut turn = 0;
    while mode(&core) != Mode::Behind {
        turn += 1;
        drive(&mut core, turn);
        assert!(turn < 2 * MAX_QUEUED as u64, "the queue has a bound");
    }
    for more in 1..100 {
        drive(&mut core, turn + more);
    }
    drop(go_on); // The disk goes on.
    let give_up = Instant::now() + HANG_GUARD;
    while mode(&core) != Mode::Recording {
        assert!(Instant::now() < give_up);
        turn += 1;
        drive(&mut core, turn + 100);
        std::thread::yield_now();
    }
    drive(&mut core, turn + 200);
    core.end_record();
    drop(core);

    assert!(outcome(&aside(&file)).is_ok());
    let events = outcome(&file).unwrap();
    let Some(Event::Began { lost, .. }) = events.first() else {
        panic!("{events:?}")
    };
    assert!(*lost >= 100, "{lost} inputs are in no file");
    let together = Replay::open([aside(&file), file]).unwrap();
    assert!(together.map(Result::unwrap).any(|event| matches!(
        event,
        Event::Began {
            confirmed: false,
            ..
        }
    )));
}

/// Takes some bytes and then no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Full {
    fn begin_next(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_record_and_not_the_node() {
    let mut core = alone(None);
    let start = Start {
        config: Config::new(NodeId::new(1), members(1)),
        restored: Restored::default(),
        seed: 1,
        now: Millis::ZERO,
    };
    core.recorder = Some(Recorder::writing_to(Full(1000), start, 64 << 20).unwrap());
    let give_up = Instant::now() + HANG_GUARD;
    let mut turn = 0;
    while core.recorder.as_ref().unwrap().mode != Mode::Over {
        assert!(Instant::now() < give_up);
        turn += 1;
        drive(&mut core, turn);
    }
    drive(&mut core, turn + 1);
    assert_eq!(core.commit_index(), core.last_applied());
}

#[test]
fn what_an_earlier_process_recorded_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let file = record_alone(&dir);
    let before = fs::read(&file).unwrap();
    record_alone(&dir);
    assert_eq!(fs::read(aside(&file)).unwrap(), before);
    let nowhere = RecordOptions::new(dir.path().join("nowhere/record"));
    let config = Config::new(NodeId::new(1), members(1));
    let refused = Recorded::new(config, Restored::default(), 1, Millis::ZERO, Some(&nowhere));
    assert!(matches!(refused, Err(StartError::Record { .. })));
}
