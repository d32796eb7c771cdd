//! One method called over and over, a given number of calls at once: each reply starts the next call.
//!
//! ```text
//!   Caller ──► channel's event loop ──► ended() ─┬─ reply: counted; calls again, there
//!     ▲                                          └─ failure: counted; rests
//!     └────────────────── Load::turn(), on the measuring thread ◄───────┘
//! ```
//!
//! A failed call may have failed at once: without the rest a server that is down would be asked in a
//! loop that never lets the event loop's thread go.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use prost::encoding::{DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message};
use rpc::{EventLoops, MethodDescriptor, RpcChannel, RpcController, RpcError};

use crate::server::Server;

/// Percentiles are right to 1 %.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Longer calls count as this one: a day, as no timeout is longer.
const LONGEST_NS: u64 = 86_400_000_000_000;

/// Calls under way. Ends when it is told to, see [`finish`](Load::finish).
pub(crate) struct Load {
    connections: Vec<Arc<Connection>>,
    shared: Arc<Shared>,
    /// Disconnected once the last caller is gone.
    callers: Receiver<()>,
    _loops: EventLoops,
}

/// What was counted.
pub(crate) struct Outcome {
    /// Of the calls that were answered, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Calls that failed, and the first failure's text, by the name of their code.
    pub(crate) failures: BTreeMap<&'static str, (u64, RpcError)>,
    /// Calls that have not ended at all.
    pub(crate) still_running: bool,
}

struct Shared {
    stop: AtomicBool,
    resting: Mutex<Vec<Caller>>,
    failures: Mutex<BTreeMap<&'static str, (u64, RpcError)>>,
}

struct Connection {
    channel: RpcChannel,
    method: &'static MethodDescriptor,
    args: Encoded,
    latencies: Mutex<Histogram<u64>>,
    shared: Arc<Shared>,
}

/// Makes one call after the other.
struct Caller {
    connection: Arc<Connection>,
    controller: RpcController,
    _alive: mpsc::Sender<()>,
}

impl Load {
    /// Starts `concurrency` callers on so many connections.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(
        server: &Server,
        method: &'static MethodDescriptor,
        args: &Bytes,
        concurrency: u32,
        connections: u32,
    ) -> io::Result<Load> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let loops = EventLoops::start(cpus.min(connections as usize), "bench")?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            resting: Mutex::default(),
            failures: Mutex::default(),
        });
        let connection = |_| {
            Arc::new(Connection {
                channel: server.another_channel(&loops),
                method,
                args: Encoded(args.clone()),
                latencies: Mutex::new(histogram()),
                shared: Arc::clone(&shared),
            })
        };
        let connections: Vec<_> = (0..connections).map(connection).collect();
        let (alive, callers) = mpsc::channel();
        let in_turn = connections.iter().cycle().take(concurrency as usize);
        for connection in in_turn {
            let caller = Caller {
                connection: Arc::clone(connection),
                controller: server.controller(),
                _alive: alive.clone(),
            };
            caller.call(Instant::now());
        }
        Ok(Load {
            connections,
            shared,
            callers,
            _loops: loops,
        })
    }

    /// Lets callers whose calls failed try again, and waits for `pause`.
    pub(crate) fn turn(&self, pause: Duration) {
        let rested = std::mem::take(&mut *self.shared.resting.lock());
        for caller in rested {
            caller.call(Instant::now());
        }
        // Nothing is ever sent.
        let _ = self.callers.recv_timeout(pause);
    }

    /// Calls that were answered until now.
    pub(crate) fn answered(&self) -> u64 {
        let counts = self.connections.iter().map(|it| it.latencies.lock().len());
        counts.sum()
    }

    /// Begins no more calls, and waits for those under way, for `limit` at the longest.
    pub(crate) fn finish(self, limit: Duration) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + limit;
        let still_running = loop {
            // Taken out under the lock and dropped without it.
            drop(std::mem::take(&mut *self.shared.resting.lock()));
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = left.min(Duration::from_millis(100));
            match self.callers.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) if left.is_zero() => break true,
                Err(RecvTimeoutError::Timeout) | Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break false,
            }
        };
        let mut latencies = histogram();
        for connection in &self.connections {
            let added = latencies.add(&*connection.latencies.lock());
            added.expect("all have the same bounds");
        }
        Outcome {
            latencies,
            failures: std::mem::take(&mut *self.shared.failures.lock()),
            still_running,
        }
    }
}

impl Caller {
    fn call(self, begun: Instant) {
        let (connection, controller) = (Arc::clone(&self.connection), self.controller.clone());
        let ended = move |reply: Result<(), RpcError>| self.ended(begun, reply);
        let Connection {
            channel,
            method,
            args,
            ..
        } = &*connection;
        channel.call_async(method, controller, args, ended);
    }

    fn ended(self, begun: Instant, reply: Result<(), RpcError>) {
        let now = Instant::now();
        let shared = &self.connection.shared;
        match reply {
            Ok(()) => {
                let nanoseconds = u64::try_from((now - begun).as_nanos()).unwrap_or(u64::MAX);
                let mut latencies = self.connection.latencies.lock();
                latencies.saturating_record(nanoseconds.max(1));
                drop(latencies);
                if !shared.stop.load(Ordering::Relaxed) {
                    self.call(now);
                }
            }
            Err(error) => {
                let mut failures = shared.failures.lock();
                let (count, _) = failures.entry(error.code().name()).or_insert((0, error));
                *count += 1;
                drop(failures);
                let shared = Arc::clone(shared);
                shared.resting.lock().push(self);
            }
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS).expect("its bounds are constants")
}

/// A message that is encoded already.
#[derive(Debug)]
struct Encoded(Bytes);

impl Message for Encoded {
    fn encode_raw(&self, out: &mut impl BufMut) {
        out.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        input: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, input, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
