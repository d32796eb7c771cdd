//! The tests that every [`Engine`] passes. An implementation runs them all with
//! `suite::engine_tests!(constructor)`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Engine, EngineView, Pair};
use crate::test_kit::SplitMix;

/// One `#[test]` for each function of the suite, on engines made by `$new`.
macro_rules! engine_tests {
    ($new:expr) => {
        suite::engine_tests!($new;
            answers_like_a_btree_map,
            keeps_odd_keys_and_values_apart,
            a_view_shows_the_beginning_whatever_changes_meanwhile,
            a_view_is_consistent_under_a_concurrent_writer,
            one_view_at_a_time,
            clearing_ends_the_view_but_does_not_disturb_it,
        );
    };
    ($new:expr; $($test:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                suite::$test($new);
            }
        )+
    };
}
pub(super) use engine_tests;

/// What an engine must answer like.
type Model = BTreeMap<Bytes, Bytes>;

/// A change, on few enough keys that they meet.
#[derive(Clone, Debug)]
enum Change {
    Put(Bytes, Bytes),
    Remove(Bytes),
    Clear,
}

fn change() -> impl Strategy<Value = Change> {
    let key = || {
        prop::collection::vec(prop::sample::select(vec![0_u8, b'a', 0xff]), 0..4)
            .prop_map(Bytes::from)
    };
    let value = prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from);
    prop_oneof![
        20 => (key(), value).prop_map(|(key, value)| Change::Put(key, value)),
        10 => key().prop_map(Change::Remove),
        1 => Just(Change::Clear),
    ]
}

fn apply_to_both<E: Engine>(engine: &mut E, model: &mut Model, change: Change) {
    match change {
        Change::Put(key, value) => {
            engine.put(key.clone(), value.clone()).unwrap();
            model.insert(key, value);
        }
        Change::Remove(key) => {
            assert_eq!(engine.remove(&key).unwrap(), model.remove(&key).is_some());
        }
        Change::Clear => {
            engine.clear().unwrap();
            model.clear();
        }
    }
}

fn assert_alike<E: Engine>(engine: &E, model: &Model) {
    let pairs: Vec<Pair> = engine.iter().map(Result::unwrap).collect();
    assert_eq!(pairs, pairs_of(model));
    assert_eq!(engine.len(), model.len());
    assert_eq!(engine.is_empty(), model.is_empty());
    let bytes: usize = model
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert_eq!(engine.bytes(), bytes as u64);
}

fn pairs_of(model: &Model) -> Vec<Pair> {
    model.clone().into_iter().collect()
}

/// The engine and its Mirror, a `BTreeMap`, do the same and answer alike.
pub(super) fn answers_like_a_btree_map<E: Engine>(new: impl Fn() -> E) {
    proptest!(|(changes in prop::collection::vec(change(), 0..200))| {
        let mut engine = new();
        let mut model = Model::new();
        for change in changes {
            if let Change::Put(key, _) | Change::Remove(key) = &change {
                prop_assert_eq!(engine.get(key).unwrap(), model.get(key).cloned());
            }
            apply_to_both(&mut engine, &mut model, change);
        }
        assert_alike(&engine, &model);
    });
}

