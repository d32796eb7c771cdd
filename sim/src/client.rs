//! Clients: the clerk's own logic, under virtual time, and several callers that share each of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clerk::logic::{Action, Call, Logic, Reply, Success, Want};
use clerk::{ClerkError, ClerkOptions, ReadFrom};
use raft::core::NodeId;
use rpc::{Code, RpcError};

use crate::applying::tokens;
use crate::clock::Micros;
use crate::coverage::Situation;
use crate::history::{self, What};
use crate::network::{Answer, Ask, Packet, address, node_at};
use crate::oracle::Verdict;
use crate::swarm::READS_PERCENT;
use crate::world::{Event, World};

/// Keys that clients share.
const KEYS: u8 = 4;
/// A value of more appends is replaced.
const MAX_APPENDS: usize = 12;

/// A program that uses the store by one clerk.
pub(crate) struct Client {
    logic: Logic<Issued>,
    /// What the logic waits for, by a number that is used once.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
    /// The nodes that it was told of at its start.
    configured: Vec<SocketAddr>,
    /// Each makes one call at a time.
    pub(crate) callers: usize,
    calls: usize,
    /// Length of the value last seen, by key: appends stay within a bound.
    seen: [usize; KEYS as usize],
    /// The latest token of which it knows that it was written.
    pub(crate) last_written: u64,
    /// It begins nothing new.
    pub(crate) rests: bool,
}

enum Waiting {
    /// For a reply, or the end of the attempt's time.
    Attempt(Box<Call<Issued>>, SocketAddr),
    Description(SocketAddr),
    /// For the end of a pause.
    Pause(Box<Call<Issued>>),
}

/// A caller's call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    caller: usize,
    invoked: u64,
    key: u8,
    /// Of a write.
    write: Option<Write>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    /// Unique in the run.
    token: u64,
    append: bool,
}

impl Client {
    pub(crate) fn new(
        nodes: &[NodeId],
        callers: usize,
        options: &ClerkOptions,
        random: fastrand::Rng,
    ) -> Self {
        let configured: Vec<SocketAddr> = nodes.iter().copied().map(address).collect();
        Self {
            logic: Logic::new(&configured, options, random),
            waiting: BTreeMap::new(),
            next_number: 0,
            configured,
            callers,
            calls: 0,
            seen: [0; KEYS as usize],
            last_written: 0,
            rests: false,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.calls == 0
    }

    fn keep(&mut self, waiting: Waiting) -> u64 {
        self.next_number += 1;
        self.waiting.insert(self.next_number, waiting);
        self.next_number
    }
}

impl World {
    /// Another client, which knows these nodes and has that many callers.
    pub(crate) fn add_client(&mut self, nodes: &[NodeId], callers: usize) {
        let options = self.tuning.clerk();
        let random = fastrand::Rng::with_seed(self.rng.u64(..));
        self.clients
            .push(Client::new(nodes, callers, &options, random));
    }

    /// Its callers begin, one after the other.
    pub(crate) fn start_client(&mut self, client: usize) {
        for caller in 0..self.clients[client].callers {
            let after = self.rng.u64(1_000..200_000);
            self.after(after, Event::CallBegins { client, caller });
        }
    }

    pub(crate) fn call_begins(&mut self, number: usize, caller: usize) {
        if self.clients[number].rests {
            let client = number;
            return self.after(50_000, Event::CallBegins { client, caller });
        }
        let invoked = self.moment();
        let timeout = Duration::from_micros(self.rng.u64(400_000..6_000_000));
        let key = self.rng.u8(..KEYS);
        let reads_percent = if self.calm {
            READS_PERCENT
        } else {
            self.tuning.reads_percent
        };
        let is_read = self.rng.u8(..100) < reads_percent;
        let anywhere = self.rng.u8(..4) == 0;
        let append = self.rng.bool();
        let client = &mut self.clients[number];
        let seen = &mut client.seen[usize::from(key)];
        let key_bytes = Bytes::copy_from_slice(&[key]);
        let (want, write) = if is_read {
            let from = if anywhere {
                ReadFrom::Any
            } else {
                ReadFrom::Leader
            };
            let key = key_bytes;
            (Want::Get { key, from }, None)
        } else {
            let token = self.next_token;
            self.next_token += 1;
            let append = append && *seen < MAX_APPENDS;
            *seen = if append { *seen + 1 } else { 0 };
            let (key, value) = (key_bytes, Bytes::copy_from_slice(&token.to_le_bytes()));
            let want = if append {
                Want::Append { key, value }
            } else {
                Want::Put { key, value }
            };
            (want, Some(Write { token, append }))
        };
        client.calls += 1;
        let issued = Issued {
            caller,
            invoked,
            key,
            write,
        };
        let now = self.instant();
        let actions = self.clients[number].logic.begin(want, timeout, issued, now);
        self.act(number, actions);
    }

    /// A pause is over, or an attempt took too long. False: it has long gone on.
    pub(crate) fn wait_ends(&mut self, number: usize, waiting: u64) -> bool {
        let now = self.instant();
        let client = &mut self.clients[number];
        let too_late = || RpcError::new(Code::DeadlineExceeded, "no reply");
        let too_late = || too_late().with_may_have_executed(true);
        let actions = match client.waiting.remove(&waiting) {
            None => return false,
            Some(Waiting::Attempt(call, addr)) => {
                let reply = Reply::Failed(too_late());
                client.logic.answered(call, addr, reply, now)
            }
            Some(Waiting::Description(addr)) => {
                client.logic.described(addr, &Err(too_late()));
                return true;
            }
            Some(Waiting::Pause(call)) => client.logic.resume(call, now),
        };
        self.act(number, actions);
        true
    }

