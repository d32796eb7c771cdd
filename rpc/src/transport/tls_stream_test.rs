//! Two ends with nothing between them but bytes in memory, cut and spoiled in every way.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;

use super::*;
use crate::transport::{TlsClient, TlsServer};

#[path = "../../tests/common/certificates.rs"]
mod certificates;

use certificates::Files;

/// A socket without a network.
struct Pipe {
    incoming: VecDeque<u8>,
    /// The peer has closed; what is here can still be read.
    closed: bool,
    outgoing: Vec<u8>,
    /// Bytes that it still takes.
    room: usize,
    /// The most that one read brings.
    read_max: usize,
}

impl Pipe {
    fn new() -> Pipe {
        Pipe {
            incoming: VecDeque::new(),
            closed: false,
            outgoing: Vec::new(),
            room: usize::MAX,
            read_max: usize::MAX,
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() && !self.closed {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = out.len().min(self.read_max);
        self.incoming.read(&mut out[..len])
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = bytes.len().min(self.room);
        self.room -= len;
        self.outgoing.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One side, with what it has to say and what it has heard.
struct Side {
    stream: TlsStream<Pipe>,
    to_send: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    /// Says goodbye when it has heard so many bytes.
    awaited: usize,
    /// How reading ended: properly, or with a failure's text.
    end: Option<Result<(), String>>,
}

impl Side {
    fn new(stream: TlsStream<Pipe>, to_send: Vec<u8>) -> Side {
        Side {
            stream,
            to_send,
            sent: 0,
            received: Vec::new(),
            awaited: 0,
            end: None,
        }
    }

    /// Says what it can, and goodbye after it; hears what there is to hear.
    fn step(&mut self, rng: &mut Rng) {
        if self.sent < self.to_send.len() {
            let len = rng.usize(1..=self.to_send.len() - self.sent);
            // A failure shows in the next read.
            if let Ok(taken) = self.stream.write(&self.to_send[self.sent..self.sent + len]) {
                self.sent += taken;
            }
        } else if self.received.len() >= self.awaited && !self.stream.is_handshaking() {
            self.stream.say_goodbye();
        }
        let _ = self.stream.flush();
        self.hear(rng);
    }

    fn hear(&mut self, rng: &mut Rng) {
        let len_max = 1 << rng.u8(0..=15);
        let mut buffer = vec![0; rng.usize(1..=len_max)];
        while self.end.is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end = Some(Ok(())),
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                    self.end = Some(Err(error.to_string()));
                }
            }
            assert!(self.stream.held.len() <= SCRATCH_BYTES);
        }
    }

    fn pipe(&mut self) -> &mut Pipe {
        self.stream.socket_mut()
    }

    /// Everything that it has to send, as records, with the handshake and a goodbye behind it.
    fn take_records(&mut self, rng: &mut Rng) -> Vec<Vec<u8>> {
        while self.sent < self.to_send.len() {
            self.step(rng);
        }
        self.stream.say_goodbye();
        let mut rest = &std::mem::take(&mut self.pipe().outgoing)[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let len = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            let (record, after) = rest.split_at(len);
            records.push(record.to_vec());
            rest = after;
        }
        records
    }
}

/// Moves up to `len` bytes that one end has written to the other.
fn carry(from: &mut Side, to: &mut Side, len: usize) {
    let outgoing = &mut from.pipe().outgoing;
    let moved: Vec<u8> = outgoing.drain(..len.min(outgoing.len())).collect();
    to.pipe().incoming.extend(moved);
}

struct Setting {
    files: Files,
    server: TlsServer,
    client: TlsClient,
}

impl Setting {
    fn new() -> Setting {
        let files = Files::new();
        let server = TlsServer::new(files.path("server.pem"), files.path("server.key")).unwrap();
        let client = TlsClient::new(files.path("ca.pem"), "localhost").unwrap();
        Setting {
            files,
            server,
            client,
        }
    }

    /// A client and a server that have not met yet.
    fn ends(&self, from_client: Vec<u8>, from_server: Vec<u8>) -> (Side, Side) {
        let mut client = Side::new(self.client.connect(Pipe::new()).unwrap(), from_client);
        let mut server = Side::new(self.server.accept(Pipe::new()).unwrap(), from_server);
        client.awaited = server.to_send.len();
        server.awaited = client.to_send.len();
        (client, server)
    }

