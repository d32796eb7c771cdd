//! A table whose entries expire when idle and make room, the least recently used first.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, btree_map};
use std::hash::Hash;

use crate::command::LogTime;

/// Where the log stands: an entry's index, and the log time it was applied at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Grows with every entry, so two uses never share one.
    pub(crate) index: u64,
    /// Never falls from one entry to the next.
    pub(crate) time: LogTime,
}

/// When an entry must leave a [`Recency`] table. The same on every node, or their tables differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// An entry leaves once it was idle for longer than this, in milliseconds of log time.
    pub(crate) ttl_ms: u64,
    /// With more entries than this, the least recently used leaves.
    pub(crate) max_entries: usize,
}

/// A map that knows in which order its entries were last used.
///
/// Each use costs O(log n) and expiry O(log n) for each entry that leaves: no scan. An entry is used at
/// most once an index, so the index of its last use is its place in the order; and as log time never
/// falls, the same order is that of idleness. The entries lie in that order, for a snapshot to go
/// through them as they lie.
#[derive(Clone, Debug)]
pub(crate) struct Recency<K, V> {
    by_last_use: BTreeMap<u64, Used<K, V>>,
    /// Where in `by_last_use` each key's entry is.
    places: HashMap<K, u64>,
}

#[derive(Clone, Debug)]
struct Used<K, V> {
    key: K,
    /// The log time of the last use.
    time: LogTime,
    value: V,
}

impl<K: Clone + Eq + Hash, V> Recency<K, V> {
    pub(crate) fn new() -> Recency<K, V> {
        Recency {
            by_last_use: BTreeMap::new(),
            places: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_last_use.len()
    }

    /// Looks an entry up without using it.
    pub(crate) fn peek<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = self.places.get(key)?;
        Some(&self.by_last_use[place].value)
    }

    /// Uses an entry, if there is one.
    pub(crate) fn touch<Q>(&mut self, key: &Q, now: Moment) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = self.places.get_mut(key)?;
        let used = self
            .by_last_use
            .remove(place)
            .expect("each key has its entry");
        *place = now.index;
        let used = Used {
            time: now.time,
            ..used
        };
        Some(self.put_last(now.index, used))
    }

    /// Adds an entry under a key that has none, as just used.
    pub(crate) fn insert(&mut self, key: K, value: V, now: Moment) {
        let displaced = self.places.insert(key.clone(), now.index);
        assert!(displaced.is_none(), "the key has an entry already");
        let used = Used {
            key,
            time: now.time,
            value,
        };
        self.put_last(now.index, used);
    }

    /// Adds an entry from a snapshot taken at `now`. `None` if it does not follow the one restored before
    /// it, in the order of [`iter`](Recency::iter), or was used later than `now`.
    pub(crate) fn restore(&mut self, key: K, value: V, last: Moment, now: Moment) -> Option<()> {
        let in_order = match self.by_last_use.last_key_value() {
            None => true,
            Some((&index, previous)) => index < last.index && previous.time <= last.time,
        };
        if !in_order
            || last.index > now.index
            || last.time > now.time
            || self.places.contains_key(&key)
        {
            return None;
        }
        self.insert(key, value, last);
        Some(())
    }

    /// Removes what has been idle for too long at `now`.
    pub(crate) fn expire(&mut self, now: LogTime, limits: Limits) {
        while let Some((_, oldest)) = self.by_last_use.first_key_value() {
            if now.since(oldest.time).as_millis() <= u128::from(limits.ttl_ms) {
                break;
            }
            self.remove_oldest();
        }
    }

    /// Removes the least recently used until no more than the limit are left.
    pub(crate) fn evict(&mut self, limits: Limits) {
        while self.len() > limits.max_entries {
            self.remove_oldest();
        }
    }

    /// All entries, the least recently used first: an order that is the same on every node.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, Moment, &V)> {
        self.by_last_use.iter().map(|(&index, used)| {
            let last = Moment {
                index,
                time: used.time,
            };
            (&used.key, last, &used.value)
        })
    }

    fn put_last(&mut self, index: u64, used: Used<K, V>) -> &mut V {
        let place = self.by_last_use.entry(index);
        assert!(
            matches!(place, btree_map::Entry::Vacant(_)),
            "two uses at index {index}"
        );
        &mut place.or_insert(used).value
    }

    fn remove_oldest(&mut self) {
        let oldest = self.by_last_use.pop_first();
        let (_, used) = oldest.expect("the table is not empty");
        self.places.remove(&used.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, millis: u64) -> Moment {
        Moment {
            index,
            time: LogTime::from_millis(millis),
        }
    }

    fn keys(table: &Recency<&'static str, u32>) -> Vec<&'static str> {
        table.iter().map(|(key, _, _)| *key).collect()
    }

    #[test]
    fn the_idle_leave_and_the_used_stay() {
        let limits = Limits {
            ttl_ms: 100,
            max_entries: 10,
        };
        let mut table = Recency::new();
        table.insert("a", 1, at(1, 0));
        table.insert("b", 2, at(2, 50));
        assert_eq!(table.touch("a", at(3, 60)), Some(&mut 1));

        table.expire(LogTime::from_millis(150), limits);
        assert_eq!(
            keys(&table),
            ["b", "a"],
            "b is idle for 100 ms, not for longer"
        );
        table.expire(LogTime::from_millis(151), limits);
        assert_eq!(keys(&table), ["a"]);
        assert_eq!(table.touch("b", at(4, 151)), None);
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let limits = Limits {
            ttl_ms: 100,
            max_entries: 2,
        };
        let mut table = Recency::new();
        table.insert("a", 1, at(1, 0));
        table.insert("b", 2, at(2, 0));
        table.touch("a", at(3, 0));
        table.insert("c", 3, at(4, 0));
        table.evict(limits);
        assert_eq!(keys(&table), ["a", "c"]);
        assert_eq!(table.len(), 2);
        assert_eq!(table.peek("b"), None);
    }
}