    /// Writes may have waited too long for a session, or for room in it.
    pub(crate) fn client_watches(&mut self, number: usize) {
        let now = self.instant();
        let actions = self.clients[number].logic.end_overdue(now);
        self.act(number, actions);
    }

    /// False: it waits for that no more.
    pub(crate) fn client_hears(&mut self, number: usize, attempt: u64, answer: Answer) -> bool {
        let now = self.instant();
        let client = &mut self.clients[number];
        if let Answer::Call(Reply::Failed(error)) = &answer
            && error.code() == Code::AlreadyExists
            && client.waiting.contains_key(&attempt)
        {
            self.oracle.fail(
                "no clerk asks for what it has said that it saw",
                format!("client {number}: {error}"),
            );
        }
        match (client.waiting.remove(&attempt), answer) {
            (None, _) => return false,
            (Some(Waiting::Attempt(call, addr)), Answer::Call(reply)) => {
                let opened = client.logic.stats().sessions_opened;
                let actions = client.logic.answered(call, addr, reply, now);
                if opened > 0 && client.logic.stats().sessions_opened > opened {
                    self.coverage.met(Situation::SessionReopened);
                }
                self.act(number, actions);
            }
            (Some(Waiting::Description(addr)), Answer::Described(reply)) => {
                let members = client.logic.described(addr, &reply).unwrap_or_default();
                if members.iter().any(|addr| !client.configured.contains(addr)) {
                    self.coverage.met(Situation::MemberLearned);
                }
            }
            (Some(_), answer) => unreachable!("{answer:?} is what somebody else asked for"),
        }
        true
    }

    /// Carries out what a client's logic decided.
    fn act(&mut self, number: usize, actions: Vec<Action<Issued>>) {
        for action in actions {
            let client = &mut self.clients[number];
            match action {
                Action::Ask {
                    call,
                    addr,
                    request,
                    timeout,
                } => {
                    let waiting = client.keep(Waiting::Attempt(call, addr));
                    self.ask(number, waiting, addr, Ask::Call(request), timeout);
                }
                Action::Describe { addr, timeout } => {
                    let waiting = client.keep(Waiting::Description(addr));
                    self.ask(number, waiting, addr, Ask::Describe, timeout);
                }
                Action::Pause { call, until } => {
                    let waiting = client.keep(Waiting::Pause(call));
                    let at = self.micros_at(until);
                    self.at(at, Event::WaitEnds { number, waiting });
                }
                Action::Watch { at } => {
                    let at = self.micros_at(at);
                    self.at(at, Event::ClientWatches { client: number });
                }
                Action::End { owner, result } => self.call_ends(number, owner, result),
            }
        }
    }

    fn ask(&mut self, number: usize, waiting: u64, addr: SocketAddr, ask: Ask, timeout: Duration) {
        self.send(Packet::Ask {
            client: number,
            attempt: waiting,
            to: node_at(addr),
            ask,
        });
        let at = self.micros_at(self.instant() + timeout);
        self.at(at, Event::WaitEnds { number, waiting });
    }

    fn call_ends(&mut self, number: usize, issued: Issued, result: Result<Success, ClerkError>) {
        let ended = self.moment();
        let client = &mut self.clients[number];
        client.calls -= 1;
        let what = match (issued.write, result) {
            (None, Ok(Success::Value(value))) => {
                let value = value.map_or_else(Vec::new, |value| tokens(&value));
                client.seen[usize::from(issued.key)] = value.len();
                Some((What::Get(value), Some(ended)))
            }
            (None, _) => None,
            (Some(write), result) => {
                let verdict = Verdict::of(&result);
                if verdict == Verdict::Done {
                    client.last_written = client.last_written.max(write.token);
                }
                self.observe_verdict(write.token, &result);
                let what = if write.append {
                    What::Append(write.token)
                } else {
                    What::Put(write.token)
                };
                let returned = (verdict == Verdict::Done).then_some(ended);
                (verdict != Verdict::NotDone).then_some((what, returned))
            }
        };
        if let Some((what, returned)) = what {
            self.history.calls.push(history::Call {
                key: issued.key,
                what,
                invoked: issued.invoked,
                returned,
            });
        }
        let (least, most) = self.tuning.think_us;
        let think = self.rng.u64(least..=most);
        let (client, caller) = (number, issued.caller);
        self.after(think, Event::CallBegins { client, caller });
    }

    fn observe_verdict(&mut self, token: u64, result: &Result<Success, ClerkError>) {
        self.oracle.on_verdict(token, Verdict::of(result));
        if let Err(error) = result {
            self.coverage.met(match error {
                ClerkError::OutcomeUnknown { .. } => return,
                ClerkError::SessionExpired { .. } => Situation::ExpiredUnknown,
                ClerkError::Overloaded { .. } => Situation::NoRoomInSession,
                _ => Situation::CertainlyNotDone,
            });
        }
    }

    /// The virtual time as the clerk takes it. Nothing depends on where it begins.
    fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    /// Not before `at`.
    fn micros_at(&self, at: Instant) -> Micros {
        let nanos = at.saturating_duration_since(self.base).as_nanos();
        u64::try_from(nanos.div_ceil(1_000)).expect("a short run")
    }

    /// A number that orders the beginnings and ends of calls.
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }
}
