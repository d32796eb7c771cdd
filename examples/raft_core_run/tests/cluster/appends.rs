//! Appends by many clients at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::harness::{Cluster, eventually, seed};

const CLIENTS: usize = 8;
const KEYS: usize = 3;

/// What became of one client's appends, in its order: the key, and whether it was acknowledged.
type Sent = Vec<(usize, bool)>;

/// Each append is in the value once, in every client's own order, while leaders are killed.
///
/// The original's defects 6 (an Append overwrote) and 7 (repeated requests were told apart wrongly).
#[test]
fn each_append_counts_exactly_once_in_its_clients_order() {
    let seed = seed("appends");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(3);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));

    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let clerk = cluster.clerk(random.u64(..));
            let mut random = fastrand::Rng::with_seed(seed ^ client as u64);
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let mut sent = Sent::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = random.usize(..KEYS);
                    let text = format!("{client}.{};", sent.len());
                    match clerk.append(format!("shared {key}"), text) {
                        Ok(()) => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            sent.push((key, true));
                        }
                        Err(error) => {
                            println!("client {client}: {error}");
                            sent.push((key, false));
                        }
                    }
                }
                sent
            })
        })
        .collect();

    let progress = |more: u64| {
        let goal = acknowledged.load(Ordering::Relaxed) + more;
        eventually("further appends", || {
            (acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        });
    };
    for _ in 0..4 {
        progress(random.u64(200..600));
        let leader = cluster.leader();
        cluster.kill(leader);
        progress(100);
        cluster.start_node(leader);
        cluster.wait_for_catch_up(leader);
    }
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<Sent> = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .collect();

    let clerk = cluster.clerk(0);
    let mut counts: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    for key in 0..KEYS {
        let value = clerk
            .get(format!("shared {key}"))
            .unwrap()
            .unwrap_or_default();
        let value = String::from_utf8(value.to_vec()).unwrap();
        let mut last = [None; CLIENTS];
        for text in value.split_terminator(';') {
            let (client, number) = parse(text).unwrap_or_else(|| panic!("`{text}` in key {key}"));
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
        acknowledged.load(Ordering::Relaxed)
    );
}

fn parse(text: &str) -> Option<(usize, usize)> {
    let (client, number) = text.split_once('.')?;
    Some((
        client.parse().ok().filter(|&client| client < CLIENTS)?,
        number.parse().ok()?,
    ))
}
