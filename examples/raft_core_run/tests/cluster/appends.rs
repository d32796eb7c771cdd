//! Appends by many clients at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use proto::kv::{KvServerRpcStub, PutAppendArgs};
use rpc::RpcController;

use crate::harness::{Cluster, eventually, seed};

/// After so many appends a client goes on to fresh keys, so that no value grows without bound.
const APPENDS_PER_EPOCH: usize = 2_000;

/// What became of one client's appends, in its order: the key, and whether it was acknowledged.
type Sent = Vec<(usize, bool)>;

/// Clients that append to the same keys until [`finish`](Self::finish).
struct Appends {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Sent>>,
}

impl Appends {
    fn start(cluster: &Cluster, clients: usize, keys: usize, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let clients = (0..clients).map(|client| {
            let mut random = fastrand::Rng::with_seed(seed ^ client as u64);
            let clerk = cluster.clerk(random.u64(..));
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let mut sent = Sent::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = random.usize(..keys) + keys * (sent.len() / APPENDS_PER_EPOCH);
                    let text = format!("{client}.{};", sent.len());
                    let ended = clerk.append(format!("shared {key}"), text);
                    match &ended {
                        Ok(()) => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => println!("client {client}: {error}"),
                    }
                    sent.push((key, ended.is_ok()));
                }
                sent
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            acknowledged,
        }
    }

    /// Waits for so many further appends.
    fn progress(&self, more: u64) {
        let mut count = self.acknowledged.load(Ordering::Relaxed);
        let goal = count + more;
        while count < goal {
            count = eventually("a further append", || {
                let now = self.acknowledged.load(Ordering::Relaxed);
                (now > count).then_some(now)
            });
        }
    }

    /// Each append that was acknowledged is there once, others once at most, in every client's own order.
    fn finish(self, cluster: &Cluster) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let sent: Vec<Sent> = self
            .clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect();
        let keys = sent.iter().flatten().map(|(key, _)| key + 1).max();
        let clerk = cluster.clerk(0);
        let mut counts: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for key in 0..keys.expect("somebody appended") {
            let value = clerk.get(format!("shared {key}")).unwrap();
            let value = String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
            let mut last = vec![None; sent.len()];
            for text in value.split_terminator(';') {
                let (client, number) =
                    parse(text, sent.len()).unwrap_or_else(|| panic!("`{text}` in key {key}"));
                assert_eq!(
                    sent[client].get(number).map(|sent| sent.0),
                    Some(key),
                    "{text} belongs elsewhere"
                );
                assert!(
                    last[client] < Some(number),
                    "{text} after {:?}: key {key}: {value}",
                    last[client]
                );
                last[client] = Some(number);
                *counts.entry((client, number)).or_default() += 1;
            }
        }
        for (client, sent) in sent.iter().enumerate() {
            for (number, &(_, is_acknowledged)) in sent.iter().enumerate() {
                let count = counts.get(&(client, number)).copied().unwrap_or(0);
                let right = if is_acknowledged {
                    count == 1
                } else {
                    count <= 1
                };
                assert!(
                    right,
                    "append {number} of client {client} is there {count} times"
                );
            }
        }
        println!(
            "{} appends, each there once",
            self.acknowledged.load(Ordering::Relaxed)
        );
        sent
    }
}

fn parse(text: &str, clients: usize) -> Option<(usize, usize)> {
    let (client, number) = text.split_once('.')?;
    Some((
        client.parse().ok().filter(|&client| client < clients)?,
        number.parse().ok()?,
    ))
}

/// Each append is in the value once, in every client's own order, while leaders are killed.
///
/// The original's defects 6 (an Append overwrote) and 7 (repeated requests were told apart wrongly).
#[test]
fn each_append_counts_exactly_once_in_its_clients_order() {
    let seed = seed("appends");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(3);
    let appends = Appends::start(&cluster, 8, 3, seed);
    for _ in 0..4 {
        appends.progress(random.u64(200..600));
        let leader = cluster.leader();
        cluster.kill(leader);
        appends.progress(100);
        cluster.start_node(leader);
        cluster.wait_for_catch_up(leader);
    }
    appends.finish(&cluster);
}

