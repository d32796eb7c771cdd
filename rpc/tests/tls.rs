//! TLS between channels, providers and callers by hand: who is let in, who is told what, and that
//! everything else is as it is without.

#![cfg(feature = "tls")]
#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "common/certificates.rs"]
mod certificates;
mod common;
mod server_side;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use certificates::{Ca, Files};
use common::*;
use prost::Message;
use rpc::{
    Backoff, ChannelOptions, ChannelState, Code, EventLoops, Keepalive, Limits, MethodDescriptor,
    ProviderHandle, ProviderOptions, RpcChannel, RpcController, RpcError, RpcProvider, TlsClient,
    TlsServer,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use server_side::*;

static POUR: MethodDescriptor = MethodDescriptor {
    service: "Spring",
    method: "Pour",
};

/// A provider of `Echo` and `Spring` over TLS.
struct Served {
    files: Files,
    handle: ProviderHandle,
    held: Receiver<Held>,
    streams: Receiver<Stream>,
}

impl Served {
    fn start() -> Served {
        Served::with(one_thread())
    }

    fn with(options: ProviderOptions) -> Served {
        Served::of(options, |_, tls| tls)
    }

    /// Lets in only clients with a certificate.
    fn mutual() -> Served {
        Served::of(one_thread(), |files, tls| {
            tls.with_client_roots(files.path("ca.pem")).unwrap()
        })
    }

    fn of(options: ProviderOptions, change: impl FnOnce(&Files, TlsServer) -> TlsServer) -> Served {
        let files = Files::new();
        let tls = TlsServer::new(files.path("server.pem"), files.path("server.key")).unwrap();
        let tls = change(&files, tls);
        let (echo, held, _) = echo();
        let (spring, streams, _) = spring_service();
        let mut provider = RpcProvider::new(ProviderOptions {
            tls: Some(tls),
            ..options
        });
        provider.notify_service(echo).unwrap();
        provider.notify_service(spring).unwrap();
        Served {
            handle: provider.start("127.0.0.1:0").unwrap(),
            files,
            held,
            streams,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Trusts the server, and does not say who it is.
    fn trusting(&self) -> TlsClient {
        TlsClient::new(self.files.path("ca.pem"), "localhost").unwrap()
    }

    fn channel(&self) -> RpcChannel {
        tls_channel(self.addr(), self.trusting())
    }

    fn socket(&self) -> TlsSocket {
        TlsSocket::connect(self.addr(), &self.files)
    }

    fn next_held(&self) -> Held {
        self.held.recv_timeout(LONG).expect("a call of Hold")
    }
}

fn tls_channel(addr: SocketAddr, tls: TlsClient) -> RpcChannel {
    let options = ChannelOptions {
        tls: Some(tls),
        ..ChannelOptions::default()
    };
    channel_to(addr, options)
}

/// A client that is a blocking socket with rustls on it.
struct TlsSocket(StreamOwned<ClientConnection, TcpStream>);

impl TlsSocket {
    /// Connects, handshake included.
    fn connect(addr: SocketAddr, files: &Files) -> TlsSocket {
        let TlsSocket(mut stream) = TlsSocket::silent(addr, files);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        TlsSocket(stream)
    }

    /// Connects and says nothing.
    fn silent(addr: SocketAddr, files: &Files) -> TlsSocket {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(files.ca.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        TlsSocket(StreamOwned::new(tls, Socket::connect(addr).stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.flush().unwrap();
    }

    fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn finish_writing(&mut self) {
        self.0.conn.send_close_notify();
        self.0.flush().unwrap();
        self.0.sock.shutdown(Shutdown::Write).unwrap();
    }

    /// Waits until the server has said goodbye, and returns what it sent before.
    fn receive_until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

/// A reply of `Echo` to a request with an id below 128.
fn reply(request_id: u8, data: &[u8]) -> Vec<u8> {
    let body = blob(data).encode_to_vec();
    let mut header = vec![0x08, request_id, 0x20];
    header.extend(varint(body.len() as u64));
    [varint(header.len() as u64), header, body].concat()
}

/// The server's PING number 2^63 + `number`.
fn ping(number: u8) -> Vec<u8> {
    let mut ping = vec![0x0d, 0x08, 0x80 | number];
    ping.extend([0x80; 8]);
    ping.extend([0x01, 0x30, 0x03]);
    ping
}

fn assert_refused(result: Result<Blob, RpcError>, texts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, false),
        "{error}"
    );
    for text in texts {
        assert!(error.text().contains(text), "no {text:?} in: {error}");
    }
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

// ---- calls

#[test]
fn calls_and_streams_are_as_they_are_without_tls() {
    let served = Served::start();
    let channel = served.channel();
    assert_eq!(say(&channel, "hello").unwrap().data, "hello");
    let error = call(&channel, &FAIL, [5]).unwrap_err();
    assert_eq!(
        (error.code(), error.text()),
        (Code::NotFound, "as asked: NOT_FOUND")
    );
    channel.ping(LONG).unwrap();

    let mut controller = RpcController::with_timeout(LONG);
    let stream = channel
        .open_stream::<_, Blob>(&POUR, &mut controller, &blob("all"))
        .unwrap();
    let from = served.streams.recv_timeout(LONG).unwrap();
    assert_eq!(from.context.peer_certificate(), None);
    // More than the stream's credit, and than a connection takes at once.
    let pouring = thread::spawn(move || {
        for item in 0..100u8 {
            while from.sender.send(&blob(vec![item; 50_000])).is_err() {
                thread::yield_now();
            }
        }
        from.sender.finish();
    });
    let items: Vec<Bytes> = stream.map(|item| item.unwrap().data).collect();
    pouring.join().unwrap();
    assert_eq!(items.len(), 100);
    for (item, index) in items.iter().zip(0u8..) {
        assert_eq!((item.len(), item[0]), (50_000, index));
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let served = Served::start();
    let channel = served.channel();
    let mut random = fastrand::Rng::with_seed(7);
    for len in [1 << 20, (1 << 20) + 1, 20 << 20] {
        let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        let reply = say(&channel, &body).unwrap();
        assert!(reply.data == body, "{len} bytes");
    }
}

#[test]
fn many_calls_at_once_get_their_own_replies() {
    const CALLS: usize = 1_000;
    let served = Served::with(ProviderOptions {
        threads: 2,
        ..ProviderOptions::default()
    });
    let (sender, ended) = channel();
    let channels: Vec<RpcChannel> = (0..4).map(|_| served.channel()).collect();
    thread::scope(|scope| {
        for (index, channel) in channels.iter().enumerate() {
            let sender = &sender;
            scope.spawn(move || {
                for call in 0..CALLS {
                    let sender = sender.clone();
                    let data = Bytes::from(vec![(call % 251) as u8; 1 + (call * 37) % 5_000]);
                    let expected = data.clone();
                    let controller = RpcController::with_timeout(LONG);
                    channel.call_async(&SAY, controller, &Blob { data }, move |result| {
                        let reply: Blob = result.unwrap();
                        sender.send((index, reply.data == expected)).unwrap();
                    });
                }
            });
        }
    });
    for _ in 0..4 * CALLS {
        let (index, right) = ended.recv_timeout(LONG).unwrap();
        assert!(right, "channel {index} got the reply to another call");
    }
    assert_eq!(served.handle.connections(), 4);
}

#[test]
fn a_legacy_caller_gets_bare_replies_one_after_the_other() {
    let served = Served::start();
    let mut socket = served.socket();
    let requests = [
        echo_request(&SAY, 0, "first"),
        echo_request(&SAY, 0, ""),
        echo_request(&SAY, 0, "third"),
    ];
    socket.send(&requests.concat());
    let replies = [
        blob("first").encode_to_vec(),
        vec![0xc0, 0xa3, 0x09, 0x00],
        blob("third").encode_to_vec(),
    ]
    .concat();
    assert_eq!(socket.receive(replies.len()), replies);
    socket.send(&echo_request(&FAIL, 0, [5]));
    assert_eq!(socket.receive_until_closed(), b"");
}

/// The server stops reading in between, and all is sent although the caller sends no more.
#[test]
fn a_caller_that_reads_late_gets_all_replies_and_then_the_end() {
    const REPLIES: u8 = 40;
    let limits = Limits {
        max_unsent_bytes: 1 << 20,
        ..Limits::default()
    };
    let served = Served::with(ProviderOptions {
        limits,
        ..one_thread()
    });
    let mut socket = served.socket();
    for id in 1..=REPLIES {
        socket.send(&echo_request(&GROW, id.into(), "1000000"));
    }
    socket.finish_writing();
    // Others are served meanwhile.
    assert_eq!(say(&served.channel(), "x").unwrap().data, "x");
    let received = socket.receive_until_closed();
    // The ping asks, somewhere in between, whether who has finished is still there.
    let mut rest = &received[..];
    for id in 1..=REPLIES {
        rest = rest.strip_prefix(&ping(0)[..]).unwrap_or(rest);
        let reply = reply(id, &vec![7; 1_000_000]);
        rest = rest.strip_prefix(&reply[..]).expect("whole replies");
    }
    assert_eq!(rest.strip_prefix(&ping(0)[..]).unwrap_or(rest), b"");
    until(|| served.handle.connections() == 0);
}

// ---- who is let in

#[test]
fn a_handler_sees_the_certificate_that_its_caller_has_shown() {
    let served = Served::mutual();
    let identity = (
        served.files.path("client.pem"),
        served.files.path("client.key"),
    );
    let tls = served
        .trusting()
        .with_identity(&identity.0, identity.1)
        .unwrap();
    let channel = tls_channel(served.addr(), tls);
    let ended = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let held = served.next_held();
    let shown = held.context.peer_certificate().unwrap().to_vec();
    let clients = CertificateDer::from_pem_file(identity.0).unwrap();
    assert_eq!(shown, &*clients);
    held.echo();
    assert_eq!(end(&ended).unwrap().data, "x");
}

#[test]
fn callers_without_the_right_certificate_are_turned_away_and_told_why() {
    let served = Served::mutual();
    let nameless = served.channel();
    let texts = ["CertificateRequired", "TlsClient::with_identity"];
    assert_refused(say(&nameless, "x"), &texts);

    let stranger = Ca::new("another CA").issue(&["a stranger"]);
    let certificate = served.files.write("stranger.pem", stranger.0);
    let key = served.files.write("stranger.key", stranger.1);
    let tls = served.trusting().with_identity(certificate, key).unwrap();
    let texts = ["does not let us in", "does not trust the root"];
    assert_refused(say(&tls_channel(served.addr(), tls), "x"), &texts);
    until(|| served.handle.connections() == 0);
}

#[test]
fn a_server_that_is_not_the_right_one_gets_no_call() {
    let served = Served::start();
    let strangers = served.files.write("other.pem", Ca::new("another CA").pem());
    let cases = [
        (strangers, "localhost", "UnknownIssuer"),
        (
            served.files.path("ca.pem"),
            "another.example",
            "not valid for name",
        ),
    ];
    for (roots, name, reason) in cases {
        let options = ChannelOptions {
            tls: Some(TlsClient::new(roots, name).unwrap()),
            backoff: Backoff {
                min: LONG,
                max: LONG,
            },
            ..ChannelOptions::default()
        };
        let channel = channel_to(served.addr(), options);
        let texts = ["cannot connect", "the TLS handshake failed", reason];
        assert_refused(say(&channel, "x"), &texts);
        // As after any failure to connect.
        assert!(matches!(channel.state(), ChannelState::Down { .. }));
        assert_refused(say(&channel, "x"), &["is down", reason, "next attempt in"]);
    }
    assert_eq!(say(&served.channel(), "x").unwrap().data, "x");
    let by_address = TlsClient::new(served.files.path("ca.pem"), "127.0.0.1").unwrap();
    let channel = tls_channel(served.addr(), by_address);
    assert_eq!(say(&channel, "x").unwrap().data, "x");
}

#[test]
fn certificates_are_renewed_without_a_restart() {
    let served = Served::of(one_thread(), |_, tls| {
        tls.with_check_every(Duration::ZERO).unwrap()
    });
    let old = served.channel();
    assert_eq!(say(&old, "x").unwrap().data, "x");

    // By another authority: whoever trusts the old one only would not get in.
    let authority = Ca::new("a new CA");
    let (certificate, key) = authority.issue(&["localhost"]);
    renew(&served.files, "server.pem", &certificate);
    renew(&served.files, "server.key", &key);
    let roots = served.files.write("new_ca.pem", authority.pem());
    let tls = TlsClient::new(roots, "localhost").unwrap();
    assert_eq!(
        say(&tls_channel(served.addr(), tls), "x").unwrap().data,
        "x"
    );
    let tls = served.trusting().with_check_every(Duration::ZERO).unwrap();
    let late = tls_channel(served.addr(), tls);
    assert_refused(say(&late, "x"), &["UnknownIssuer"]);
    assert_eq!(say(&old, "goes on").unwrap().data, "goes on");

    // A channel's files are read again when it connects.
    renew(&served.files, "ca.pem", authority.pem());
    while let Err(error) = say(&late, "x") {
        assert!(error.text().contains("is down"), "{error}");
        thread::yield_now();
    }
}

/// Writes a file, whose time the old one cannot have had.
fn renew(files: &Files, name: &str, content: &str) {
    let path = files.write(name, content);
    let file = std::fs::File::options().append(true).open(path).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_mins(1);
    file.set_modified(later).unwrap();
}

// ---- the wrong kind of port

#[test]
fn a_plain_channel_at_a_tls_port_is_told_so() {
    let served = Served::start();
    let channel = channel_to(served.addr(), ChannelOptions::default());
    let text = "this port speaks TLS (set ChannelOptions::tls)";
    assert_refused(say(&channel, "x"), &[text]);
    assert_eq!(say(&served.channel(), "x").unwrap().data, "x");
}

#[test]
fn a_tls_channel_at_a_plain_port_is_told_so() {
    let server = serve();
    let files = Files::new();
    let tls = TlsClient::new(files.path("ca.pem"), "localhost").unwrap();
    let channel = tls_channel(server.addr(), tls);
    let texts = [
        "the TLS handshake failed",
        "the server does not speak TLS at this port",
    ];
    assert_refused(say(&channel, "x"), &texts);
    server.assert_serves();
}

/// The bytes of `docs/wire.md`.
#[test]
fn callers_of_the_wrong_kind_get_these_bytes() {
    let served = Served::start();
    let mut goaway = vec![0x36, 0x10, 0x0e, 0x1a, 0x2e];
    goaway.extend(b"this port speaks TLS (set ChannelOptions::tls)");
    goaway.extend([0x28, 0x01, 0x30, 0x04]);
    let mut framed = Socket::connect(served.addr());
    // More than the server looks at.
    framed.send(&echo_request(&SAY, 7, vec![7; 150_000]));
    assert_eq!(framed.receive_until_closed(), goaway);

    let mut legacy = Socket::connect(served.addr());
    legacy.send(&echo_request(&SAY, 0, "x"));
    assert_eq!(legacy.receive_until_closed(), b"");

    let plain = serve();
    let mut client_hello = vec![0x16, 0x03, 0x01, 0x00, 0xf0, 0x01, 0x00, 0x00, 0xec];
    client_hello.resize(5 + 0xf0, 0x03);
    let mut tls = plain.socket();
    tls.send(&client_hello);
    let alert = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46];
    assert_eq!(tls.receive_until_closed(), alert);
    plain.assert_serves();
}

#[test]
fn a_full_server_says_so_over_tls_and_tells_who_is_at_the_wrong_port() {
    let limits = Limits {
        max_connections: 1,
        ..Limits::default()
    };
    let full = || ProviderOptions {
        limits: limits.clone(),
        ..one_thread()
    };
    let served = Served::with(full());
    let inside = served.channel();
    assert_eq!(say(&inside, "x").unwrap().data, "x");
    let error = say(&served.channel(), "x").unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::ResourceExhausted, false)
    );
    assert!(error.text().contains("Limits::max_connections"), "{error}");
    let plain = channel_to(served.addr(), ChannelOptions::default());
    assert_refused(say(&plain, "x"), &["this port speaks TLS"]);
    assert_eq!(say(&inside, "x").unwrap().data, "x");

    let plain_port = serve_with(full());
    let inside = plain_port.channel();
    assert_eq!(say(&inside, "x").unwrap().data, "x");
    let lost = tls_channel(plain_port.addr(), served.trusting());
    assert_refused(say(&lost, "x"), &["does not speak TLS at this port"]);
}

// ---- ends

#[test]
fn a_drain_asks_callers_to_go_and_lets_their_calls_end() {
    let served = Served::start();
    let channel = served.channel();
    let ended = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "held");
    let held = served.next_held();
    let mut idle = served.socket();
    let mut legacy = served.socket();
    legacy.send(&echo_request(&SAY, 0, "x"));
    legacy.receive(blob("x").encoded_len());
    let mut silent = Socket::connect(served.addr());
    until(|| served.handle.connections() == 4);

    let mut handle = served.handle;
    let (sender, drained) = self::channel();
    thread::spawn(move || sender.send(handle.drain(LONG)).unwrap());
    until(|| channel.state() == ChannelState::Idle);
    assert_eq!(idle.receive_until_closed(), b"");
    assert_eq!(legacy.receive_until_closed(), b"");
    assert_eq!(silent.receive_until_closed(), b"");
    assert!(drained.try_recv().is_err(), "a call is running");
    held.echo();
    assert_eq!(end(&ended).unwrap().data, "held");
    assert!(drained.recv_timeout(LONG).unwrap());
}

#[test]
fn a_drain_waits_for_a_first_call_while_its_handshake_goes_on() {
    let served = Served::with(one_thread());
    let channel = served.channel();
    say(&channel, "x").unwrap();
    let mut slow = TlsSocket::silent(served.addr(), &served.files);
    until(|| served.handle.connections() == 2);
    let mut handle = served.handle;
    let (sender, drained) = self::channel();
    thread::spawn(move || sender.send(handle.drain(LONG)).unwrap());
    until(|| channel.state() == ChannelState::Idle);

    let mut hello = Vec::new();
    slow.0.conn.write_tls(&mut hello).unwrap();
    for part in hello.chunks(hello.len().div_ceil(4)) {
        slow.0.sock.write_all(part).unwrap();
        // Together they take longer than a caller may be quiet.
        thread::sleep(Duration::from_millis(200));
    }
    slow.send(&echo_request(&SAY, 1, "late"));
    let goaway = [2, 0x30, 4];
    let expected = [&goaway, &reply(1, b"late")[..]].concat();
    assert_eq!(slow.receive_until_closed(), expected);
    assert!(drained.recv_timeout(LONG).unwrap());
}

#[test]
fn a_quiet_caller_is_asked_whether_it_lives_and_closed_if_it_does_not_say() {
    let served = Served::with(ProviderOptions {
        keepalive: Keepalive {
            after: Duration::from_millis(30),
            timeout: Duration::from_millis(200),
        },
        ..one_thread()
    });
    let mut socket = served.socket();
    socket.send(&echo_request(&SAY, 1, "x"));
    socket.receive(reply(1, b"x").len());
    assert_eq!(socket.receive(14), ping(0));
    socket.send(&control(PONG, 1 << 63, 0));
    assert_eq!(socket.receive(14), ping(1));
    assert_eq!(socket.receive_until_closed(), b"");

    // A channel answers.
    let channel = served.channel();
    let ended = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "held");
    let held = served.next_held();
    let mut another = served.socket();
    another.send(&echo_request(&SAY, 1, "x"));
    let seen = another.receive_until_closed();
    assert_eq!(seen, [reply(1, b"x"), ping(0)].concat());
    held.echo();
    assert_eq!(end(&ended).unwrap().data, "held");
}

/// Carries bytes between a client and the server until it is frozen.
struct Line {
    addr: SocketAddr,
    frozen: Arc<Mutex<()>>,
}

impl Line {
    fn to(server: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let frozen = Arc::new(Mutex::new(()));
        let gate = Arc::clone(&frozen);
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = TcpStream::connect(server).unwrap();
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let back_gate = Arc::clone(&gate);
            let there = thread::spawn(move || carry(client, server, &gate));
            carry(back.0, back.1, &back_gate);
            there.join().unwrap();
        });
        Line { addr, frozen }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, gate: &Mutex<()>) {
    let mut bytes = [0; 4096];
    while let Ok(len) = from.read(&mut bytes) {
        drop(gate.lock().unwrap());
        if len == 0 || to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

#[test]
fn a_server_that_has_vanished_is_noticed() {
    let served = Served::start();
    let line = Line::to(served.addr());
    let options = ChannelOptions {
        tls: Some(served.trusting()),
        keepalive: Keepalive {
            after: Duration::from_millis(30),
            timeout: Duration::from_millis(100),
        },
        ..ChannelOptions::default()
    };
    let channel = channel_to(line.addr, options);
    assert_eq!(say(&channel, "x").unwrap().data, "x");
    let ended = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "held");
    let _held = served.next_held();
    let frozen = line.frozen.lock().unwrap();
    let error = end(&ended).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, true)
    );
    assert!(error.text().contains("did not answer a ping"), "{error}");
    drop(frozen);
}

