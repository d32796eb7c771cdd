//! What the integration tests share: a service written by hand, with handlers that answer now,
//! later, never or with a panic; a provider of it; and a plain socket that speaks the wire's bytes
//! by itself, so that the tests do not check the codec with the codec.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc::{
    ChannelOptions, Code, Done, EventLoops, MethodDescriptor, ProviderHandle, ProviderOptions,
    ReplySlot, RpcChannel, RpcContext, RpcController, RpcError, RpcProvider, Service,
};

/// Guards against hanging; nothing is measured with it.
pub const LONG: Duration = Duration::from_secs(30);

/// Arguments and reply of all methods.
#[derive(Clone, PartialEq, Message)]
pub struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

pub fn blob(data: impl AsRef<[u8]>) -> Blob {
    Blob {
        data: Bytes::copy_from_slice(data.as_ref()),
    }
}

pub static SAY: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Say",
};
pub static HOLD: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Hold",
};
pub static FORGET: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Forget",
};
pub static PANIC: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Panic",
};
pub static FAIL: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Fail",
};
pub static GROW: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Grow",
};
pub static BLOCK: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Block",
};

/// A call that its handler has put aside.
pub struct Held {
    pub context: RpcContext,
    pub args: Blob,
    pub done: Done<Blob>,
}

impl Held {
    /// Answers with the arguments.
    pub fn echo(self) {
        self.done.run(self.args);
    }
}

/// `Say` echoes; `Hold` hands the call to the test; `Forget` drops it; `Panic` panics; `Fail`
/// answers with the code whose number is the first byte; `Grow` answers with as many bytes as the
/// arguments say in decimal; `Block` waits for the test before it echoes.
pub struct Echo {
    held: Mutex<Sender<Held>>,
    gate: Arc<Mutex<()>>,
}

impl Service for Echo {
    fn name(&self) -> &'static str {
        "Echo"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Say", "Hold", "Forget", "Panic", "Fail", "Grow", "Block"]
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        let args = match Blob::decode(args) {
            Ok(args) => args,
            Err(error) => {
                let text = format!("malformed Blob: {error}");
                return reply.refuse(RpcError::new(Code::InvalidArgument, text));
            }
        };
        let done = Done::<Blob>::new(reply);
        match self.methods()[method] {
            "Say" => done.run(args),
            "Hold" => {
                // The test may have ended, which answers the call.
                let _ = self.held.lock().unwrap().send(Held {
                    context,
                    args,
                    done,
                });
            }
            "Forget" => drop(done),
            "Panic" => panic!("a handler that panics (expected in this test)"),
            "Fail" => {
                let code = Code::from_number(args.data[0].into()).unwrap();
                done.fail(RpcError::new(code, format!("as asked: {code}")));
            }
            "Grow" => {
                let len = str::from_utf8(&args.data).unwrap().parse().unwrap();
                done.run(blob(vec![7; len]));
            }
            "Block" => {
                drop(self.gate.lock().unwrap());
                done.run(args);
            }
            other => unreachable!("no method {other}"),
        }
    }
}

/// A running provider of [`Echo`].
pub struct Server {
    pub handle: ProviderHandle,
    pub held: Receiver<Held>,
    /// While the test holds it, `Block` waits.
    pub gate: Arc<Mutex<()>>,
}

pub fn echo() -> (Echo, Receiver<Held>, Arc<Mutex<()>>) {
    let (sender, held) = channel();
    let gate = Arc::new(Mutex::new(()));
    (
        Echo {
            held: Mutex::new(sender),
            gate: Arc::clone(&gate),
        },
        held,
        gate,
    )
}

pub fn serve() -> Server {
    serve_with(ProviderOptions {
        threads: 1,
        ..ProviderOptions::default()
    })
}

pub fn serve_with(options: ProviderOptions) -> Server {
    serve_at("127.0.0.1:0".parse().unwrap(), options)
}

pub fn serve_at(addr: SocketAddr, options: ProviderOptions) -> Server {
    let (echo, held, gate) = echo();
    let mut provider = RpcProvider::new(options);
    provider.notify_service(echo).unwrap();
    let handle = provider.start(addr).unwrap();
    Server { handle, held, gate }
}

/// What a test of [`Echo`] on workers steers it with.
pub struct EchoControls {
    pub held: Receiver<Held>,
    pub gate: Arc<Mutex<()>>,
}

impl Server {
    pub fn addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// The next call of `Hold`.
    pub fn next_held(&self) -> Held {
        self.held.recv_timeout(LONG).expect("a call of Hold")
    }

    /// A channel on loops of its own.
    pub fn channel(&self) -> RpcChannel {
        channel_to(self.addr(), ChannelOptions::default())
    }

