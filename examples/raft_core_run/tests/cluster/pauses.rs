//! Nodes that stand still for a while and then go on as if nothing had happened.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use proto::kv::{GetArgs, PutAppendArgs};
use rpc::RpcController;

use crate::harness::{Cluster, HANG_GUARD, Load, eventually, seed};

/// Reads that wait for the old leader when it wakes up, in each round.
const READS: usize = 20;

/// A leader that was paused for longer than an election wakes up with requests in its buffers and the
/// belief that it leads. It must not answer from what it knew, nor acknowledge what it cannot commit.
///
/// The original's defects 9 (a pause shifted all later replies by one) and 23 (a leader without a
/// majority went on believing).
#[test]
fn a_leader_that_slept_through_an_election_answers_nothing_old() {
    let mut random = fastrand::Rng::with_seed(seed("paused_leader"));
    let mut cluster = Cluster::start(3);
    let clerk = cluster.clerk(random.u64(..));
    let load = Load::start(&cluster, 4, random.u64(..));
    let mut acknowledged = Vec::new();

    for round in 0..5 {
        clerk.put("x", format!("old {round}")).unwrap();
        let sleeper = cluster.leader();
        let stub = cluster.stub(sleeper);
        // The connection is there before the node falls asleep: what is sent then waits in its buffers.
        eventually("a connection", || crate::harness::cluster::status(&stub));
        cluster.pause(sleeper);
        let others: Vec<usize> = cluster.running().filter(|&node| node != sleeper).collect();
        cluster.leader_among(&others);
        let new = format!("new {round}");
        clerk.put("x", new.clone()).unwrap();

        let (answer, answers) = channel();
        for number in 0..READS {
            let get = GetArgs {
                key: Bytes::from_static(b"x"),
                ..GetArgs::default()
            };
            let answer_get = answer.clone();
            stub.get_async(
                RpcController::with_timeout(HANG_GUARD),
                &get,
                move |reply| {
                    let _ = answer_get.send((None, reply.map(|reply| (reply.err, reply.value))));
                },
            );
            let key = format!("asleep {round}.{number}");
            let put = PutAppendArgs {
                key: key.clone().into(),
                value: Bytes::from_static(b"1"),
                op: Bytes::from_static(b"Put"),
                client_id: key.clone().into(),
                request_id: 1,
                ..PutAppendArgs::default()
            };
            let answer = answer.clone();
            stub.put_append_async(
                RpcController::with_timeout(HANG_GUARD),
                &put,
                move |reply| {
                    let _ = answer.send((Some(key), reply.map(|reply| (reply.err, Bytes::new()))));
                },
            );
        }
        drop(answer);
        cluster.resume(sleeper);
        let mut answered = 0;
        for (written, reply) in answers {
            answered += 1;
            let Ok((err, value)) = reply else { continue };
            match written {
                Some(key) if err == "OK" => acknowledged.push(key),
                None if err == "OK" => assert_eq!(value, new, "a stale read in round {round}"),
                _ => assert_eq!(err, "ErrWrongLeader"),
            }
        }
        assert_eq!(answered, 2 * READS, "every call is answered");
        cluster.wait_for_catch_up(sleeper);
    }
    let journal = load.finish();
    cluster.wait_for_convergence();
    for key in acknowledged {
        assert!(
            clerk.get(key.clone()).unwrap().is_some(),
            "{key} was acknowledged by a waking leader"
        );
    }
    journal.verify(&cluster);
}

/// The original's defects 3 and 20: a follower paused for a second died of the next message or snapshot.
#[test]
fn a_paused_follower_survives_and_catches_up() {
    let mut random = fastrand::Rng::with_seed(seed("paused_follower"));
    // Small enough that the leader compacts while the follower sleeps.
    let mut cluster = Cluster::with_knobs(3, &["--snapshot-log-bytes=65536"]);
    let load = Load::start(&cluster, 8, random.u64(..));
    for pause_ms in [100, 1_000, 1_000] {
        let leader = cluster.leader();
        let follower = (leader + 1 + random.usize(..2)) % 3;
        cluster.pause(follower);
        thread::sleep(Duration::from_millis(pause_ms)); // the fault itself
        load.wait_for_acks(100);
        cluster.resume(follower);
        cluster.wait_for_catch_up(follower);
        assert!(cluster.process(follower).is_running(), "the follower died");
    }
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}
