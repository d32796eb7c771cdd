//! How a provider goes: callers are asked to begin new calls elsewhere, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use rpc::{
    Code, Done, EventLoops, ProviderHandle, ProviderOptions, ReplySlot, RpcContext, RpcProvider,
    Service,
};
use server_side::*;

/// Drains in the background; what comes back tells how it went.
fn drain(mut handle: ProviderHandle, timeout: Duration) -> Receiver<bool> {
    let (sender, drained) = channel();
    thread::spawn(move || sender.send(handle.drain(timeout)).unwrap());
    drained
}

fn say(request_id: u64) -> Vec<u8> {
    spring("Say", request_id, "x", Extra::default())
}

fn hold(request_id: u64) -> Vec<u8> {
    spring("Hold", request_id, "held", Extra::default())
}

#[test]
fn a_draining_server_serves_until_the_caller_has_said_goodbye() {
    let server = serve_spring(one_thread());
    let addr = server.handle.local_addr();
    let mut socket = server.socket();
    socket.send(&[hold(1), pour(2, 0)].concat());
    let (held, stream) = (server.next_held(), server.next_stream());
    let drained = drain(server.handle, LONG);
    let goaway = receive_frame(&mut socket);
    assert_eq!((goaway.kind, goaway.code), (kind::GOAWAY, 0));

    // What was on its way is still served, and streams go on.
    socket.send(&say(3));
    assert_eq!(receive_frame(&mut socket).request_id, 3);
    stream.sender.send(&blob("item")).unwrap();
    assert_eq!(receive_frame(&mut socket).data(), "item");
    while TcpStream::connect(addr).is_ok() {
        thread::yield_now();
    }
    socket.send(&control(GOODBYE, 1, 0));
    assert_eq!(until_pong(&mut socket), []);
    held.echo();
    assert_eq!(receive_frame(&mut socket).data(), "held");
    assert!(drained.try_recv().is_err(), "a stream is running");
    stream.sender.finish();
    assert_eq!(receive_frame(&mut socket).kind, kind::REPLY);
    assert_eq!(socket.receive_until_closed(), b"");
    assert!(drained.recv_timeout(LONG).unwrap());
}

#[test]
fn a_caller_that_knows_no_goodbye_is_closed_when_it_has_been_quiet() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&hold(1));
    let held = server.next_held();
    let drained = drain(server.handle, LONG);
    assert_eq!(receive_frame(&mut socket).kind, kind::GOAWAY);
    held.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
    assert_eq!(socket.receive_until_closed(), b"");
    assert!(drained.recv_timeout(LONG).unwrap());
}

#[test]
fn a_drain_that_takes_too_long_cuts_calls_off_and_says_so() {
    let mut server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&hold(1));
    let held = server.next_held();
    let (sender, told) = channel();
    held.context.on_cancel(move || sender.send(()).unwrap());
    assert!(!server.handle.drain(Duration::from_millis(50)));
    told.recv_timeout(LONG).unwrap();
    assert_eq!(receive_frame(&mut socket).kind, kind::GOAWAY);
    assert_eq!(socket.receive_until_closed(), b"");
    held.echo();
    assert!(!server.handle.drain(LONG), "it stays as it was");
}

#[test]
fn a_drain_without_calls_is_complete() {
    let mut server = serve_spring(one_thread());
    let idle = server.socket();
    let mut legacy = server.socket();
    legacy.send(&say(0));
    assert_eq!(legacy.receive(3), b"\x0a\x01x");
    assert!(server.handle.drain(LONG));
    drop(idle);
    assert_eq!(legacy.receive_until_closed(), b"");
}

#[test]
fn a_legacy_callers_running_call_is_answered_and_no_other_begun() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    let mut bystander = server.socket();
    bystander.send(&say(1));
    receive_frame(&mut bystander);
    socket.send(&[hold(0), say(0)].concat());
    let held = server.next_held();
    let drained = drain(server.handle, LONG);
    assert_eq!(receive_frame(&mut bystander).kind, kind::GOAWAY);
    held.echo();
    assert_eq!(socket.receive_until_closed(), b"\x0a\x04held");
    assert!(drained.recv_timeout(LONG).unwrap());
}

/// The frame that a legacy caller has begun behind a running call is not read to its end any more,
/// and so must not be waited for either.
#[test]
fn a_frame_that_a_drain_leaves_half_read_holds_up_nobody() {
    let server = serve_spring(ProviderOptions {
        frame_timeout: Duration::from_secs(1),
        ..one_thread()
    });
    let mut bystander = server.socket();
    until_pong(&mut bystander);
    let mut socket = server.socket();
    let requests = [hold(0), hold(0)].concat();
    let (first, rest) = requests.split_at(3);
    socket.send(first);
    // The first bytes are looked at on their own.
    until_pong(&mut bystander);
    socket.send(rest);
    let held = server.next_held();
    let drained = drain(server.handle, LONG * 2);
    assert_eq!(receive_frame(&mut bystander).kind, kind::GOAWAY);
    // Its own time for a frame ends after that of the other.
    bystander.send(&say(1)[..1]);
    assert_eq!(bystander.receive_until_closed(), b"");
    held.echo();
    assert_eq!(socket.receive_until_closed(), b"\x0a\x04held");
    assert!(drained.recv_timeout(LONG).unwrap());
}

