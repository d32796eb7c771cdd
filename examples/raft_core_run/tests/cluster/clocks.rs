//! Clocks that jump, or run at another pace: by `libfaketime`, preloaded into the nodes.

use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::harness::scene::KNOBS;
use crate::harness::{Cluster, Scene, eventually, not_tested, seed};

/// So that every node has something to say all the time, and says when: it takes snapshots.
const TALKATIVE: &str = "--snapshot-log-bytes=16384";

const HOUR: i64 = 3_600;

/// A scene whose nodes take the time from files.
struct Clocks {
    scene: Scene,
    faked: Faked,
}

/// How the nodes come by their time.
struct Faked {
    library: String,
    /// What is added to every clock when nothing is wrong with it. `None`: only the wall clock is faked,
    /// and this is nothing.
    ///
    /// Where the monotonic clock is faked as well, libfaketime shows the wall clock's time there. But the
    /// system, which knows of no such thing, is asked to wake a thread at a time of that clock. This brings
    /// the two together.
    base_ms: Option<i64>,
}

impl Clocks {
    /// Nodes whose wall clock alone, or every clock, is the test's to set. `None`, and a line in the
    /// output, where there is no libfaketime.
    fn begin(seed: u64, is_monotonic_ours: bool) -> Option<Self> {
        // For programs with threads (-m); the tool knows where its library is.
        let asked = Command::new("faketime")
            .args(["-m", "-f", "+0s", "sh", "-c", "echo $LD_PRELOAD"])
            .output();
        let asked = asked.ok().filter(|asked| asked.status.success());
        let Some(asked) = asked else {
            not_tested("clock", "it needs faketime, with its library");
            return None;
        };
        let library = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
        let base_ms = is_monotonic_ours.then(|| monotonic_ms() - since_epoch_ms(SystemTime::now()));
        let faked = Faked { library, base_ms };
        let mut cluster = Cluster::with_knobs(3, &[&KNOBS[..], &[TALKATIVE]].concat());
        for node in 0..3 {
            cluster.kill(node);
            faked.start(&mut cluster, node);
        }
        cluster.leader();
        let scene = Scene::begin(cluster, seed);
        Some(Self { scene, faked })
    }

    fn set(&self, node: usize, seconds: i64, pace: &str) {
        self.faked.set(&self.scene.cluster, node, seconds, pace);
    }

    /// Returns when the node says what it says at the time of its new clock.
    fn wait_for_shift(&mut self, node: usize, is_shifted: impl Fn(i64) -> bool) {
        eventually(&format!("node {node} at another time"), || {
            let shift = self.shift(node)?;
            is_shifted(shift).then(|| println!("node {node} is {shift} s off"))
        });
    }

    /// By how many seconds the clock was off by which the node said what it said last.
    fn shift(&mut self, node: usize) -> Option<i64> {
        const DAY: i64 = 24 * HOUR;
        let process = self.scene.cluster.process(node);
        let time = seconds_of_day(process.output().lines().last()?)?;
        let written_ms = since_epoch_ms(process.said_at()) + self.faked.base_ms.unwrap_or(0);
        let off = (time - written_ms / 1_000).rem_euclid(DAY);
        Some(if off > DAY / 2 { off - DAY } else { off })
    }
}

impl Faked {
    /// Starts a node whose clocks are right.
    fn start(&self, cluster: &mut Cluster, node: usize) {
        self.set(cluster, node, 0, "");
        let mut command = cluster.node_command(node);
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", file(cluster, node))
            .env("FAKETIME_NO_CACHE", "1");
        if self.base_ms.is_none() {
            command.env("DONT_FAKE_MONOTONIC", "1");
        }
        cluster.start_node_by(node, command);
    }

    /// By how much the clocks of a node are wrong from now on, and their pace, such as ` x10`. Atomic,
    /// since the file is read all the time.
    fn set(&self, cluster: &Cluster, node: usize, seconds: i64, pace: &str) {
        let ms = self.base_ms.unwrap_or(0) + 1_000 * seconds;
        let sign = if ms < 0 { '-' } else { '+' };
        let (whole, part) = (ms.abs() / 1_000, ms.abs() % 1_000);
        let file = file(cluster, node);
        let fresh = file.with_extension("fresh");
        fs::write(&fresh, format!("{sign}{whole}.{part:03}{pace}\n")).unwrap();
        fs::rename(fresh, file).unwrap();
    }
}

