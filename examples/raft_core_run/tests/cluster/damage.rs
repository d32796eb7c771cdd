//! Files damaged by hand.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clerk::ReadFrom;

use crate::harness::wal::{cut, flip, last_segment, place_of, used_bytes};
use crate::harness::{Cluster, Load, Process, seed};

/// A crash may leave half a record behind: the node drops it, says so, and gets the entry again from
/// the others.
#[test]
fn the_end_of_a_log_that_a_crash_cut_off_is_dropped_and_reported() {
    let mut random = fastrand::Rng::with_seed(seed("torn_tail"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 8, random.u64(..));
    load.wait_for_acks(300);
    let journal = load.finish();
    cluster.wait_for_convergence();

    // Within the last record and within the one before; all nodes hold all entries, so none is lost.
    for bytes in [1, 10, 30, 70] {
        let node = random.usize(..3);
        cluster.kill_all();
        let segment = last_segment(&cluster.node_dir(node));
        println!(
            "cutting {bytes} of {} bytes off {}",
            used_bytes(&segment),
            segment.display()
        );
        cut(&segment, bytes);
        for node in 0..3 {
            cluster.start_node(node);
        }
        let report = cluster
            .process(node)
            .wait_for_line("dropped the end of the log");
        let name = segment.file_name().unwrap().to_str().unwrap();
        assert!(report.contains(name), "it names the file: {report}");
        assert!(report.contains("offset="), "it names the place: {report}");
        cluster.wait_for_convergence();
    }
    journal.verify(&cluster);
}

/// A byte that went wrong before valid records is no crash's doing: the node refuses to guess, and the
/// other two serve. Once the byte is right again, it serves as well: refusing has changed nothing.
#[test]
fn a_node_with_a_damaged_log_refuses_to_start_and_the_others_serve() {
    let mut random = fastrand::Rng::with_seed(seed("flipped_bit"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 8, random.u64(..));
    load.wait_for_acks(500);
    let damaged = cluster.leader();
    cluster.kill(damaged);
    load.wait_for_acks(100);

    let segment = last_segment(&cluster.node_dir(damaged));
    let used = used_bytes(&segment);
    for trial in 0..12 {
        let offset = random.u64(used / 10..used * 8 / 10);
        let bit = random.u32(..8);
        flip(&segment, offset, bit);
        println!("trial {trial}: bit {bit} of byte {offset} of {used}");
        refuses_to_start(&cluster, damaged, &segment, offset);
        flip(&segment, offset, bit);
        load.wait_for_acks(20);
    }

    cluster.start_node(damaged);
    cluster.wait_for_catch_up(damaged);
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// Started, the node ends at once, and says which file is damaged, and where.
fn refuses_to_start(cluster: &Cluster, node: usize, segment: &Path, offset: u64) {
    let log = cluster.dir().join(format!("damaged{node}.log"));
    let mut process = Process::start("the damaged node", cluster.node_command(node), &log);
    let ended = process.wait();
    let output = process.output();
    assert_eq!(ended.code(), Some(1), "{ended}\n{output}");
    let said = process
        .line("raft_core_run: ")
        .unwrap_or_else(|| panic!("no reason in:\n{output}"));
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name), "it names the file: {said}");
    assert!(names_offset_near(&said, offset), "byte {offset}: {said}");
}

/// Faults D8: one bit of the same committed entry goes wrong on all nodes. None starts, rather than make
/// up a value. When two are right again they serve, and the third is replaced.
#[test]
fn the_same_entry_damaged_on_all_nodes_stops_them_and_on_one_costs_that_node() {
    let mut random = fastrand::Rng::with_seed(seed("same_entry"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 4, random.u64(..));
    load.wait_for_acks(100);
    let clerk = cluster.clerk(random.u64(..));
    let value = format!("{:016x}", random.u64(..));
    clerk.put("marked", value.clone()).unwrap();
    load.wait_for_acks(100);
    let journal = load.finish();
    cluster.wait_for_convergence();
    cluster.kill_all();

    let damage: Vec<(PathBuf, u64)> = (0..3)
        .map(|node| {
            let start = place_of(&cluster.node_dir(node), value.as_bytes());
            (start.0, start.1 + random.u64(..value.len() as u64))
        })
        .collect();
    for (segment, offset) in &damage {
        flip(segment, *offset, 0);
    }
    for (node, (segment, offset)) in damage.iter().enumerate() {
        refuses_to_start(&cluster, node, segment, *offset);
    }

    let damaged = random.usize(..3);
    let others: Vec<usize> = (0..3).filter(|node| *node != damaged).collect();
    for &node in &others {
        let (segment, offset) = &damage[node];
        flip(segment, *offset, 0);
        cluster.start_node(node);
    }
    let leader = cluster.leader_among(&others);
    let is_right = |found: Option<Bytes>| assert_eq!(found.as_deref(), Some(value.as_bytes()));
    is_right(cluster.clerk_of(&others).get("marked").unwrap());
    let (segment, offset) = &damage[damaged];
    refuses_to_start(&cluster, damaged, segment, *offset);

    let newcomer = cluster.join(leader, &[&format!("--replace={damaged}")]);
    let goal = format!("node {newcomer}: voter in the place of node {damaged}");
    cluster.process(newcomer).wait_for_line(&goal);
    cluster.wait_for_catch_up(newcomer);
    let reader = cluster.clerk_of(&[newcomer]).with_reads_from(ReadFrom::Any);
    is_right(reader.get("marked").unwrap());
    journal.verify(&cluster);
}

/// Whether one of the numbers in `text` is the start of a record that may hold byte `offset`.
fn names_offset_near(text: &str, offset: u64) -> bool {
    const RECORD_BYTES_MAX: u64 = 512; // of the small writes of `Load`
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse::<u64>().ok())
        .any(|number| (number..=number + RECORD_BYTES_MAX).contains(&offset))
}
