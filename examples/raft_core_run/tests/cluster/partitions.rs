//! Nodes between which packets get lost while clients, who reach all of them, read and write.
//!
//! Every history is checked, and every acknowledged write read back. Bounds are in election timeouts
//! and in terms; how long it took is printed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::kv::{GetArgs, KvServerRpcStub};
use rpc::RpcController;

use crate::harness::cluster::status;
use crate::harness::scene::ELECTION_TIMEOUT;
use crate::harness::{Scene, eventually, seed};

/// Faults N1: the others elect a leader. The old one steps down, and answers no read from what it knew;
/// when it is heard again, it disturbs nobody.
#[test]
fn a_leader_on_its_own_is_replaced_and_answers_nothing_old() {
    let test = a_leader_on_its_own_is_replaced_and_answers_nothing_old;
    let Some(scene) = Scene::of(test, 3, 3) else {
        return;
    };
    let cluster = &scene.cluster;
    for _ in 0..2 {
        cluster.clerk(0).put("x", "old").unwrap();
        let (lonely, others) = scene.cast::<2>();
        let stub = cluster.stub(lonely);
        let campaigns = scene.campaigns(lonely);
        scene.network().isolate(lonely);
        scene.assert_served_by(&others);
        cluster.clerk_of(&others).put("x", "new").unwrap();
        eventually("it steps down", || {
            let value = read(&stub);
            assert_ne!(value.as_deref(), Some(&b"old"[..]), "a stale read");
            let role = status(&stub)?.role;
            (role != "leader").then_some(())
        });
        for _ in 0..5 {
            assert_eq!(read(&stub), None, "by whose leave does it answer?");
        }
        eventually("it has asked in vain whether it could win", || {
            (scene.campaigns(lonely) >= campaigns + 3).then_some(())
        });
        scene.heal_and_settle();
    }
    scene.end();
}

/// The value of `x`, if this node answers.
fn read(stub: &KvServerRpcStub) -> Option<Bytes> {
    let get = GetArgs {
        key: Bytes::from_static(b"x"),
        ..GetArgs::default()
    };
    let mut controller = RpcController::with_timeout(Duration::from_millis(200));
    let reply = stub.get(&mut controller, &get).ok()?;
    (reply.err == "OK").then_some(reply.value)
}

/// Faults N2: two of three nodes do not hear each other, the third hears both. Leadership moves once at
/// most, and then no more.
#[test]
fn two_of_three_nodes_are_cut_from_each_other_and_the_leader_stays() {
    let test = two_of_three_nodes_are_cut_from_each_other_and_the_leader_stays;
    let Some(scene) = Scene::of(test, 3, 3) else {
        return;
    };
    let (leader, [one, other]) = scene.cast();
    for (left, right) in [(leader, one), (one, other)] {
        let before = scene.latest_term();
        scene.network().cut_both_ways(left, right);
        if left == leader {
            scene.wait_until_missed_by(leader, right);
        }
        scene.assert_served_by(&[0, 1, 2]);
        scene.assert_at_rest(4);
        assert!(scene.latest_term() <= before + 1, "one change at most");
        scene.heal_and_settle();
    }
    scene.end();
}

/// Faults N3: of what two nodes send each other, one direction is lost. Over TCP neither can do much then:
/// acknowledgements are lost, or what they are to acknowledge.
#[test]
fn one_direction_between_leader_and_follower_is_lost_and_service_goes_on() {
    let test = one_direction_between_leader_and_follower_is_lost_and_service_goes_on;
    let Some(scene) = Scene::of(test, 3, 3) else {
        return;
    };
    for is_leader_unheard in [true, false] {
        let before = scene.latest_term();
        let (leader, [follower, _]) = scene.cast();
        if is_leader_unheard {
            scene.network().cut(leader, follower);
        } else {
            scene.network().cut(follower, leader);
        }
        scene.wait_until_missed_by(leader, follower);
        scene.assert_served_by(&[0, 1, 2]);
        scene.assert_at_rest(3);
        scene.heal_and_settle();
        assert!(scene.latest_term() <= before + 1, "one change at most");
    }
    scene.end();
}

/// By then the systems' TCP waits for more than six seconds before it tries again.
const SILENCE: Duration = Duration::from_secs(7);

