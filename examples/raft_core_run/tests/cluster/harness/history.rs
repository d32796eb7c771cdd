//! Clients that record what they asked, when, and what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clerk::Clerk;

use super::cluster::Cluster;
use super::linearizable::{Operation, What};

/// Keys in use at one time: few, so that clients meet.
const KEYS: u64 = 3;

/// After so many operations all clients go on to fresh keys, so that no search grows long.
const OPERATIONS_PER_EPOCH: u64 = 2_000;

/// Clients that read and write at random until [`finish`](Recorder::finish).
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Recorder {
    /// Each client's calls are tried for `timeout`: a short one leaves writes of unknown outcome.
    pub(crate) fn start(cluster: &Cluster, clients: usize, timeout: Duration, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let clients = (0..clients).map(|client| {
            let clerk = cluster.clerk(seed ^ client as u64).with_timeout(timeout);
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            let random = fastrand::Rng::with_seed(seed.wrapping_add(client as u64));
            thread::spawn(move || record(&stop, &count, &clerk, client, begun, random))
        });
        Self {
            clients: clients.collect(),
            stop,
            count,
        }
    }

    /// How many operations have begun.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The history of all clients, once each has ended its last operation.
    pub(crate) fn finish(self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client does not panic"))
            .collect()
    }
}

fn record(
    stop: &AtomicBool,
    count: &AtomicU64,
    clerk: &Clerk,
    client: usize,
    begun: Instant,
    mut random: fastrand::Rng,
) -> Vec<Operation> {
    let mut history = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let key = format!("h{}/{}", number / OPERATIONS_PER_EPOCH, random.u64(..KEYS));
        let called = begun.elapsed();
        let ended = match random.u8(..10) {
            0..5 => match clerk.get(key.clone()) {
                Ok(value) => {
                    let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                    Some((What::Get(value), Some(begun.elapsed())))
                }
                Err(_) => None, // it saw nothing, so it says nothing
            },
            5..8 => {
                let value = format!("{number};");
                end_of(
                    clerk.append(key.clone(), value.clone()),
                    What::Append(value),
                    begun,
                )
            }
            _ => {
                let value = format!("{number}:");
                end_of(
                    clerk.put(key.clone(), value.clone()),
                    What::Put(value),
                    begun,
                )
            }
        };
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
    history
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
