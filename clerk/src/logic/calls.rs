//! All calls of a clerk, from the first attempt of each to its end, and what they know together.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::kv::{GetArgs, OpenSessionArgs, PutAppendArgs};
use proto::membership::DescribeReply;
use rpc::RpcError;
use tracing::debug;

use super::members::Members;
use super::nodes::Nodes;
use super::pursuit::{Pace, Pursuit, Step};
use super::reply::{Answer, Meaning, Reply};
use super::session::{Admission, Place, Sessions, WaitedFor};
use crate::clerk::ClerkStats;
use crate::error::{ClerkError, LastFailure};
use crate::options::{ClerkOptions, ReadFrom};

/// How many replies a node keeps for a session; no window can be larger.
const WINDOW_MAX: usize = 1024;

/// How often one write may begin anew because its session had expired, before it is refused: a
/// cluster that drops sessions as fast as they are opened has too many clients.
const SESSIONS_PER_WRITE_MAX: u32 = 4;

/// Decides for a clerk. `T` is what the caller keeps of a call, and gets back when it ends.
///
/// How many calls are under way is bounded by who begins them.
pub struct Logic<T> {
    nodes: Nodes,
    members: Members,
    sessions: Sessions<Box<Call<T>>>,
    random: fastrand::Rng,
    /// What last went wrong in opening a session, for those who wait for it in vain.
    opening_trouble: Option<LastFailure>,
    /// Writes that were let in and have still to set out; empty between two inputs. A write that ends
    /// lets in the next, which may end at once, for want of time: one after the other, not one on top
    /// of the other.
    departures: VecDeque<(Box<Call<T>>, Place)>,
    actions: Vec<Action<T>>,
    stats: ClerkStats,
    window: usize,
    pace: Pace,
}

/// What a call is after.
#[derive(Clone, Debug)]
pub enum Want {
    /// The value of a key.
    Get {
        /// Which one.
        key: Bytes,
        /// Who may answer.
        from: ReadFrom,
    },
    /// Another value for a key.
    Put {
        /// Which one.
        key: Bytes,
        /// Its value from now on.
        value: Bytes,
    },
    /// More at the end of a key's value.
    Append {
        /// Which one.
        key: Bytes,
        /// What is added.
        value: Bytes,
    },
}

/// What a call that succeeded has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Success {
    /// A key's value; `None`: it has none.
    Value(Option<Bytes>),
    /// The write is done.
    Written,
}

/// What is to be sent to a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// A read.
    Get(GetArgs),
    /// A write.
    PutAppend(PutAppendArgs),
    /// On behalf of all writes that wait for a session.
    OpenSession(OpenSessionArgs),
}

/// What is to be done next.
pub enum Action<T> {
    /// Send this, and say by [`Logic::answered`] what came of it, an error too.
    Ask {
        /// To be handed back.
        call: Box<Call<T>>,
        /// The node.
        addr: SocketAddr,
        /// For it.
        request: Request,
        /// How long the attempt may take.
        timeout: Duration,
    },
    /// Hand the call to [`Logic::resume`] at that time.
    Pause {
        /// To be handed back.
        call: Box<Call<T>>,
        /// When.
        until: Instant,
    },
    /// Call [`Logic::end_overdue`] at that time.
    Watch {
        /// When.
        at: Instant,
    },
    /// Ask that node who the members are, and say by [`Logic::described`] what came of it.
    Describe {
        /// The node.
        addr: SocketAddr,
        /// How long it may take.
        timeout: Duration,
    },
    /// The call is over.
    End {
        /// As it was given to [`Logic::begin`].
        owner: T,
        /// What came of it.
        result: Result<Success, ClerkError>,
    },
}

/// A call under way. It belongs to whatever it waits for (an attempt, the end of a pause, the waiting
/// room for a session), so it is in one place at a time and ends exactly once.
pub struct Call<T> {
    pursuit: Pursuit,
    task: Task<T>,
}

/// What it is after.
enum Task<T> {
    Get {
        args: GetArgs,
        owner: T,
    },
    /// Its arguments carry its [`Place`] once it has one; `expired` counts the ones it lost.
    Write {
        args: PutAppendArgs,
        expired: u32,
        owner: T,
    },
    OpenSession,
}

impl<T> Logic<T> {
    /// For a cluster of which `addresses` are nodes. Of the options it heeds those that are no
    /// business of the network; `random` spreads first tries and pauses.
    ///
    /// # Panics
    /// If `addresses` is empty.
    #[must_use]
    pub fn new(
        addresses: &[SocketAddr],
        options: &ClerkOptions,
        mut random: fastrand::Rng,
    ) -> Self {
        let window = options.window.clamp(1, WINDOW_MAX);
        Self {
            nodes: Nodes::new(addresses, random.usize(..)),
            members: Members::new(options.refresh_members),
            sessions: Sessions::new(window),
            random,
            opening_trouble: None,
            departures: VecDeque::new(),
            actions: Vec::new(),
            stats: ClerkStats::default(),
            window,
            pace: Pace {
                attempt_timeout: options.attempt_timeout,
                backoff: options.backoff,
            },
        }
    }

