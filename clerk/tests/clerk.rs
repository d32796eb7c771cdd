//! What a user of a `Clerk` sees while nodes fail in every way that a node can.
//!
//! `CLERK_SEED` replays a run of the tests that are random.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod fake;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clerk::{Backoff, Clerk, ClerkError, ClerkOptions, ReadFrom};
use crossbeam_channel::unbounded;
use fake::{FakeCluster, Fault, dead_address};

/// Only against hanging; no test's outcome depends on it.
const PATIENCE: Duration = Duration::from_mins(1);

fn options() -> ClerkOptions {
    ClerkOptions {
        timeout: PATIENCE,
        seed: Some(0),
        ..ClerkOptions::default()
    }
}

fn clerk_of(addresses: &[SocketAddr], options: ClerkOptions) -> Clerk {
    Clerk::new(addresses, options).unwrap()
}

fn seed_of_run() -> u64 {
    let seed = std::env::var("CLERK_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("CLERK_SEED is a number"),
    );
    println!("CLERK_SEED={seed}");
    seed
}

#[test]
fn put_append_get_and_a_missing_key() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    assert_eq!(clerk.get("x").unwrap(), None);
    clerk.put("x", "one").unwrap();
    clerk.append("x", "two").unwrap();
    assert_eq!(clerk.get("x").unwrap().unwrap(), "onetwo");
    assert_eq!(clerk.stats().retries, 0);
    assert_eq!(clerk.stats().sessions_opened, 1);
}

#[test]
fn a_hint_leads_to_the_leader_and_later_calls_go_there_directly() {
    let cluster = FakeCluster::start(3, 2);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.get("x").unwrap();
    assert!(clerk.stats().retries <= 1, "one hint suffices");
    let retries = clerk.stats().retries;
    for _ in 0..10 {
        clerk.get("x").unwrap();
    }
    assert_eq!(clerk.stats().retries, retries);
}

#[test]
fn the_leader_is_found_without_hints_beside_a_dead_node_and_after_it_moved() {
    let cluster = FakeCluster::start(3, 2);
    cluster.state.lock().hints = false;
    let mut addresses = vec![dead_address()];
    addresses.extend(&cluster.addresses);
    let clerk = clerk_of(&addresses, options());
    clerk.put("x", "1").unwrap();
    for leader in [0, 1, 2, 0] {
        cluster.state.lock().leader = leader;
        clerk.append("x", leader.to_string()).unwrap();
    }
    assert_eq!(cluster.value("x"), "10120");
}

#[test]
fn a_leader_that_the_file_does_not_list_is_followed() {
    let cluster = FakeCluster::start(3, 2);
    let clerk = clerk_of(&cluster.addresses[..1], options());
    clerk.put("x", "1").unwrap();
    assert_eq!(cluster.value("x"), "1");
}

#[test]
fn hints_that_are_garbage_or_lead_nowhere_are_survived() {
    let cluster = FakeCluster::start(2, 1);
    for hint in [
        "",
        "nonsense",
        "127.0.0.1:99999",
        "\u{0}",
        "256.1.1.1:1",
        "127.0.0.1:1",
    ] {
        cluster.fault(0, Fault::Hint(hint));
        cluster.fault(1, Fault::Hint(hint));
    }
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "1").unwrap();
    assert_eq!(cluster.value("x"), "1");
}

/// Failure 57: whatever became of the nodes, a call has an end.
#[test]
fn with_all_nodes_dead_a_call_ends_by_its_deadline_and_certainly_did_nothing() {
    let addresses = [dead_address(), dead_address()];
    let clerk = clerk_of(&addresses, options()).with_timeout(Duration::from_millis(200));
    for error in [
        clerk.get("x").unwrap_err(),
        clerk.put("x", "1").unwrap_err(),
    ] {
        assert!(
            matches!(error, ClerkError::NoLeader { nodes: 2, .. }),
            "{error}"
        );
        assert!(!error.may_have_taken_effect());
        let text = error.to_string();
        assert!(
            text.starts_with("no leader found among 2 nodes within 0.2 s; last: node "),
            "{text}"
        );
    }
}

/// Failure 124: without a reply, "not done" is a guess.
#[test]
fn a_write_whose_replies_are_all_lost_ends_as_unknown() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "1").unwrap();
    for _ in 0..1000 {
        cluster.fault(0, Fault::LoseReply);
    }
    let error = clerk
        .with_timeout(Duration::from_millis(300))
        .append("x", "2")
        .unwrap_err();
    assert!(error.may_have_taken_effect(), "{error}");
    assert_eq!(cluster.value("x"), "12", "and it had, once");
}

