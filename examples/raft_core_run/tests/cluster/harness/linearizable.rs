//! Whether a history of Gets, Puts and Appends can be explained by one register a key.
//!
//! Wing and Gong's search with Lowe's memory: take, one after the other, operations that no other had
//! ended before; go back when none fits; never look twice at the same set of operations done with the
//! same value. Keys are independent of each other (Herlihy and Wing, §3.3), so each is searched alone.
//! A write of unknown outcome never ended: it may take effect at any time after its call, and at the
//! very end is as good as never.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// One operation as its caller saw it.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) what: What,
    pub(crate) called: Duration,
    /// `None`: nobody knows whether it took effect.
    pub(crate) returned: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// And what it returned.
    Get(Option<String>),
    Put(String),
    Append(String),
}

/// A history that no order of its operations explains.
#[derive(Debug)]
pub(crate) struct Violation {
    key: String,
    /// As far as the best order came: what could not be explained, and what ran beside it.
    stuck_at: Vec<Operation>,
    /// The last operations that could be, in that order.
    explained: Vec<Operation>,
}

/// Searches an order for the operations of each key.
pub(crate) fn check(history: Vec<Operation>) -> Result<(), Violation> {
    let mut of_keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        of_keys
            .entry(operation.key.clone())
            .or_default()
            .push(operation);
    }
    of_keys
        .into_values()
        .try_for_each(|operations| Search::new(operations).run())
}

/// The value of a key; `None` before its first write. Shared by all the places that remember it.
type Value = Option<Rc<str>>;

fn apply(value: &Value, what: &What) -> Option<Value> {
    match what {
        What::Get(seen) => (seen.as_deref() == value.as_deref()).then(|| value.clone()),
        What::Put(new) => Some(Some(new.as_str().into())),
        What::Append(tail) => {
            let old = value.as_deref().unwrap_or_default();
            Some(Some(format!("{old}{tail}").into()))
        }
    }
}

/// A call or a return, in a list of all that is not explained yet, in order of time.
#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

struct Search {
    operations: Vec<Operation>,
    /// The list; the first element is its head and no event.
    events: Vec<Event>,
    /// Each operation's return.
    return_of: Vec<usize>,
    done: Done,
    value: Value,
    /// What was taken, in order, with the value before it.
    taken: Vec<(usize, Value)>,
}

const HEAD: usize = 0;

impl Search {
    fn new(operations: Vec<Operation>) -> Self {
        let mut times: Vec<(Duration, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        for (number, operation) in operations.iter().enumerate() {
            times.push((operation.called, true, number));
            times.push((operation.returned.unwrap_or(Duration::MAX), false, number));
        }
        // At the same time, calls come first: then they overlap, which claims less.
        times.sort_by_key(|&(at, is_call, number)| (at, !is_call, number));

        let length = times.len() + 1;
        let mut events = vec![Event {
            operation: usize::MAX,
            is_call: false,
            previous: length - 1,
            next: 1 % length,
        }];
        let mut return_of = vec![0; operations.len()];
        for (place, &(_, is_call, operation)) in (1..).zip(&times) {
            if !is_call {
                return_of[operation] = place;
            }
            events.push(Event {
                operation,
                is_call,
                previous: place - 1,
                next: (place + 1) % length,
            });
        }
        Self {
            done: Done(vec![0; operations.len().div_ceil(64)]),
            operations,
            events,
            return_of,
            value: None,
            taken: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), Violation> {
        let mut seen: HashSet<(Done, Value)> = HashSet::new();
        let mut best: Option<Violation> = None;
        let mut at = self.events[HEAD].next;
        while at != HEAD {
            let event = self.events[at];
            if event.is_call {
                let operation = event.operation;
                if let Some(value) = apply(&self.value, &self.operations[operation].what) {
                    self.done.flip(operation);
                    if seen.insert((self.done.clone(), value.clone())) {
                        self.taken
                            .push((at, std::mem::replace(&mut self.value, value)));
                        self.unlink(at);
                        self.unlink(self.return_of[operation]);
                        at = self.events[HEAD].next;
                        continue;
                    }
                    self.done.flip(operation);
                }
                at = event.next;
            } else {
                // This one ended before anything further began, and nothing that began before fits.
                if best
                    .as_ref()
                    .is_none_or(|best| best.explained_count() < self.taken.len())
                {
                    best = Some(self.violation(at));
                }
                let Some((call, value)) = self.taken.pop() else {
                    return Err(best.expect("set just now"));
                };
                let operation = self.events[call].operation;
                self.value = value;
                self.done.flip(operation);
                self.relink(self.return_of[operation]);
                self.relink(call);
                at = self.events[call].next;
            }
        }
        Ok(())
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    /// Undoes the last [`unlink`](Self::unlink) that is not undone.
    fn relink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = at;
        self.events[next].previous = at;
    }

    fn violation(&self, stuck_at: usize) -> Violation {
        let mut beside = Vec::new();
        let mut at = self.events[HEAD].next;
        while at != stuck_at {
            beside.push(self.operations[self.events[at].operation].clone());
            at = self.events[at].next;
        }
        let explained = self
            .taken
            .iter()
            .map(|&(call, _)| self.operations[self.events[call].operation].clone());
        Violation {
            key: self.operations[0].key.clone(),
            stuck_at: beside,
            explained: explained.collect(),
        }
    }
}

/// Which operations have been taken.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

impl Violation {
    fn explained_count(&self) -> usize {
        self.explained.len()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        let Self {
            key,
            stuck_at,
            explained,
        } = self;
        writeln!(
            f,
            "key {key}: no order explains what its clients saw; the best explains {} operations, last:",
            explained.len()
        )?;
        for operation in &explained[explained.len().saturating_sub(SHOWN)..] {
            writeln!(f, "  {operation}")?;
        }
        writeln!(f, "and then none of:")?;
        stuck_at
            .iter()
            .try_for_each(|operation| writeln!(f, "  {operation}"))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            what,
            called,
            returned,
            ..
        } = self;
        write!(f, "{:>10} us .. ", called.as_micros())?;
        match returned {
            Some(returned) => write!(f, "{:>10} us", returned.as_micros())?,
            None => write!(f, "   unknown   ")?,
        }
        write!(f, "  client {client}  {what:?}")
    }
}

mod tests {
    use super::*;