// ---- slow handshakes

#[test]
fn handshakes_that_do_not_end_are_closed_and_hold_up_nobody() {
    let served = Served::with(ProviderOptions {
        handshake_timeout: Duration::from_millis(500),
        ..one_thread()
    });
    // Older than all that follow, so its handshake's time is over when theirs is.
    let mut idle = served.socket();
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];
    hello.resize(200, 0);
    let firsts: [&[u8]; 4] = [b"", &hello[..1], &hello[..9], &hello];
    let mut slow: Vec<(Socket, bool)> = Vec::new();
    for _ in 0..25 {
        for first in firsts {
            let mut socket = Socket::connect(served.addr());
            socket.send(first);
            slow.push((socket, first.len() > 1));
        }
    }
    until(|| served.handle.connections() == 101);
    assert_eq!(say(&served.channel(), "fast").unwrap().data, "fast");
    for (socket, is_tls) in &mut slow {
        let goodbye: &[u8] = if *is_tls {
            &[0x15, 0x03, 0x03, 0x00, 0x02, 0x01, 0x00]
        } else {
            b""
        };
        assert_eq!(socket.receive_until_closed(), goodbye);
    }
    // A caller may be silent once its handshake is over.
    idle.send(&echo_request(&SAY, 0, "still there"));
    let reply = blob("still there").encode_to_vec();
    assert_eq!(idle.receive(reply.len()), reply);
    drop(slow);
    until(|| served.handle.connections() == 1);
}

