//! Carries out what [`Logic`](crate::logic::Logic) decides: sends, waits, and tells callers how it ended.
//!
//! No thread belongs to a call, and no lock is held while something is carried out. What an action
//! brings about on the same stack (an RPC that cannot begin fails at once; a callback begins another
//! call) is put at the end of the thread's agenda, so that no call ever runs on top of another.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::membership::DescribeArgs;
use rpc::RpcController;

use crate::error::ClerkError;
use crate::logic::{Action, Call, Reply, Request, Success, Want};
use crate::permits::Permit;
use crate::shared::Shared;

/// How a caller hears of its call's end.
pub(crate) type Done<R> = Box<dyn FnOnce(Result<R, ClerkError>) + Send>;

/// Whose call it is.
pub(crate) struct Owner {
    /// Counts the call among the outstanding ones.
    pub(crate) permit: Permit,
    pub(crate) done: Told,
}

/// Who is told of the end.
pub(crate) enum Told {
    Reader(Done<Option<Bytes>>),
    Writer(Done<()>),
}

/// What a thread has still to carry out; bounded by the calls of its clerks.
#[derive(Default)]
struct Agenda {
    waiting: VecDeque<(Arc<Shared>, Action<Owner>)>,
    under_way: bool,
}

thread_local! {
    static AGENDA: RefCell<Agenda> = RefCell::default();
}

/// Has the timers go on when a caller's callback panics: what is behind it is not that caller's.
struct RestOfAgenda;

impl Drop for RestOfAgenda {
    fn drop(&mut self) {
        if thread::panicking() {
            let rest = AGENDA.with_borrow_mut(mem::take);
            for (shared, action) in rest.waiting {
                let of_timer = Arc::clone(&shared);
                let go_on = move || of_timer.carry_out(vec![action]);
                shared.timer.at(Instant::now(), go_on);
            }
        }
    }
}

impl Shared {
    /// A call begins.
    pub(crate) fn begin(self: &Arc<Self>, want: Want, timeout: Duration, owner: Owner) {
        let now = Instant::now();
        let actions = self.logic.lock().begin(want, timeout, owner, now);
        self.carry_out(actions);
    }

    fn answered(self: &Arc<Self>, call: Box<Call<Owner>>, addr: SocketAddr, reply: Reply) {
        let now = Instant::now();
        let actions = self.logic.lock().answered(call, addr, reply, now);
        self.carry_out(actions);
    }

    fn carry_out(self: &Arc<Self>, actions: Vec<Action<Owner>>) {
        let actions = actions.into_iter().map(|action| (Arc::clone(self), action));
        let sees_to_it = AGENDA.with_borrow_mut(|agenda| {
            agenda.waiting.extend(actions);
            !mem::replace(&mut agenda.under_way, true)
        });
        if sees_to_it {
            let _rest = RestOfAgenda;
            while let Some((shared, action)) = next_on_agenda() {
                shared.act(action);
            }
        }
    }

    fn act(self: &Arc<Self>, action: Action<Owner>) {
        match action {
            Action::Ask {
                call,
                addr,
                request,
                timeout,
            } => self.ask(call, addr, &request, timeout),
            Action::Pause { call, until } => {
                let shared = Arc::clone(self);
                self.timer.at(until, move || {
                    let actions = shared.logic.lock().resume(call, Instant::now());
                    shared.carry_out(actions);
                });
            }
            // The timer's closure does not keep the clerk alive: what those who wait here wait for
            // does, a call under way.
            Action::Watch { at } => {
                let shared = Arc::downgrade(self);
                self.timer.at(at, move || {
                    if let Some(shared) = shared.upgrade() {
                        let actions = shared.logic.lock().end_overdue(Instant::now());
                        shared.carry_out(actions);
                    }
                });
            }
            Action::Describe { addr, timeout } => self.describe(addr, timeout),
            Action::End { owner, result } => owner.hears(result),
        }
    }

    fn ask(
        self: &Arc<Self>,
        call: Box<Call<Owner>>,
        addr: SocketAddr,
        request: &Request,
        timeout: Duration,
    ) {
        let stub = self.stubs.lock().to(addr).kv;
        let controller = RpcController::with_timeout(timeout);
        let shared = Arc::clone(self);
        match request {
            Request::Get(args) => stub.get_async(controller, args, move |reply| {
                shared.answered(call, addr, reply.into());
            }),
            Request::PutAppend(args) => stub.put_append_async(controller, args, move |reply| {
                shared.answered(call, addr, reply.into());
            }),
            Request::OpenSession(args) => stub.open_session_async(controller, args, move |reply| {
                shared.answered(call, addr, reply.into());
            }),
        }
    }

    fn describe(self: &Arc<Self>, addr: SocketAddr, timeout: Duration) {
        let stub = self.stubs.lock().to(addr).cluster;
        let controller = RpcController::with_timeout(timeout);
        let shared = Arc::downgrade(self);
        stub.describe_async(controller, &DescribeArgs {}, move |reply| {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let members = shared.logic.lock().described(addr, &reply);
            if let Some(members) = members {
                shared.stubs.lock().learn(&members);
            }
        });
    }
}

fn next_on_agenda() -> Option<(Arc<Shared>, Action<Owner>)> {
    AGENDA.with_borrow_mut(|agenda| {
        let next = agenda.waiting.pop_front();
        agenda.under_way = next.is_some();
        next
    })
}

impl Owner {
    fn hears(self, result: Result<Success, ClerkError>) {
        drop(self.permit);
        match (self.done, result) {
            (Told::Reader(done), Ok(Success::Value(value))) => done(Ok(value)),
            (Told::Writer(done), Ok(Success::Written)) => done(Ok(())),
            (Told::Reader(done), Err(error)) => done(Err(error)),
            (Told::Writer(done), Err(error)) => done(Err(error)),
            (_, Ok(success)) => unreachable!("{success:?} ends another kind of call"),
        }
    }
}
