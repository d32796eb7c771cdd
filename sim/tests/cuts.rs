//! Every set of cut links (faults N2 to N4, partial partitions; Omni-Paxos' shapes are among them).

use sim::cuts::{links_of, run_with_cuts};

/// In `connected` of the sets some majority can all hear each other.
fn every_set(nodes: usize, one_way: bool, connected: u32) {
    let links = links_of(nodes, one_way).len();
    let (mut served, mut failures) = (0, Vec::new());
    for set in 0..1_u64 << links {
        let outcome = run_with_cuts(nodes, one_way, set, 1_000 + set);
        served += u32::from(outcome.must_serve);
        if let Some(failure) = outcome.failure {
            failures.push(format!("cuts {set:0links$b}: {failure}"));
        }
    }
    assert_eq!(
        served, connected,
        "{nodes} nodes, {links} links: sets that leave a connected majority (docs/simulation.md)"
    );
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn three_nodes_serve_wherever_a_majority_is_connected() {
    every_set(3, false, 7);
}

#[test]
fn three_nodes_serve_through_one_way_cuts_wherever_a_majority_is_connected() {
    every_set(3, true, 37);
}

#[test]
fn five_nodes_serve_wherever_a_majority_is_connected() {
    every_set(5, false, 636);
}
