//! The log writer: a thread that makes batches durable, as many as have gathered with one fdatasync.
//!
//! Two kinds of failure, two answers. After a sync that failed nobody knows what the disk holds, so
//! the node ends. A disk without space holds what it held: the log writer says so once, keeps what
//! waits, and tries again until there is room. To the core that is only a disk that takes its time.

use std::collections::VecDeque;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::core::{WriteBatch, WriteId};
use crate::node::apply::Waiter;
use crate::node::inbox::{Event, Inbox};
use crate::storage::{Persister, StorageError};

/// Batches that may be under way. Beyond it the core gathers what comes into its next batch.
pub(super) const MAX_WRITES_IN_FLIGHT: usize = 64;

/// A disk without space is tried again so often: a try costs it up to two syncs.
const FULL_DISK_RETRY: Duration = Duration::from_millis(500);

/// While it stays full, the operator is told again so often.
const FULL_DISK_REMINDER: Duration = Duration::from_mins(1);

/// The driver's end of the log writer.
pub(super) struct LogWriter {
    batches: Option<Sender<WriteBatch>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    pub(super) fn start<W: Waiter>(persister: Persister, inbox: Inbox<W>) -> io::Result<Self> {
        let (batches, receiver) = bounded(MAX_WRITES_IN_FLIGHT);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || run(persister, &receiver, &inbox))?;
        Ok(Self {
            batches: Some(batches),
            thread: Some(thread),
        })
    }

    /// Hands over a batch; the caller keeps to [`MAX_WRITES_IN_FLIGHT`], so this never waits.
    /// False: the thread is gone.
    pub(super) fn write(&self, batch: WriteBatch) -> bool {
        self.batches
            .as_ref()
            .is_some_and(|batches| batches.try_send(batch).is_ok())
    }
}