#[test]
fn a_server_that_does_not_finish_the_handshake_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let files = Files::new();
    let options = ChannelOptions {
        tls: Some(TlsClient::new(files.path("ca.pem"), "localhost").unwrap()),
        connect_timeout: Duration::from_millis(100),
        ..ChannelOptions::default()
    };
    let channel = channel_to(listener.local_addr().unwrap(), options);
    let texts = ["the TLS handshake was not over within 100 ms"];
    assert_refused(say(&channel, "x"), &texts);

    // One that closes in the middle.
    let (sender, closed) = self::channel();
    let closing = thread::spawn(move || {
        // The first one is the connection that was given up.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 16];
            match stream.read_exact(&mut hello) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
            }
            stream.shutdown(Shutdown::Write).unwrap();
        }
        sender.send(()).unwrap();
    });
    let error = loop {
        let error = say(&channel, "x").unwrap_err();
        if !error.text().contains("is down") {
            break error;
        }
        thread::yield_now();
    };
    closed.recv_timeout(LONG).unwrap();
    closing.join().unwrap();
    assert_refused(Err(error), &["the peer closed the connection"]);
}

// ---- a socket that is full when the last record is due

/// Sizes so close together that with one of them the last records find no room, although everything
/// before them has left.
fn sizes_around_what_a_socket_takes() -> impl Iterator<Item = usize> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _nobody_reads = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    while let Ok(len) = stream.write(&[7; 16 << 10]) {
        taken += len;
    }
    let around = 160 << 10;
    (taken - around..taken + around).step_by(8 << 10)
}

