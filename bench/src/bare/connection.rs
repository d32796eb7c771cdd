//! One socket with its buffers; server and client differ only in what they do with a frame.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;

/// What one read may bring. Any payload of the benchmark fits several times.
const INPUT_BYTES: usize = 256 << 10;

const SIZE_BYTES: usize = 4;
const ID_BYTES: usize = 8;

/// A non-blocking connection. Registered once for reading and writing, edge-triggered.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    input: Vec<u8>,
    /// How much of `input` has been read and not taken yet. <= `input.len()`.
    filled: usize,
    pub(super) output: Output,
    /// With more unsent output than this it reads no more until that is sent.
    unsent_bytes_max: usize,
}

/// Frames to be sent.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How much of `bytes` has been sent. <= `bytes.len()`.
    sent: usize,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Closed,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, unsent_bytes_max: usize) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            input: vec![0; INPUT_BYTES],
            filled: 0,
            output: Output::default(),
            unsent_bytes_max,
        })
    }

    /// Reads what is there, hands each whole frame (id, payload) to `on_frame`, sends what that
    /// put into the output.
    pub(super) fn on_ready(
        &mut self,
        mut on_frame: impl FnMut(u64, &[u8], &mut Output) -> io::Result<()>,
    ) -> io::Result<State> {
        loop {
            self.output.send(&mut self.stream)?;
            if self.output.unsent() > self.unsent_bytes_max {
                return Ok(State::Open); // until it is writable again
            }
            let space = self.input.len() - self.filled;
            let read = match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Ok(State::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(State::Open),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.filled += read;
            self.take_frames(&mut on_frame)?;
            if read < space {
                // Less than was asked for: the socket is empty (epoll(7)), the next bytes wake us.
                self.output.send(&mut self.stream)?;
                if self.output.unsent() <= self.unsent_bytes_max {
                    return Ok(State::Open);
                }
            }
        }
    }

    fn take_frames(
        &mut self,
        on_frame: &mut impl FnMut(u64, &[u8], &mut Output) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut taken = 0;
        while let Some((prefix, rest)) =
            self.input[taken..self.filled].split_first_chunk::<SIZE_BYTES>()
        {
            let size = u32::from_le_bytes(*prefix) as usize;
            if !(ID_BYTES..=INPUT_BYTES - SIZE_BYTES).contains(&size) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a frame of {size} bytes"),
                ));
            }
            let Some(frame) = rest.get(..size) else { break };
            let (id, payload) = frame
                .split_first_chunk::<ID_BYTES>()
                .expect("size was checked above");
            on_frame(u64::from_le_bytes(*id), payload, &mut self.output)?;
            taken += SIZE_BYTES + size;
        }
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(())
    }
}

impl Output {
    /// Appends a frame.
    pub(super) fn push(&mut self, id: u64, payload: &[u8]) {
        let size =
            u32::try_from(ID_BYTES + payload.len()).expect("payloads are at most INPUT_BYTES");
        self.bytes.extend_from_slice(&size.to_le_bytes());
        self.bytes.extend_from_slice(&id.to_le_bytes());
        self.bytes.extend_from_slice(payload);
    }

    /// Sends as much as the socket takes.
    pub(super) fn send(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.unsent() > 0 {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The unsent rest moves to the front once it is the smaller part: each byte moves once.
        if self.unsent() <= self.sent {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }
}
