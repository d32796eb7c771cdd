//! A tokio runtime in a thread of its own.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use clap::ValueEnum;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// How many threads a runtime has.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Threads {
    /// One, which does everything.
    Current,
    /// As many as the machine has CPUs, and work is stolen.
    Multi,
}

/// Something that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Runs `future` on a runtime; dropping what is returned drops all its tasks.
///
/// # Errors
/// No thread.
pub(crate) fn in_thread(
    threads: Threads,
    future: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Running> {
    let mut builder = match threads {
        Threads::Current => Builder::new_current_thread(),
        Threads::Multi => Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("runtime".to_owned())
        .spawn(move || {
            // What the future is for may go on in its tasks after it has ended.
            runtime.spawn(future);
            // An error says that the sender is gone, which is how it is stopped.
            let _ = runtime.block_on(stopped);
        })?;
    Ok(Running {
        stop: Some(stop),
        thread: Some(thread),
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panicked: a recorder, or a missing reply, has shown that.
            let _ = thread.join();
        }
    }
}
