//! Files damaged by hand.

use crate::harness::wal::{cut, flip, last_segment, used_bytes};
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
    let name = segment.file_name().unwrap().to_str().unwrap();
    for trial in 0..12 {
        let offset = random.u64(used / 10..used * 8 / 10);
        let bit = random.u32(..8);
        flip(&segment, offset, bit);
        let log = cluster.dir().join(format!("damaged{trial}.log"));
        let mut process = Process::start("the damaged node", cluster.node_command(damaged), &log);
        let ended = process.wait();
        let output = process.output();
        assert_eq!(
            ended.code(),
            Some(1),
            "bit {bit} of byte {offset}: {ended}\n{output}"
        );
        let said = process
            .line("raft_core_run: ")
            .unwrap_or_else(|| panic!("no reason in:\n{output}"));
        assert!(said.contains(name), "it names the file: {said}");
        assert!(
            names_offset_near(&said, offset),
            "byte {offset} of {used}: {said}"
        );
        flip(&segment, offset, bit);
        load.wait_for_acks(20);
    }

    cluster.start_node(damaged);
    cluster.wait_for_catch_up(damaged);
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// Whether one of the numbers in `text` is the start of a record that may hold byte `offset`.
fn names_offset_near(text: &str, offset: u64) -> bool {
    const RECORD_BYTES_MAX: u64 = 512; // of the small writes of `Load`
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse::<u64>().ok())
        .any(|number| (number..=number + RECORD_BYTES_MAX).contains(&offset))
}