/// Faults C9: a hundred clients append to one key, also while its leader is killed. Each gets on.
#[test]
fn a_hundred_clients_of_one_key_all_get_on() {
    const CLIENTS: usize = 100;

    let seed = seed("hot_key");
    let mut cluster = Cluster::start(3);
    let appends = Appends::start(&cluster, CLIENTS, 1, seed);
    appends.progress(1_000);
    let leader = cluster.leader();
    cluster.kill(leader);
    appends.progress(1_000);
    cluster.start_node(leader);
    let sent = appends.finish(&cluster);
    let done = |sent: &Sent| sent.iter().filter(|(_, is_done)| *is_done).count();
    let counts: Vec<usize> = sent.iter().map(done).collect();
    println!("appends of each client: {counts:?}");
    let least = counts.iter().min().expect("there are clients");
    assert!(*least >= 5, "somebody was left behind: {counts:?}");
}

/// Faults C1: every append is sent at least twice to every node, while leaders are killed, by
/// clients that name their requests themselves. Each counts once. `RETRIED_APPENDS=1000000` has that many
/// in place of two thousand.
#[test]
fn an_append_that_is_sent_again_and_again_counts_once() {
    const CLIENTS: usize = 8;

    let appends = std::env::var("RETRIED_APPENDS").map_or(2_000, |text| text.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed("retried_appends"));
    let mut cluster = Cluster::start(3);
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let nodes: Vec<KvServerRpcStub> = (0..3).map(|node| cluster.stub(node)).collect();
            let done = Arc::clone(&done);
            thread::spawn(move || {
                for number in 0..appends / CLIENTS {
                    append_repeatedly(&nodes, client, number);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for quarter in 1..4 {
        let goal = (appends / CLIENTS * CLIENTS * quarter / 4) as u64;
        let mut seen = 0;
        while seen < goal {
            seen = eventually("a further append", || {
                let now = done.load(Ordering::Relaxed);
                (now > seen).then_some(now)
            });
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        thread::sleep(Duration::from_millis(random.u64(..500))); // before, or after, the next election
        cluster.start_node(leader);
    }
    for client in clients {
        client.join().unwrap();
    }
    let clerk = cluster.clerk(0);
    for client in 0..CLIENTS {
        for epoch in 0..(appends / CLIENTS).div_ceil(APPENDS_PER_EPOCH) {
            let value = clerk.get(format!("repeated {client}.{epoch}")).unwrap();
            let numbers = epoch * APPENDS_PER_EPOCH..appends / CLIENTS;
            let mut right = String::new();
            for number in numbers.take(APPENDS_PER_EPOCH) {
                let _ = write!(right, "{number};");
            }
            let value = value.unwrap_or_default();
            assert!(value == right, "client {client}: {value:?} is not {right}");
        }
    }
    println!("{} appends, each there once", done.load(Ordering::Relaxed));
}

/// Sends one append to all nodes, one after the other, twice to each, until it was acknowledged.
fn append_repeatedly(nodes: &[KvServerRpcStub], client: usize, number: usize) {
    let append = PutAppendArgs {
        key: format!("repeated {client}.{}", number / APPENDS_PER_EPOCH).into(),
        value: format!("{number};").into(),
        op: Bytes::from_static(b"Append"),
        client_id: format!("client {client}").into(),
        request_id: i32::try_from(number + 2).expect("there are fewer"), // 1 may be a new process
        ..PutAppendArgs::default()
    };
    let mut acknowledged = 0;
    eventually("an acknowledgement", || {
        for node in nodes {
            let (answer, answers) = channel();
            for _ in 0..2 {
                let answer = answer.clone();
                let controller = RpcController::with_timeout(Duration::from_secs(1));
                node.put_append_async(controller, &append, move |reply| {
                    let _ = answer.send(reply.is_ok_and(|reply| reply.err == "OK"));
                });
            }
            drop(answer);
            acknowledged += answers.iter().filter(|is_done| *is_done).count();
        }
        (acknowledged > 0).then_some(())
    });
}
