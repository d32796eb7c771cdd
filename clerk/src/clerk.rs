//! [`Clerk`]: what a program holds to use the store.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::cluster::ClusterFile;

use crate::call::{Done, Owner, Told};
use crate::error::{ClerkError, LastFailure, OpenError};
use crate::logic::Want;
use crate::one_shot::one_shot;
use crate::options::{ClerkOptions, ReadFrom};
use crate::shared::Shared;

/// No call waits longer, whatever its timeout says: later than this the clock itself ends.
const TIMEOUT_MAX: Duration = Duration::from_hours(365 * 24);

/// A client of the store. A clone is another handle on the same clerk: they share its connections,
/// its session and its idea of who leads, and can be used from any number of threads.
///
/// Each call comes in two forms. The first blocks its thread. The second returns at once and runs
/// a callback exactly once; the callback must not block, nor use a blocking form: it runs on the
/// thread that carries the connections (or on the clerk's timer, or before the call returns).
///
/// Two calls of which one began before the other ended may take effect in either order. A call that
/// began after another had ended takes effect after it, whichever handle it was made on.
#[derive(Clone)]
pub struct Clerk {
    shared: Arc<Shared>,
    timeout: Duration,
    read_from: ReadFrom,
}

/// What a clerk has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClerkStats {
    /// Attempts after the first one of a call: a hint followed, a node found dead, a pause ended.
    pub retries: u64,
    /// Sessions opened: one, unless it was lost.
    pub sessions_opened: u64,
}

impl Clerk {
    /// A clerk of the cluster in the file at `path`, with default options.
    ///
    /// Connects to nobody yet: the nodes may be started later.
    ///
    /// # Errors
    /// [`OpenError`]: the file is missing or wrong, or the system refuses a thread.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::new(ClusterFile::load(path)?.nodes, ClerkOptions::default())
    }

    /// A clerk of the cluster of which `addresses` are nodes; not all of them need be listed.
    ///
    /// # Errors
    /// [`OpenError`]: the list is empty, or the system refuses a thread.
    pub fn new(
        addresses: impl AsRef<[SocketAddr]>,
        options: ClerkOptions,
    ) -> Result<Self, OpenError> {
        let addresses = addresses.as_ref();
        if addresses.is_empty() {
            return Err(OpenError::NoNodes);
        }
        let timeout = options.timeout.min(TIMEOUT_MAX);
        let shared = Shared::new(addresses, options).map_err(OpenError::Threads)?;
        Ok(Self {
            shared,
            timeout,
            read_from: ReadFrom::Leader,
        })
    }

    /// Another handle on the same clerk, whose calls are tried for `timeout`.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            timeout: timeout.min(TIMEOUT_MAX),
            read_from: self.read_from,
        }
    }

    /// Another handle on the same clerk, whose reads are answered there. [`ReadFrom::Leader`] at first.
    #[must_use]
    pub fn with_reads_from(&self, read_from: ReadFrom) -> Self {
        Self {
            read_from,
            ..self.clone()
        }
    }

    /// The value of `key`; `None` if there is none. Linearizable: it is not older than any write
    /// that had ended when the call began.
    ///
    /// # Errors
    /// [`ClerkError`]; a read changes nothing, so it can always be repeated.
    pub fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, ClerkError> {
        let key = key.into();
        let from = self.read_from;
        self.wait(Want::Get { key, from }, Told::Reader)
            .unwrap_or_else(|| {
                Err(ClerkError::NoLeader {
                    nodes: 0,
                    within: self.timeout,
                    last: abandoned(),
                })
            })
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`ClerkError`]; its [`may_have_taken_effect`](ClerkError::may_have_taken_effect) says
    /// whether the write is certainly not done or its outcome unknown.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), ClerkError> {
        self.write(put(key, value))
    }

    /// Adds `value` at the end of the value of `key`, once; a missing key counts as empty.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn append(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), ClerkError> {
        self.write(append(key, value))
    }

    /// As [`get`](Self::get), without blocking.
    pub fn get_async(
        &self,
        key: impl Into<Bytes>,
        done: impl FnOnce(Result<Option<Bytes>, ClerkError>) + Send + 'static,
    ) {
        let (key, from) = (key.into(), self.read_from);
        self.start_or_refuse(Want::Get { key, from }, Box::new(done), Told::Reader);
    }

    /// As [`put`](Self::put), without blocking.
    pub fn put_async(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        done: impl FnOnce(Result<(), ClerkError>) + Send + 'static,
    ) {
        self.start_or_refuse(put(key, value), Box::new(done), Told::Writer);
    }

    /// As [`append`](Self::append), without blocking. Appends that are under way together take
    /// effect in any order: wait for one before the next where their order matters.
    pub fn append_async(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        done: impl FnOnce(Result<(), ClerkError>) + Send + 'static,
    ) {
        self.start_or_refuse(append(key, value), Box::new(done), Told::Writer);
    }

    /// Whom it asks: the members, as the cluster has named them, then those it was told of that are
    /// none (any more).
    #[must_use]
    pub fn members(&self) -> Vec<SocketAddr> {
        self.shared.logic.lock().listed().to_vec()
    }

    /// What all handles on this clerk have done so far.
    #[must_use]
    pub fn stats(&self) -> ClerkStats {
        self.shared.logic.lock().stats()
    }

    fn write(&self, want: Want) -> Result<(), ClerkError> {
        self.wait(want, Told::Writer).unwrap_or_else(|| {
            Err(ClerkError::OutcomeUnknown {
                within: self.timeout,
                last: abandoned(),
            })
        })
    }

    /// Runs a call and waits for its end; `None` if the event loops ended before it did.
    fn wait<R: Send + 'static>(
        &self,
        want: Want,
        told: fn(Done<R>) -> Told,
    ) -> Option<Result<R, ClerkError>> {
        let Some(permit) = self
            .shared
            .permits
            .take_until(Instant::now() + self.timeout)
        else {
            return Some(Err(self.overloaded()));
        };
        let (giver, taker) = one_shot();
        let done = told(Box::new(move |result| giver.give(result)));
        self.shared
            .begin(want, self.timeout, Owner { permit, done });
        taker.take()
    }

    fn start_or_refuse<R>(&self, want: Want, done: Done<R>, told: fn(Done<R>) -> Told) {
        match self.shared.permits.try_take() {
            Some(permit) => {
                let done = told(done);
                self.shared
                    .begin(want, self.timeout, Owner { permit, done });
            }
            None => done(Err(self.overloaded())),
        }
    }

    fn overloaded(&self) -> ClerkError {
        let what = format!(
            "this clerk has {} calls under way",
            self.shared.max_outstanding
        );
        ClerkError::Overloaded { what }
    }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Want {
    let (key, value) = (key.into(), value.into());
    Want::Put { key, value }
}

fn append(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Want {
    let (key, value) = (key.into(), value.into());
    Want::Append { key, value }
}

fn abandoned() -> LastFailure {
    LastFailure {
        by: None,
        text: "the clerk's event loops were shut down".to_owned(),
    }
}
