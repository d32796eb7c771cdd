//! Tests that need what not every machine has or allows: `strace`, namespaces, a mount.

use std::env;

/// What a test may need: to trace system calls, networks of its own, file systems of its own, control
/// groups, clocks that are faked.
const KINDS: [&str; 5] = ["trace", "network", "loop", "cgroup", "clock"];

/// Names kinds, with commas between them: a test that needs one of these and cannot run is one that
/// failed. `.ci/run` names those that it has found.
const NO_SKIPS: &str = "CLUSTER_TEST_NO_SKIPS";

/// Says that a test cannot run here, for want of what. It passes all the same, which is for its caller to
/// see to.
///
/// # Panics
/// If tests of this kind must not be skipped.
pub(crate) fn not_tested(kind: &str, why: &str) {
    let enforced = env::var(NO_SKIPS).unwrap_or_default();
    let enforced: Vec<&str> = enforced.split_terminator(',').collect();
    for name in enforced.iter().chain([&kind]) {
        assert!(KINDS.contains(name), "{name:?} is none of {KINDS:?}");
    }
    assert!(
        !enforced.contains(&kind),
        "{NO_SKIPS} names {kind}, and this test cannot run: {why}"
    );
    println!("NOT TESTED ({kind}): {why}");
}