pub(super) fn keeps_odd_keys_and_values_apart<E: Engine>(new: impl Fn() -> E) {
    let mut engine = new();
    let mut model = Model::new();
    let odd: [&'static [u8]; 8] = [b"", b"\0", b"\0\0", b" ", b"a b", b"\n|", b"\xff\xfe", b"k"];
    for (key, value) in odd.iter().zip(odd.iter().rev()) {
        let change = Change::Put(Bytes::from_static(key), Bytes::from_static(value));
        apply_to_both(&mut engine, &mut model, change);
    }
    assert_alike(&engine, &model);
    assert_eq!(engine.get(b"absent").unwrap(), None);
}

/// Steps of the view and changes of the engine, in any order on one thread: each interleaving of whole
/// steps that two threads could show.
pub(super) fn a_view_shows_the_beginning_whatever_changes_meanwhile<E: Engine>(
    new: impl Fn() -> E,
) {
    let step = || prop_oneof![2 => change().prop_map(Some), 1 => Just(None)];
    proptest!(|(
        before in prop::collection::vec(change(), 0..60),
        steps in prop::collection::vec(step(), 0..60),
    )| {
        let mut engine = new();
        let mut model = Model::new();
        for change in before {
            apply_to_both(&mut engine, &mut model, change);
        }
        let beginning = pairs_of(&model);
        let mut view = engine.begin_view().unwrap();
        prop_assert_eq!(view.total(), beginning.len());

        let mut seen = Vec::new();
        for step in steps {
            match step {
                Some(change) => apply_to_both(&mut engine, &mut model, change),
                None => seen.extend(view.next().map(Result::unwrap)),
            }
        }
        seen.extend(view.by_ref().map(Result::unwrap));
        prop_assert_eq!(seen, beginning);
        prop_assert!(view.next().is_none());
        assert_alike(&engine, &model);
    });
}

/// Two threads: one walks the view while the other changes what lies just ahead of it, where alone a change
/// can get between the walk's two looks (failure 83).
pub(super) fn a_view_is_consistent_under_a_concurrent_writer<E: Engine>(new: impl Fn() -> E) {
    const ROUNDS: u64 = 30;
    const KEYS: u64 = 5000;

    for seed in 0..ROUNDS {
        let mut random = SplitMix::new(seed);
        let mut engine = new();
        let mut model = Model::new();
        for _ in 0..KEYS {
            let number = random.below(KEYS);
            apply_to_both(&mut engine, &mut model, random_change(&mut random, number));
        }

        let beginning = pairs_of(&model);
        let view = engine.begin_view().unwrap();
        let walked_to = Arc::new(AtomicU64::new(0));
        let walk = thread::spawn({
            let walked_to = Arc::clone(&walked_to);
            move || {
                let mut seen = Vec::new();
                for pair in view.map(Result::unwrap) {
                    walked_to.store(number_of(&pair.0), Ordering::Relaxed);
                    seen.push(pair);
                }
                seen
            }
        });
        while !walk.is_finished() {
            let number = walked_to.load(Ordering::Relaxed) + random.below(5);
            apply_to_both(&mut engine, &mut model, random_change(&mut random, number));
        }
        let seen = walk.join().unwrap();
        let first_difference =
            (0..=beginning.len()).find(|&place| seen.get(place) != beginning.get(place));
        assert!(
            seen == beginning,
            "seed {seed}: {} pairs seen, {} at the beginning; the first difference: {:?}",
            seen.len(),
            beginning.len(),
            first_difference
        );
        assert_alike(&engine, &model);
        assert!(engine.begin_view().is_some(), "the walk dropped its view");
    }
}

fn random_change(random: &mut SplitMix, number: u64) -> Change {
    let key = Bytes::from(format!("{number:05}"));
    if random.below(3) == 0 {
        Change::Remove(key)
    } else {
        Change::Put(key, Bytes::from(random.next().to_string()))
    }
}

fn number_of(key: &Bytes) -> u64 {
    str::from_utf8(key).unwrap().parse().unwrap()
}

pub(super) fn one_view_at_a_time<E: Engine>(new: impl Fn() -> E) {
    let mut engine = new();
    let view = engine.begin_view().unwrap();
    assert!(engine.begin_view().is_none());
    drop(view);
    assert!(engine.begin_view().is_some());
}

pub(super) fn clearing_ends_the_view_but_does_not_disturb_it<E: Engine>(new: impl Fn() -> E) {
    let mut engine = new();
    let (key, old, new_value) = (Bytes::from("k"), Bytes::from("old"), Bytes::from("new"));
    engine.put(key.clone(), old.clone()).unwrap();
    let view = engine.begin_view().unwrap();

    engine.clear().unwrap();
    engine.put(key.clone(), new_value.clone()).unwrap();
    let second = engine.begin_view().unwrap();
    assert!(view.map(Result::unwrap).eq([(key.clone(), old)]));
    assert!(second.map(Result::unwrap).eq([(key, new_value)]));
}
