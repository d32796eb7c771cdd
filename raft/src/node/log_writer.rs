//! The log writer: a thread that makes batches durable, as many as have gathered with one fdatasync.

use std::io;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::core::{WriteBatch, WriteId};
use crate::node::apply::Waiter;
use crate::node::inbox::{Event, Inbox};
use crate::storage::{Persister, StorageError};

/// Batches that may be under way. Beyond it the core gathers what comes into its next batch.
pub(super) const MAX_WRITES_IN_FLIGHT: usize = 64;

/// The driver's end of the log writer.
pub(super) struct LogWriter {
    batches: Option<Sender<WriteBatch>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    pub(super) fn start<W: Waiter>(persister: Persister, inbox: Inbox<W>) -> io::Result<Self> {
        let (batches, receiver) = bounded(MAX_WRITES_IN_FLIGHT);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || run(persister, &receiver, &inbox))?;
        Ok(Self {
            batches: Some(batches),
            thread: Some(thread),
        })
    }

    /// Hands over a batch; the caller keeps to [`MAX_WRITES_IN_FLIGHT`], so this never waits.
    /// False: the thread is gone.
    pub(super) fn write(&self, batch: WriteBatch) -> bool {
        self.batches
            .as_ref()
            .is_some_and(|batches| batches.try_send(batch).is_ok())
    }
}

impl Drop for LogWriter {
    /// Finishes what was handed over.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

fn run<W: Waiter>(mut persister: Persister, batches: &Receiver<WriteBatch>, inbox: &Inbox<W>) {
    while let Ok(first) = batches.recv() {
        match write_gathered(&mut persister, &first, batches) {
            Ok(last) => inbox.send(Event::Persisted(last)),
            // After a failed sync nobody knows what the disk holds; trying again could report as
            // durable what is lost.
            Err(error) => return inbox.send(Event::WriteFailed(error)),
        }
    }
}

fn write_gathered(
    persister: &mut Persister,
    first: &WriteBatch,
    batches: &Receiver<WriteBatch>,
) -> Result<WriteId, StorageError> {
    let mut last = first.id;
    persister.write(first)?;
    for batch in batches.try_iter().take(MAX_WRITES_IN_FLIGHT) {
        last = batch.id;
        persister.write(&batch)?;
    }
    persister.sync()?;
    Ok(last)
}
