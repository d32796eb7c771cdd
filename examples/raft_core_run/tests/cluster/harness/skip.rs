//! Tests that need what not every machine has or allows: `strace`, namespaces, a mount.

use std::env;

/// Set, a test that cannot run is one that failed. `.ci/run` sets it where it has found all that it takes.
const NO_SKIPS: &str = "CLUSTER_TEST_NO_SKIPS";

/// Says that a test cannot run here. It passes all the same, which is for its caller to see to.
///
/// # Panics
/// If tests must not be skipped.
pub(crate) fn not_tested(why: &str) {
    assert!(
        env::var_os(NO_SKIPS).is_none(),
        "{NO_SKIPS} is set, and this test cannot run: {why}"
    );
    println!("NOT TESTED: {why}");
}