    /// A call begins, to be tried for `timeout`.
    pub fn begin(
        &mut self,
        want: Want,
        timeout: Duration,
        owner: T,
        now: Instant,
    ) -> Vec<Action<T>> {
        let pursuit = Pursuit::new(self.pace, timeout, now);
        match want {
            Want::Get { key, from } => self.begin_read(pursuit, key, from, owner, now),
            Want::Put { key, value } => self.begin_write(pursuit, b"Put", key, value, owner, now),
            Want::Append { key, value } => {
                self.begin_write(pursuit, b"Append", key, value, owner, now);
            }
        }
        self.settle(now)
    }

    /// The pause of a call is over.
    pub fn resume(&mut self, call: Box<Call<T>>, now: Instant) -> Vec<Action<T>> {
        self.proceed(call, now);
        self.settle(now)
    }

    /// What came of asking `addr`.
    ///
    /// # Panics
    /// If the reply is of another kind than the request.
    pub fn answered(
        &mut self,
        mut call: Box<Call<T>>,
        addr: SocketAddr,
        reply: Reply,
        now: Instant,
    ) -> Vec<Action<T>> {
        match reply.answer() {
            Answer::Done(meaning) => {
                let leads = call.is_for_the_leader();
                if leads {
                    self.nodes.leads(addr);
                }
                if self.members.is_due(addr, leads, now) {
                    let timeout = self.pace.attempt_timeout;
                    self.actions.push(Action::Describe { addr, timeout });
                }
                self.succeed(*call, meaning);
            }
            Answer::Failed {
                failure,
                may_have_executed,
            } => {
                debug!(node = %addr, ?failure, may_have_executed, "an attempt failed");
                // A read or an unused session that happened unseen harms nobody.
                let unknown = may_have_executed && matches!(call.task, Task::Write { .. });
                let (nodes, random) = (&mut self.nodes, &mut self.random);
                let step = call
                    .pursuit
                    .failed(addr, failure, unknown, nodes, random, now);
                if let Task::OpenSession = call.task {
                    self.opening_trouble = call.pursuit.last().cloned();
                }
                self.take(call, step, now);
            }
            Answer::Refused {
                text,
                may_have_executed,
            } => {
                let unknown = may_have_executed && matches!(call.task, Task::Write { .. });
                let error = call.pursuit.refused(addr, text, unknown, &self.nodes);
                self.fail(*call, error, now);
            }
            Answer::SessionExpired => self.session_expired(call, addr, now),
        }
        self.settle(now)
    }

    /// Ends the writes that have waited in vain for a session, or for room in it.
    pub fn end_overdue(&mut self, now: Instant) -> Vec<Action<T>> {
        let (overdue, waited_for, next) = self.sessions.overdue(now);
        if let Some(at) = next {
            self.actions.push(Action::Watch { at });
        }
        for call in overdue {
            let error = match waited_for {
                WaitedFor::Room => ClerkError::Overloaded {
                    what: format!("this clerk has {} unfinished writes", self.window),
                },
                WaitedFor::Session => ClerkError::NoLeader {
                    nodes: self.nodes.count(),
                    within: call.pursuit.timeout(),
                    last: self.opening_trouble.clone().unwrap_or_else(|| LastFailure {
                        by: None,
                        text: "no reply yet to the request for a session".to_owned(),
                    }),
                },
            };
            self.end_unsent(*call, error);
        }
        self.settle(now)
    }

    /// What came of asking `addr` who the members are. Returns whom to be connected to, if that is news.
    pub fn described(
        &mut self,
        addr: SocketAddr,
        reply: &Result<DescribeReply, RpcError>,
    ) -> Option<Vec<SocketAddr>> {
        self.members.ended();
        match reply {
            Ok(reply) => {
                let members = self.members.answered(addr, reply)?;
                debug!(node = %addr, ?members, "the cluster's members");
                self.nodes.learn(&members);
                Some(members)
            }
            Err(error) => {
                debug!(node = %addr, %error, "does not say who the members are");
                None
            }
        }
    }