    /// The same with the handshake behind them.
    fn met(&self, from_client: Vec<u8>, from_server: Vec<u8>) -> (Side, Side) {
        let (mut client, mut server) = self.ends(from_client, from_server);
        let mut rng = Rng::with_seed(0);
        while client.stream.is_handshaking() || server.stream.is_handshaking() {
            client.stream.handshake().unwrap();
            carry(&mut client, &mut server, usize::MAX);
            server.hear(&mut rng);
            carry(&mut server, &mut client, usize::MAX);
        }
        (client, server)
    }
}

fn data(rng: &mut Rng, len_max: usize) -> Vec<u8> {
    let len = rng.usize(0..=len_max);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

#[test]
fn whatever_the_pieces_the_bytes_arrive_and_then_the_end() {
    let setting = Setting::new();
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let len_max = 1 << rng.u8(0..=18);
        let (from_client, from_server) = (data(&mut rng, len_max), data(&mut rng, len_max));
        let (mut client, mut server) = setting.ends(from_client, from_server);
        let piece_max = 1 << rng.u8(4..=18);
        while client.end.is_none() || server.end.is_none() {
            for end in [&mut client, &mut server] {
                let (room, read_max) = (rng.usize(0..=piece_max), rng.usize(1..=piece_max));
                end.pipe().room = room;
                end.pipe().read_max = read_max;
                end.step(&mut rng);
            }
            carry(&mut client, &mut server, rng.usize(0..=piece_max));
            carry(&mut server, &mut client, rng.usize(0..=piece_max));
        }
        assert_eq!(client.end, Some(Ok(())), "seed {seed}");
        assert_eq!(server.end, Some(Ok(())), "seed {seed}");
        assert!(client.received == server.to_send, "seed {seed}");
        assert!(server.received == client.to_send, "seed {seed}");
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let (mut client, mut server) = Setting::new().ends(b"ping".to_vec(), b"pong".to_vec());
    let mut rng = Rng::with_seed(1);
    while client.end.is_none() || server.end.is_none() {
        client.step(&mut rng);
        carry(&mut client, &mut server, 1);
        server.step(&mut rng);
        carry(&mut server, &mut client, 1);
    }
    assert_eq!(
        (&client.received[..], &server.received[..]),
        (&b"pong"[..], &b"ping"[..])
    );
}

/// What a thief on the line can do to the records of a connection.
fn spoil(records: &mut Vec<Vec<u8>>, rng: &mut Rng) {
    let at = rng.usize(..records.len());
    match rng.u8(0..7) {
        0 => {
            let byte = rng.usize(..records[at].len());
            records[at][byte] ^= 1 << rng.u8(0..8);
        }
        1 => {
            let len = rng.usize(..records[at].len());
            records[at].truncate(len);
        }
        2 => drop(records.remove(at)),
        3 => records.insert(at, records[at].clone()),
        4 => {
            let other = rng.usize(..records.len());
            records.swap(at, other);
        }
        5 => records.insert(at, data(rng, 300)),
        _ => records.truncate(at),
    }
}

#[test]
fn a_reader_hears_what_was_said_or_a_prefix_of_it_whatever_happens_on_the_line() {
    let setting = Setting::new();
    let (mut failures, mut ends) = (0, 0);
    for seed in 0..2_500 {
        let mut rng = Rng::with_seed(seed);
        let said: Vec<u8> = data(&mut rng, 60_000);
        let (mut client, mut server) = setting.met(vec![], said);
        let mut records = server.take_records(&mut rng);
        let whole = records.clone();
        spoil(&mut records, &mut rng);
        let line = records.concat();
        let mut rest = &line[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rng.usize(1..=rest.len()));
            client.pipe().incoming.extend(piece);
            client.hear(&mut rng);
            rest = after;
        }
        client.pipe().closed = true;
        client.hear(&mut rng);
        assert!(server.to_send.starts_with(&client.received), "seed {seed}");
        match client.end.unwrap() {
            Ok(()) => ends += 1,
            Err(_) => failures += 1,
        }
        if records == whole {
            assert!(client.received == server.to_send, "seed {seed}");
        }
    }
    assert!(
        failures > 1_000 && ends > 100,
        "{failures} failures, {ends} ends"
    );
}

#[test]
fn a_handshake_that_is_spoiled_ends_or_waits_and_lets_nothing_false_through() {
    let setting = Setting::new();
    let mut failures = 0;
    for seed in 0..2_500 {
        let mut rng = Rng::with_seed(seed);
        let (mut client, mut server) =
            setting.ends(b"from client".to_vec(), b"from server".to_vec());
        let mut spoiled = false;
        for _ in 0..8 {
            for _ in 0..2 {
                client.step(&mut rng);
                let outgoing = &mut client.pipe().outgoing;
                if !spoiled && !outgoing.is_empty() && rng.u8(0..3) == 0 {
                    spoiled = true;
                    let mut records = vec![std::mem::take(outgoing)];
                    spoil(&mut records, &mut rng);
                    *outgoing = records.concat();
                }
                carry(&mut client, &mut server, usize::MAX);
                // The other way round the next time.
                std::mem::swap(&mut client, &mut server);
            }
        }
        for end in [&mut client, &mut server] {
            end.pipe().closed = true;
            end.hear(&mut rng);
        }
        assert!(server.to_send.starts_with(&client.received), "seed {seed}");
        assert!(client.to_send.starts_with(&server.received), "seed {seed}");
        failures += usize::from(matches!(client.end, Some(Err(_))));
        failures += usize::from(matches!(server.end, Some(Err(_))));
    }
    assert!(failures > 500, "{failures} failures");
}

#[test]
fn whatever_a_client_sends_first_a_server_holds_little_of_it() {
    let setting = Setting::new();
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let mut server = Side::new(setting.server.accept(Pipe::new()).unwrap(), vec![]);
        let mut bytes = data(&mut rng, 600);
        if rng.bool() {
            bytes.splice(
                ..0,
                [0x16, 0x03, 0x01, rng.u8(0..2), rng.u8(..), 0x01, 0x00],
            );
        }
        for piece in bytes.chunks(rng.usize(1..=600)) {
            server.pipe().incoming.extend(piece);
            server.hear(&mut rng);
        }
        assert!(server.received.is_empty(), "seed {seed}");
    }
}

