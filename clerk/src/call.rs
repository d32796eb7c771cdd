//! One call from its first attempt to its end: carries out what its [`Pursuit`] decides.
//!
//! A [`Call`] is owned by whatever it waits for (the RPC under way, the timer, the waiting room for
//! a session), so it is in one place at a time and ends exactly once. No thread belongs to it, and
//! no lock is held while it moves on: an RPC that cannot begin fails at once, on the same stack.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use proto::kv::{GetArgs, OpenSessionArgs, PutAppendArgs};
use rpc::RpcController;
use tracing::debug;

use crate::error::ClerkError;
use crate::logic::pursuit::{Pursuit, Step};
use crate::logic::reply::{self, Answer};
use crate::logic::session::{Admission, Place};
use crate::options::ReadFrom;
use crate::permits::Permit;
use crate::shared::Shared;

/// How often one write may begin anew because its session had expired, before it is refused: a
/// cluster that drops sessions as fast as they are opened has too many clients.
const SESSIONS_PER_WRITE_MAX: u32 = 4;

/// How a caller hears of its call's end.
pub(crate) type Done<R> = Box<dyn FnOnce(Result<R, ClerkError>) + Send>;

/// A call under way.
pub(crate) struct Call {
    shared: Arc<Shared>,
    pursuit: Pursuit,
    /// Counts it among the outstanding ones; `None` for what the clerk does for itself.
    permit: Option<Permit>,
    task: Task,
}

/// What it is after.
pub(crate) enum Task {
    Get {
        args: GetArgs,
        done: Done<Option<Bytes>>,
    },
    /// Its arguments carry its [`Place`] once it has one; `expired` counts the ones it lost.
    Write {
        args: PutAppendArgs,
        expired: u32,
        done: Done<()>,
    },
    /// On behalf of all writes that wait for a session.
    OpenSession,
}

impl Task {
    pub(crate) fn get(key: Bytes, from: ReadFrom, done: Done<Option<Bytes>>) -> Self {
        Self::Get {
            args: GetArgs {
                key,
                any_node: from == ReadFrom::Any,
                ..GetArgs::default()
            },
            done,
        }
    }

    pub(crate) fn write(op: &'static str, key: Bytes, value: Bytes, done: Done<()>) -> Self {
        let op = Bytes::from_static(op.as_bytes());
        let args = PutAppendArgs {
            key,
            value,
            op,
            ..PutAppendArgs::default()
        };
        Self::Write {
            args,
            expired: 0,
            done,
        }
    }

    fn fail(self, error: ClerkError) {
        match self {
            Self::Get { done, .. } => done(Err(error)),
            Self::Write { done, .. } => done(Err(error)),
            Self::OpenSession => {}
        }
    }
}

