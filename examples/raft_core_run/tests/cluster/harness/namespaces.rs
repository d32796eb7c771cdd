//! Tests inside namespaces of their own: what they mount, and the networks that they make, nobody else sees,
//! and all of it vanishes with the last process inside, however that ends. Who waits outside takes the test
//! along: killed, it leaves nobody behind.

use std::any::type_name;
use std::env;
use std::process::Command;

use super::cluster::alone;
use super::skip::not_tested;

/// Set in a process that runs inside.
const INSIDE: &str = "CLUSTER_TEST_INSIDE_NAMESPACES";

/// Whether the test, which names itself, may go on: it runs inside. If not, it has passed inside by now;
/// or it cannot run here, where `probe` fails inside, and a line in the output says why and of which kind
/// it is ([`not_tested`]). Which namespaces it takes are options of `unshare`.
///
/// # Panics
/// If the test has failed inside.
pub(crate) fn is_inside<T: Fn()>(
    _test: T,
    kind: &str,
    namespaces: &[&str],
    probe: &[&str],
) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let _alone = alone();
    let unshare = || {
        let mut command = Command::new("unshare");
        command
            .args(namespaces)
            .args(["setpriv", "--pdeathsig", "KILL"]); // with the thread that waits for it
        command
    };
    let probed = unshare().args(probe).output();
    if !probed.as_ref().is_ok_and(|probed| probed.status.success()) {
        not_tested(
            kind,
            &format!("it needs unshare with {namespaces:?}, and {probe:?} there: {probed:?}"),
        );
        return false;
    }
    let (_, test) = type_name::<T>()
        .split_once("::")
        .expect("the path of a function begins with its crate");
    let inside = unshare()
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inside.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&inside.stderr));
    let has_passed = inside.status.success() && said.contains("test result: ok. 1 passed");
    assert!(has_passed, "{test} failed in its namespaces");
    false
}
