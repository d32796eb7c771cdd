//! Sending a snapshot's file, resumably (Fig. 13, *InstallSnapshot RPC*).
//!
//! Each answer says where the follower wants to go on, and there the sender goes on: after a link
//! that broke, after a restart of either side, after a chunk that came twice. It begins by asking,
//! with a chunk without content, so that what the follower has from an earlier try is not sent again.
//!
//! ```text
//!   answer to a chunk at b      then
//!   beyond b                    go on there
//!   b itself                    nothing was taken: pause; a few times in a row, and give up
//!   before b                    the follower lost something: go back; a few times, and give up
//!   none                        pause, send the chunk again; for so long, and give up
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc::RpcError;

use crate::core::{Message, Term};
use crate::storage::SnapshotReader;

/// Chunks in a row of which the follower may take nothing.
const MAX_IDLE: u32 = 5;

/// How often the follower may lose what it had: its machine crashed, its disk was full, or all of it
/// was there and damaged.
const MAX_SETBACKS: u32 = 3;

/// One snapshot to one follower.
pub(super) struct Transfer<'a> {
    pub(super) reader: &'a SnapshotReader,
    pub(super) term: Term,
    pub(super) chunk_bytes: usize,
    pub(super) bytes_per_second: u64,
    /// The pause before a chunk is sent again: twice as long each time, from the first to the last.
    pub(super) retry_pause: (Duration, Duration),
    /// How long the follower may give no answer.
    pub(super) patience: Duration,
}

impl Transfer<'_> {
    /// Whether the follower has installed it; false if this node should stop trying. `call` sends a
    /// message and waits for its reply.
    ///
    /// # Errors
    /// Why it was given up, for the log.
    pub(super) fn run(
        &self,
        stop: &AtomicBool,
        mut call: impl FnMut(Message) -> Result<Message, RpcError>,
    ) -> Result<bool, String> {
        let file_bytes = self.reader.len();
        let mut course = Course::new(file_bytes);
        let mut heard_at = Instant::now();
        let mut pause = self.retry_pause.0;
        while !stop.load(Ordering::Relaxed) {
            let sent_at = Instant::now();
            let message = self.next_message(&course)?;
            let sent_bytes = content_bytes(&message);
            let reply = match call(message) {
                Ok(reply) => reply,
                Err(error) if heard_at.elapsed() >= self.patience => {
                    return Err(format!("{error}; {}", course.position()));
                }
                Err(_) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(self.retry_pause.1);
                    continue;
                }
            };
            heard_at = Instant::now();
            let Message::InstallSnapshotReply {
                term,
                next_offset,
                installed,
                ..
            } = reply
            else {
                return Err("the follower answered another question".to_owned());
            };
            if installed {
                return Ok(true);
            }
            if term > self.term {
                return Ok(false);
            }
            if course.answered(next_offset)? {
                pause = self.retry_pause.0;
                self.pace(sent_bytes, sent_at.elapsed());
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(self.retry_pause.1);
            }
        }
        Ok(false)
    }

    fn next_message(&self, course: &Course) -> Result<Message, String> {
        let Some(offset) = course.offset else {
            return Ok(self.message(0, Bytes::new(), false));
        };
        let data = self
            .reader
            .read_at(offset, self.chunk_bytes)
            .map_err(|error| error.to_string())?;
        let done = offset + data.len() as u64 >= course.file_bytes;
        Ok(self.message(offset, data, done))
    }

    fn message(&self, offset: u64, data: Bytes, done: bool) -> Message {
        Message::InstallSnapshot {
            term: self.term,
            last_included: self.reader.id(),
            offset,
            data,
            done,
        }
    }

    /// Keeps to the rate, so that a snapshot does not crowd out the log.
    fn pace(&self, sent_bytes: usize, elapsed: Duration) {
        let due_us = (sent_bytes as u64).saturating_mul(1_000_000) / self.bytes_per_second.max(1);
        std::thread::sleep(Duration::from_micros(due_us).saturating_sub(elapsed));
    }
}

/// How much of the file a message carries.
pub(super) fn content_bytes(message: &Message) -> usize {
    match message {
        Message::InstallSnapshot { data, .. } => data.len(),
        _ => 0,
    }
}

/// How far a transfer has come, and when it is pointless to go on.
struct Course {
    file_bytes: u64,
    /// Where the next chunk begins; `None` until the follower has said it.
    offset: Option<u64>,
    /// Chunks in a row of which nothing was taken.
    idle: u32,
    /// How often the follower was found to have less than before.
    setbacks: u32,
}

impl Course {
    fn new(file_bytes: u64) -> Self {
        Self {
            file_bytes,
            offset: None,
            idle: 0,
            setbacks: 0,
        }
    }

    /// The follower answered the chunk at `offset`. True if that brought the transfer on.
    fn answered(&mut self, next_offset: u64) -> Result<bool, String> {
        let next_offset = next_offset.min(self.file_bytes);
        let Some(offset) = self.offset.replace(next_offset) else {
            return Ok(true);
        };
        if next_offset > offset {
            self.idle = 0;
            return Ok(true);
        }
        if next_offset < offset {
            self.setbacks += 1;
            if self.setbacks > MAX_SETBACKS {
                return Err(format!(
                    "the follower lost what it had of it {} times: see to its disk; {}",
                    self.setbacks,
                    self.position()
                ));
            }
            return Ok(true);
        }
        self.idle += 1;
        if self.idle >= MAX_IDLE {
            return Err(format!(
                "the follower took nothing of {MAX_IDLE} chunks in a row; {}",
                self.position()
            ));
        }
        Ok(false)
    }

    fn position(&self) -> String {
        match self.offset {
            None => "it has not said what it has".to_owned(),
            Some(offset) => format!("it has {offset} of {} bytes", self.file_bytes),
        }
    }
}

#[cfg(test)]
#[path = "snapshot_transfer_test.rs"]
mod tests;
