//! What is counted on several loops, read as one.

use std::thread;

use super::*;

fn layout() -> Vec<ServiceLayout> {
    vec![
        ServiceLayout {
            name: "A",
            methods: &["One", "Two"],
            streaming: vec![false, true],
        },
        ServiceLayout {
            name: "B",
            methods: &["Three"],
            streaming: vec![false],
        },
    ]
}

#[test]
fn a_snapshot_sums_over_the_loops() {
    let meter = ServerMeter::new(layout(), 3);
    let (two, three, unknown) = (1, 2, 99);
    for index in 0..3 {
        let stats = Arc::clone(meter.for_loop(index));
        let arrived = Instant::now();
        let writer = thread::spawn(move || {
            let now = arrived + Duration::from_millis(2);
            stats.begun(two, 5);
            stats.ended(two, arrived, now, Code::Ok, 3);
            stats.ended(two, arrived, now, Code::NotFound, 1);
            stats.items(10);
            stats.begun(three, 1);
            stats.begun(unknown, 1);
            stats.ended(unknown, arrived, now, Code::Unimplemented, 1);
            stats.received(100);
            stats.sent(200);
        });
        writer.join().unwrap();
        meter.accepted();
    }
    meter.refused();

    let stats = meter.snapshot(2, true, Vec::new());
    assert_eq!((stats.bytes_in, stats.bytes_out), (300, 600));
    assert_eq!((stats.connections_open, stats.connections_accepted), (2, 3));
    assert_eq!((stats.connections_refused, stats.calls_unknown), (1, 3));
    assert!(stats.draining);
    assert_eq!(stats.method("A", "One").unwrap().begun, 0);

    let method = stats.method("A", "Two").unwrap();
    assert_eq!(
        (method.begun, method.count(), method.in_flight),
        (15, 12, 3)
    );
    assert_eq!((method.errors(), stats.stream_items), (3, 30));
    assert_eq!(method.count_of(Code::NotFound), 3);
    assert_eq!(method.latency.count(), 12);
    assert_eq!(method.latency.sum(), Duration::from_millis(24));
    assert!((method.rate - 12.0).abs() < 0.01, "{}", method.rate);
    assert_eq!(stats.streams_open(), 3);

    assert_eq!(stats.method("B", "Three").unwrap().in_flight, 3);
    assert!(stats.method("B", "One").is_none() && stats.service("C").is_none());
}

#[test]
fn a_rate_is_over_the_time_that_it_covers() {
    let near = |rate: f64, expected: f64| assert!((rate - expected).abs() < 1e-9, "{rate}");
    near(rate(100, Duration::from_millis(10)), 100.0);
    near(rate(100, Duration::from_secs(4)), 25.0);
    near(rate(110, Duration::from_millis(90_500)), 20.0);
}

#[test]
fn calls_that_end_after_their_connections_are_counted_with_the_others() {
    let meter = ServerMeter::new(layout(), 1);
    meter.for_loop(0).begun(1, 3);
    meter.strayed(1, Instant::now(), Code::Ok, 2);
    let stats = meter.snapshot(0, false, Vec::new());
    let method = stats.method("A", "Two").unwrap();
    assert_eq!((method.count(), method.in_flight), (2, 1));
    assert_eq!(method.latency.count(), 2);
    meter.strayed(usize::MAX, Instant::now(), Code::Unimplemented, 1);
}
