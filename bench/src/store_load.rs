//! Puts and gets through clerks, as programs would make them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clerk::{Clerk, ClerkError, ClerkOptions};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use crate::command::Failure;
use crate::latency::Recorder;

/// How many keys there are; each is written before anything is measured.
const KEYS: u32 = 10_000;

/// How many writes the first filling keeps under way.
const FILL_IN_FLIGHT: u32 = 256;

/// How long operations that are still under way at the end may take.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A put of a random key.
    Put,
    /// A linearizable get of a random key.
    Get,
}

/// A store's clients: some clerks, and the value that every key has.
#[derive(Clone)]
pub struct Clients {
    clerks: Vec<Clerk>,
    value: Bytes,
}

impl Clients {
    /// `clerks` clerks of the cluster at `addresses`, each with connections and a session of its own.
    ///
    /// # Errors
    /// No thread.
    pub fn new(
        addresses: &[SocketAddr],
        clerks: usize,
        value_bytes: usize,
    ) -> Result<Clients, Failure> {
        let clerk = |_| Clerk::new(addresses, ClerkOptions::default());
        let clerks = (0..clerks).map(clerk).collect::<Result<_, _>>();
        let clerks = clerks.map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(Clients {
            clerks,
            value: vec![0x5A; value_bytes].into(),
        })
    }

    /// Writes every key once.
    ///
    /// # Errors
    /// A write failed.
    pub fn fill(&self) -> Result<(), Failure> {
        let (sender, results) = bounded::<Result<(), ClerkError>>(FILL_IN_FLIGHT as usize);
        for number in 0..KEYS + FILL_IN_FLIGHT {
            if number >= FILL_IN_FLIGHT {
                let Ok(result) = results.recv_timeout(END_LIMIT) else {
                    return Err(Failure::Failed("the first filling hangs".to_owned()));
                };
                result.map_err(|error| Failure::Failed(format!("the first filling: {error}")))?;
            }
            if number < KEYS {
                let sender = sender.clone();
                self.clerks[0].put_async(key(number), self.value.clone(), move |result| {
                    // Its receiver is gone where an earlier one failed.
                    let _ = sender.send(result);
                });
            }
        }
        Ok(())
    }

    /// One operation on a random key, waiting for its end.
    fn run(
        &self,
        clerk: usize,
        operation: Operation,
        random: &mut fastrand::Rng,
    ) -> Result<(), String> {
        let clerk = &self.clerks[clerk % self.clerks.len()];
        let key = key(random.u32(..KEYS));
        match operation {
            Operation::Put => clerk
                .put(key, self.value.clone())
                .map_err(|error| error.to_string()),
            Operation::Get => self.check(clerk.get(key)),
        }
    }

    fn check(&self, got: Result<Option<Bytes>, ClerkError>) -> Result<(), String> {
        match got {
            Ok(Some(value)) if value.len() == self.value.len() => Ok(()),
            Ok(_) => Err("a get returned what was not put".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// All keys are of one size.
fn key(number: u32) -> Bytes {
    format!("key-{number:08}").into()
}

/// Threads that each wait for one operation after the other. Dropping it ends it.
#[derive(Debug)]
pub struct BlockingClients {
    stop: Arc<AtomicBool>,
    /// Disconnected once no thread is left.
    ended: Receiver<()>,
}

impl BlockingClients {
    /// Starts one thread for each recorder, dealt to the clerks in turn.
    ///
    /// # Errors
    /// No thread. What fails later is told to the recorders.
    pub fn start(
        clients: &Clients,
        operation: Operation,
        recorders: &[Recorder],
    ) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (running, ended) = bounded(0);
        let load = BlockingClients { stop, ended };
        for (index, recorder) in recorders.iter().enumerate() {
            let (clients, recorder, running) = (clients.clone(), recorder.clone(), running.clone());
            let stop = Arc::clone(&load.stop);
            let thread = thread::Builder::new()
                .name("client".to_owned())
                .spawn(move || {
                    let _running = running;
                    let mut random = fastrand::Rng::with_seed(index as u64);
                    let mut start = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(error) = clients.run(index, operation, &mut random) {
                            return recorder.fail(error);
                        }
                        let end = Instant::now();
                        recorder.record(end - start);
                        start = end;
                    }
                });
            thread.map_err(Failure::of("cannot start a client thread"))?;
        }
        Ok(load)
    }
}

impl Drop for BlockingClients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nothing is ever sent: this returns when the last thread has ended, or at the limit. One that
        // hangs in spite of its operation's deadline is left behind, rather than hanging us as well.
        let _ = self.ended.recv_timeout(END_LIMIT);
    }
}

/// Operations with callbacks, each of which starts the next: no thread waits, so that the clients
/// cost the least. Dropping it ends it.
#[derive(Debug)]
pub struct CallbackClients {
    stop: Arc<AtomicBool>,
    /// Disconnected once no operation is under way.
    ended: Receiver<()>,
}

impl CallbackClients {
    /// Keeps `in_flight` operations under way, dealt to the clerks in turn.
    #[must_use]
    pub fn start(
        clients: &Clients,
        operation: Operation,
        in_flight: usize,
        recorder: &Recorder,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (running, ended) = bounded(0);
        for index in 0..in_flight {
            let one = OneInFlight {
                clients: clients.clone(),
                clerk: index % clients.clerks.len(),
                operation,
                random: fastrand::Rng::with_seed(index as u64),
                recorder: recorder.clone(),
                stop: Arc::clone(&stop),
                _running: running.clone(),
            };
            Box::new(one).start(Instant::now());
        }
        CallbackClients { stop, ended }
    }
}

impl Drop for CallbackClients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nothing is ever sent: this returns when the last operation has ended, or at the limit.
        let _ = self.ended.recv_timeout(END_LIMIT);
    }
}

/// One place in the window; moves from operation to operation.
struct OneInFlight {
    clients: Clients,
    clerk: usize,
    operation: Operation,
    random: fastrand::Rng,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    _running: Sender<()>,
}

impl OneInFlight {
    fn start(mut self: Box<Self>, start: Instant) {
        let clerk = self.clients.clerks[self.clerk].clone();
        let key = key(self.random.u32(..KEYS));
        match self.operation {
            Operation::Put => {
                let value = self.clients.value.clone();
                clerk.put_async(key, value, move |result| {
                    self.ended(start, result.map_err(|error| error.to_string()));
                });
            }
            Operation::Get => clerk.get_async(key, move |got| {
                let result = self.clients.check(got);
                self.ended(start, result);
            }),
        }
    }

    fn ended(self: Box<Self>, start: Instant, result: Result<(), String>) {
        let end = Instant::now();
        match result {
            Ok(()) => {
                self.recorder.record(end - start);
                if !self.stop.load(Ordering::Relaxed) {
                    self.start(end);
                }
            }
            Err(error) => self.recorder.fail(error),
        }
    }
}
