//! Waiting for what must come, with a guard against hanging.

use std::thread;
use std::time::{Duration, Instant};

/// Whatever has not come by now never will. Only a guard: nothing here asserts on speed.
pub(crate) const HANG_GUARD: Duration = Duration::from_mins(1);

/// How often to look at what has no event of its own.
const POLL: Duration = Duration::from_millis(5);

/// Asks `probe` until it yields something.
///
/// # Panics
/// If it does not within [`HANG_GUARD`].
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within_guard(probe).unwrap_or_else(|| panic!("not within {} s: {what}", HANG_GUARD.as_secs()))
}

/// As [`eventually`], for who must not panic: `None` if it is too late.
pub(crate) fn within_guard<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + HANG_GUARD;
    loop {
        let found = probe();
        if found.is_some() || Instant::now() >= give_up {
            return found;
        }
        thread::sleep(POLL);
    }
}

/// The seed of a test: `TEST_SEED` where it is set, to repeat a run; drawn anew otherwise. Printed, so
/// that a failure's output names it.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = std::env::var("TEST_SEED").ok().map_or_else(
        || fastrand::u64(..),
        |text| text.parse().expect("TEST_SEED is a number"),
    );
    println!("{test}: TEST_SEED={seed}");
    seed
}
