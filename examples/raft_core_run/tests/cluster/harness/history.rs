//! Clients that record what they asked, when, and what they were told.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clerk::{Clerk, ReadFrom};

use super::cluster::Cluster;
use super::linearizable::{Operation, What, check};
use super::wait::eventually;

/// Keys in use at one time: few, so that clients meet.
const KEYS: u64 = 3;

/// After so many operations all clients go on to fresh keys, which have no value yet.
const OPERATIONS_PER_EPOCH: u64 = 2_000;

/// Clients that read and write at random until [`finish`](Recorder::finish), or until it is dropped.
/// Every other one reads from any node, whoever leads.
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Recorder {
    /// Each client's calls are tried for `timeout`: a short one leaves writes of unknown outcome.
    pub(crate) fn start(cluster: &Cluster, clients: usize, timeout: Duration, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let clients = (0..clients).map(|client| {
            let read_from = [ReadFrom::Leader, ReadFrom::Any][client % 2];
            let clerk = cluster
                .clerk(seed ^ client as u64)
                .with_timeout(timeout)
                .with_reads_from(read_from);
            let (stop, count, failed) =
                (Arc::clone(&stop), Arc::clone(&count), Arc::clone(&failed));
            let random = fastrand::Rng::with_seed(seed.wrapping_add(client as u64));
            thread::spawn(move || {
                let history = record(&stop, &count, &clerk, client, begun, random);
                failed.fetch_add(history.failed, Ordering::Relaxed);
                history.operations
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            count,
            failed,
        }
    }

    /// How many operations have begun.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for `more` further operations to begin.
    pub(crate) fn progress(&self, more: u64) {
        let goal = self.count() + more;
        eventually("further operations", || {
            (self.count() >= goal).then_some(())
        });
    }

    /// As [`finish`](Self::finish), where no operation may have failed and the history must be
    /// linearizable.
    pub(crate) fn finish_without_failures(self) {
        let failed = Arc::clone(&self.failed);
        self.finish_linearizable();
        assert_eq!(failed.load(Ordering::Relaxed), 0, "failed operations");
    }

    /// As [`finish`](Self::finish), and checks the history.
    pub(crate) fn finish_linearizable(self) {
        let history = self.finish();
        let is_unknown = |operation: &&Operation| operation.returned.is_none();
        println!(
            "a history of {} operations, {} of them of unknown outcome",
            history.len(),
            history.iter().filter(is_unknown).count()
        );
        if let Err(violation) = check(&history) {
            panic!("{violation}");
        }
    }

    /// The history of all clients, once each has ended its last operation.
    pub(crate) fn finish(mut self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        mem::take(&mut self.clients)
            .into_iter()
            .flat_map(|client| client.join().expect("a client does not panic"))
            .collect()
    }
}

impl Drop for Recorder {
    /// Of a test that has ended before: its clients must not burden the next one.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What one client has to tell.
struct Recorded {
    operations: Vec<Operation>,
    /// Those that ended with an error.
    failed: u64,
}

fn record(
    stop: &AtomicBool,
    count: &AtomicU64,
    clerk: &Clerk,
    client: usize,
    begun: Instant,
    mut random: fastrand::Rng,
) -> Recorded {
    let mut history = Vec::new();
    let mut failed = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let key = format!("h{}/{}", number / OPERATIONS_PER_EPOCH, random.u64(..KEYS));
        let called = begun.elapsed();
        let ended = match random.u8(..10) {
            0..5 => match clerk.get(key.clone()) {
                Ok(value) => {
                    let returned = begun.elapsed();
                    let tokens = tokens_of(&value.unwrap_or_default());
                    Some((What::Get(tokens), Some(returned)))
                }
                Err(_) => None, // it saw nothing, so it says nothing
            },
            5..8 => {
                let ended = clerk.append(key.clone(), format!("{number};"));
                end_of(ended, What::Append(number), begun)
            }
            _ => {
                let ended = clerk.put(key.clone(), format!("{number};"));
                end_of(ended, What::Put(number), begun)
            }
        };
        failed += u64::from(!matches!(ended, Some((_, Some(_)))));
        if let Some((what, returned)) = ended {
            history.push(Operation {
                client,
                key,
                what,
                called,
                returned,
            });
        }
    }
    Recorded {
        operations: history,
        failed,
    }
}

/// The numbers of the writes that made up a value.
fn tokens_of(value: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(value).ok();
    let tokens = text.map(|text| text.split_terminator(';').map(str::parse).collect());
    tokens
        .and_then(Result::ok)
        .unwrap_or_else(|| panic!("nobody wrote {value:?}"))
}

/// A write that is said to be certainly not done is left out: were it done, its value would be seen.
fn end_of(
    result: Result<(), clerk::ClerkError>,
    what: What,
    begun: Instant,
) -> Option<(What, Option<Duration>)> {
    match result {
        Ok(()) => Some((what, Some(begun.elapsed()))),
        Err(error) if error.may_have_taken_effect() => Some((what, None)),
        Err(_) => None,
    }
}