/// The same, with a connection that really breaks: the request is read, then the socket closed.
#[test]
fn a_connection_cut_after_the_request_leaves_a_write_unknown_and_a_read_repeatable() {
    let cluster = FakeCluster::start(1, 0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let cutter = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    // The session comes from the fake node; then the leader moves to the cutter.
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "1").unwrap();
    let hint: &'static str = Box::leak(cutter.to_string().into_boxed_str());
    for _ in 0..1000 {
        cluster.fault(0, Fault::Hint(hint));
    }
    let clerk = clerk.with_timeout(Duration::from_millis(300));
    let error = clerk.append("x", "2").unwrap_err();
    assert!(error.may_have_taken_effect(), "{error}");
    let error = clerk.get("x").unwrap_err();
    assert!(!error.may_have_taken_effect(), "{error}");
}

/// Failure 122; the original's defect 7 (a duplicate applied, a write lost).
#[test]
fn a_retried_write_keeps_its_name_and_takes_effect_once() {
    let cluster = FakeCluster::start(3, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "").unwrap();
    for fault in [
        Fault::LoseReply,
        Fault::Busy,
        Fault::LoseReply,
        Fault::Hint(""),
    ] {
        cluster.fault(0, fault);
    }
    clerk.append("x", "once").unwrap();
    assert_eq!(cluster.value("x"), "once");
    let state = cluster.state.lock();
    let names: Vec<_> = state
        .write_attempts
        .iter()
        .filter(|(_, request)| *request == 2)
        .collect();
    assert!(names.len() >= 5, "{names:?}");
    assert!(names.iter().all(|(session, _)| *session == names[0].0));
}

/// Failure 125: a paused leader must not pin its clients.
#[test]
fn a_node_that_never_answers_is_left_for_the_others() {
    let cluster = FakeCluster::start(3, 0);
    let options = ClerkOptions {
        attempt_timeout: Duration::from_millis(100),
        ..options()
    };
    let clerk = clerk_of(&cluster.addresses, options);
    clerk.put("x", "1").unwrap();
    cluster.state.lock().leader = 1; // node 0 sleeps through this
    for _ in 0..100 {
        cluster.fault(0, Fault::Silence);
    }
    clerk.append("x", "2").unwrap();
    assert_eq!(clerk.get("x").unwrap().unwrap(), "12");
}

#[test]
fn an_overloaded_leader_is_asked_again_and_nobody_else() {
    let cluster = FakeCluster::start(3, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "1").unwrap();
    let others_before = cluster.state.lock().asked[1..].to_vec();
    for _ in 0..5 {
        cluster.fault(0, Fault::Busy);
    }
    clerk.append("x", "2").unwrap();
    assert_eq!(cluster.state.lock().asked[1..], others_before);
    for _ in 0..1000 {
        cluster.fault(0, Fault::Busy);
    }
    let error = clerk
        .with_timeout(Duration::from_millis(100))
        .append("x", "3")
        .unwrap_err();
    assert!(matches!(error, ClerkError::Overloaded { .. }), "{error}");
    assert!(!error.may_have_taken_effect());
}

#[test]
fn a_refusal_ends_the_call_at_once_and_says_who_and_why() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "1").unwrap();
    cluster.fault(0, Fault::Refuse);
    let error = clerk.put("x", "2").unwrap_err();
    let node = format!("node 0 ({}) refused", cluster.addresses[0]);
    assert!(error.to_string().starts_with(&node), "{error}");
    assert!(
        error.to_string().contains("the value is too large"),
        "{error}"
    );
}

/// Failure 123: sessions may expire under a client that was idle; that alone costs nothing.
#[test]
fn a_write_that_was_never_tried_moves_from_an_expired_session_to_a_new_one() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.append("x", "1").unwrap();
    cluster.fault(0, Fault::Hint("")); // not the leader: a refusal, so still certainly not done
    cluster.fault(0, Fault::Expire);
    clerk.append("x", "2").unwrap();
    clerk.append("x", "3").unwrap();
    assert_eq!(cluster.value("x"), "123");
    assert_eq!(clerk.stats().sessions_opened, 2);
}