    fn history(lines: &[(u64, u64, What)]) -> Vec<Operation> {
        let operation =
            |(client, &(called, returned, ref what)): (usize, &(u64, u64, What))| Operation {
                client,
                key: "k".to_owned(),
                what: what.clone(),
                called: Duration::from_millis(called),
                returned: (returned != NEVER).then(|| Duration::from_millis(returned)),
            };
        lines.iter().enumerate().map(operation).collect()
    }

    const NEVER: u64 = u64::MAX;

    fn got(value: &str) -> What {
        What::Get(Some(value.to_owned()))
    }

    fn put(value: &str) -> What {
        What::Put(value.to_owned())
    }

    fn append(value: &str) -> What {
        What::Append(value.to_owned())
    }

    #[test]
    fn a_history_with_an_order_is_accepted() {
        check(vec![]).unwrap();
        let overlapping = history(&[
            (0, 90, put("a")),
            (10, 80, append("b")),
            (20, 70, What::Get(None)),
            (30, 60, got("b")),
            (65, 75, got("a")),
            (91, 92, got("a")),
        ]);
        check(overlapping).unwrap();
    }

    #[test]
    fn a_stale_read_is_rejected() {
        let stale = history(&[(0, 1, put("a")), (2, 3, put("b")), (4, 5, got("a"))]);
        let violation = check(stale).unwrap_err().to_string();
        assert!(
            violation.contains("4000 us"),
            "it names the read: {violation}"
        );
        // Two reads beside a write: once it was seen, it stays seen.
        let back = history(&[
            (0, 1, put("a")),
            (2, 9, put("b")),
            (3, 4, got("b")),
            (5, 6, got("a")),
        ]);
        check(back).unwrap_err();
    }

    #[test]
    fn a_lost_write_is_rejected() {
        check(history(&[(0, 1, put("a")), (2, 3, What::Get(None))])).unwrap_err();
        let lost = history(&[(0, 5, append("a")), (1, 4, append("b")), (6, 7, got("b"))]);
        check(lost).unwrap_err();
    }

    #[test]
    fn a_write_that_counts_twice_is_rejected() {
        check(history(&[(0, 1, append("a")), (2, 3, got("aa"))])).unwrap_err();
        check(history(&[(0, NEVER, append("a")), (2, 3, got("aa"))])).unwrap_err();
    }

    #[test]
    fn an_unknown_write_may_count_late_or_never_but_not_early() {
        let unknown = |reads: [What; 2]| {
            let [first, second] = reads;
            check(history(&[
                (0, 1, put("a")),
                (2, NEVER, put("b")),
                (3, 4, first),
                (50, 60, second),
            ]))
        };
        unknown([got("a"), got("b")]).unwrap();
        unknown([got("a"), got("a")]).unwrap();
        unknown([got("b"), got("a")]).unwrap_err();
        check(history(&[(0, 1, got("b")), (2, NEVER, put("b"))])).unwrap_err();
    }

    #[test]
    fn keys_are_searched_apart() {
        let mut two = history(&[(0, 1, put("a")), (2, 3, got("a"))]);
        two[1].key = "other".to_owned();
        check(two).unwrap_err();
    }

    /// The search finds its way back: many operations at once, of which only one order fits.
    #[test]
    fn many_operations_at_once_are_searched_to_the_end() {
        let letters = "hgfedcba";
        let mut lines: Vec<_> = letters
            .chars()
            .map(|letter| (0, 100, append(&letter.to_string())))
            .collect();
        lines.push((101, 102, got("abcdefgh")));
        check(history(&lines)).unwrap();
        *lines.last_mut().unwrap() = (101, 102, got("abcdefgg"));
        check(history(&lines)).unwrap_err();
    }
}
