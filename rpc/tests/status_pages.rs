//! The status pages, over real sockets: on the port of the calls and on their own.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use rpc::builtin::ServingStatus;
use rpc::{
    Limits, ProviderError, ProviderHandle, ProviderOptions, ReplySlot, RpcContext, RpcProvider,
    Service,
};
use server_side::{kind, one_thread, receive_frame};

fn on_the_same_port() -> ProviderOptions {
    ProviderOptions {
        status_pages: true,
        ..one_thread()
    }
}

fn on_their_own_port() -> ProviderOptions {
    ProviderOptions {
        status_addr: Some("127.0.0.1:0".parse().unwrap()),
        ..one_thread()
    }
}

fn status_addr(server: &Server) -> SocketAddr {
    server.handle.status_addr().unwrap()
}

/// The first line and the body of the answer to a `GET`.
fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let mut socket = Socket::connect(addr);
    socket.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    read_answer(&mut socket)
}

fn read_answer(socket: &mut Socket) -> (String, String) {
    let text = String::from_utf8(socket.receive_until_closed()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    let length = format!("Content-Length: {}\r\n", body.len());
    assert!(fields.contains(&length), "{head}");
    (line.to_owned(), body.to_owned())
}

fn call_once(server: &Server) {
    let mut socket = server.socket();
    socket.send(&echo_request(&SAY, 1, "x"));
    socket.receive_reply();
}

#[test]
fn both_ports_show_what_was_counted() {
    let server = serve_with(ProviderOptions {
        status_pages: true,
        ..on_their_own_port()
    });
    for _ in 0..3 {
        call_once(&server);
    }
    let mut held = server.socket();
    held.send(&echo_request(&HOLD, 1, "x"));
    let _held_call = server.next_held();
    for addr in [server.addr(), status_addr(&server)] {
        let (line, metrics) = get(addr, "/metrics");
        assert_eq!(line, "HTTP/1.1 200 OK");
        for sample in [
            "rpc_server_calls_total{service=\"Echo\",method=\"Say\",code=\"OK\"} 3\n",
            "rpc_server_calls_in_flight{service=\"Echo\",method=\"Hold\"} 1\n",
            "rpc_server_call_duration_seconds_count{service=\"Echo\",method=\"Say\"} 3\n",
        ] {
            assert!(metrics.contains(sample), "{sample} in {metrics}");
        }
        let (_, services) = get(addr, "/services");
        assert!(services.contains("<td>Say</td><td>3</td>"), "{services}");
        let (_, connections) = get(addr, "/connections");
        let peer = held.stream.local_addr().unwrap().to_string();
        assert!(connections.contains(&peer), "{connections}");
        assert!(connections.contains("<td>framed</td><td>1</td>"));
        assert!(get(addr, "/").1.contains("serving"));
        assert_eq!(get(addr, "/nothing").0, "HTTP/1.1 404 Not Found");
    }
}

#[test]
fn nothing_is_shown_unless_it_was_asked_for() {
    let server = serve();
    assert_eq!(server.handle.status_addr(), None);
    let mut socket = server.socket();
    // Long enough for the size that a frame would have.
    socket.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(80)).as_bytes());
    assert_eq!(socket.receive_until_closed(), b"");
    server.assert_serves();
}

#[test]
fn requests_may_come_in_pieces_and_others_than_get_are_refused() {
    let server = serve_with(on_the_same_port());
    let mut socket = server.socket();
    for piece in ["G", "E", "T ", "/health", " HTTP/1.0\r", "\n\r\n"] {
        socket.send(piece.as_bytes());
    }
    let answer = read_answer(&mut socket);
    assert_eq!(answer, ("HTTP/1.1 200 OK".into(), "SERVING\n".into()));

    let mut head = server.socket();
    head.send(b"HEAD /health HTTP/1.1\r\n\r\n");
    let text = String::from_utf8(head.receive_until_closed()).unwrap();
    assert!(
        text.contains("Content-Length: 8\r\n") && text.ends_with("\r\n\r\n"),
        "{text}"
    );

    let mut bad = server.socket();
    bad.send(b"GET nowhere HTTP/1.1\r\n\r\n");
    assert_eq!(read_answer(&mut bad).0, "HTTP/1.1 400 Bad Request");

    let own = serve_with(on_their_own_port());
    let mut post = Socket::connect(status_addr(&own));
    post.send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(read_answer(&mut post).0, "HTTP/1.1 405 Method Not Allowed");
    let mut frame = Socket::connect(status_addr(&own));
    frame.send(&echo_request(&SAY, 1, "x"));
    assert_eq!(read_answer(&mut frame).0, "HTTP/1.1 400 Bad Request");
}