    /// Whom it asks: the members, as the cluster has named them, then those configured that are none
    /// (any more).
    #[must_use]
    pub fn listed(&self) -> &[SocketAddr] {
        self.nodes.listed()
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> ClerkStats {
        self.stats
    }

    /// Has the writes set out that were let in; what is to be done is complete then.
    fn settle(&mut self, now: Instant) -> Vec<Action<T>> {
        while let Some((call, place)) = self.departures.pop_front() {
            self.start_at(call, place, now);
        }
        std::mem::take(&mut self.actions)
    }

    fn begin_read(&mut self, pursuit: Pursuit, key: Bytes, from: ReadFrom, owner: T, now: Instant) {
        let any_node = from == ReadFrom::Any;
        let pursuit = if any_node {
            pursuit.anywhere()
        } else {
            pursuit
        };
        let args = GetArgs {
            key,
            any_node,
            ..GetArgs::default()
        };
        let task = Task::Get { args, owner };
        self.proceed(Box::new(Call { pursuit, task }), now);
    }

    fn begin_write(
        &mut self,
        pursuit: Pursuit,
        op: &'static [u8],
        key: Bytes,
        value: Bytes,
        owner: T,
        now: Instant,
    ) {
        let args = PutAppendArgs {
            key,
            value,
            op: Bytes::from_static(op),
            ..PutAppendArgs::default()
        };
        let task = Task::Write {
            args,
            expired: 0,
            owner,
        };
        self.enter_session(Box::new(Call { pursuit, task }), now);
    }

    fn enter_session(&mut self, call: Box<Call<T>>, now: Instant) {
        let deadline = call.pursuit.deadline();
        match self.sessions.admit(call, deadline) {
            Admission::Go(call, place) => self.start_at(call, place, now),
            Admission::Waits { open, watch } => {
                if let Some(at) = watch {
                    self.actions.push(Action::Watch { at });
                }
                if open {
                    self.open_session(now);
                }
            }
        }
    }

    /// A write goes on under the name that it keeps until it ends.
    fn start_at(&mut self, mut call: Box<Call<T>>, place: Place, now: Instant) {
        let Task::Write { args, .. } = &mut call.task else {
            unreachable!("only writes have a place in a session")
        };
        args.session_id = place.session;
        args.session_request_id = place.request;
        self.proceed(call, now);
    }

    fn open_session(&mut self, now: Instant) {
        self.opening_trouble = None;
        let call = Call {
            pursuit: Pursuit::new(self.pace, Duration::ZERO, now), // its deadline is that of those who wait
            task: Task::OpenSession,
        };
        self.proceed(Box::new(call), now);
    }

    fn proceed(&mut self, mut call: Box<Call<T>>, now: Instant) {
        if let Task::OpenSession = call.task
            && let Some(last) = self.sessions.last_deadline()
        {
            call.pursuit.set_deadline(last);
        }
        let step = call.pursuit.ask(&self.nodes, now);
        self.take(call, step, now);
    }

    fn take(&mut self, call: Box<Call<T>>, step: Step, now: Instant) {
        match step {
            Step::Ask { addr, timeout } => self.attempt(call, addr, timeout),
            Step::Pause(until) => self.actions.push(Action::Pause { call, until }),
            Step::GiveUp => {
                let error = call.pursuit.error(&self.nodes);
                self.fail(*call, error, now);
            }
        }
    }

    fn attempt(&mut self, mut call: Box<Call<T>>, addr: SocketAddr, timeout: Duration) {
        if call.pursuit.attempts() > 1 {
            self.stats.retries += 1;
        }
        let request = match &mut call.task {
            Task::Get { args, .. } => Request::Get(args.clone()),
            Task::Write { args, .. } => {
                args.replies_seen_up_to = self.sessions.seen_up_to(place_of(args));
                Request::PutAppend(args.clone())
            }
            Task::OpenSession => Request::OpenSession(OpenSessionArgs {}),
        };
        self.actions.push(Action::Ask {
            call,
            addr,
            request,
            timeout,
        });
    }

    /// The cluster has forgotten the session of this write.
    fn session_expired(&mut self, mut call: Box<Call<T>>, addr: SocketAddr, now: Instant) {
        let Task::Write { args, expired, .. } = &mut call.task else {
            unreachable!("only a write's reply reads as an expired session")
        };
        *expired += 1;
        let expired = *expired;
        debug!(node = %addr, session = args.session_id, "the session has expired");
        if self.sessions.expired(args.session_id) {
            self.open_session(now);
        }

        if let Some(unknown) = call.pursuit.session_expired(addr, &self.nodes) {
            self.fail(*call, unknown, now);
        } else if expired >= SESSIONS_PER_WRITE_MAX {
            let text = format!("{expired} sessions expired one after the other");
            let error = call.pursuit.refused(addr, text, false, &self.nodes);
            self.fail(*call, error, now);
        } else {
            self.enter_session(call, now);
        }
    }

    fn succeed(&mut self, call: Call<T>, meaning: Meaning) {
        match (call.task, meaning) {
            (Task::Get { owner, .. }, Meaning::Value(value)) => {
                self.end(owner, Ok(Success::Value(value)));
            }
            (Task::Write { args, owner, .. }, Meaning::Written) => {
                self.end(owner, Ok(Success::Written));
                self.leave_session(place_of(&args));
            }
            (Task::OpenSession, Meaning::Opened(session)) => {
                debug!(session, "opened a session");
                self.stats.sessions_opened += 1;
                self.departures.extend(self.sessions.opened(session));
            }
            (_, meaning) => unreachable!("{meaning:?} answers another question"),
        }
    }

    /// A call that was sent ends without a reply.
    fn fail(&mut self, call: Call<T>, error: ClerkError, now: Instant) {
        match call.task {
            Task::Get { owner, .. } => self.end(owner, Err(error)),
            Task::Write { args, owner, .. } => {
                self.end(owner, Err(error));
                self.leave_session(place_of(&args));
            }
            Task::OpenSession => self.opening_failed(call.pursuit, &error, now),
        }
    }

    /// No session could be opened, unless somebody can wait longer for one.
    fn opening_failed(&mut self, mut pursuit: Pursuit, error: &ClerkError, now: Instant) {
        let may_go_on = !matches!(error, ClerkError::Refused { .. });
        let failed = if may_go_on {
            self.sessions.give_up_opening(pursuit.deadline())
        } else {
            Ok(self.sessions.opening_failed())
        };
        match failed {
            Ok(failed) => {
                for call in failed {
                    let mut error = error.clone();
                    if let ClerkError::NoLeader { within, .. } = &mut error {
                        *within = call.pursuit.timeout();
                    }
                    self.end_unsent(*call, error);
                }
            }
            Err(later) => {
                pursuit.set_deadline(later);
                let task = Task::OpenSession;
                self.proceed(Box::new(Call { pursuit, task }), now);
            }
        }
    }

    /// Ends a write that has no place in a session.
    fn end_unsent(&mut self, call: Call<T>, error: ClerkError) {
        let Task::Write { owner, .. } = call.task else {
            unreachable!("only writes wait for a session")
        };
        self.end(owner, Err(error));
    }

    /// The write at `place` has ended; others may take its room.
    fn leave_session(&mut self, place: Place) {
        self.departures.extend(self.sessions.finish(place));
    }

    fn end(&mut self, owner: T, result: Result<Success, ClerkError>) {
        self.actions.push(Action::End { owner, result });
    }
}

impl<T> Call<T> {
    /// Whether only a leader answers it.
    fn is_for_the_leader(&self) -> bool {
        !matches!(&self.task, Task::Get { args, .. } if args.any_node)
    }
}

fn place_of(args: &PutAppendArgs) -> Place {
    Place {
        session: args.session_id,
        request: args.session_request_id,
    }
}

#[cfg(test)]
mod tests {
    use proto::kv::{OpenSessionReply, PutAppendReply};

