//! Nodes that stand still, or are cut off, for a while, and then go on as if nothing had happened.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clerk::Clerk;
use proto::kv::{GetArgs, KvServerRpcStub, PutAppendArgs};
use rpc::{RpcController, RpcError};

use crate::harness::cluster::status;
use crate::harness::history::Recorder;
use crate::harness::links::Links;
use crate::harness::{Cluster, HANG_GUARD, Load, eventually, seed};

/// A leader trusts itself for the longest election timeout; with this range the others mostly elect long
/// before. Without it the old leader would know by then that its time is over.
const WIDE_ELECTION_TIMEOUT: &str = "--election-timeout-ms=100-3000";

/// Short enough that some calls end with their outcome unknown while there is no leader.
const CALL_TIMEOUT: Duration = Duration::from_millis(400);

/// Reads and writes that wait for the old leader when it wakes up, in each round.
const REQUESTS: usize = 20;

/// A leader that was paused for longer than an election wakes up with requests in its buffers. It must
/// not answer from what it knew, nor acknowledge what it cannot commit.
///
/// The original's defects 9 (a pause shifted all later replies by one) and 23 (a leader without a
/// majority went on believing).
#[test]
fn a_leader_that_slept_through_an_election_answers_nothing_old() {
    let mut random = fastrand::Rng::with_seed(seed("paused_leader"));
    let mut cluster = Cluster::with_knobs(3, &[WIDE_ELECTION_TIMEOUT]);
    let clerk = cluster.clerk(random.u64(..));
    let load = Load::start(&cluster, 4, random.u64(..));
    let mut promised = Vec::new();
    for round in 0..4 {
        clerk.put("x", "old").unwrap();
        let sleeper = cluster.leader();
        let stub = connected(&cluster, sleeper);
        cluster.pause(sleeper);
        overtake(&cluster, sleeper);
        let questions = Questions::ask(&stub, REQUESTS, &format!("round {round}"));
        cluster.resume(sleeper);
        promised.extend(questions.answers());
        cluster.wait_for_catch_up(sleeper);
    }
    let journal = load.finish();
    cluster.wait_for_convergence();
    assert_kept(promised, &clerk);
    journal.verify(&cluster);
}

/// A leader that is cut off from the others still hears its clients, and believes that it leads until it
/// has missed the others for long enough. Meanwhile those have another leader.
///
/// The original's defect 23 again.
#[test]
fn a_leader_that_is_cut_off_answers_nothing_old() {
    let mut random = fastrand::Rng::with_seed(seed("cut_off_leader"));
    let (cluster, links) = Cluster::with_links(3, &[WIDE_ELECTION_TIMEOUT]);
    let clerk = cluster.clerk(random.u64(..));
    let load = Load::start(&cluster, 4, random.u64(..));
    let mut promised = Vec::new();
    for round in 0..3 {
        clerk.put("x", "old").unwrap();
        let lonely = cluster.leader();
        let stub = connected(&cluster, lonely);
        links.isolate(lonely);
        overtake(&cluster, lonely);
        let believes = cluster.status(lonely).is_some_and(|status| status.serving);
        println!("round {round}: the old leader believes that it leads: {believes}");
        let questions = Questions::ask(&stub, REQUESTS, &format!("cut off {round}"));
        promised.extend(questions.answers());
        links.rejoin(lonely);
        cluster.wait_for_catch_up(lonely);
    }
    let journal = load.finish();
    cluster.wait_for_convergence();
    assert_kept(promised, &clerk);
    journal.verify(&cluster);
}

