//! Every set of cut links (failures N2 to N4 of partial partitions; Omni-Paxos' shapes are among them).

use sim::cuts::{links_of, run_with_cuts};

fn every_set(nodes: usize, one_way: bool, step: usize) {
    let links = links_of(nodes, one_way).len();
    let (mut served, mut failures) = (0, Vec::new());
    for set in (0..1_u64 << links).step_by(step) {
        let outcome = run_with_cuts(nodes, one_way, set, 1_000 + set);
        served += u32::from(outcome.must_serve);
        if let Some(failure) = outcome.failure {
            failures.push(format!("cuts {set:0links$b}: {failure}"));
        }
    }
    assert!(
        served > 1,
        "{nodes} nodes, {links} links: {served} sets leave a connected majority"
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
    every_set(3, false, 1);
}

#[test]
fn three_nodes_serve_through_one_way_cuts_wherever_a_majority_is_connected() {
    every_set(3, true, 1);
}

#[test]
fn five_nodes_serve_wherever_a_majority_is_connected() {
    every_set(5, false, 1);
}
