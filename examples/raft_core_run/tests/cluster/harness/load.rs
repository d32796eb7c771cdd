//! Clients that write without pause, and the journal of what they were promised.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clerk::Clerk;

use super::cluster::Cluster;
use super::wait::HANG_GUARD;

/// Keys of one writer. It goes round: most writes create a key, later ones replace its value.
const KEYS_PER_WRITER: u64 = 2_000;

/// Threads that read everything back.
const READERS: usize = 8;

/// Writers that run until [`finish`](Load::finish), or until it is dropped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acks: Arc<Acks>,
    writers: Vec<JoinHandle<Journal>>,
}

/// When acknowledged writes came.
#[derive(Default)]
struct Acks {
    state: Mutex<AckState>,
    another: Condvar,
}

#[derive(Default)]
struct AckState {
    count: u64,
    last: Option<Instant>,
    longest_gap: Duration,
}

/// What the writers know: each key is written by one of them, one write after the other.
#[derive(Default)]
pub(crate) struct Journal {
    keys: BTreeMap<String, Written>,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    /// The longest time without any acknowledged write, from the first one on.
    pub(crate) longest_gap: Duration,
}

#[derive(Default)]
struct Written {
    acknowledged: Option<String>,
    /// Values of later writes whose outcome nobody knows.
    perhaps: Vec<String>,
}

impl Load {
    /// Starts `writers` clients, each with a session and connections of its own.
    pub(crate) fn start(cluster: &Cluster, writers: u64, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acks = Arc::new(Acks::default());
        let writers = (0..writers).map(|writer| {
            let clerk = cluster.clerk(seed ^ writer);
            let (stop, acks) = (Arc::clone(&stop), Arc::clone(&acks));
            thread::spawn(move || write_until(&stop, &acks, &clerk, writer))
        });
        Self {
            writers: writers.collect(),
            stop,
            acks,
        }
    }

    /// Returns when `more` further writes have been acknowledged.
    pub(crate) fn wait_for_acks(&self, more: u64) {
        let mut state = self.acks.state.lock().unwrap();
        let goal = state.count + more;
        let give_up = Instant::now() + HANG_GUARD;
        while state.count < goal {
            let left = give_up.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{} of {more} further writes acknowledged within {} s",
                more - (goal - state.count),
                HANG_GUARD.as_secs()
            );
            state = self.acks.another.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Lets every writer end its last write.
    pub(crate) fn finish(mut self) -> Journal {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Journal::default();
        for writer in mem::take(&mut self.writers) {
            let one = writer.join().expect("a writer does not panic");
            all.keys.extend(one.keys);
            all.acknowledged += one.acknowledged;
            all.unknown += one.unknown;
            all.refused += one.refused;
        }
        all.longest_gap = self.acks.state.lock().unwrap().longest_gap;
        all
    }
}

impl Drop for Load {
    /// Of a test that has ended before: its writers must not burden the next one.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write_until(stop: &AtomicBool, acks: &Acks, clerk: &Clerk, writer: u64) -> Journal {
    let mut journal = Journal::default();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}/{:04}", number % KEYS_PER_WRITER);
        let value = format!("{writer}:{number}:{:-<64}", "");
        let written = journal.keys.entry(key.clone()).or_default();
        match clerk.put(key, value.clone()) {
            Ok(()) => {
                *written = Written {
                    acknowledged: Some(value),
                    perhaps: Vec::new(),
                };
                journal.acknowledged += 1;
                acks.one();
            }
            Err(error) if error.may_have_taken_effect() => {
                written.perhaps.push(value);
                journal.unknown += 1;
            }
            Err(_) => journal.refused += 1, // certainly not done: `verify` would find the value
        }
    }
    journal
}

impl Acks {
    fn one(&self) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        state.count += 1;
        if let Some(last) = state.last.replace(now) {
            state.longest_gap = state.longest_gap.max(now.duration_since(last));
        }
        self.another.notify_all();
    }
}

impl Journal {
    /// Reads every key: each holds its last acknowledged value, or one whose outcome was unknown after it.
    ///
    /// # Panics
    /// If an acknowledged write is missing, or there is a value that should not be.
    pub(crate) fn verify(&self, cluster: &Cluster) {
        assert!(
            self.acknowledged > 0,
            "a journal without promises proves nothing"
        );
        let clerk = cluster.clerk(0);
        let keys: Vec<_> = self.keys.iter().collect();
        let wrong: Vec<String> = thread::scope(|scope| {
            let readers: Vec<_> = keys
                .chunks(keys.len().div_ceil(READERS))
                .map(|part| {
                    let clerk = clerk.clone();
                    scope.spawn(move || {
                        part.iter()
                            .filter_map(|(key, written)| wrong(&clerk, key, written))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            readers
                .into_iter()
                .flat_map(|reader| reader.join().unwrap())
                .collect()
        });
        assert!(
            wrong.is_empty(),
            "{} of {} keys are wrong; the first ones:\n{}",
            wrong.len(),
            keys.len(),
            wrong[..wrong.len().min(5)].join("\n")
        );
        let Self {
            acknowledged,
            unknown,
            refused,
            longest_gap,
            ..
        } = self;
        println!(
            "all of {acknowledged} acknowledged writes are there ({unknown} unknown, {refused} refused); \
             longest gap between two acknowledgements: {} ms",
            longest_gap.as_millis()
        );
    }
}

fn wrong(clerk: &Clerk, key: &str, written: &Written) -> Option<String> {
    let found = clerk
        .get(key.to_owned())
        .unwrap_or_else(|error| panic!("get {key}: {error}"));
    let found = found.map(|value| String::from_utf8_lossy(&value).into_owned());
    let is_promised = found == written.acknowledged;
    let is_possible = found
        .as_ref()
        .is_some_and(|value| written.perhaps.contains(value));
    (!is_promised && !is_possible).then(|| {
        let Written {
            acknowledged,
            perhaps,
        } = written;
        format!("{key} holds {found:?}; acknowledged: {acknowledged:?}; perhaps: {perhaps:?}")
    })
}