/// Session expiry while a retry is in flight: unknown, never applied again.
#[test]
fn a_write_retried_into_an_expired_session_is_unknown_and_not_repeated() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.append("x", "1").unwrap();
    cluster.fault(0, Fault::LoseReply);
    cluster.fault(0, Fault::Expire);
    let error = clerk.append("x", "2").unwrap_err();
    assert!(
        matches!(error, ClerkError::SessionExpired { .. }),
        "{error}"
    );
    assert!(error.may_have_taken_effect());
    clerk.append("x", "3").unwrap();
    assert_eq!(cluster.value("x"), "123");
}

#[test]
fn a_cluster_that_forgets_every_session_is_given_up() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    for _ in 0..100 {
        cluster.fault(0, Fault::Expire);
    }
    let error = clerk.append("x", "1").unwrap_err();
    assert!(matches!(error, ClerkError::Refused { .. }), "{error}");
}

/// Threads share one clerk: one session, each append once and in its thread's order, and the
/// cluster keeps no more replies than the window.
#[test]
fn eight_threads_share_a_clerk_while_replies_get_lost() {
    const THREADS: usize = 8;
    const APPENDS: usize = 100;
    const WINDOW: usize = 16;
    let seed = seed_of_run();
    let cluster = FakeCluster::start(3, 0);
    {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut state = cluster.state.lock();
        for faults in &mut state.faults {
            for _ in 0..400 {
                faults.extend(match random.u32(..6) {
                    0 => Some(Fault::LoseReply),
                    1 => Some(Fault::Busy),
                    2 => Some(Fault::Hint("")),
                    _ => None,
                });
            }
        }
    }
    let options = ClerkOptions {
        window: WINDOW,
        max_outstanding: THREADS,
        backoff: Backoff {
            min: Duration::from_millis(1),
            max: Duration::from_millis(4),
        },
        seed: Some(seed),
        ..options()
    };
    let clerk = clerk_of(&cluster.addresses, options);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (clerk, cluster) = (clerk.clone(), &cluster);
            scope.spawn(move || {
                for number in 0..APPENDS {
                    cluster.state.lock().leader = (thread + number) % 3;
                    clerk.append("log", format!("{thread}.{number} ")).unwrap();
                    clerk.get("log").unwrap();
                }
            });
        }
    });
    let log = cluster.value("log");
    for thread in 0..THREADS {
        let prefix = format!("{thread}.");
        let appended: Vec<_> = log
            .split(' ')
            .filter_map(|word| word.strip_prefix(&prefix))
            .collect();
        let expected: Vec<_> = (0..APPENDS).map(|number| number.to_string()).collect();
        assert_eq!(appended, expected, "thread {thread}");
    }
    let state = cluster.state.lock();
    assert_eq!(
        state.sessions_opened, 1,
        "first writes that come together open one session"
    );
    assert!(
        state.replies_kept_max <= WINDOW,
        "{}",
        state.replies_kept_max
    );
    let seen_up_to = state.sessions.values().next().unwrap().seen_up_to;
    assert!(
        seen_up_to >= (THREADS * APPENDS - WINDOW) as u64,
        "trimmed only up to {seen_up_to}"
    );
}

#[test]
fn callbacks_run_exactly_once_and_what_is_over_the_bound_is_refused() {
    const BOUND: usize = 20;
    let cluster = FakeCluster::start(2, 1);
    let options = ClerkOptions {
        attempt_timeout: Duration::from_millis(50),
        max_outstanding: BOUND,
        window: 8,
        ..options()
    };
    let clerk = clerk_of(&cluster.addresses, options).with_timeout(Duration::from_millis(400));
    for _ in 0..1000 {
        cluster.fault(0, Fault::Silence);
        cluster.fault(1, Fault::Silence);
    }
    let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..50).map(|_| AtomicUsize::new(0)).collect());
    let (sender, receiver) = unbounded();
    for call in 0..50 {
        let (runs, sender) = (Arc::clone(&runs), sender.clone());
        let done = move |error: Option<ClerkError>| {
            runs[call].fetch_add(1, Ordering::Relaxed);
            sender.send(error.expect("nobody answered")).unwrap();
        };
        match call % 2 {
            0 => clerk.append_async("x", "1", move |result| done(result.err())),
            _ => clerk.get_async("x", move |result| done(result.err())),
        }
    }
    drop(sender);
    let mut overloaded = 0;
    for _ in 0..50 {
        let error = receiver.recv_timeout(PATIENCE).expect("every call ends");
        overloaded += usize::from(
            error
                .to_string()
                .starts_with("this clerk has 20 calls under way"),
        );
    }
    assert_eq!(overloaded, 50 - BOUND);
    // All senders are gone, so all callbacks are: none can run again.
    assert!(receiver.recv_timeout(PATIENCE).is_err());
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
}

