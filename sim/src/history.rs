//! What clients asked and heard, and whether one order explains it (linearizability).
//!
//! The log is an order of all writes that took effect. So it is enough to show that *this* order
//! explains what the clients saw: each read has the value that some prefix of its key's writes made, and
//! nothing that ended before something else began comes after it. That takes a sort instead of a
//! search; tests hold it against the search.

use std::collections::BTreeMap;

/// What a call did. Values are the tokens of the writes that made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Replaced the value by this token.
    Put(u64),
    /// Added this token to the value.
    Append(u64),
    /// Saw this value.
    Get(Vec<u64>),
}

/// One call of a client. Times are any numbers that order what happened.
#[derive(Clone, Debug)]
pub struct Call {
    /// Of the map.
    pub key: u8,
    /// A read that never ended is left out.
    pub what: What,
    /// When it began.
    pub invoked: u64,
    /// When its client heard the outcome; `None`: never, and a write may have been done or not.
    pub returned: Option<u64>,
}

/// All calls of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In any order.
    pub calls: Vec<Call>,
}

/// A write that took effect, in the order of the log.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// Of the map.
    pub key: u8,
    /// Unique.
    pub token: u64,
    /// Otherwise it replaced the value.
    pub append: bool,
}

/// Why the log's order does not explain a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl History {
    /// # Errors
    /// What the log's order does not explain.
    pub fn check(&self, log: &[Effect]) -> Result<(), Violation> {
        let mut keys: BTreeMap<u8, (Vec<Effect>, Vec<&Call>)> = BTreeMap::new();
        for effect in log {
            keys.entry(effect.key).or_default().0.push(*effect);
        }
        for call in &self.calls {
            keys.entry(call.key).or_default().1.push(call);
        }
        keys.into_values()
            .try_for_each(|(effects, calls)| check_key(&effects, &calls))
    }
}

/// The value after each prefix of a key's writes, told apart by a hash, and where each token came.
struct Values {
    after: Vec<u64>,
    places: BTreeMap<u64, usize>,
}

impl Values {
    fn of(effects: &[Effect]) -> Result<Self, Violation> {
        let mut after = vec![EMPTY];
        let mut places = BTreeMap::new();
        for (place, effect) in (1..).zip(effects) {
            let before = if effect.append {
                after[place - 1]
            } else {
                EMPTY
            };
            after.push(fold(before, effect.token));
            if places.insert(effect.token, place).is_some() {
                let token = effect.token;
                return Err(Violation(format!("write {token} took effect twice")));
            }
        }
        Ok(Self { after, places })
    }

    /// How many writes a call comes after, itself included; `None`: it took no effect.
    fn place_of(&self, call: &Call) -> Result<Option<usize>, Violation> {
        match &call.what {
            What::Put(token) | What::Append(token) => {
                let place = self.places.get(token).copied();
                if place.is_none() && call.returned.is_some() {
                    return Err(Violation(format!("acknowledged write {token} is lost")));
                }
                Ok(place)
            }
            What::Get(value) => {
                let hash = value.iter().fold(EMPTY, |hash, token| fold(hash, *token));
                let place = match value.last() {
                    None => Some(0),
                    Some(last) => self.places.get(last).copied(),
                };
                match place {
                    Some(place) if self.after[place] == hash => Ok(Some(place)),
                    _ => Err(Violation(format!("a read saw {value:?}, which never was"))),
                }
            }
        }
    }
}

const EMPTY: u64 = 0x9e37_79b9_7f4a_7c15;

fn fold(hash: u64, token: u64) -> u64 {
    (hash.rotate_left(23) ^ token).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// A call's place in the one order: reads after the write that they saw.
struct Placed<'a> {
    call: &'a Call,
    rank: usize,
}

fn check_key(effects: &[Effect], calls: &[&Call]) -> Result<(), Violation> {
    let values = Values::of(effects)?;
    let mut begun = Vec::with_capacity(calls.len());
    for &call in calls {
        if let Some(place) = values.place_of(call)? {
            let is_read = matches!(call.what, What::Get(_));
            let rank = 2 * place + usize::from(is_read);
            begun.push(Placed { call, rank });
        }
    }
    begun.sort_by_key(|placed| placed.call.invoked);
    let mut ended: Vec<&Placed<'_>> = begun
        .iter()
        .filter(|placed| placed.call.returned.is_some())
        .collect();
    ended.sort_by_key(|placed| placed.call.returned);
    let mut ended = ended.into_iter().peekable();
    // The call of the highest rank among those that ended before the next one begins.
    let mut latest: Option<&Placed<'_>> = None;
    for placed in &begun {
        let is_before = |other: &&Placed<'_>| other.call.returned < Some(placed.call.invoked);
        while let Some(other) = ended.next_if(is_before) {
            if latest.is_none_or(|latest| latest.rank < other.rank) {
                latest = Some(other);
            }
        }
        if let Some(latest) = latest
            && latest.rank > placed.rank
        {
            return Err(Violation(format!(
                "{:?} ended before {:?} began, and comes after it",
                latest.call, placed.call
            )));
        }
    }
    Ok(())
}

/// Whether some order explains the history, by trying them all (Wing & Gong). For a handful of calls.
#[must_use]
pub fn is_linearizable_by_search(history: &History) -> bool {
    let mut keys: BTreeMap<u8, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        keys.entry(call.key).or_default().push(call);
    }
    keys.values()
        .all(|calls| search(calls, &mut vec![false; calls.len()], &[]))
}

fn search(calls: &[&Call], done: &mut Vec<bool>, value: &[u64]) -> bool {
    let is_over = |place: usize| done[place] || calls[place].returned.is_none();
    if (0..calls.len()).all(is_over) {
        return true;
    }
    let open: Vec<usize> = (0..calls.len()).filter(|&place| !done[place]).collect();
    // Whatever comes next must have begun before every open call ended.
    let first_end = open.iter().filter_map(|&place| calls[place].returned).min();
    for place in open {
        if first_end.is_some_and(|end| calls[place].invoked > end) {
            continue;
        }
        let next = match &calls[place].what {
            What::Put(token) => vec![*token],
            What::Append(token) => [value, &[*token]].concat(),
            What::Get(seen) if seen == value => value.to_vec(),
            What::Get(_) => continue,
        };
        done[place] = true;
        if search(calls, done, &next) {
            return true;
        }
        done[place] = false;
    }
    false
}
