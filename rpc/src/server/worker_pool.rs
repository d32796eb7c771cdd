//! Threads for services that block.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::error::{Code, RpcError};
use crate::reply::ReplySlot;
use crate::service::{RpcContext, Service};

/// The threads behind a service that blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPoolOptions {
    /// How many calls run at once; at least one.
    pub threads: usize,
    /// How many calls wait for a thread; further ones are refused with `RESOURCE_EXHAUSTED`.
    pub queue: usize,
}

impl Default for WorkerPoolOptions {
    fn default() -> WorkerPoolOptions {
        WorkerPoolOptions {
            threads: 4,
            queue: 1024,
        }
    }
}

/// A call that waits for a thread.
struct Job {
    method: usize,
    context: RpcContext,
    args: Bytes,
    reply: ReplySlot,
}

/// A [`Service`] that hands its calls to threads, on which another one serves them.
///
/// The threads end when it is dropped, after the calls that they have.
pub(super) struct WorkerPool {
    name: &'static str,
    methods: &'static [&'static str],
    queue: usize,
    jobs: Sender<Job>,
}

impl WorkerPool {
    /// Starts the threads.
    pub(super) fn start(
        service: impl Service,
        options: &WorkerPoolOptions,
    ) -> io::Result<WorkerPool> {
        let (name, methods) = (service.name(), service.methods());
        let service = Arc::new(service);
        let (jobs, waiting) = bounded(options.queue);
        for index in 0..options.threads.max(1) {
            let (service, waiting) = (Arc::clone(&service), waiting.clone());
            thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&*service, &waiting))?;
        }
        Ok(WorkerPool {
            name,
            methods,
            queue: options.queue,
            jobs,
        })
    }
}

fn work(service: &impl Service, waiting: &Receiver<Job>) {
    for Job {
        method,
        context,
        args,
        reply,
    } in waiting
    {
        if context
            .deadline()
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            let text = "the deadline passed while the call waited for a worker";
            reply.refuse(RpcError::new(Code::DeadlineExceeded, text));
            continue;
        }
        let (peer, name) = (context.peer_addr(), context.method());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            service.call(method, context, args, reply);
        }));
        if outcome.is_err() {
            tracing::error!(%peer, service = service.name(), method = name, "a handler panicked");
        }
    }
}

impl Service for WorkerPool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn methods(&self) -> &'static [&'static str] {
        self.methods
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        match self.jobs.try_send(Job {
            method,
            context,
            args,
            reply,
        }) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => {
                let text = format!(
                    "the workers of {} are busy and {} calls wait (WorkerPoolOptions::queue)",
                    self.name, self.queue
                );
                job.reply
                    .refuse(RpcError::new(Code::ResourceExhausted, text));
            }
            Err(TrySendError::Disconnected(job)) => {
                job.reply
                    .refuse(RpcError::new(Code::Internal, "the workers have ended"));
            }
        }
    }
}
