//! `kvctl replay`, as its users see it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Told, kvctl};

/// Node 0 of three: it leads, takes a snapshot and a member in, hands over, stands again. Recorded
/// by `RECORD_TO=DIR cargo test -p kvserver --test record`, of which every run is another.
fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records/three_leaders.rec")
}

fn replay(file: &Path, more: &[&str]) -> Told {
    let arguments = ["replay", file.to_str().unwrap()];
    kvctl(arguments.into_iter().chain(more.iter().copied()), "")
}

/// How a bug report stays fixed: its record is replayed, whatever the core looks like by then.
#[test]
fn a_recorded_run_is_the_same_today() {
    let told = replay(&record(), &[]).ok();
    let expected = "643 steps as they were, to leader in term 3 (vote n0, leader n0), log up to 20@3 (durable 20), \
        commit 20, applied 20, snapshot 11@1, members of entry 3; the node was stopped in order";
    assert_eq!(told.lines().last(), Some(expected));
    assert_eq!(told.lines().count(), 1 + 1 + 643 + 1 + 1);
}

#[test]
fn only_the_end_is_printed_on_request_and_objects_for_other_programs() {
    let told = replay(&record(), &["--from", "634", "--json"]).ok();
    let events: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<u64> = events
        .iter()
        .filter_map(|event| event["step"].as_u64())
        .collect();
    assert_eq!(steps, [0, 634, 635, 636, 637, 638, 639, 640, 641, 642, 643]);
    let last = &events[events.len() - 2];
    assert_eq!(last["event"], "step");
    assert_eq!(last["state"]["role"], "leader");
    assert_eq!(last["state"]["last_log"]["index"], 20);
    assert_eq!(events.last().unwrap()["event"], "ended");
}

#[test]
fn what_is_no_record_or_was_changed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changed.rec");
    let bytes = fs::read(record()).unwrap();
    let mut changed = bytes.clone();
    changed[3000] ^= 1;
    fs::write(&file, &changed).unwrap();
    let told = replay(&file, &[]);
    assert!(told.out.lines().count() > 10, "what is before it is shown");
    let line = told.failed(1);
    assert!(line.contains("changed.rec, the frame at byte 2"), "{line}");
    assert!(line.ends_with("it does not match its checksum"), "{line}");

    fs::write(&file, &bytes[..3000]).unwrap();
    let told = replay(&file, &[]).ok();
    assert!(
        told.ends_with("the record ends there without a word of the node\n"),
        "{told}"
    );

    fs::write(&file, "something else").unwrap();
    let line = replay(&file, &[]).failed(1);
    assert!(
        line.ends_with("changed.rec is no record of a run"),
        "{line}"
    );
    let line = replay(&dir.path().join("none"), &[]).failed(1);
    assert!(line.contains("cannot read"), "{line}");
}