/// Waits until the event loops of a channel have done what they could do before, and written what
/// sockets took: the second reply is of a later turn than the first.
fn turn(channel: &RpcChannel) {
    for _ in 0..2 {
        assert_eq!(say(channel, "x").unwrap().data, "x");
    }
}

#[test]
fn the_last_record_of_a_reply_leaves_when_there_is_room() {
    let served = Served::start();
    let other = served.channel();
    for len in sizes_around_what_a_socket_takes() {
        for finished in [false, true] {
            let mut socket = served.socket();
            socket.send(&echo_request(&HOLD, 1, ""));
            served.next_held().done.run(blob(vec![7; len]));
            turn(&other);
            let reply = reply(1, &vec![7; len]);
            if finished {
                socket.finish_writing();
                turn(&other);
                assert!(socket.receive_until_closed() == reply, "{len} bytes");
            } else {
                assert!(socket.receive(reply.len()) == reply, "{len} bytes");
            }
        }
    }
}

#[test]
fn the_last_record_of_a_request_leaves_when_there_is_room() {
    let served = Served::start();
    let loops = EventLoops::start(1, "client").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        tls: Some(served.trusting()),
        ..ChannelOptions::default()
    };
    let other = RpcChannel::with_options(served.addr(), options.clone());
    for len in sizes_around_what_a_socket_takes() {
        let line = Line::to(served.addr());
        let channel = RpcChannel::with_options(line.addr, options.clone());
        assert_eq!(say(&channel, "x").unwrap().data, "x");
        let frozen = line.frozen.lock().unwrap();
        let patient = RpcController::with_timeout(LONG);
        let ended = begin(&channel, &SAY, patient, vec![7; len]);
        turn(&other);
        drop(frozen);
        assert!(end(&ended).unwrap().data == vec![7; len], "{len} bytes");
    }
}