/// Its length would have us wait for 16 MiB.
#[test]
fn a_handshake_message_without_end_is_refused() {
    let mut server = Side::new(Setting::new().server.accept(Pipe::new()).unwrap(), vec![]);
    let mut rng = Rng::with_seed(2);
    let mut first = vec![0; 16_384];
    first[..4].copy_from_slice(&[0x01, 0xff, 0xff, 0xff]);
    let mut taken = 0;
    while server.end.is_none() {
        server
            .pipe()
            .incoming
            .extend([0x16, 0x03, 0x01, 0x40, 0x00]);
        server.pipe().incoming.extend(&first);
        first = vec![0; 16_384];
        server.hear(&mut rng);
        taken += 16_384;
        assert!(taken <= 96 << 10, "{taken} bytes of one message");
    }
    assert!(server.end.unwrap().is_err());
}

#[test]
fn what_waits_for_a_socket_that_takes_nothing_is_bounded() {
    let (mut client, mut server) = Setting::new().met(vec![], vec![]);
    client.pipe().room = 100;
    let large = vec![7; 1 << 20];
    let mut taken = 0;
    let blocked = loop {
        match client.stream.write(&large) {
            Ok(len) => taken += len,
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(blocked, ErrorKind::WouldBlock);
    assert!(client.stream.has_unsent());
    assert!(taken <= RECORDS_BYTES_MAX, "{taken} bytes taken");
    client.pipe().room = usize::MAX;
    client.stream.flush().unwrap();
    assert!(!client.stream.has_unsent());
    carry(&mut client, &mut server, usize::MAX);
    server.hear(&mut Rng::with_seed(3));
    assert_eq!(server.received, vec![7; taken]);
}

#[test]
fn nothing_is_taken_before_the_handshake_is_over() {
    let (mut client, mut server) = Setting::new().ends(vec![], vec![]);
    for end in [&mut client, &mut server] {
        assert!(end.stream.is_handshaking());
        let error = end.stream.write(b"early").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// A client that resets its keys for ever costs itself the connection.
#[test]
fn records_that_bring_nothing_do_not_keep_a_reader() {
    let (mut client, mut server) = Setting::new().met(vec![], vec![]);
    let mut rng = Rng::with_seed(4);
    for _ in 0..50 {
        let Connection::Client(tls) = &mut client.stream.tls else {
            unreachable!("it is a client");
        };
        tls.refresh_traffic_keys().unwrap();
        client.stream.flush().unwrap();
    }
    carry(&mut client, &mut server, usize::MAX);
    server.hear(&mut rng);
    let end = server.end.unwrap();
    assert!(end.is_err(), "{end:?}");
}

#[test]
fn a_peer_is_told_why_its_connection_ends() {
    let (mut client, mut server) = Setting::new().met(vec![], vec![]);
    let mut rng = Rng::with_seed(5);
    server
        .pipe()
        .incoming
        .extend([0x17, 0x03, 0x03, 0x00, 0x20]);
    server.pipe().incoming.extend([0; 32]);
    server.hear(&mut rng);
    assert_eq!(
        server.end,
        Some(Err("cannot decrypt peer's message".to_owned()))
    );
    carry(&mut server, &mut client, usize::MAX);
    client.hear(&mut rng);
    assert_eq!(
        client.end,
        Some(Err("received fatal alert: BadRecordMac".to_owned()))
    );
}

#[test]
fn an_end_that_is_dropped_says_goodbye() {
    let setting = Setting::new();
    let mut pipe = Pipe::new();
    let mut server = setting.server.accept(&mut pipe).unwrap();
    let mut client = Side::new(setting.client.connect(Pipe::new()).unwrap(), vec![]);
    while client.stream.is_handshaking() || server.is_handshaking() {
        client.stream.handshake().unwrap();
        let moved = std::mem::take(&mut client.pipe().outgoing);
        server.socket_mut().incoming.extend(moved);
        assert!(server.read(&mut [0]).is_err(), "nothing was said");
        let moved = std::mem::take(&mut server.socket_mut().outgoing);
        client.pipe().incoming.extend(moved);
    }
    drop(server);
    client.pipe().incoming.extend(&pipe.outgoing);
    client.hear(&mut Rng::with_seed(6));
    assert_eq!(client.end, Some(Ok(())));
}

#[test]
fn plain_callers_at_a_tls_port_are_told_if_they_can_understand_it() {
    let setting = Setting::new();
    let framed = b"\x0d\x0a\x04Echo\x12\x03Say\x20\x07";
    let legacy = b"\x0b\x0a\x04Echo\x12\x03Say";
    let cases: [(&[u8], &str, bool); 3] = [
        (framed, "a plain caller at a TLS port", true),
        (legacy, "a plain caller at a TLS port", false),
        (
            b"\xff\xff\xff\xff\xff",
            "neither TLS nor a request at a TLS port",
            false,
        ),
    ];
    for (bytes, reason, answered) in cases {
        for piece in [1, bytes.len()] {
            let mut server = Side::new(setting.server.accept(Pipe::new()).unwrap(), vec![]);
            for piece in bytes.chunks(piece) {
                server.pipe().incoming.extend(piece);
                server.hear(&mut Rng::with_seed(7));
            }
            assert_eq!(server.end.take(), Some(Err(reason.to_owned())));
            let answer = std::mem::take(&mut server.pipe().outgoing);
            assert_eq!(answer, if answered { goaway() } else { vec![] });
            drop(server);
        }
    }
}

#[test]
fn a_mutual_handshake_shows_the_clients_certificate_and_lets_nobody_in_without() {
    let setting = Setting::new();
    let files = &setting.files;
    let server = setting
        .server
        .clone()
        .with_client_roots(files.path("ca.pem"))
        .unwrap();
    let client = setting.client.clone();
    let known = client
        .clone()
        .with_identity(files.path("client.pem"), files.path("client.key"));
    let mutual = Setting {
        server,
        client: known.unwrap(),
        files: Files::new(),
    };
    let (client, server) = mutual.met(b"hello".to_vec(), vec![]);
    assert!(server.stream.peer_certificate().unwrap().len() > 100);
    assert!(client.stream.peer_certificate().is_some());

    let unknown = Setting {
        client: setting.client.clone(),
        ..mutual
    };
    let (mut client, mut server) = unknown.ends(b"hello".to_vec(), vec![]);
    client.awaited = 1;
    let mut rng = Rng::with_seed(8);
    while client.end.is_none() {
        client.step(&mut rng);
        carry(&mut client, &mut server, usize::MAX);
        server.step(&mut rng);
        carry(&mut server, &mut client, usize::MAX);
    }
    assert!(server.received.is_empty() && server.stream.peer_certificate().is_none());
    assert_eq!(
        server.end.unwrap().unwrap_err(),
        "peer sent no certificates"
    );
    let text = client.end.unwrap().unwrap_err();
    assert!(text.contains("TlsClient::with_identity"), "{text}");
}

#[test]
fn files_that_change_are_in_use_at_the_next_connection_unless_they_are_broken() {
    let files = Files::new();
    let server = TlsServer::new(files.path("server.pem"), files.path("server.key")).unwrap();
    let server = server.with_check_every(Duration::ZERO).unwrap();
    let client = TlsClient::new(files.path("ca.pem"), "localhost").unwrap();
    let setting = Setting {
        files,
        server,
        client,
    };
    let shown = || {
        let (client, _server) = setting.met(vec![], vec![]);
        client.stream.peer_certificate().unwrap().to_vec()
    };
    let first = shown();
    assert_eq!(shown(), first);

    let (certificate, key) = setting.files.ca.issue(&["localhost", "another.example"]);
    setting.files.write("server.pem", &certificate);
    assert_eq!(
        shown(),
        first,
        "the new certificate has the old key beside it"
    );
    setting.files.write("server.key", &key);
    let second = shown();
    assert_ne!(second, first);

    setting.files.write("server.pem", "no PEM");
    assert_eq!(shown(), second);
    let error = setting.server.reload().unwrap_err();
    assert!(error.to_string().contains("server.pem"), "{error}");
    std::fs::remove_file(setting.files.path("server.pem")).unwrap();
    assert_eq!(shown(), second);
    setting.files.renew("server", &["localhost"]);
    assert_ne!(shown(), second);
}
