//! Links between the nodes that lose packets, or let few of them through, while clients, who have better
//! ones, read and write.

use std::time::Duration;

use bytes::Bytes;

use crate::harness::proc::resident_bytes;
use crate::harness::scene::SERVED_WITHIN;
use crate::harness::{Scene, eventually, not_tested};

/// A number that a longer or harder run may change.
fn strength(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Faults N5: of all packets between the nodes one in ten is lost, and TCP must make up for it. At no
/// time is a write acknowledged later than [`SERVED_WITHIN`] after the one before; nor with more that is lost,
/// for longer, by `LOSS_SECONDS=60 LOSS_PERCENT=30`.
#[test]
fn links_that_lose_one_packet_in_ten_slow_the_nodes_down_only() {
    let test = links_that_lose_one_packet_in_ten_slow_the_nodes_down_only;
    let Some(scene) = Scene::of(test, 3, 3) else {
        return;
    };
    let percent = strength("LOSS_PERCENT", 10);
    let duration = Duration::from_secs(strength("LOSS_SECONDS", 5).into());
    let (elections, term) = (scene.elections(), scene.latest_term());
    if let Err(error) = scene.network().lose(percent) {
        return not_tested("network", &error);
    }
    scene.assert_served_for(duration);
    let lost = scene.network().lost();
    println!(
        "{lost} packets lost; {} changes of leaders, {} terms",
        scene.elections() - elections,
        scene.latest_term() - term
    );
    assert!(lost > 0, "nothing was lost");
    let (_, journal) = scene.end();
    let gap = journal.longest_gap;
    assert!(gap < SERVED_WITHIN, "no write for {gap:?}");
}

/// What a link lets through, in kilobits a second.
const NARROW_KBIT: u32 = 250;

const SNAPSHOT_LOG_BYTES: u64 = 1 << 20;

/// As in `bounds.rs`: the size at which a snapshot is due, and what is written while that is taken.
const LOG_BYTES_MAX: u64 = 8 * SNAPSHOT_LOG_BYTES;

/// What the leader may grow by, of which the log may be [`LOG_BYTES_MAX`].
const GROWTH_MAX: u64 = 48 << 20;

/// Values that the link would take some minutes for. Where they are written so slowly that the follower is
/// not yet [`LAG`] behind, more, up to so many.
const VALUES: usize = 800;
const VALUES_MAX: usize = 4 * VALUES;

/// In entries, those of other clients among them.
const LAG: u64 = 500;

const VALUE_BYTES: usize = 16 << 10;
const KEYS: usize = 20;

/// Faults N9: a follower behind a narrow link. The leader serves, keeps its lead, and holds no more for
/// it than for others; when the link is wide again, the follower catches up.
#[test]
fn a_follower_behind_a_narrow_link_holds_up_nobody_and_catches_up() {
    let test = a_follower_behind_a_narrow_link_holds_up_nobody_and_catches_up;
    let knob = format!("--snapshot-log-bytes={SNAPSHOT_LOG_BYTES}");
    let Some(mut scene) = Scene::with_knobs(test, 3, 3, &[&knob]) else {
        return;
    };
    let (leader, [follower, _]) = scene.cast();
    let before = (scene.leadership(), scene.latest_term());
    let process = scene.cluster.process(leader).id();
    let resident = resident_bytes(process);
    if let Err(error) = scene.network().narrow(follower, NARROW_KBIT) {
        return not_tested("network", &error);
    }
    let clerk = scene.cluster.clerk(0);
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let (mut lag, mut log_bytes, mut grown) = (0, 0, 0);
    for number in 0..VALUES_MAX {
        if number >= VALUES && lag > LAG {
            break;
        }
        clerk
            .put(format!("large {}", number % KEYS), value.clone())
            .unwrap();
        if number % 50 == 0 {
            let status = eventually("a status", || scene.cluster.status(leader));
            log_bytes = log_bytes.max(status.log_bytes);
            grown = grown.max(resident_bytes(process).saturating_sub(resident));
            if let Some(behind) = scene.cluster.status(follower) {
                lag = lag.max(status.commit_index.saturating_sub(behind.last_applied));
            }
        }
    }
    scene.load.wait_for_acks(100);
    println!("at most {lag} entries behind; the leader's log {log_bytes} bytes, grown by {grown}");
    assert!(lag > LAG, "the link was not narrow");
    assert!(log_bytes <= LOG_BYTES_MAX, "{log_bytes}");
    assert!(grown <= GROWTH_MAX, "{grown}");
    let now = (scene.leadership(), scene.latest_term());
    assert_eq!(now, before, "a disturbance");
    scene.network().widen(follower);
    scene.cluster.wait_for_catch_up(follower);
    scene.assert_at_rest(1);
    scene.end();
}
