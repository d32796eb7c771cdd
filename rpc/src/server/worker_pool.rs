//! Threads for handlers that block.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::handler::run_handler;
use crate::error::{Code, RpcError};
use crate::reply::ReplySlot;
use crate::service::{RpcContext, Service};
use crate::stats::WorkerQueue;

/// The threads behind handlers that block. By default four, for which 1024 calls may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPoolOptions {
    /// How many calls run at once; at least one.
    pub threads: usize,
    /// How many calls wait for a thread; further ones are refused with `RESOURCE_EXHAUSTED`. 0:
    /// none, a call is refused unless a thread is free.
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
pub(super) struct Job {
    pub(super) method: usize,
    pub(super) context: RpcContext,
    pub(super) args: Bytes,
    pub(super) reply: ReplySlot,
}

/// Threads that serve calls of one service.
///
/// They end when it is dropped, after the calls that they have.
pub(super) struct WorkerPool {
    service: &'static str,
    options: WorkerPoolOptions,
    jobs: Sender<Job>,
}

impl WorkerPool {
    /// Starts the threads.
    pub(super) fn start(
        service: &Arc<dyn Service>,
        options: WorkerPoolOptions,
    ) -> io::Result<WorkerPool> {
        let name = service.name();
        let (jobs, waiting) = bounded(options.queue);
        for index in 0..options.threads.max(1) {
            let (service, waiting) = (Arc::clone(service), waiting.clone());
            thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&*service, &waiting))?;
        }
        Ok(WorkerPool {
            service: name,
            options,
            jobs,
        })
    }

    /// Queues a call, or refuses it.
    pub(super) fn submit(&self, job: Job) {
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => {
                let text = format!(
                    "the workers of {} are busy and {} calls wait (WorkerPoolOptions::queue)",
                    self.service, self.options.queue
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

    /// How busy they are.
    pub(super) fn queue(&self) -> WorkerQueue {
        WorkerQueue {
            service: self.service,
            waiting: self.jobs.len(),
            capacity: self.options.queue,
            threads: self.options.threads.max(1),
        }
    }
}

fn work(service: &dyn Service, waiting: &Receiver<Job>) {
    for Job {
        method,
        context,
        args,
        reply,
    } in waiting
    {
        let expired = |deadline| deadline <= Instant::now();
        if context.deadline().is_some_and(expired) {
            let text = "the deadline passed while the call waited for a worker";
            reply.refuse(RpcError::new(Code::DeadlineExceeded, text));
        } else if context.call.was_canceled() {
            let text = "the caller gave the call up while it waited for a worker";
            reply.refuse(RpcError::new(Code::Cancelled, text));
        } else {
            run_handler(service, method, context, args, reply);
        }
    }
}