/// A leader stands still for five seconds, as long as ten elections, while clients read and write; then
/// it goes on with what it was about to do, before any word of the others reaches it. It has only its
/// clock to doubt itself by. Nobody's history shows it.
#[test]
fn a_leader_that_stands_still_for_five_seconds_leaves_no_trace() {
    let mut random = fastrand::Rng::with_seed(seed("long_pause"));
    let (mut cluster, links) = Cluster::with_links(3, &[]);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 8, CALL_TIMEOUT, random.u64(..));
    recorder.progress(500);
    let clerk = cluster.clerk(random.u64(..));
    clerk.put("x", "old").unwrap();
    let sleeper = cluster.leader();
    let stub = connected(&cluster, sleeper);
    links.isolate(sleeper);
    cluster.pause(sleeper);
    overtake(&cluster, sleeper);
    recorder.progress(500);
    thread::sleep(Duration::from_secs(5)); // the fault itself
    let questions = Questions::ask(&stub, REQUESTS, "long pause");
    cluster.resume(sleeper);
    let promised = questions.answers();
    links.rejoin(sleeper);
    cluster.wait_for_catch_up(sleeper);
    recorder.progress(500);
    let journal = load.finish();
    recorder.finish_linearizable();
    cluster.wait_for_convergence();
    assert_kept(promised, &clerk);
    journal.verify(&cluster);
}

/// Leaders stand still again and again, mostly a little longer than an election takes, and wake up among
/// clients whose questions wait in their buffers: none is answered from what they knew. Every other one
/// wakes up before any word of the others reaches it. `PAUSES=1000` has that many in place of ten, which
/// takes half an hour.
#[test]
fn many_short_pauses_of_leaders_leave_no_trace() {
    let pauses = std::env::var("PAUSES").map_or(10, |count| count.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed("many_pauses"));
    let (mut cluster, links) = Cluster::with_links(3, &[]);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 8, CALL_TIMEOUT, random.u64(..));
    let clerk = cluster.clerk(random.u64(..));
    let mut overtaken = 0;
    let mut promised = Vec::new();
    for pause in 0..pauses {
        recorder.progress(100);
        clerk.put("x", "old").unwrap();
        let sleeper = cluster.leader();
        let stub = connected(&cluster, sleeper);
        if pause % 2 == 0 {
            links.isolate(sleeper);
        }
        cluster.pause(sleeper);
        thread::sleep(Duration::from_millis(random.u64(300..2_000))); // the fault itself
        let leads = |node| cluster.status(node).is_some_and(|status| status.serving);
        if (0..3).any(|node| node != sleeper && leads(node)) {
            overtaken += 1;
            overtake(&cluster, sleeper);
            let questions = Questions::ask(&stub, REQUESTS, &format!("pause {pause}"));
            cluster.resume(sleeper);
            promised.extend(questions.answers());
        } else {
            cluster.resume(sleeper);
        }
        links.rejoin(sleeper);
        cluster.wait_for_catch_up(sleeper);
    }
    println!("{overtaken} elections within {pauses} pauses");
    let journal = load.finish();
    recorder.finish_linearizable();
    cluster.wait_for_convergence();
    assert_kept(promised, &clerk);
    journal.verify(&cluster);
}

/// A leader that the others do not hear is replaced though it hears them. Once one of them leads, its
/// word ends the old leadership.
#[test]
fn a_leader_that_is_not_heard_is_replaced() {
    half_cut_off("mute_leader", Links::mute, 0);
}

/// A leader that hears nobody cannot know what is stored: it steps down though the others hear it.
#[test]
fn a_leader_that_hears_nobody_is_replaced() {
    half_cut_off("deaf_leader", Links::deafen, 3);
}

