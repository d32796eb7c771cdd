//! Echo calls through the generated stub, as a program would make them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use rpc::{ChannelOptions, EventLoops, RpcChannel, RpcController, RpcError, TlsClient};

use crate::command::Failure;
use crate::echo::{EchoArgs, EchoReply, EchoStub};
use crate::latency::Recorder;

/// How long calls that are still under way at the end may take.
const END_LIMIT: Duration = Duration::from_secs(15);

/// More than any window of the benchmark holds: 1024 requests of 64 KiB and their headers.
const UNSENT_BYTES_MAX: usize = 128 << 20;

/// Who is called.
#[derive(Clone)]
pub struct Target {
    /// The server's.
    pub addr: SocketAddr,
    /// `None`: it speaks none.
    pub tls: Option<TlsClient>,
}

impl Target {
    /// A server without TLS.
    #[must_use]
    pub fn plain(addr: SocketAddr) -> Target {
        Target { addr, tls: None }
    }
}

/// Calls with callbacks: each reply starts the next call. Dropping it ends it.
#[derive(Debug)]
pub struct CallbackLoad {
    stop: Arc<AtomicBool>,
    /// Disconnected once no call is under way.
    ended: Receiver<()>,
    _loops: EventLoops,
}

impl CallbackLoad {
    /// Opens `connections` to `target`, all on one event loop, and keeps `in_flight` calls with
    /// `payload` under way on each.
    ///
    /// # Errors
    /// No thread. What fails later is told to `recorder`.
    pub fn start(
        target: &Target,
        connections: usize,
        in_flight: usize,
        payload: &Bytes,
        recorder: &Recorder,
    ) -> Result<CallbackLoad, Failure> {
        let loops = event_loop()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (running, ended) = bounded(0);
        for _ in 0..connections {
            let pump = Arc::new(Pump {
                stub: EchoStub::new(channel(target, &loops)),
                args: EchoArgs {
                    payload: payload.clone(),
                },
                recorder: recorder.clone(),
                stop: Arc::clone(&stop),
                _running: running.clone(),
            });
            for _ in 0..in_flight {
                Pump::call(Arc::clone(&pump), Instant::now());
            }
        }
        Ok(CallbackLoad {
            stop,
            ended,
            _loops: loops,
        })
    }
}

impl Drop for CallbackLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nothing is ever sent: this returns when the last call has ended, or at the limit.
        let _ = self.ended.recv_timeout(END_LIMIT);
    }
}

/// What the calls of one connection share.
struct Pump {
    stub: EchoStub,
    args: EchoArgs,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    _running: Sender<()>,
}

impl Pump {
    fn call(pump: Arc<Pump>, start: Instant) {
        let stub = pump.stub.clone();
        let args = pump.args.clone();
        stub.echo_async(RpcController::new(), &args, move |reply| {
            let end = Instant::now();
            if answered(&pump.args, reply, end - start, &pump.recorder)
                && !pump.stop.load(Ordering::Relaxed)
            {
                Pump::call(pump, end);
            }
        });
    }
}

/// Threads that each wait for one call after the other, all on one channel. Dropping it ends it.
#[derive(Debug)]
pub struct BlockingLoad {
    stop: Arc<AtomicBool>,
    /// Disconnected once no thread is left.
    ended: Receiver<()>,
    _loops: EventLoops,
}

impl BlockingLoad {
    /// Starts one thread for each recorder.
    ///
    /// # Errors
    /// No thread. What fails later is told to the recorders.
    pub fn start(
        target: &Target,
        payload: &Bytes,
        recorders: &[Recorder],
    ) -> Result<BlockingLoad, Failure> {
        let loops = event_loop()?;
        let stub = EchoStub::new(channel(target, &loops));
        let stop = Arc::new(AtomicBool::new(false));
        let (running, ended) = bounded(0);
        let load = BlockingLoad {
            stop,
            ended,
            _loops: loops,
        };
        for recorder in recorders {
            let (stub, recorder, running) = (stub.clone(), recorder.clone(), running.clone());
            let stop = Arc::clone(&load.stop);
            let args = EchoArgs {
                payload: payload.clone(),
            };
            let thread = thread::Builder::new()
                .name("blocking-client".to_owned())
                .spawn(move || {
                    let _running = running;
                    let mut controller = RpcController::new();
                    let mut start = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        let reply = stub.echo(&mut controller, &args);
                        let end = Instant::now();
                        if !answered(&args, reply, end - start, &recorder) {
                            return;
                        }
                        start = end;
                    }
                });
            thread.map_err(Failure::of("cannot start a client thread"))?;
        }
        Ok(load)
    }
}

impl Drop for BlockingLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nothing is ever sent: this returns when the last thread has ended, or at the limit.
        let _ = self.ended.recv_timeout(END_LIMIT);
    }
}

/// Records a call's end; `false` if it failed.
fn answered(
    args: &EchoArgs,
    reply: Result<EchoReply, RpcError>,
    latency: Duration,
    recorder: &Recorder,
) -> bool {
    match reply {
        Ok(reply) if reply.payload.len() == args.payload.len() => {
            recorder.record(latency);
            return true;
        }
        Ok(reply) => recorder.fail(format!(
            "rpc echo: a reply of {} bytes",
            reply.payload.len()
        )),
        Err(error) => recorder.fail(format!("rpc echo: {error}")),
    }
    false
}

pub(crate) fn event_loop() -> Result<EventLoops, Failure> {
    EventLoops::start(1, "rpc-client").map_err(Failure::of("cannot start an event loop"))
}

pub(crate) fn channel(target: &Target, loops: &EventLoops) -> RpcChannel {
    let options = ChannelOptions {
        loops: Some(loops.clone()),
        max_unsent_bytes: UNSENT_BYTES_MAX,
        tls: target.tls.clone(),
        ..ChannelOptions::default()
    };
    RpcChannel::with_options(target.addr, options)
}
