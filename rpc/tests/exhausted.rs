//! A server that runs out of file descriptors: it serves whom it has, lets the others wait in the
//! backlog without spinning, and takes them when there is room again.
//!
//! The limit holds for a whole process, so the server is this test's binary again, started by a
//! shell that lowers the limit first.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::*;

/// Says that this process is the server.
const ROLE: &str = "RPC_TEST_EXHAUSTED_SERVER";

/// Descriptors that the server may have; a test's process needs about a dozen by itself.
const DESCRIPTORS: usize = 40;

/// A server in a process of its own, which ends with it.
struct Served {
    process: Child,
    addr: std::net::SocketAddr,
}

impl Served {
    /// `None` where there is no shell to set the limit.
    fn start() -> Option<Served> {
        let process = Command::new("sh")
            .args([
                "-c",
                &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" --exact the_server --nocapture"),
            ])
            .arg(std::env::current_exe().unwrap())
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = process.ok()?;
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // The test harness writes to the same line.
        let addr = lines.map_while(Result::ok).find_map(|line| {
            let (_, addr) = line.split_once("serving at ")?;
            addr.trim().parse().ok()
        });
        let Some(addr) = addr else {
            let _ = process.kill();
            let _ = process.wait();
            return None;
        };
        Some(Served { process, addr })
    }

    /// Processor time that it has used, in the system's ticks of (nearly everywhere) 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        let mut fields = after_name.split_whitespace().skip(11);
        let mut next = || fields.next().unwrap().parse::<u64>().unwrap();
        next() + next()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other process; as a test of its own it does nothing.
#[test]
fn the_server() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let server = serve();
    println!("serving at {}", server.addr());
    std::io::stdout().flush().unwrap();
    // Ends when the test does, however it does.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn round_trip(socket: &mut Socket, id: u64) {
    socket.send(&echo_request(&SAY, id, "x"));
    assert_eq!(socket.receive_reply().request_id, id);
}

#[test]
fn without_descriptors_a_server_neither_spins_nor_forgets_whom_it_left_waiting() {
    let Some(server) = Served::start() else {
        eprintln!("skipped: no shell that lowers the limit of descriptors");
        return;
    };
    let mut first = Socket::connect(server.addr);
    round_trip(&mut first, 1);
    // More than it can have. The backlog takes them all, and it answers those that it got.
    let mut sockets: Vec<Socket> = (0..2 * DESCRIPTORS)
        .map(|_| Socket::connect(server.addr))
        .collect();
    for socket in &mut sockets {
        socket.send(&echo_request(&SAY, 2, "x"));
    }
    let last = sockets.last().unwrap();
    last.stream.set_nonblocking(true).unwrap();
    for id in 3..20 {
        round_trip(&mut first, id);
    }
    let mut byte = [0];
    let waits = (&last.stream).read(&mut byte).unwrap_err();
    assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock, "{waits}");
    last.stream.set_nonblocking(false).unwrap();

    let before = server.ticks();
    thread::sleep(Duration::from_secs(1));
    let used = server.ticks() - before;
    assert!(
        used < 20,
        "{used} ticks within a second of waiting: it spins"
    );
    round_trip(&mut first, 20);

    // Those at the front go, and all others have their turn.
    for mut socket in sockets {
        assert_eq!(socket.receive_reply().request_id, 2);
    }
}