#[test]
fn one_who_has_asked_may_end_its_side_and_still_takes_the_answer() {
    let server = serve_with(ProviderOptions {
        status_pages: true,
        ..on_their_own_port()
    });
    for addr in [server.addr(), status_addr(&server)] {
        let mut socket = Socket::connect(addr);
        socket.send(b"GET /health HTTP/1.1\r\n\r\n");
        socket.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_answer(&mut socket).1, "SERVING\n");
    }
}

#[test]
fn visitors_who_take_too_long_are_closed_wherever_they_come() {
    let server = serve_with(ProviderOptions {
        status_pages: true,
        frame_timeout: Duration::from_millis(100),
        ..on_their_own_port()
    });
    for addr in [server.addr(), status_addr(&server)] {
        let mut silent = Socket::connect(addr);
        silent.send(b"GET / HTTP/1.1\r\nHost: ");
        // One that sends on and on is not waited for either, whatever its speed.
        let chatty = Socket::connect(addr);
        let mut writer = chatty.stream.try_clone().unwrap();
        let chatter = thread::spawn(move || {
            let _ = writer.write_all(b"GET / HTTP/1.1\r\nHost: ");
            while writer.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(silent.receive_until_closed(), b"");
        let mut chatty = chatty;
        let end = chatty.receive_until_closed();
        let end = String::from_utf8(end).unwrap();
        assert!(end.is_empty() || end.contains(" 431 "), "{end}");
        drop(chatty);
        chatter.join().unwrap();
    }
    server.assert_serves();
}

/// The bound of visitors at a time; the server has it in one place for both ports.
const VISITORS: usize = 64;

#[test]
fn visitors_are_bounded_in_number_and_those_who_call_are_not_held_up() {
    let server = serve_with(on_the_same_port());
    let mut waiting: Vec<Socket> = (0..VISITORS).map(|_| server.socket()).collect();
    for socket in &mut waiting {
        socket.send(b"GET / HTTP/1.1\r\n");
    }
    let known = |server: &Server| {
        let infos = server.handle.connection_infos(1_000);
        let of_http = infos
            .iter()
            .filter(|info| info.dialect == rpc::Dialect::Http);
        of_http.count()
    };
    while known(&server) < VISITORS {
        thread::yield_now();
    }
    assert_eq!(
        get(server.addr(), "/").0,
        "HTTP/1.1 503 Service Unavailable"
    );
    server.assert_serves();
    waiting.pop();
    while get(server.addr(), "/health").0 != "HTTP/1.1 200 OK" {
        thread::yield_now();
    }
}

#[test]
fn visitors_count_as_connections_of_the_port_that_they_come_to() {
    let options = ProviderOptions {
        limits: Limits {
            max_connections: 1,
            ..Limits::default()
        },
        status_pages: true,
        ..on_their_own_port()
    };
    let server = serve_with(options);
    let mut visitor = server.socket();
    visitor.send(b"GET / HTTP/1.1\r\n");
    while server.handle.connections() == 0 {
        thread::yield_now();
    }
    let mut caller = server.socket();
    caller.send(&echo_request(&SAY, 1, "x"));
    let frame = receive_frame(&mut caller);
    assert_eq!(frame.kind, kind::GOAWAY);
    // The other port answers although the server is full.
    let (line, metrics) = get(status_addr(&server), "/metrics");
    assert_eq!(line, "HTTP/1.1 200 OK");
    assert!(
        metrics.contains("rpc_server_connections_open 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("rpc_server_connections_refused_total 1\n"));
}

#[test]
fn health_is_what_was_set_and_the_drain() {
    let (echo, held, _gate) = echo();
    let mut provider = RpcProvider::new(on_their_own_port());
    provider.notify_service(echo).unwrap();
    let handle = provider.start("127.0.0.1:0").unwrap();
    let addr = handle.status_addr().unwrap();
    let up = ("HTTP/1.1 200 OK".into(), "SERVING\n".into());
    let down = |word: &str| {
        let line = "HTTP/1.1 503 Service Unavailable".to_owned();
        (line, format!("{word}\n"))
    };
    assert_eq!(get(addr, "/health"), up);
    assert_eq!(get(addr, "/health?service=Echo"), up);
    assert_eq!(get(addr, "/health?service=Nobody"), down("UNKNOWN"));
    provider.health().set("Echo", ServingStatus::NotServing);
    assert_eq!(get(addr, "/health?service=Echo"), down("NOT_SERVING"));
    assert_eq!(get(addr, "/health"), up);

    // While a drain waits for a call, its own port says so.
    let mut socket = Socket::connect(handle.local_addr());
    socket.send(&echo_request(&HOLD, 1, "x"));
    let call = held.recv_timeout(LONG).unwrap();
    let drained = drain(handle);
    assert_eq!(receive_frame(&mut socket).kind, kind::GOAWAY);
    assert_eq!(get(addr, "/health"), down("NOT_SERVING"));
    assert!(get(addr, "/").1.contains("draining"));
    let mut late = Socket::connect(addr);
    late.send(b"GET / HTTP/1.1\r\n");
    call.echo();
    receive_frame(&mut socket);
    drop(socket);
    drained.join().unwrap();
    // Then it closes, and does not wait for visitors.
    assert_eq!(late.receive_until_closed(), b"");
    assert!(TcpStream::connect(addr).is_err());
}

fn drain(mut handle: ProviderHandle) -> thread::JoinHandle<()> {
    thread::spawn(move || assert!(handle.drain(LONG)))
}

/// A service with so many methods that its metrics do not fit what the systems hold between a
/// server and a visitor.
struct Wide(&'static [&'static str]);

impl Wide {
    fn new() -> Wide {
        let name = |index| -> &'static str { format!("Method{index}").leak() };
        Wide((0..5_000).map(name).collect::<Vec<_>>().leak())
    }
}

impl Service for Wide {
    fn name(&self) -> &'static str {
        "Wide"
    }

    fn methods(&self) -> &'static [&'static str] {
        self.0
    }

    fn call(&self, _: usize, _: RpcContext, _: Bytes, reply: ReplySlot) {
        reply.reply(&());
    }
}

fn serve_wide(options: ProviderOptions) -> ProviderHandle {
    let mut provider = RpcProvider::new(options);
    provider.notify_service(Wide::new()).unwrap();
    provider.start("127.0.0.1:0").unwrap()
}

/// Asks for a page that is larger than what arrives while nobody reads.
fn ask_and_not_read(addr: SocketAddr) -> Socket {
    let mut socket = Socket::connect(addr);
    socket.send(b"GET /metrics HTTP/1.1\r\n\r\n");
    // It has begun to come.
    assert_eq!(socket.stream.peek(&mut [0]).unwrap(), 1);
    socket
}

/// How much of the answer came, of how much.
fn read_part(socket: &mut Socket) -> (usize, usize) {
    let text = String::from_utf8(socket.receive_until_closed()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (_, length) = head.split_once("Content-Length: ").unwrap();
    let length = length.lines().next().unwrap();
    (body.len(), length.parse().unwrap())
}

#[test]
fn a_page_that_nobody_reads_does_not_stay() {
    let handle = serve_wide(ProviderOptions {
        status_pages: true,
        frame_timeout: Duration::from_millis(200),
        ..one_thread()
    });
    let mut socket = ask_and_not_read(handle.local_addr());
    while handle.connections() > 0 {
        thread::yield_now();
    }
    let (came, length) = read_part(&mut socket);
    assert!(came < length, "all of {length} bytes");
}

/// An answer that has not left, and a request that has not come, are no calls.
#[test]
fn a_drain_does_not_count_visitors_as_calls_cut_off() {
    let mut handle = serve_wide(on_the_same_port());
    let mut asking = Socket::connect(handle.local_addr());
    asking.send(b"GET / HTTP/1.1\r\n");
    let _not_reading = ask_and_not_read(handle.local_addr());
    while handle.connections() < 2 {
        thread::yield_now();
    }
    assert!(handle.drain(Duration::from_millis(100)));
    assert_eq!(asking.receive_until_closed(), b"");
}

#[test]
fn a_status_address_that_is_taken_is_named() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let options = ProviderOptions {
        status_addr: Some(taken),
        ..one_thread()
    };
    let error = RpcProvider::new(options).start("127.0.0.1:0").unwrap_err();
    assert!(matches!(error, ProviderError::Listen { addr, .. } if addr == taken));
}
