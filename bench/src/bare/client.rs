//! Keeps a window of frames in flight on each of its connections, from one thread.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::connection::{Connection, Output, State};
use crate::latency::Recorder;

const EVENTS: usize = 256;

/// How often a client with nothing to do looks whether it should stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A running load; dropping it ends it.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Opens `connections` to `addr` and keeps `in_flight` frames with `payload` under way on each.
    ///
    /// # Errors
    /// The system's. What fails later is told to `recorder`.
    pub fn start(
        addr: SocketAddr,
        connections: usize,
        in_flight: usize,
        payload: Vec<u8>,
        recorder: Recorder,
    ) -> io::Result<Client> {
        let poll = Poll::new()?;
        let mut windows = Vec::with_capacity(connections);
        for token in 0..connections {
            // Connected at once (it is this machine), so that no frame waits for it.
            let stream = std::net::TcpStream::connect(addr)?;
            stream.set_nonblocking(true)?;
            // Reads whatever is unsent, or two full windows could wait for each other.
            let mut connection = Connection::new(TcpStream::from_std(stream), usize::MAX)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut connection.stream, Token(token), interest)?;
            windows.push((
                connection,
                Window {
                    started: VecDeque::with_capacity(in_flight),
                    next_id: 0,
                },
            ));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("bare-client".to_owned())
            .spawn(move || {
                if let Err(error) = run(poll, windows, in_flight, &payload, &recorder, &stopped) {
                    recorder.fail(format!("bare echo: {error}"));
                }
            })?;
        Ok(Client {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has told the recorder whatever went wrong.
            let _ = thread.join();
        }
    }
}

/// The frames of one connection that were sent and not answered; answers come in order.
struct Window {
    started: VecDeque<Instant>,
    next_id: u64,
}

impl Window {
    fn send(&mut self, now: Instant, payload: &[u8], output: &mut Output) {
        output.push(self.next_id, payload);
        self.next_id += 1;
        self.started.push_back(now);
    }

    /// Since when the frame was under way that is answered by one with `id`.
    fn answered(&mut self, id: u64) -> io::Result<Instant> {
        let oldest = self.next_id - self.started.len() as u64;
        match self.started.pop_front() {
            Some(started) if id == oldest => Ok(started),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("reply {id} is not due"),
            )),
        }
    }
}

fn run(
    mut poll: Poll,
    mut windows: Vec<(Connection, Window)>,
    in_flight: usize,
    payload: &[u8],
    recorder: &Recorder,
    stop: &AtomicBool,
) -> io::Result<()> {
    for (connection, window) in &mut windows {
        for _ in 0..in_flight {
            window.send(Instant::now(), payload, &mut connection.output);
        }
        connection.output.send(&mut connection.stream)?;
    }
    let mut events = Events::with_capacity(EVENTS);
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match poll.poll(&mut events, Some(STOP_POLL)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let (connection, window) = &mut windows[event.token().0];
            let state = connection.on_ready(|id, reply, output| {
                // Timed one by one, as the framework's callbacks are.
                let now = Instant::now();
                latencies.push(now - window.answered(id)?);
                if reply.len() != payload.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not what was sent",
                    ));
                }
                window.send(now, payload, output);
                Ok(())
            })?;
            recorder.record_all(latencies.drain(..));
            if state == State::Closed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Windows that are larger than what the sockets and the server's output hold: nobody may stall.
    #[test]
    fn replies_keep_coming_for_small_and_large_windows() {
        let listener = mio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || super::super::serve(listener));

        for (connections, in_flight, payload_bytes) in
            [(1, 1, 16), (8, 3, 1024), (1, 512, 64 << 10)]
        {
            let recorder = Recorder::default();
            let client = Client::start(
                addr,
                connections,
                in_flight,
                vec![7; payload_bytes],
                recorder.clone(),
            )
            .unwrap();
            let enough = 3 * (connections * in_flight) as u64;
            let limit = Instant::now() + Duration::from_secs(30);
            let mut answered = 0;
            while answered < enough {
                answered += recorder.take().unwrap().len();
                assert!(
                    Instant::now() < limit,
                    "{answered} of {enough} replies of {payload_bytes} bytes"
                );
                thread::sleep(Duration::from_millis(1));
            }
            drop(client);
            recorder.take().unwrap();
        }
    }
}