/// Cuts one direction of all links of the leader, again and again, while clients read and write. It stays
/// so until the old leader knows, and has asked so often whether it could win.
fn half_cut_off(name: &str, cut: fn(&Links, usize), campaigns: usize) {
    let mut random = fastrand::Rng::with_seed(seed(name));
    let (cluster, links) = Cluster::with_links(3, &["--log=debug"]);
    let campaigns_of = |node| cluster.output(node).matches("asks for pre-votes").count();
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    for _ in 0..3 {
        recorder.progress(300);
        let lonely = cluster.leader();
        let before = campaigns_of(lonely);
        cut(&links, lonely);
        let others: Vec<usize> = cluster.running().filter(|node| *node != lonely).collect();
        let next = cluster.leader_among(&others);
        // Clients that still ask the old leader are sent on, or give up on it.
        cluster.clerk_of(&others).put("through", "it").unwrap();
        load.wait_for_acks(100);
        recorder.progress(200);
        eventually("the old leader steps down", || {
            let role = cluster.status(lonely)?.role;
            let campaigns = campaigns_of(lonely) - before >= campaigns;
            (role != "leader" && campaigns).then_some(())
        });
        let term = eventually("the new leader's status", || cluster.status(next)).term;
        links.rejoin(lonely);
        cluster.wait_for_catch_up(lonely);
        let status = eventually("the new leader's status", || cluster.status(next));
        assert_eq!(
            (status.serving, status.term),
            (true, term),
            "the one that comes back disturbs it"
        );
    }
    let journal = load.finish();
    recorder.finish_linearizable();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// A connection that is there before the node stops hearing: what is sent then waits in its buffers.
fn connected(cluster: &Cluster, node: usize) -> KvServerRpcStub {
    let stub = cluster.stub(node);
    eventually("a connection", || status(&stub));
    stub
}

/// The other nodes elect a leader and take a write that `node` knows nothing of.
fn overtake(cluster: &Cluster, node: usize) {
    let others: Vec<usize> = cluster.running().filter(|&other| other != node).collect();
    cluster.leader_among(&others);
    cluster.clerk_of(&others).put("x", "new").unwrap();
}

/// What one node acknowledged, all of them have.
fn assert_kept(keys: Vec<String>, clerk: &Clerk) {
    for key in keys {
        let value = clerk.get(key.clone()).unwrap();
        assert!(value.is_some(), "{key} was acknowledged");
    }
}

/// Reads of `x` and writes of fresh keys, all asked of one node at once.
struct Questions {
    answers: Receiver<Answer>,
    expected: usize,
}

/// What was written, if it was a write; Err and value of the reply.
type Answer = (Option<String>, Result<(Bytes, Bytes), RpcError>);

impl Questions {
    fn ask(stub: &KvServerRpcStub, count: usize, name: &str) -> Self {
        let (answer, answers) = channel();
        for number in 0..count {
            let get = GetArgs {
                key: Bytes::from_static(b"x"),
                ..GetArgs::default()
            };
            let of_get = answer.clone();
            stub.get_async(
                RpcController::with_timeout(HANG_GUARD),
                &get,
                move |reply| {
                    let _ = of_get.send((None, reply.map(|reply| (reply.err, reply.value))));
                },
            );
            let key = format!("{name}.{number}");
            let put = PutAppendArgs {
                key: key.clone().into(),
                value: Bytes::from_static(b"1"),
                op: Bytes::from_static(b"Put"),
                client_id: key.clone().into(),
                request_id: 1,
                ..PutAppendArgs::default()
            };
            let of_put = answer.clone();
            stub.put_append_async(
                RpcController::with_timeout(HANG_GUARD),
                &put,
                move |reply| {
                    let _ = of_put.send((Some(key), reply.map(|reply| (reply.err, Bytes::new()))));
                },
            );
        }
        Self {
            answers,
            expected: 2 * count,
        }
    }

    /// Waits for all answers. Yields the keys whose writes were acknowledged.
    ///
    /// # Panics
    /// If a read saw anything but `new`.
    fn answers(self) -> Vec<String> {
        let mut promised = Vec::new();
        let mut count = 0;
        for (written, reply) in self.answers {
            count += 1;
            let Ok((err, value)) = reply else { continue };
            match written {
                Some(key) if err == "OK" => promised.push(key),
                None if err == "OK" => assert_eq!(value, "new", "a stale read"),
                _ => assert_eq!(err, "ErrWrongLeader"),
            }
        }
        assert_eq!(count, self.expected, "every call is answered");
        promised
    }
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