#[test]
fn writes_beyond_the_window_wait_for_room_and_end_by_their_deadlines() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(
        &cluster.addresses,
        ClerkOptions {
            window: 1,
            ..options()
        },
    );
    clerk.put("x", "").unwrap();
    cluster.fault(0, Fault::Silence);
    let (sender, receiver) = unbounded();
    for (name, timeout_ms) in [("1", 500), ("2", 20), ("3", 40), ("4", 60_000)] {
        let sender = sender.clone();
        let done = move |result: Result<(), ClerkError>| sender.send((name, result)).unwrap();
        clerk
            .with_timeout(Duration::from_millis(timeout_ms))
            .append_async("x", name, done);
    }
    drop(sender);
    let mut ends: Vec<_> = receiver.iter().collect();
    ends.sort_by_key(|(name, _)| *name);
    assert!(ends[0].1.as_ref().unwrap_err().may_have_taken_effect());
    for (name, end) in &ends[1..3] {
        assert!(
            matches!(end, Err(ClerkError::Overloaded { .. })),
            "{name}: {end:?}"
        );
    }
    assert_eq!(ends[3], ("4", Ok(())));
    assert_eq!(cluster.value("x"), "4");
}

/// Each write that ends lets in the next one, which is overdue as well and ends at once: thousands
/// of them, one within the other, were more than a stack holds.
#[test]
fn thousands_of_writes_that_end_each_other_need_no_deeper_stack() {
    const WAITING: usize = 4000;
    let cluster = FakeCluster::start(1, 0);
    let options = ClerkOptions {
        window: 1,
        ..options()
    };
    let clerk = clerk_of(&cluster.addresses, options);
    clerk.put("x", "").unwrap();
    cluster.fault(0, Fault::Silence);
    let within = |millis| clerk.with_timeout(Duration::from_millis(millis));

    within(1000).put_async("x", "holds the window", |_| ());
    // Its callback keeps the timer, so that nobody but the event loop ends the others.
    let (release, released) = unbounded::<()>();
    within(20).put_async("x", "keeps the timer", move |_| {
        let _ = released.recv_timeout(PATIENCE);
    });
    let (sender, receiver) = unbounded();
    for _ in 0..WAITING {
        let sender = sender.clone();
        let done = move |result: Result<(), ClerkError>| sender.send(result).unwrap();
        within(500).put_async("x", "1", done);
    }
    for _ in 0..WAITING {
        let end = receiver.recv_timeout(PATIENCE).expect("every call ends");
        assert!(!end.unwrap_err().may_have_taken_effect());
    }
    drop(release);
}

/// As above, but the callback of the write that lets in the next one panics.
#[test]
fn a_callback_that_panics_does_not_keep_the_next_write_from_setting_out() {
    let cluster = FakeCluster::start(1, 0);
    let options = ClerkOptions {
        window: 1,
        ..options()
    };
    let clerk = clerk_of(&cluster.addresses, options);
    clerk.put("x", "").unwrap();
    cluster.fault(0, Fault::Silence);
    let within = |millis| clerk.with_timeout(Duration::from_millis(millis));

    within(600).put_async("x", "holds the window", |_| ());
    let (release, released) = unbounded::<()>();
    within(20).put_async("x", "keeps the timer", move |_| {
        let _ = released.recv_timeout(PATIENCE);
    });
    within(300).put_async("x", "panics", move |_| {
        drop(release);
        panic!("a callback's own fault");
    });
    let (sender, receiver) = unbounded();
    clerk.put_async("x", "comes next", move |result| {
        sender.send(result).unwrap();
    });
    assert_eq!(receiver.recv_timeout(PATIENCE / 2), Ok(Ok(())));
    assert_eq!(cluster.value("x"), "comes next");
}

#[test]
fn a_write_that_waits_for_a_session_in_vain_was_never_sent() {
    let clerk = clerk_of(&[dead_address()], options());
    let (sender, receiver) = unbounded();
    for timeout_ms in [100, 50, 150] {
        let sender = sender.clone();
        let done = move |result: Result<(), ClerkError>| sender.send(result.unwrap_err()).unwrap();
        clerk
            .with_timeout(Duration::from_millis(timeout_ms))
            .put_async("x", "1", done);
    }
    drop(sender);
    let errors: Vec<_> = receiver.iter().collect();
    assert_eq!(errors.len(), 3);
    for error in errors {
        assert!(matches!(error, ClerkError::NoLeader { .. }), "{error}");
    }
}