impl Call {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pursuit: Pursuit,
        permit: Option<Permit>,
        task: Task,
    ) -> Self {
        let call = Self {
            shared,
            pursuit,
            permit,
            task,
        };
        if call.is_for_the_leader() {
            return call;
        }
        Self {
            pursuit: call.pursuit.anywhere(),
            ..call
        }
    }

    /// Sets out.
    pub(crate) fn start(self) {
        match &self.task {
            Task::Get { .. } | Task::OpenSession => self.proceed(),
            Task::Write { .. } => self.enter_session(),
        }
    }

    /// A write goes on under the name that it keeps until it ends.
    pub(crate) fn start_at(mut self, place: Place) {
        let Task::Write { args, .. } = &mut self.task else {
            unreachable!("only writes have a place in a session")
        };
        args.session_id = place.session;
        args.session_request_id = place.request;
        self.proceed();
    }

    /// Ends a write that was never sent.
    pub(crate) fn fail_unsent(self, error: impl FnOnce(&Pursuit) -> ClerkError) {
        let error = error(&self.pursuit);
        drop(self.permit);
        self.task.fail(error);
    }

    /// Whether only a leader answers it.
    fn is_for_the_leader(&self) -> bool {
        !matches!(&self.task, Task::Get { args, .. } if args.any_node)
    }

    fn enter_session(self) {
        let shared = Arc::clone(&self.shared);
        let deadline = self.pursuit.deadline();
        let admission = shared.sessions.lock().admit(self, deadline);
        match admission {
            Admission::Go(call, place) => call.start_at(place),
            Admission::Waits { open, watch } => {
                if let Some(at) = watch {
                    shared.end_overdue_at(at);
                }
                if open {
                    shared.open_session();
                }
            }
        }
    }

    fn proceed(mut self) {
        if let Task::OpenSession = self.task
            && let Some(last) = self.shared.sessions.lock().last_deadline()
        {
            self.pursuit.set_deadline(last);
        }
        let step = self.pursuit.ask(&self.shared.nodes.lock(), Instant::now());
        self.take(step);
    }

    fn take(self, step: Step) {
        match step {
            Step::Ask { addr, timeout } => {
                self.attempt(addr, &RpcController::with_timeout(timeout));
            }
            Step::Pause(until) => {
                let shared = Arc::clone(&self.shared);
                shared.timer.at(until, move || self.proceed());
            }
            Step::GiveUp => {
                let error = self.pursuit.error(&self.shared.nodes.lock());
                self.fail(error);
            }
        }
    }

    fn attempt(mut self, addr: SocketAddr, controller: &RpcController) {
        if self.pursuit.attempts() > 1 {
            self.shared.stats.retries.fetch_add(1, Ordering::Relaxed);
        }
        let stub = self.shared.stubs.lock().to(addr).kv;
        let controller = controller.clone();
        match &mut self.task {
            Task::Get { args, .. } => {
                let args = args.clone();
                stub.get_async(controller, &args, move |reply| {
                    self.answered(addr, reply::get(reply), Self::end_get);
                });
            }
            Task::Write { args, .. } => {
                let place = place_of(args);
                args.replies_seen_up_to = self.shared.sessions.lock().seen_up_to(place);
                let args = args.clone();
                stub.put_append_async(controller, &args, move |reply| {
                    self.answered(addr, reply::put_append(reply), Self::end_write);
                });
            }
            Task::OpenSession => {
                stub.open_session_async(controller, &OpenSessionArgs {}, move |reply| {
                    self.answered(addr, reply::open_session(reply), Self::end_opening);
                });
            }
        }
    }

    fn answered<R>(mut self, addr: SocketAddr, answer: Answer<R>, end: fn(Self, R)) {
        match answer {
            Answer::Done(reply) => {
                let leads = self.is_for_the_leader();
                if leads {
                    self.shared.nodes.lock().leads(addr);
                }
                self.shared.heard(addr, leads);
                end(self, reply);
            }
            Answer::Failed {
                failure,
                may_have_executed,
            } => {
                debug!(node = %addr, ?failure, may_have_executed, "an attempt failed");
                let step = {
                    let mut nodes = self.shared.nodes.lock();
                    let mut random = self.shared.random.lock();
                    // A read or an unused session that happened unseen harms nobody.
                    let unknown = may_have_executed && matches!(self.task, Task::Write { .. });
                    let now = Instant::now();
                    self.pursuit
                        .failed(addr, failure, unknown, &mut nodes, &mut random, now)
                };
                if let Task::OpenSession = self.task {
                    *self.shared.opening_trouble.lock() = self.pursuit.last().cloned();
                }
                self.take(step);
            }
            Answer::Refused(text) => {
                let error = self.pursuit.refused(addr, text, &self.shared.nodes.lock());
                self.fail(error);
            }
            Answer::SessionExpired => self.session_expired(addr),
        }
    }

    /// The cluster has forgotten the session of this write.
    fn session_expired(mut self, addr: SocketAddr) {
        let Task::Write { args, expired, .. } = &mut self.task else {
            unreachable!("only a write's reply reads as an expired session")
        };
        *expired += 1;
        let expired = *expired;
        debug!(node = %addr, session = args.session_id, "the session has expired");
        let must_open = self.shared.sessions.lock().expired(args.session_id);
        if must_open {
            self.shared.open_session();
        }

        let unknown = self
            .pursuit
            .session_expired(addr, &self.shared.nodes.lock());
        if let Some(error) = unknown {
            self.fail(error);
        } else if expired >= SESSIONS_PER_WRITE_MAX {
            let text = format!("{expired} sessions expired one after the other");
            let error = self.pursuit.refused(addr, text, &self.shared.nodes.lock());
            self.fail(error);
        } else {
            self.enter_session();
        }
    }

    fn end_get(self, value: Option<Bytes>) {
        let Task::Get { done, .. } = self.task else {
            unreachable!("passed with a read's reply")
        };
        drop(self.permit);
        done(Ok(value));
    }

    fn end_write(self, (): ()) {
        let Task::Write { args, done, .. } = self.task else {
            unreachable!("passed with a write's reply")
        };
        self.shared.leave_session(place_of(&args));
        drop(self.permit);
        done(Ok(()));
    }

    fn end_opening(self, session: u64) {
        debug!(session, "opened a session");
        self.shared.session_opened(session);
    }

    /// Ends the call without a reply.
    fn fail(mut self, error: ClerkError) {
        match &self.task {
            Task::Get { .. } => {}
            Task::Write { args, .. } => self.shared.leave_session(place_of(args)),
            Task::OpenSession => {
                let may_go_on = !matches!(error, ClerkError::Refused { .. });
                let deadline = self.pursuit.deadline();
                if let Err(later) = self
                    .shared
                    .opening_failed(&error, may_go_on.then_some(deadline))
                {
                    self.pursuit.set_deadline(later);
                    return self.proceed();
                }
            }
        }
        drop(self.permit);
        self.task.fail(error);
    }
}

fn place_of(args: &PutAppendArgs) -> Place {
    Place {
        session: args.session_id,
        request: args.session_request_id,
    }
}
