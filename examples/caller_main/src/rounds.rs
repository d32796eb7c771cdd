//! The rounds of one client: Put a new value, Get it back, compare.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use clerk::{Clerk, ClerkError};

use crate::journal::Journal;
use crate::output::Output;
use crate::report::{Operation, Recorder};
use crate::value::Run;

/// What a round needs of the store.
pub(crate) trait Store: Sync {
    fn put(&self, key: &Bytes, value: &Bytes) -> Result<(), ClerkError>;
    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, ClerkError>;
}

impl Store for Clerk {
    fn put(&self, key: &Bytes, value: &Bytes) -> Result<(), ClerkError> {
        Clerk::put(self, key.clone(), value.clone())
    }

    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, ClerkError> {
        Clerk::get(self, key.clone())
    }
}

/// What all clients of a run share.
pub(crate) struct Rounds<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) run: Run,
    /// Of each client; 0: until `stop`.
    pub(crate) count: u64,
    /// Set by Ctrl+C, and by a client that failed.
    pub(crate) stop: &'a AtomicBool,
    pub(crate) recorder: &'a Recorder,
    pub(crate) journal: Option<&'a Journal>,
    pub(crate) output: &'a Output,
}

impl<S: Store> Rounds<'_, S> {
    /// The rounds of client `client`.
    ///
    /// # Errors
    /// In one line: a call that failed although it was repeated until its timeout, or a wrong value.
    pub(crate) fn run(&self, client: u32) -> Result<(), String> {
        let mut before = if self.run.distinct_keys {
            Before::Known(None)
        } else {
            Before::Unknown
        };
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) && (self.count == 0 || round < self.count) {
            let found = self.round(client, round, &before)?;
            if !self.run.distinct_keys {
                before = Before::Known(found);
            }
            round += 1;
        }
        Ok(())
    }

    /// Returns what was read.
    fn round(&self, client: u32, round: u64, before: &Before) -> Result<Option<Bytes>, String> {
        let key = self.run.key(client, round);
        let value = self.run.value(client, round);

        let begun = Instant::now();
        let acknowledged = match self.store.put(&key, &value) {
            Ok(()) => true,
            // The one case before the timeout in which nobody can tell whether the write was done
            // (see ClerkError). It is settled, however, and will not be done later: the Get shows
            // the value before it or this one, and the next round finds a known state again.
            Err(ClerkError::SessionExpired { .. }) => false,
            Err(error) => return Err(format!("put {}: {error}", shown(&key))),
        };
        if acknowledged {
            self.recorder.acknowledged(Operation::Put, begun);
            if let Some(journal) = self.journal {
                journal.acknowledged(&key, &value)?;
            }
        }

        let begun = Instant::now();
        let found = self
            .store
            .get(&key)
            .map_err(|error| format!("get {}: {error}", shown(&key)))?;
        self.recorder.acknowledged(Operation::Get, begun);
        let right =
            found.as_ref() == Some(&value) || !acknowledged && before.may_be(found.as_ref());
        if !right {
            let found = found.map_or("no value".to_owned(), |found| shown(&found));
            let (key, value) = (shown(&key), shown(&value));
            return Err(format!(
                "get {key} returned {found}, but {value} was put just before"
            ));
        }

        self.output.value(found.as_deref().unwrap_or_default())?;
        self.recorder.round_done();
        Ok(found)
    }
}

/// What a client's key held before a round.
enum Before {
    /// Whatever another run left there.
    Unknown,
    Known(Option<Bytes>),
}

impl Before {
    fn may_be(&self, found: Option<&Bytes>) -> bool {
        match self {
            Self::Unknown => true,
            Self::Known(value) => found == value.as_ref(),
        }
    }
}

/// A key or value for an error line, which must not be as long as values may be.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("\"{}...\" ({} bytes)", &text[..end], bytes.len()),
        None => format!("\"{text}\""),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clerk::NodeName;
    use parking_lot::Mutex;

    use super::*;

    /// A map whose nth put (from 0) fails or gets lost.
    #[derive(Default)]
    struct Flawed {
        map: Mutex<BTreeMap<Bytes, Bytes>>,
        puts: Mutex<u64>,
        lost: Option<u64>,
        /// Its put ends as unknown; `true`: it was done all the same.
        expired: Option<(u64, bool)>,
    }

    impl Store for Flawed {
        fn put(&self, key: &Bytes, value: &Bytes) -> Result<(), ClerkError> {
            let mut puts = self.puts.lock();
            let number = *puts;
            *puts += 1;
            let expired = self.expired.filter(|(expired, _)| *expired == number);
            if self.lost != Some(number) && expired.is_none_or(|(_, done)| done) {
                self.map.lock().insert(key.clone(), value.clone());
            }
            let by = NodeName {
                number: Some(0),
                addr: "127.0.0.1:1".parse().unwrap(),
            };
            expired.map_or(Ok(()), |_| Err(ClerkError::SessionExpired { by }))
        }

        fn get(&self, key: &Bytes) -> Result<Option<Bytes>, ClerkError> {
            Ok(self.map.lock().get(key).cloned())
        }
    }

    fn run(store: &Flawed, distinct_keys: bool) -> (Result<(), String>, u64) {
        let recorder = Recorder::new(Instant::now());
        let rounds = Rounds {
            store,
            run: Run {
                id: 1,
                value_size: 0,
                distinct_keys,
            },
            count: 5,
            stop: &AtomicBool::new(false),
            recorder: &recorder,
            journal: None,
            output: &Output::discard(),
        };
        let result = rounds.run(0);
        (result, recorder.finish(1, 0, Instant::now()).rounds())
    }

    #[test]
    fn each_get_must_return_the_value_just_put() {
        assert_eq!(run(&Flawed::default(), false), (Ok(()), 5));
        let (result, rounds) = run(
            &Flawed {
                lost: Some(3),
                ..Flawed::default()
            },
            false,
        );
        assert_eq!(
            result.unwrap_err(),
            "get \"x\" returned \"0000000002-00000001-0\", but \"0000000003-00000001-0\" was put just before"
        );
        assert_eq!(rounds, 3);
    }

    #[test]
    fn a_missing_value_is_named_as_such() {
        let (result, _) = run(
            &Flawed {
                lost: Some(0),
                ..Flawed::default()
            },
            true,
        );
        assert!(
            result
                .unwrap_err()
                .starts_with("get \"x/00000001/0\" returned no value")
        );
    }

    #[test]
    fn after_an_unknown_write_either_value_is_right() {
        for distinct_keys in [false, true] {
            for done in [false, true] {
                let store = Flawed {
                    expired: Some((3, done)),
                    ..Flawed::default()
                };
                assert_eq!(
                    run(&store, distinct_keys),
                    (Ok(()), 5),
                    "{distinct_keys} {done}"
                );
            }
        }
    }
}