#[test]
fn keys_and_values_are_any_bytes() {
    let cluster = FakeCluster::start(1, 0);
    let clerk = clerk_of(&cluster.addresses, options());
    let odd = Bytes::from_static(b"\0\n|\xff");
    for bytes in [Bytes::new(), odd, Bytes::from(vec![7; 1 << 20])] {
        clerk.put(bytes.clone(), bytes.clone()).unwrap();
        assert_eq!(clerk.get(bytes.clone()).unwrap().unwrap(), bytes);
    }
}

/// Reads until a question for the members that began after this call has been answered and heard.
fn read_until_members_are_known(cluster: &FakeCluster, clerk: &Clerk) {
    let begun = cluster.state.lock().described;
    // One at a time: with the second begun, the first has been heard.
    while cluster.state.lock().described < begun + 3 {
        clerk.get("x").unwrap();
    }
}

/// No hints: what the clerk knows of the new nodes it has asked for.
#[test]
fn nodes_replaced_one_by_one_are_followed_until_none_of_the_configured_is_left() {
    let mut cluster = FakeCluster::start(6, 0);
    let options = ClerkOptions {
        refresh_members: Some(Duration::ZERO),
        ..options()
    };
    {
        let mut state = cluster.state.lock();
        state.hints = false;
        state.members = vec![0, 1, 2];
    }
    let clerk = clerk_of(&cluster.addresses[..3], options);
    clerk.put("x", "0").unwrap();
    for (gone, new) in [(1, 3), (2, 4), (0, 5)] {
        {
            let mut state = cluster.state.lock();
            state.members.retain(|member| *member != gone);
            state.members.push(new);
        }
        read_until_members_are_known(&cluster, &clerk);
        cluster.state.lock().leader = new;
        cluster.stop(gone);
        clerk.append("x", new.to_string()).unwrap();
    }
    assert_eq!(cluster.value("x"), "0345");

    // And back, should all of those be gone: the configured ones are never forgotten.
    let retries = clerk.stats().retries;
    clerk.append("x", "!").unwrap();
    assert_eq!(clerk.stats().retries, retries, "the leader is known");
}

#[test]
fn configured_nodes_are_the_last_resort_and_questions_are_few() {
    let cluster = FakeCluster::start(2, 0);
    {
        let mut state = cluster.state.lock();
        state.hints = false;
        state.members = vec![0];
    }
    let seldom = ClerkOptions {
        refresh_members: Some(Duration::from_hours(1)),
        ..options()
    };
    let clerk = clerk_of(&cluster.addresses, seldom);
    clerk.put("x", "1").unwrap();
    for _ in 0..100 {
        clerk.get("x").unwrap();
    }
    assert_eq!(cluster.state.lock().described, 1);
    cluster.state.lock().leader = 1;
    clerk.append("x", "2").unwrap();
    assert_eq!(cluster.value("x"), "12");

    let cluster = FakeCluster::start(1, 0);
    let silent = ClerkOptions {
        refresh_members: None,
        ..options()
    };
    clerk_of(&cluster.addresses, silent).put("x", "1").unwrap();
    assert_eq!(cluster.state.lock().described, 0);
}

#[test]
fn a_read_from_any_node_stays_with_one_until_it_fails_and_never_asks_for_the_leader() {
    let mut cluster = FakeCluster::start(3, 2);
    cluster.state.lock().members = vec![0, 1, 2];
    let clerk = clerk_of(&cluster.addresses, options());
    clerk.put("x", "1").unwrap();
    let reader = clerk.with_reads_from(ReadFrom::Any);
    for _ in 0..10 {
        assert_eq!(reader.get("x").unwrap().unwrap(), "1");
    }
    let first = std::mem::take(&mut cluster.state.lock().read_anywhere);
    assert_eq!(first, [first[0]; 10]);

    // One that knows no leader sends it on, and is not taken for one that leads.
    cluster.fault(first[0], Fault::Hint(""));
    reader.get("x").unwrap();
    let second = std::mem::take(&mut cluster.state.lock().read_anywhere)[0];
    assert_ne!(second, first[0]);
    cluster.stop(second);
    reader.get("x").unwrap();
    let third = std::mem::take(&mut cluster.state.lock().read_anywhere)[0];
    assert_ne!(third, second);

    clerk.get("x").unwrap();
    assert!(
        cluster.state.lock().read_anywhere.is_empty(),
        "the leader, as before"
    );
}
