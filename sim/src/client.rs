//! A client that keeps the clerk's rules: one session, a request's number kept across its retries, a
//! write given up is never asked again under another number.

use kvserver::{RequestId, SessionId};
use raft::core::NodeId;

use crate::clock::Micros;
use crate::history::{Call, What};
use crate::network::{Answer, Ask, Packet, Want};
use crate::swarm::READS_PERCENT;
use crate::world::{Event, World};

/// Keys that clients share.
const KEYS: u8 = 4;
const ATTEMPT_TIMEOUT_US: Micros = 300_000;
/// A value of more appends is replaced.
const MAX_APPENDS: usize = 12;

#[derive(Debug, Default)]
pub(crate) struct Client {
    session: Option<SessionId>,
    next_request: u64,
    /// All before are answered, or given up.
    asking: Option<Asking>,
    attempt: u64,
    /// Whom it takes for the leader.
    leader: Option<NodeId>,
    cursor: u64,
    /// Length of the value last seen, by key: appends stay within a bound.
    seen: [usize; KEYS as usize],
    /// The token of its last acknowledged write.
    pub(crate) last_written: u64,
    /// It begins nothing new.
    pub(crate) rests: bool,
}

#[derive(Debug)]
struct Asking {
    want: Want,
    invoked: u64,
    give_up_at: Micros,
    /// Some attempt may have got into a log.
    may_have_run: bool,
    /// The last attempt was answered, in vain.
    answered: bool,
}

impl Client {
    pub(crate) fn is_idle(&self) -> bool {
        self.asking.is_none()
    }
}

impl World {
    /// A pause is over, or an attempt took too long.
    /// False: it has long gone on.
    pub(crate) fn client_wakes(&mut self, number: usize, attempt: u64) -> bool {
        let client = &mut self.clients[number];
        if client.attempt != attempt {
            return false;
        }
        match &client.asking {
            None if client.rests => {
                self.after(
                    50_000,
                    Event::ClientWakes {
                        client: number,
                        attempt,
                    },
                );
            }
            None => self.begin_call(number),
            Some(asking) => {
                if !asking.answered {
                    client.leader = None;
                    client.cursor += 1;
                }
                self.ask_or_give_up(number);
            }
        }
        true
    }

    fn begin_call(&mut self, number: usize) {
        let invoked = self.moment();
        let give_up_at = self.now + self.rng.u64(400_000..6_000_000);
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
        let want = match client.session {
            None => Want::OpenSession,
            Some(_) if is_read => Want::Read { key, anywhere },
            Some(session) => {
                let token = self.next_token;
                self.next_token += 1;
                client.next_request += 1;
                let append = append && client.seen[usize::from(key)] < MAX_APPENDS;
                client.seen[usize::from(key)] = if append {
                    client.seen[usize::from(key)] + 1
                } else {
                    0
                };
                Want::Write {
                    key,
                    token,
                    append,
                    session,
                    request: RequestId::new(client.next_request),
                    replies_seen_upto: RequestId::new(client.next_request - 1),
                }
            }
        };
        client.asking = Some(Asking {
            want,
            invoked,
            give_up_at,
            may_have_run: false,
            answered: false,
        });
        self.ask_or_give_up(number);
    }

    fn ask_or_give_up(&mut self, number: usize) {
        let now = self.now;
        let client = &mut self.clients[number];
        let asking = client.asking.as_mut().expect("it asks for something");
        if now >= asking.give_up_at && !self.calm {
            return self.end(number, None);
        }
        client.attempt += 1;
        let attempt = client.attempt;
        let anywhere = matches!(asking.want, Want::Read { anywhere: true, .. });
        asking.may_have_run = true;
        asking.answered = false;
        let ask = Ask {
            attempt,
            what: asking.want,
        };
        let nodes = self.nodes.len() as u64;
        let number_of = match client.leader {
            _ if anywhere => self.rng.u64(..nodes),
            Some(leader) => leader.get(),
            None => client.cursor % nodes,
        };
        let to = NodeId::new(number_of);
        self.send(Packet::Ask {
            client: number,
            to,
            ask,
        });
        let longest = ATTEMPT_TIMEOUT_US;
        self.after(
            longest,
            Event::ClientWakes {
                client: number,
                attempt,
            },
        );
    }

    /// False: it asks for that no more.
    pub(crate) fn client_hears(&mut self, number: usize, attempt: u64, answer: Answer) -> bool {
        let client = &mut self.clients[number];
        if client.attempt != attempt || client.asking.is_none() {
            return false;
        }
        match answer {
            Answer::Opened(session) => {
                client.session = Some(session);
                client.next_request = 0;
                client.asking = None;
                self.pause(number, 1_000);
            }
            Answer::Written | Answer::Value(_) => self.end(number, Some(answer)),
            Answer::SessionExpired => {
                client.session = None;
                self.end(number, None);
            }
            Answer::NotLeader(hint) => {
                client.leader = hint;
                if hint.is_none() {
                    client.cursor += 1;
                }
                self.try_again_soon(number);
            }
            Answer::Unknown | Answer::Busy => self.try_again_soon(number),
        }
        true
    }

    /// The next attempt, after a pause; the one that was answered times out no more.
    fn try_again_soon(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.attempt += 1;
        let attempt = client.attempt;
        if let Some(asking) = &mut client.asking {
            asking.answered = true;
        }
        let after = self.rng.u64(1_000..30_000);
        self.after(
            after,
            Event::ClientWakes {
                client: number,
                attempt,
            },
        );
    }

    /// A call is over, with an outcome or without.
    fn end(&mut self, number: usize, outcome: Option<Answer>) {
        let returned = outcome.is_some().then(|| self.moment());
        let client = &mut self.clients[number];
        let asking = client.asking.take().expect("it asked for something");
        let what = match (asking.want, outcome) {
            (Want::Write { token, append, .. }, outcome) => {
                if outcome.is_some() {
                    client.last_written = token;
                }
                let what = if append {
                    What::Append(token)
                } else {
                    What::Put(token)
                };
                asking.may_have_run.then_some(what)
            }
            (Want::Read { key, .. }, Some(Answer::Value(value))) => {
                client.seen[usize::from(key)] = value.len();
                Some(What::Get(value))
            }
            _ => None,
        };
        if let (Some(what), Want::Write { key, .. } | Want::Read { key, .. }) = (what, asking.want)
        {
            self.history.calls.push(Call {
                key,
                what,
                invoked: asking.invoked,
                returned,
            });
        }
        let (least, most) = self.tuning.think_us;
        let think = self.rng.u64(least..=most);
        self.pause(number, think);
    }

    fn pause(&mut self, number: usize, us: Micros) {
        let client = &mut self.clients[number];
        client.attempt += 1;
        let attempt = client.attempt;
        self.after(
            us,
            Event::ClientWakes {
                client: number,
                attempt,
            },
        );
    }

    /// A number that orders the beginnings and ends of calls.
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }
}