fn file(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.dir().join(format!("node{node}.time"))
}

/// What the monotonic clock shows.
fn monotonic_ms() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

fn since_epoch_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().try_into().expect("for ages to come")
}

/// Of a line that begins with date and time, as in `2026-11-27T02:24:38.123456Z`.
fn seconds_of_day(line: &str) -> Option<i64> {
    let (_, time) = line.split_once('T')?;
    let mut parts = time.get(..8)?.split(':').map(str::parse::<i64>);
    let mut part = || parts.next()?.ok();
    Some(part()? * HOUR + part()? * 60 + part()?)
}

/// Faults T1: the wall clocks of all nodes, or of one, jump by an hour, and run too fast and too slow.
/// Nothing comes of it: nobody stands for election, no session expires, no call fails.
#[test]
fn wall_clocks_that_jump_or_run_wrong_change_nothing() {
    let Some(mut clocks) = Clocks::begin(seed("wall_clocks"), false) else {
        return;
    };
    let before = (clocks.scene.leadership(), clocks.scene.latest_term());
    let leader = clocks.scene.cluster.leader();
    let all = [0, 1, 2];
    let cases: [(&[usize], i64, &str, RangeInclusive<i64>); 6] = [
        (&all, HOUR, "", HOUR - 60..=HOUR + 60),
        (&all, -HOUR, "", -HOUR - 60..=60 - HOUR),
        (&[leader], HOUR, "", HOUR - 60..=HOUR + 60),
        (&all, 0, "", -60..=60),
        (&all, 0, " x10", 5..=HOUR),
        (&all, 0, " x0.5", -HOUR..=-2),
    ];
    for (nodes, seconds, pace, shifts) in cases {
        println!("clocks of {nodes:?}: {seconds:+} s{pace}");
        for &node in nodes {
            clocks.set(node, seconds, pace);
        }
        for &node in nodes {
            clocks.wait_for_shift(node, |shift| shifts.contains(&shift));
        }
        clocks.scene.load.wait_for_acks(100);
        clocks.scene.recorder.progress(100);
    }
    clocks.scene.assert_at_rest(1);
    let now = (clocks.scene.leadership(), clocks.scene.latest_term());
    assert_eq!(now, before, "a clock has brought about an election");
    let (_, journal) = clocks.scene.end();
    assert_eq!((journal.unknown, journal.refused), (0, 0), "failed writes");
}

/// Faults T2: all clocks of one node leap, as those of a machine that was suspended. A leader steps down,
/// since for all it knows it has heard nobody for so long; a follower asks in vain whether it could win.
/// Nothing old is read, and nothing is lost. `LEAPS=60` has that many in place of four.
///
/// Threads that wait for a time wake up later by the leap, which libfaketime tells the process alone: it
/// is what arrives that wakes them, and the clients see to it that much does.
#[test]
fn a_node_whose_clocks_leap_costs_an_election_at_most() {
    let leaps = std::env::var("LEAPS").map_or(4, |text| text.parse().unwrap());
    let Some(mut clocks) = Clocks::begin(seed("leaping_clocks"), true) else {
        return;
    };
    let cases = [10, HOUR]
        .into_iter()
        .flat_map(|seconds| [(seconds, true), (seconds, false)]);
    for (seconds, is_leader) in cases.cycle().take(leaps) {
        let (leader, [follower, _]) = clocks.scene.cast();
        let node = if is_leader { leader } else { follower };
        let (elections, term) = (clocks.scene.elections(), clocks.scene.latest_term());
        clocks.set(node, seconds, "");
        clocks.wait_for_shift(node, |shift| (seconds - 5..seconds + 5).contains(&shift));
        clocks.scene.assert_served_by(&[0, 1, 2]);
        clocks.scene.load.wait_for_acks(200);
        clocks.scene.recorder.progress(200);
        let changes = clocks.scene.elections() - elections;
        println!("by {seconds} s, leader {is_leader}: {changes} changes of leaders");
        assert!(
            changes <= usize::from(is_leader),
            "{changes} changes of leaders"
        );
        clocks.scene.assert_few_terms_since(term);

        let Clocks { scene, faked } = &mut clocks;
        scene.cluster.kill(node);
        faked.start(&mut scene.cluster, node);
        scene.cluster.wait_for_catch_up(node);
    }
    clocks.scene.assert_at_rest(2);
    clocks.scene.end();
}