/// Faults N7: an established connection falls silent, which nobody's system reports. Leader and follower
/// notice it, and dial again until they hear each other: that waits for no retransmission.
#[test]
fn a_silent_connection_is_redialled_and_works_as_soon_as_the_link_does() {
    let test = a_silent_connection_is_redialled_and_works_as_soon_as_the_link_does;
    let Some(mut scene) = Scene::of(test, 3, 3) else {
        return;
    };
    let (leader, [follower, _]) = scene.cast();
    let silent_from = Instant::now();
    scene.network().cut_both_ways(leader, follower);
    let address = scene.network().address(follower);
    let goal = format!("server is down peer={address}");
    scene.cluster.process(leader).wait_for_line(&goal);
    let took = silent_from.elapsed().as_millis();
    println!("noticed, and redialled in vain, after {took} ms");
    while silent_from.elapsed() < SILENCE {
        scene.load.wait_for_acks(20);
    }
    let healed = Instant::now();
    scene.network().heal();
    scene.cluster.wait_for_catch_up(follower);
    let took = healed.elapsed();
    println!("caught up {} ms after the link was whole", took.as_millis());
    assert!(took < SILENCE / 2, "{took:?}");
    scene.heal_and_settle();
    scene.end();
}

/// Faults N4: a link of the leader comes and goes, at about the pace of elections.
#[test]
fn a_link_that_flaps_stops_nobody() {
    let Some(scene) = Scene::of(a_link_that_flaps_stops_nobody, 3, 3) else {
        return;
    };
    let mut random = fastrand::Rng::with_seed(seed("flapping"));
    let mut wait = || {
        let until = Instant::now() + ELECTION_TIMEOUT.mul_f64(0.5 + random.f64());
        while Instant::now() < until {
            scene.load.wait_for_acks(20);
        }
    };
    let before = scene.latest_term();
    let begun = Instant::now();
    while begun.elapsed() < ELECTION_TIMEOUT * 20 {
        let (leader, [follower, _]) = scene.cast();
        scene.network().cut_both_ways(leader, follower);
        wait();
        scene.network().heal();
        wait();
    }
    scene.assert_few_terms_since(before);
    scene.heal_and_settle();
    scene.end();
}

/// Faults M3: a dead node is replaced while the newcomer and one of the two that are left do not hear
/// each other. Afterwards the newcomer counts.
#[test]
fn a_member_is_replaced_while_a_link_is_cut() {
    let Some(mut scene) = Scene::of(a_member_is_replaced_while_a_link_is_cut, 3, 4) else {
        return;
    };
    let (leader, [dead, follower]) = scene.cast();
    scene.cluster.kill(dead);
    scene.network().cut_both_ways(3, follower);
    let newcomer = scene.cluster.join(leader, &[&format!("--replace={dead}")]);
    let goal = format!("node {newcomer}: voter in the place of node {dead}");
    scene.cluster.process(newcomer).wait_for_line(&goal);
    scene.load.wait_for_acks(100);
    scene.recorder.progress(100);

    // Without it there is no majority now, and the leader would not stay.
    let before = scene.leadership();
    scene.cluster.kill(follower);
    scene.assert_served_by(&[leader, newcomer]);
    scene.load.wait_for_acks(100);
    assert_eq!(scene.leadership(), before);
    scene.cluster.start_node(follower);
    scene.assert_at_rest(2);
    scene.heal_and_settle();
    scene.end();
}

/// Faults N2: two pairs that do not hear each other, and one node that hears all. A leader of either
/// pair has a majority with that node, and keeps it.
#[test]
fn one_node_between_two_pairs_keeps_the_cluster_together() {
    let test = one_node_between_two_pairs_keeps_the_cluster_together;
    let Some(scene) = Scene::of(test, 5, 5) else {
        return;
    };
    let before = scene.latest_term();
    let (leader, [beside, _, one, other]) = scene.cast();
    for left in [leader, beside] {
        for right in [one, other] {
            scene.network().cut_both_ways(left, right);
        }
    }
    scene.wait_until_missed_by(leader, one);
    scene.assert_served_by(&[0, 1, 2, 3, 4]);
    scene.assert_at_rest(5);
    assert!(scene.latest_term() <= before + 1, "one change at most");
    scene.heal_and_settle();
    scene.end();
}

/// Faults N2, where a quorum is lost: every node hears one node in the middle, and nobody else. Only that
/// one can lead, and the old leader, which it still hears, must make way.
#[test]
fn only_the_node_that_all_others_hear_can_lead() {
    let test = only_the_node_that_all_others_hear_can_lead;
    let Some(scene) = Scene::of(test, 5, 5) else {
        return;
    };
    let before = scene.latest_term();
    let (leader, [middle, one, two, three]) = scene.cast();
    let ends = [leader, one, two, three];
    for (place, left) in ends.iter().enumerate() {
        for right in &ends[..place] {
            scene.network().cut_both_ways(*left, *right);
        }
    }
    scene.assert_served_by(&[0, 1, 2, 3, 4]);
    assert_eq!(scene.cluster.leader(), middle);
    scene.assert_at_rest(4);
    scene.assert_few_terms_since(before);
    scene.heal_and_settle();
    scene.end();
}
