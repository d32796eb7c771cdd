//! A connection that nothing drives but the test, to a server that is a plain socket.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::*;
use crate::client::options::ChannelOptions;
use crate::client::pending::Completion;
use crate::client::shared::Request;
use crate::metadata::Metadata;
use crate::reactor::EventLoops;
use crate::service::MethodDescriptor;

/// Guards against hanging; nothing is measured with it.
const LONG: Duration = Duration::from_secs(30);

/// Calls of a test.
const CALLS: u8 = 40;

/// Size of the reply to each of them.
const REPLY_BYTES: usize = 6 + 1000;

static METHOD: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Say",
};

/// A connection with calls under way, and what else its test needs.
struct Ends {
    connection: Connection,
    /// The connection's own socket.
    client: TcpStream,
    server: TcpStream,
    ended: Receiver<Result<bytes::Bytes, RpcError>>,
    _loops: EventLoops,
}

/// Has begun the calls 1 to [`CALLS`], and sent them.
fn connected() -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let client = TcpStream::connect(addr).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    let socket = mio::net::TcpStream::from_std(client.try_clone().unwrap());

    let loops = EventLoops::start(1, "test").unwrap();
    let handle = Arc::clone(loops.pick());
    let options = ChannelOptions::default();
    let shared = Arc::new(ChannelShared::new(addr, options, handle, || {}));
    let request = Request {
        method: &METHOD,
        timeout: Some(LONG),
        metadata: &Metadata::new(),
        trace: None,
        credit: 0,
    };
    let (sender, ended) = mpsc::channel();
    for _ in 0..CALLS {
        let sender = sender.clone();
        let callback = move |ended: Ended| sender.send(ended.result).unwrap();
        let begun = shared.begin(&request, &(), Completion::Callback(Box::new(callback)));
        assert!(begun.is_ok());
    }
    let stream = Transport::connected(socket, None).unwrap();
    let mut connection = Connection::new(Arc::clone(&shared), stream, Waiting::default());
    let mut queued = Vec::new();
    shared.take(connection.output(), &mut queued);
    for queued in queued {
        connection.add(queued);
    }
    connection
        .on_flush(&mut Reading::new(&mut [], Share::ALONE))
        .unwrap();
    Ends {
        connection,
        client,
        server,
        ended,
        _loops: loops,
    }
}

impl Ends {
    /// Has replies to all calls wait at the connection's socket.
    fn answer_all(&mut self) {
        let mut replies = Vec::new();
        for id in 1..=CALLS {
            // A header of 5 bytes: the call's number, and the size of the body, which is 1000.
            replies.extend([5, 0x08, id, 0x20, 0xe8, 0x07]);
            replies.extend([id; 1000]);
        }
        self.server.write_all(&replies).unwrap();
        let mut room = vec![0; replies.len()];
        let begun = Instant::now();
        while self.client.peek(&mut room).unwrap_or(0) < replies.len() {
            assert!(begun.elapsed() < LONG, "the replies do not arrive");
            thread::yield_now();
        }
    }

    /// Breaks the connection in one direction, and has the connection write to it.
    fn write_in_vain(&mut self, reading: &mut Reading<'_>) {
        self.client.shutdown(Shutdown::Write).unwrap();
        self.connection.say_goodbye();
        let broken = self.connection.on_flush(reading).unwrap_err();
        assert!(
            matches!(&broken, Broken::Io(error) if error.kind() == ErrorKind::BrokenPipe),
            "{broken}"
        );
        self.connection.fail_all(&broken);
    }
}

/// Small, so that a test needs few replies for many of them.
fn small_share() -> Share {
    let mut share = Share::ALONE;
    share.read_bytes = 4 << 10;
    share
}

#[test]
fn replies_that_came_before_a_break_count_however_many_shares_they_are() {
    let mut ends = connected();
    ends.answer_all();
    let mut scratch = vec![0; 4 << 10];
    ends.write_in_vain(&mut Reading::new(&mut scratch, small_share()));
    for id in 1..=CALLS {
        let reply = ends.ended.try_recv().unwrap();
        assert_eq!(reply.unwrap(), [id; 1000].as_slice(), "call {id}");
    }
}

#[test]
fn what_is_read_after_a_break_is_bounded() {
    const BYTES_MAX: usize = 10 << 10;
    let mut ends = connected();
    ends.answer_all();
    let mut scratch = vec![0; 4 << 10];
    let mut reading = Reading::new(&mut scratch, small_share());
    ends.connection.read_last(&mut reading, BYTES_MAX).unwrap();
    let bytes = reading.bytes;
    assert!(
        (BYTES_MAX..BYTES_MAX + (4 << 10)).contains(&bytes),
        "read {bytes} bytes"
    );
    let answered = ends.ended.try_iter().count();
    assert_eq!(answered, bytes / REPLY_BYTES, "what was read counts");
}
