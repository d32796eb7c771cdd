//! Sessions, one test a rule; and against a model that keeps and scans everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::MAX_REPLIES_PER_SESSION;
use crate::command::{LogTime, SessionId, Writer};
use crate::outcome::{Outcome, Refusal};
use crate::state_machine::StateMachineOptions;
use crate::test_kit::{RAN, REPEATED, append, at, new_store, open_at, put, session, tight_options};

const EXPIRED: Outcome = Outcome::Refused(Refusal::SessionExpired);

/// Failure 122: a repeated request returns the first reply and changes nothing.
#[test]
fn a_session_is_named_by_its_entry_and_runs_each_request_once() {
    let mut store = new_store(StateMachineOptions::default());
    store.apply_empty(1, 1).unwrap();
    let opened = store.apply_next(&open_at(0));
    assert_eq!(opened, Outcome::SessionOpened(SessionId::new(2)));

    for (request, outcome) in [(2, RAN), (1, RAN), (2, REPEATED), (1, REPEATED)] {
        let text = format!("{request};");
        let command = at(0, session(2, request, 0), append("k", &text));
        assert_eq!(store.apply_next(&command), outcome);
    }
    assert_eq!(store.text("k"), "2;1;");
}

/// Failure 123: a late retry of a session that is gone is refused, not run.
#[test]
fn a_request_of_an_unknown_session_is_refused() {
    let mut store = new_store(StateMachineOptions::default());
    assert_eq!(
        store.apply_next(&at(0, session(1, 1, 0), put("k", "v"))),
        EXPIRED
    );
    assert_eq!(store.key_count(), 0);
    assert_eq!(store.session_count(), 0);
}

#[test]
fn a_request_too_far_ahead_or_seen_already_is_refused() {
    let mut store = new_store(StateMachineOptions::default());
    store.apply_next(&open_at(0));
    let far = MAX_REPLIES_PER_SESSION + 6;
    let refused = store.apply_next(&at(0, session(1, far, 5), put("k", "far")));
    assert_eq!(refused, Outcome::Refused(Refusal::TooFarAhead));
    let refused = store.apply_next(&at(0, session(1, 5, 0), put("k", "seen")));
    assert_eq!(refused, Outcome::Refused(Refusal::StaleDuplicate));
    assert_eq!(store.key_count(), 0);
    assert_eq!(
        store.apply_next(&at(0, session(1, far - 1, 5), put("k", "v"))),
        RAN
    );
}

#[test]
fn an_idle_session_expires_by_the_logs_time() {
    let mut store = new_store(tight_options());
    store.apply_next(&open_at(1000));
    store.apply_next(&open_at(1001));
    assert_eq!(
        store.apply_next(&at(1100, session(1, 1, 0), put("k", "v"))),
        RAN
    );

    store.apply_next(&at(1101, Writer::None, put("k", "w")));
    assert_eq!(store.session_count(), 2, "idle for 100 ms, not for longer");
    store.apply_next(&at(1102, Writer::None, put("k", "w")));
    assert_eq!(store.session_count(), 1);
    assert_eq!(
        store.apply_next(&at(1102, session(2, 1, 0), put("k", "late"))),
        EXPIRED
    );

    // Its own request comes too late as well.
    assert_eq!(
        store.apply_next(&at(1201, session(1, 2, 0), put("k", "late"))),
        EXPIRED
    );
    assert_eq!(store.text("k"), "w");
}

/// A new leader's clock may lag behind the old one's (failure 126).
#[test]
fn log_time_does_not_go_back() {
    let mut store = new_store(tight_options());
    store.apply_next(&open_at(1000));
    store.apply_next(&at(1050, Writer::None, put("k", "v")));
    store.apply_next(&at(3, session(1, 1, 0), put("k", "v"))); // used at 1050, not at 3
    assert_eq!(store.log_time(), LogTime::from_millis(1050));
    store.apply_next(&at(1150, Writer::None, put("k", "v")));
    assert_eq!(store.session_count(), 1);
}

