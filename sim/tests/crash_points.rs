//! Every crash point of a script (failures 1, 60 and 64 of docs/failures.md, among others).

use sim::crash_points::try_all;

#[test]
fn no_crash_point_loses_or_repeats_what_was_acknowledged() {
    let tried = try_all().unwrap();
    println!(
        "{} operations of the disk, {} crashes",
        tried.operations, tried.crashes
    );
    assert!(tried.operations >= 500, "{} operations", tried.operations);
    assert!(tried.crashes > 10_000);
}