#[test]
fn a_caller_may_say_goodbye_by_itself() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[hold(1), control(GOODBYE, 1, 0)].concat());
    let held = server.next_held();
    assert_eq!(until_pong(&mut socket), []);
    held.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
    assert_eq!(socket.receive_until_closed(), b"");
    let mut other = server.socket();
    other.send(&say(1));
    assert_eq!(receive_frame(&mut other).request_id, 1);
}

/// Who has begun to speak when the drain begins does not know of it.
#[test]
fn the_first_request_of_a_connection_is_served_although_a_drain_came_before_its_end() {
    let server = serve_spring(one_thread());
    let mut framed = server.socket();
    let first = spring("Say", 1, vec![7; 100_000], Extra::default());
    framed.send(&first[..50_000]);
    let mut legacy = server.socket();
    let requests = [say(0), say(0)].concat();
    legacy.send(&requests[..3]);
    let mut bystander = server.socket();
    // One loop looks at all of them in turn: by now it has at the others as well.
    until_pong(&mut bystander);
    let drained = drain(server.handle, LONG);
    assert_eq!(receive_frame(&mut bystander).kind, kind::GOAWAY);
    bystander.send(&control(GOODBYE, 1, 0));

    framed.send(&first[50_000..]);
    legacy.send(&requests[3..]);
    let goaway = receive_frame(&mut framed);
    assert_eq!((goaway.kind, goaway.code), (kind::GOAWAY, 0));
    assert_eq!(receive_frame(&mut framed).data().len(), 100_000);
    framed.send(&control(GOODBYE, 1, 0));
    assert_eq!(framed.receive_until_closed(), b"");
    assert_eq!(legacy.receive_until_closed(), b"\x0a\x01x", "and no other");
    assert!(drained.recv_timeout(LONG).unwrap());
}

/// Shuts its own provider down when it is called.
struct Suicide {
    handle: Arc<Mutex<Option<ProviderHandle>>>,
    others: Mutex<Vec<Done<Blob>>>,
    /// Takes callers that came just before.
    late: Sender<[Socket; 2]>,
}

impl Service for Suicide {
    fn name(&self) -> &'static str {
        "Spring"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Hold", "Say"]
    }

    fn call(&self, method: usize, _context: RpcContext, _args: Bytes, reply: ReplySlot) {
        let done = Done::new(reply);
        if method == 0 {
            self.others.lock().unwrap().push(done);
            return;
        }
        let Some(handle) = self.handle.lock().unwrap().take() else {
            return done.run(blob("late"));
        };
        // The loop is here, so nobody has accepted these when the drain begins.
        let late = [say(1), say(0)].map(|request| {
            let mut socket = Socket::connect(handle.local_addr());
            socket.send(&request);
            socket
        });
        self.late.send(late).unwrap();
        drop(handle);
        // Running calls are finished all the same, also those of other connections.
        for other in self.others.lock().unwrap().drain(..) {
            thread::spawn(move || other.run(blob("other")));
        }
        done.run(blob("last words"));
    }
}

#[test]
fn a_handle_dropped_on_its_own_loop_does_not_hang_and_fails_no_call() {
    for own_loops in [true, false] {
        let shared = EventLoops::start(1, "shared").unwrap();
        let mut provider = RpcProvider::new(ProviderOptions {
            loops: (!own_loops).then(|| shared.clone()),
            ..one_thread()
        });
        let handle = Arc::new(Mutex::new(None));
        let (late, late_callers) = channel();
        let suicide = Suicide {
            handle: Arc::clone(&handle),
            others: Mutex::default(),
            late,
        };
        provider.notify_service(suicide).unwrap();
        let started = provider.start("127.0.0.1:0").unwrap();
        let addr = started.local_addr();
        *handle.lock().unwrap() = Some(started);
        drop(provider);
        let mut other = Socket::connect(addr);
        other.send(&[hold(1), control(PING, 2, 0)].concat());
        assert_eq!(receive_frame(&mut other).kind, kind::PONG);
        let mut socket = Socket::connect(addr);
        socket.send(&say(1));
        for (socket, last) in [(&mut socket, "last words"), (&mut other, "other")] {
            let mut replies = 0;
            for frame in [receive_frame(socket), receive_frame(socket)] {
                if frame.kind == kind::REPLY {
                    assert!(frame.is(Code::Ok), "{frame:?}");
                    assert_eq!(frame.data(), last);
                    replies += 1;
                } else {
                    assert_eq!(frame.kind, kind::GOAWAY);
                }
            }
            assert_eq!(replies, 1);
            assert_eq!(socket.receive_until_closed(), b"");
        }
        let [mut framed, mut legacy] = late_callers.recv_timeout(LONG).unwrap();
        assert_eq!(receive_frame(&mut framed).kind, kind::GOAWAY);
        assert_eq!(receive_frame(&mut framed).data(), "late");
        framed.send(&control(GOODBYE, 1, 0));
        assert_eq!(framed.receive_until_closed(), b"");
        assert_eq!(legacy.receive_until_closed(), b"\x0a\x04late");
    }
}