impl Drop for LogWriter {
    /// Finishes what was handed over, unless there is no space for it.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

fn run<W: Waiter>(mut persister: Persister, batches: &Receiver<WriteBatch>, inbox: &Inbox<W>) {
    // Taken and not durable; the caller's bound holds for it and the channel together.
    let mut waiting = VecDeque::new();
    let mut full: Option<FullDisk> = None;
    loop {
        match &full {
            None => match batches.recv() {
                Ok(batch) => waiting.push_back(batch),
                Err(_) => return,
            },
            Some(_) if !gather_until(Instant::now() + FULL_DISK_RETRY, batches, &mut waiting) => {
                return;
            }
            Some(_) => {}
        }
        waiting.extend(batches.try_iter().take(MAX_WRITES_IN_FLIGHT));

        let (some, no_space) = match write_waiting(&mut persister, &mut waiting) {
            Ok(Written { last, no_space }) => {
                if let Some(last) = last {
                    inbox.send(Event::Persisted(last));
                }
                (last.is_some(), no_space)
            }
            // After a failed sync nobody knows what the disk holds; trying again could report as
            // durable what is lost.
            Err(error) => return inbox.send(Event::WriteFailed(error)),
        };
        full = match (full, no_space) {
            (None, Some(error)) => {
                inbox.send(Event::DiskFull);
                Some(FullDisk::noticed(&error))
            }
            (Some(full), Some(error)) => {
                if some {
                    // Room for a part looks like room for all, until the driver hears this.
                    inbox.send(Event::DiskFull);
                }
                Some(full.still(&error))
            }
            (Some(full), None) => {
                full.over();
                None
            }
            (None, None) => None,
        };
    }
}

/// How far [`write_waiting`] came.
struct Written {
    /// Up to here everything is durable. `None`: nothing new is.
    last: Option<WriteId>,
    /// Why the rest still waits.
    no_space: Option<StorageError>,
}

/// Writes what waits, as much of it as there is space for, and makes that durable.
fn write_waiting(
    persister: &mut Persister,
    waiting: &mut VecDeque<WriteBatch>,
) -> Result<Written, StorageError> {
    let mut last = None;
    let mut no_space = None;
    while let Some(batch) = waiting.front() {
        match persister.write(batch) {
            Ok(()) => {
                last = Some(batch.id);
                waiting.pop_front();
            }
            Err(error) if error.is_no_space() => {
                no_space = Some(error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    persister.sync()?;
    Ok(Written { last, no_space })
}

/// Takes what comes until then. False: nothing will come any more, the node stops.
fn gather_until(
    until: Instant,
    batches: &Receiver<WriteBatch>,
    waiting: &mut VecDeque<WriteBatch>,
) -> bool {
    loop {
        match batches.recv_deadline(until) {
            Ok(batch) => waiting.push_back(batch),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// What the operator is told while there is no space.
struct FullDisk {
    since: Instant,
    told_at: Instant,
}

impl FullDisk {
    fn noticed(error: &StorageError) -> Self {
        let now = Instant::now();
        tracing::error!(%error, "the disk is full; writes wait until there is room");
        Self {
            since: now,
            told_at: now,
        }
    }

    fn still(mut self, error: &StorageError) -> Self {
        if self.told_at.elapsed() >= FULL_DISK_REMINDER {
            let full_for_s = self.since.elapsed().as_secs();
            tracing::error!(%error, full_for_s, "the disk is still full; writes wait");
            self.told_at = Instant::now();
        }
        self
    }

    fn over(self) {
        let full_for_ms = self.since.elapsed().as_millis();
        tracing::info!(full_for_ms, "the disk has room again; writes go on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Entry, HardState, LogId, LogIndex, NodeId, Payload, Term};
    use crate::node::apply::Refusal;
    use crate::node::inbox::InboxReceiver;
    use crate::storage::sim_disk::{Crash, SimDisk};
    use crate::storage::{Identity, PersisterOptions};

    /// Only ends a test that hangs.
    const HANG_GUARD: Duration = Duration::from_mins(1);

    struct Nobody;

    impl Waiter for Nobody {
        fn refuse(self, _why: Refusal) {}
    }

    fn open(disk: &SimDisk) -> (Persister, Vec<Entry>) {
        let identity = Identity {
            node: NodeId::new(1),
            cluster: 7,
        };
        let options = PersisterOptions {
            segment_bytes: 4096,
            ..PersisterOptions::default()
        };
        let (persister, recovered) = Persister::open(disk.clone(), identity, options).unwrap();
        (persister, recovered.restored.entries)
    }

    fn start(disk: &SimDisk) -> (LogWriter, InboxReceiver<Nobody>) {
        let (inbox, received) = Inbox::new(16, 1 << 20);
        (LogWriter::start(open(disk).0, inbox).unwrap(), received)
    }

    /// The batch that brings entry `index`, of 1,000 bytes.
    fn batch(index: u64) -> WriteBatch {
        let term = Term::new(1);
        WriteBatch {
            id: WriteId::new(index),
            hard_state: (index == 1).then_some(HardState {
                current_term: term,
                voted_for: None,
            }),
            entries: vec![Entry {
                id: LogId::new(term, LogIndex::new(index)),
                payload: Payload::Command(vec![7; 1_000].into()),
            }],
            ..WriteBatch::default()
        }
    }

    fn next(received: &InboxReceiver<Nobody>) -> Event {
        received.events.recv_timeout(HANG_GUARD).unwrap()
    }

    fn persisted(received: &InboxReceiver<Nobody>) -> WriteId {
        match next(received) {
            Event::Persisted(write) => write,
            Event::DiskFull => panic!("the disk is full"),
            Event::WriteFailed(error) => panic!("{error}"),
            _ => panic!("the log writer reports writes only"),
        }
    }

    /// Faults D5. What fits is reported, what does not waits, in its order, and comes by itself once
    /// there is room.
    #[test]
    fn a_full_disk_is_waited_out_and_nothing_reported_is_lost() {
        let disk = SimDisk::new();
        let (writer, received) = start(&disk);
        // The first segment holds three such entries; there is no space for a second one.
        disk.set_capacity(Some(disk.used_bytes() + 100));
        let mut durable = WriteId::ZERO;
        for index in 1..=6 {
            assert!(writer.write(batch(index)));
        }
        loop {
            match next(&received) {
                Event::Persisted(write) => durable = write,
                Event::DiskFull => break,
                _ => panic!("neither"),
            }
        }
        assert_eq!(durable, WriteId::new(3), "what fits is durable");
        assert!(writer.write(batch(7)), "the core goes on handing over");
        let tried = disk.operations();
        while disk.operations() < tried + 10 {
            std::thread::sleep(Duration::from_millis(5)); // until it has tried again, and again
        }
        assert!(received.events.try_recv().is_err(), "it says so once");

        let crashed = disk.fork();
        crashed.crash(Crash::Lost);
        assert_eq!(open(&crashed).1.len(), 3);

        disk.set_capacity(None);
        while durable < WriteId::new(7) {
            let write = persisted(&received);
            assert!(write > durable);
            durable = write;
        }
        drop(writer);
        disk.crash(Crash::Lost);
        let found = open(&disk).1;
        let indexes: Vec<u64> = found.iter().map(|entry| entry.id.index.get()).collect();
        assert_eq!(indexes, [1, 2, 3, 4, 5, 6, 7]);
    }

    /// It can be full again, and says so again.
    #[test]
    fn each_time_the_disk_is_full_is_reported() {
        let disk = SimDisk::new();
        let (writer, received) = start(&disk);
        let mut index = 0;
        for round in 0..2 {
            disk.set_capacity(Some(disk.used_bytes()));
            for _ in 0..5 {
                index += 1;
                assert!(writer.write(batch(index)));
            }
            while !matches!(next(&received), Event::DiskFull) {}
            disk.set_capacity(None);
            while persisted(&received) < WriteId::new(index) {}
            println!("round {round}: {index} entries");
        }
    }

    /// Whoever hears that something is durable again must not think that the rest will be.
    #[test]
    fn a_disk_with_room_for_a_part_of_what_waits_is_still_full() {
        let disk = SimDisk::new();
        let (writer, received) = start(&disk);
        disk.set_capacity(Some(disk.used_bytes()));
        for index in 1..=20 {
            assert!(writer.write(batch(index)));
        }
        while !matches!(next(&received), Event::DiskFull) {}
        // A few segments more, of three such entries each.
        let mut durable = WriteId::ZERO;
        for _ in 0..2 {
            disk.set_capacity(Some(disk.used_bytes() + 10_000));
            let more = persisted(&received);
            assert!(durable < more && more < WriteId::new(20), "{more}");
            assert!(matches!(next(&received), Event::DiskFull));
            durable = more;
        }
    }

    /// A node with a full disk can be stopped.
    #[test]
    fn stopping_does_not_wait_for_room() {
        let disk = SimDisk::new();
        let (writer, received) = start(&disk);
        disk.set_capacity(Some(disk.used_bytes()));
        for index in 1..=6 {
            assert!(writer.write(batch(index)));
        }
        while !matches!(next(&received), Event::DiskFull) {}
        drop(writer);
        assert!(matches!(
            received.events.try_recv(),
            Err(crossbeam_channel::TryRecvError::Disconnected)
        ));
    }

    /// Faults D3: a sync that failed is not tried again, whatever waits.
    #[test]
    fn a_failed_sync_ends_the_log_writer() {
        let disk = SimDisk::new();
        let (writer, received) = start(&disk);
        assert!(writer.write(batch(1)));
        assert_eq!(persisted(&received), WriteId::new(1));
        disk.fail_sync_after(0);
        let _ = writer.write(batch(2));
        assert!(matches!(next(&received), Event::WriteFailed(_)));
        assert!(received.events.recv_timeout(HANG_GUARD).is_err(), "the end");
    }
}