#[test]
fn the_least_recently_used_session_makes_room() {
    let mut store = new_store(tight_options());
    for _ in 0..3 {
        store.apply_next(&open_at(0));
    }
    store.apply_next(&at(0, session(1, 1, 0), put("k", "v")));
    store.apply_next(&open_at(0)); // session 5, in the place of 2
    assert_eq!(store.session_count(), 3);
    assert_eq!(
        store.apply_next(&at(0, session(2, 1, 0), put("k", "w"))),
        EXPIRED
    );
    for id in [1, 3, 5] {
        assert_eq!(
            store.apply_next(&at(0, session(id, 9, 0), put("k", "v"))),
            RAN
        );
    }
}

/// What sessions must do, written so plainly that it can be seen to: everything is kept and scanned.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u64, ModelSession>,
    log_time: u64,
    value: String,
}

#[derive(Default)]
struct ModelSession {
    ran: Vec<u64>,
    seen_upto: u64,
    last_index: u64,
    last_time: u64,
}

impl Model {
    fn pass_time(&mut self, millis: u64, options: &StateMachineOptions) {
        self.log_time = self.log_time.max(millis);
        let ttl = u64::try_from(options.session_ttl.as_millis()).unwrap();
        self.sessions
            .retain(|_, session| self.log_time - session.last_time <= ttl);
    }

    fn open(&mut self, index: u64, options: &StateMachineOptions) -> Outcome {
        let session = ModelSession {
            last_index: index,
            last_time: self.log_time,
            ..ModelSession::default()
        };
        self.sessions.insert(index, session);
        if self.sessions.len() > options.max_sessions as usize {
            let oldest = self
                .sessions
                .iter()
                .min_by_key(|(_, session)| session.last_index);
            let oldest = *oldest.unwrap().0;
            self.sessions.remove(&oldest);
        }
        Outcome::SessionOpened(SessionId::new(index))
    }

    fn append(&mut self, index: u64, id: u64, request: u64, seen: u64, text: &str) -> Outcome {
        let Some(session) = self.sessions.get_mut(&id) else {
            return EXPIRED;
        };
        session.last_index = index;
        session.last_time = self.log_time;
        session.seen_upto = session.seen_upto.max(seen);
        if request <= session.seen_upto {
            Outcome::Refused(Refusal::StaleDuplicate)
        } else if request - session.seen_upto > MAX_REPLIES_PER_SESSION {
            Outcome::Refused(Refusal::TooFarAhead)
        } else if session.ran.contains(&request) {
            REPEATED
        } else {
            session.ran.push(request);
            self.value.push_str(text);
            RAN
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// The nth session opened so far, or one that never was.
    Append {
        nth: usize,
        request: u64,
        seen: u64,
    },
}

proptest! {
    /// Requests repeated and reordered at will, in sessions that expire and make room for each other.
    #[test]
    fn sessions_do_what_the_model_does(steps in prop::collection::vec(
        (
            prop_oneof![
                1 => Just(Step::Open),
                8 => (
                    0..5_usize,
                    prop_oneof![20 => 0..12_u64, 1 => 1020..1040_u64, 1 => any::<u64>()],
                    prop_oneof![20 => 0..3_u64, 4 => 0..12_u64, 1 => 0..20_u64],
                ).prop_map(|(nth, request, seen)| Step::Append { nth, request, seen }),
            ],
            0..30_i64,
        ),
        0..120,
    )) {
        let options = StateMachineOptions {
            max_value_bytes: 1 << 20,
            ..tight_options()
        };
        let mut store = new_store(options.clone());
        let mut model = Model::default();
        let mut opened = Vec::new();
        let mut millis = 0_i64;
        for (step, passed) in steps {
            millis = (millis + passed - 3).max(0); // now and then it goes back
            let millis = u64::try_from(millis).unwrap();
            let index = store.last_applied().index + 1;
            model.pass_time(millis, &options);
            match step {
                Step::Open => {
                    let expected = model.open(index, &options);
                    prop_assert_eq!(store.apply_next(&open_at(millis)), expected);
                    opened.insert(0, index);
                }
                Step::Append { nth, request, seen } => {
                    let id = opened.get(nth).copied().unwrap_or(0);
                    let text = format!("{id}.{request};");
                    let command = at(millis, session(id, request, seen), append("k", &text));
                    let expected = model.append(index, id, request, seen, &text);
                    prop_assert_eq!(store.apply_next(&command), expected);
                }
            }
            prop_assert_eq!(store.session_count(), model.sessions.len());
        }
        prop_assert_eq!(store.text("k"), model.value);
    }
}
