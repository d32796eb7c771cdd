//! Keeps calls under way on a peer's connections.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bench::latency::Recorder;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::echo_client::EchoClient;
use crate::runtime::{self, Running, Threads};

/// Tasks may run on several threads: with this many recorders they seldom meet.
const RECORDERS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Shape {
    /// Connections to the server
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: usize,
    /// Calls under way on each
    #[arg(long, value_name = "N", default_value_t = 1)]
    in_flight: usize,
    /// The size of a payload
    #[arg(long, value_name = "N", default_value_t = 16)]
    payload_bytes: usize,
}

/// What keeps the calls of a connection under way.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Drive {
    /// A task for each, which calls again and again.
    Tasks,
    /// One task that holds all their futures.
    Unordered,
}

/// A running load; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Load {
    recorders: Vec<Recorder>,
    _running: Running,
}

impl Load {
    /// Connects and begins. What fails later is told to the recorders.
    ///
    /// # Errors
    /// No runtime.
    pub(crate) fn start<C: EchoClient>(
        addr: SocketAddr,
        shape: Shape,
        drive: Drive,
        threads: Threads,
    ) -> io::Result<Load> {
        let count = (shape.connections * shape.in_flight).clamp(1, RECORDERS_MAX);
        let recorders: Vec<_> = (0..count).map(|_| Recorder::default()).collect();
        let future = run::<C>(addr, shape, drive, recorders.clone());
        Ok(Load {
            recorders,
            _running: runtime::in_thread(threads, future)?,
        })
    }

    pub(crate) fn recorders(&self) -> &[Recorder] {
        &self.recorders
    }
}

async fn run<C: EchoClient>(
    addr: SocketAddr,
    shape: Shape,
    drive: Drive,
    recorders: Vec<Recorder>,
) {
    let payload = Bytes::from(vec![0x5A; shape.payload_bytes]);
    let mut recorders = recorders.iter().cycle();
    let mut recorder = move || recorders.next().cloned().unwrap_or_default();
    for _ in 0..shape.connections {
        let client = match C::connect(addr).await {
            Ok(client) => client,
            Err(error) => return recorder().fail(format!("connecting: {error}")),
        };
        match drive {
            Drive::Tasks => {
                for _ in 0..shape.in_flight {
                    let calls = call_again(client.clone(), payload.clone(), recorder());
                    tokio::spawn(calls);
                }
            }
            Drive::Unordered => {
                let calls = call_many(client, payload.clone(), recorder(), shape.in_flight);
                tokio::spawn(calls);
            }
        }
    }
}

/// One call after the other, until one fails.
async fn call_again<C: EchoClient>(mut client: C, payload: Bytes, recorder: Recorder) {
    while call(&mut client, &payload, &recorder).await {}
}

/// `in_flight` calls at once from one task, until one fails.
async fn call_many<C: EchoClient>(client: C, payload: Bytes, recorder: Recorder, in_flight: usize) {
    let one = |mut client: C| async {
        let answered = call(&mut client, &payload, &recorder).await;
        (client, answered)
    };
    let mut calls: FuturesUnordered<_> = (0..in_flight).map(|_| one(client.clone())).collect();
    while let Some((client, true)) = calls.next().await {
        calls.push(one(client));
    }
}

/// One call, recorded; `false` if it failed.
async fn call<C: EchoClient>(client: &mut C, payload: &Bytes, recorder: &Recorder) -> bool {
    let start = Instant::now();
    let reply = client.echo(payload.clone()).await;
    match reply {
        Ok(bytes) if bytes == payload.len() => {
            recorder.record(start.elapsed());
            return true;
        }
        Ok(bytes) => recorder.fail(format!("a reply of {bytes} bytes")),
        Err(error) => recorder.fail(error),
    }
    false
}
