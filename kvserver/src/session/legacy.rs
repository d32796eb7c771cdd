//! Callers of the C++ original: one request in flight, numbered 1, 2, 3... by each process anew.
//!
//! The original draws its `ClientId` from a generator that it never seeds, so all of its processes have
//! the same one, and the second process's request 1 looks like the first one's. What tells them apart:
//!
//! | request | meaning | done |
//! |---|---|---|
//! | of an unknown client | a client, or one forgotten meanwhile | run |
//! | > last | the next one (Gets take numbers too, and are not in the log) | run |
//! | 1, last > 1 | a new process | run |
//! | 1, last = 1, same content | repeated | not run, same reply |
//! | 1, last = 1, other content | a new process | run |
//! | = last, not 1 | repeated | not run, same reply |
//! | < last, not 1 | repeated, and late | not run, OK |
//!
//! What cannot be told: a new process whose first request is, byte for byte, the only one of the
//! process before it. It is taken for a repetition.

use bytes::Bytes;

use crate::command::RequestId;
use crate::outcome::{Refusal, Reply};

use super::recency::{Limits, Moment, Recency};

/// The longest `ClientId` remembered (the original's has 39 bytes): bounds what the table can hold.
pub const MAX_CLIENT_ID_BYTES: usize = 256;

/// Every remembered caller of the original, by its `ClientId`.
pub(crate) type LegacyTable = Recency<Bytes, LegacyClient>;

/// What is remembered of a caller of the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LegacyClient {
    /// The largest request number of this incarnation that is known of.
    pub(crate) last: RequestId,
    /// What request `last` did. `None`: nothing, it was a read, and no write carries its number.
    pub(crate) write: Option<LegacyWrite>,
}

/// A legacy caller's last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LegacyWrite {
    /// CRC-32C of the operation.
    pub(crate) fingerprint: u32,
    pub(crate) reply: Reply,
}

/// What is to be done about a legacy caller's request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LegacyVerdict {
    /// Run it, then [`LegacyTable::ran`].
    New,
    /// Not to be run; answer this.
    Repeated(Reply),
    /// Not to be run.
    Refused(Refusal),
}

impl LegacyTable {
    /// What is to be done about a request. Uses the client, if it is known.
    pub(crate) fn admit(
        &mut self,
        client: &Bytes,
        request: RequestId,
        fingerprint: u32,
        now: Moment,
    ) -> LegacyVerdict {
        if client.len() > MAX_CLIENT_ID_BYTES {
            return LegacyVerdict::Refused(Refusal::ClientIdTooLong);
        }
        let Some(known) = self.touch(client, now) else {
            return LegacyVerdict::New;
        };
        if request > known.last {
            return LegacyVerdict::New;
        }
        if request < known.last {
            return if request == RequestId::FIRST {
                LegacyVerdict::New
            } else {
                LegacyVerdict::Repeated(Reply::Done)
            };
        }
        match &known.write {
            Some(write) if request != RequestId::FIRST || write.fingerprint == fingerprint => {
                LegacyVerdict::Repeated(write.reply.clone())
            }
            _ => LegacyVerdict::New,
        }
    }

    /// Remembers a request that [`admit`](LegacyTable::admit), at the same moment, let run.
    pub(crate) fn ran(
        &mut self,
        client: Bytes,
        request: RequestId,
        write: LegacyWrite,
        now: Moment,
        limits: Limits,
    ) {
        let state = LegacyClient {
            last: request,
            write: Some(write),
        };
        self.set(client, state, now, limits);
    }

    /// The client's request 1 was a read: a new incarnation, which has written nothing yet.
    pub(crate) fn begin(
        &mut self,
        client: Bytes,
        now: Moment,
        limits: Limits,
    ) -> Result<(), Refusal> {
        if client.len() > MAX_CLIENT_ID_BYTES {
            return Err(Refusal::ClientIdTooLong);
        }
        let state = LegacyClient {
            last: RequestId::FIRST,
            write: None,
        };
        self.set(client, state, now, limits);
        Ok(())
    }

    fn set(&mut self, client: Bytes, state: LegacyClient, now: Moment, limits: Limits) {
        if let Some(known) = self.touch(&client, now) {
            *known = state;
        } else {
            self.insert(client, state, now);
            self.evict(limits);
        }
    }
}
