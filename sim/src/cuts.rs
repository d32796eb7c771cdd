//! Every set of cut links of a small cluster (Omni-Paxos' partial partitions; faults N2 to N4).
//!
//! For each set: wherever some nodes that are a majority can all hear each other, a write is
//! acknowledged within ten election timeouts, and then nobody else is elected.

use crate::clock::Micros;
use crate::network::MAX_NODES;
use crate::options::RunOptions;
use crate::world::{ELECTION_TIMEOUT_US, World};

/// What came of one set of cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOutcome {
    /// Some majority is fully connected, so the cluster must serve.
    pub must_serve: bool,
    /// Why it did not do as it must.
    pub failure: Option<String>,
}

/// Links of `nodes` nodes that may be cut: pairs, or, one way, ordered pairs.
#[must_use]
pub fn links_of(nodes: usize, one_way: bool) -> Vec<(usize, usize)> {
    let pairs = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)));
    pairs
        .filter(|(a, b)| if one_way { a != b } else { a < b })
        .collect()
}

/// Cuts those of [`links_of`] whose bit is set in `set`, in a cluster that has a leader, and looks on.
///
/// # Panics
/// With more nodes than a simulated cluster may have.
#[must_use]
pub fn run_with_cuts(nodes: usize, one_way: bool, set: u64, seed: u64) -> CutOutcome {
    assert!(nodes < MAX_NODES, "a small cluster");
    let options = RunOptions {
        nodes: nodes as u64,
        events: 0,
        ..RunOptions::default()
    };
    let mut world = World::new(seed, options);
    world.make_calm();
    world.begin();
    let wait = |world: &mut World, us: Micros| {
        let until = world.now + us;
        while world.now < until && world.oracle.violation.is_none() {
            world.step();
        }
    };
    wait(&mut world, 10 * ELECTION_TIMEOUT_US);

    let mut cut = [[false; MAX_NODES]; MAX_NODES];
    for (bit, (a, b)) in links_of(nodes, one_way).into_iter().enumerate() {
        if set >> bit & 1 == 1 {
            world.links.cut(a, b);
            cut[a][b] = true;
            if !one_way {
                world.links.cut(b, a);
                cut[b][a] = true;
            }
        }
    }
    let must_serve = has_connected_majority(nodes, &cut);
    let token = world.next_token;
    let mut failure = None;
    let deadline = world.now + 10 * ELECTION_TIMEOUT_US;
    while must_serve && !world.was_written_since(token) && world.oracle.violation.is_none() {
        if world.now > deadline {
            failure = Some("no write within ten election timeouts".to_owned());
            break;
        }
        world.step();
    }
    if must_serve && failure.is_none() {
        // An election that was under way may still end.
        wait(&mut world, 2 * ELECTION_TIMEOUT_US);
        let elections = world.elections;
        wait(&mut world, 10 * ELECTION_TIMEOUT_US);
        let more = world.elections - elections;
        if more > 0 {
            failure = Some(format!("{more} elections after the cluster served"));
        }
    }
    if let Some(violation) = &world.oracle.violation {
        failure = Some(format!("{}: {}", violation.property, violation.what));
    }
    CutOutcome {
        must_serve,
        failure,
    }
}

/// Whether some majority can all hear each other, both ways.
fn has_connected_majority(nodes: usize, cut: &[[bool; MAX_NODES]; MAX_NODES]) -> bool {
    let is_clique = |subset: u32| {
        let of_subset = |node: &usize| subset >> node & 1 == 1;
        let members: Vec<usize> = (0..nodes).filter(of_subset).collect();
        members
            .iter()
            .all(|&a| members.iter().all(|&b| !cut[a][b] && !cut[b][a]))
    };
    (0..1_u32 << nodes).any(|subset| subset.count_ones() as usize > nodes / 2 && is_clique(subset))
}