    pub fn socket(&self) -> Socket {
        Socket::connect(self.addr())
    }

    /// A connection of its own, shown to work.
    pub fn assert_serves(&self) {
        assert_eq!(
            say(&self.channel(), "still there?").unwrap().data,
            "still there?"
        );
    }
}

/// Where the end of a call is told.
pub type Ended = Receiver<Result<Blob, RpcError>>;

pub fn channel_to(addr: SocketAddr, options: ChannelOptions) -> RpcChannel {
    let loops = EventLoops::start(1, "client").unwrap();
    RpcChannel::with_options(
        addr,
        ChannelOptions {
            loops: Some(loops),
            ..options
        },
    )
}

/// Calls `Say`, with a timeout that only guards against hanging.
pub fn say(channel: &RpcChannel, text: impl AsRef<[u8]>) -> Result<Blob, RpcError> {
    call(channel, &SAY, text)
}

pub fn call(
    channel: &RpcChannel,
    method: &'static MethodDescriptor,
    data: impl AsRef<[u8]>,
) -> Result<Blob, RpcError> {
    channel.call(method, &mut RpcController::with_timeout(LONG), &blob(data))
}

/// Begins a call and returns where its end will be told.
pub fn begin(
    channel: &RpcChannel,
    method: &'static MethodDescriptor,
    controller: RpcController,
    data: impl AsRef<[u8]>,
) -> Ended {
    let (sender, ended) = std::sync::mpsc::channel();
    channel.call_async(method, controller, &blob(data), move |result| {
        let _ = sender.send(result);
    });
    ended
}

/// Waits for the end of a call.
pub fn end(ended: &Ended) -> Result<Blob, RpcError> {
    ended.recv_timeout(LONG).expect("every call ends")
}

// ---- the wire, by hand

/// What the subscriber of a test's process has written.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// This process's resident memory.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * 4096
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A request as `docs/wire.md` describes it. `request_id` 0 makes it a legacy caller's.
pub fn request(
    service: &str,
    method: &str,
    request_id: u64,
    timeout_ms: u64,
    args: &[u8],
) -> Vec<u8> {
    let mut header = Vec::new();
    for (tag, name) in [(0x0a, service), (0x12, method)] {
        header.push(tag);
        header.extend(varint(name.len() as u64));
        header.extend(name.as_bytes());
    }
    for (tag, value) in [
        (0x18, args.len() as u64),
        (0x20, request_id),
        (0x28, timeout_ms),
    ] {
        if value > 0 {
            header.push(tag);
            header.extend(varint(value));
        }
    }
    let mut out = varint(header.len() as u64);
    out.extend(header);
    out.extend(args);
    out
}

/// A request of [`Echo`].
pub fn echo_request(method: &MethodDescriptor, request_id: u64, data: impl AsRef<[u8]>) -> Vec<u8> {
    request(
        method.service,
        method.method,
        request_id,
        0,
        &blob(data).encode_to_vec(),
    )
}

/// A framed reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub request_id: u64,
    pub code: u64,
    pub error_text: String,
    pub refused: bool,
    pub body: Vec<u8>,
}

/// A client that is nothing but a blocking socket.
pub struct Socket {
    pub stream: TcpStream,
}

impl Socket {
    pub fn connect(addr: SocketAddr) -> Socket {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Socket { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Exactly `len` bytes.
    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn receive_varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.receive(1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    pub fn receive_reply(&mut self) -> Reply {
        let header_size = self.receive_varint() as usize;
        let header = self.receive(header_size);
        let mut reply = Reply::default();
        let mut rest = &header[..];
        let mut body_size = 0;
        let take = |rest: &mut &[u8]| {
            let mut value = 0;
            for (position, &byte) in rest.iter().enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * position);
                if byte < 0x80 {
                    *rest = &rest[position + 1..];
                    return value;
                }
            }
            panic!("a varint that is cut off");
        };
        while !rest.is_empty() {
            match take(&mut rest) {
                0x08 => reply.request_id = take(&mut rest),
                0x10 => reply.code = take(&mut rest),
                0x1a => {
                    let len = take(&mut rest) as usize;
                    let (text, after) = rest.split_at(len);
                    reply.error_text = String::from_utf8(text.to_vec()).unwrap();
                    rest = after;
                }
                0x20 => body_size = take(&mut rest) as usize,
                0x28 => reply.refused = take(&mut rest) != 0,
                tag => panic!("tag {tag:#x} in a reply's header"),
            }
        }
        reply.body = self.receive(body_size);
        reply
    }

    /// Waits until the server has closed, and returns what it sent before.
    pub fn receive_until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("the server did not close: {error}"),
        }
    }
}