    use super::*;

    /// Each lets in the next one, which is overdue as well and ends at once: one within the other,
    /// they were more than a stack holds.
    #[test]
    fn writes_that_end_each_other_need_no_deeper_stack() {
        const WRITES: usize = 100_000;
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let options = ClerkOptions {
            window: 1,
            ..ClerkOptions::default()
        };
        let mut logic = Logic::new(&[addr], &options, fastrand::Rng::with_seed(7));
        let (start, timeout) = (Instant::now(), Duration::from_secs(1));
        let mut actions = Vec::new();
        for write in 0..WRITES {
            let (key, value) = (Bytes::from_static(b"k"), Bytes::new());
            actions.extend(logic.begin(Want::Put { key, value }, timeout, write, start));
        }
        let ok = Bytes::from_static(b"OK");
        let session = Reply::OpenSession(OpenSessionReply {
            err: ok.clone(),
            session_id: 1,
            ..OpenSessionReply::default()
        });
        let actions = logic.answered(only_asked(actions), addr, session, start);
        let written = Reply::PutAppend(PutAppendReply {
            err: ok,
            ..PutAppendReply::default()
        });
        let actions = logic.answered(only_asked(actions), addr, written, start + timeout);
        let ends = actions.iter().filter(|action| match action {
            Action::End { owner, result } => result.is_ok() == (*owner == 0),
            _ => false,
        });
        assert_eq!(ends.count(), WRITES, "the first is done, no other was sent");
    }

    fn only_asked<T>(actions: Vec<Action<T>>) -> Box<Call<T>> {
        let mut asked = actions.into_iter().filter_map(|action| match action {
            Action::Ask { call, .. } => Some(call),
            _ => None,
        });
        let only = asked.next().expect("somebody is asked");
        assert!(asked.next().is_none(), "the others wait");
        only
    }
}
