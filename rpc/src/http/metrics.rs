//! `/metrics`: what was counted, in the text format 0.0.4 of Prometheus.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use super::escape::Label;
use crate::error::Code;
use crate::stats::{LatencyHistogram, MethodStats, ServerStats};

/// The edges of the latency histogram: 1.024 us doubled so often. From 16 us to 17 s, each twice
/// the one before; they are edges of buckets, so the counts are exact.
const DOUBLINGS: std::ops::RangeInclusive<usize> = 4..=24;

/// All metrics of a server.
pub(super) fn metrics(stats: &ServerStats) -> String {
    let mut out = Lines(String::with_capacity(16 << 10));
    write_server(stats, &mut out);
    write_calls(stats, &mut out);
    write_latencies(stats, &mut out);
    write_workers(stats, &mut out);
    out.0
}

fn write_server(stats: &ServerStats, out: &mut Lines) {
    let gauges = [
        (
            "uptime_seconds",
            "Time since the server was started.",
            stats.uptime.as_secs_f64(),
        ),
        (
            "draining",
            "1 while the server accepts no more and finishes what runs.",
            if stats.draining { 1.0 } else { 0.0 },
        ),
    ];
    for (name, help, value) in gauges {
        out.family(name, "gauge", help);
        out.sample(name, &[], value);
    }
    let numbers = [
        (
            "connections_open",
            "gauge",
            "Open connections.",
            stats.connections_open,
        ),
        (
            "connections_accepted_total",
            "counter",
            "Connections that were accepted.",
            stats.connections_accepted,
        ),
        (
            "connections_refused_total",
            "counter",
            "Connections that were turned away because there were too many.",
            stats.connections_refused,
        ),
        (
            "received_bytes_total",
            "counter",
            "Bytes that have arrived.",
            stats.bytes_in,
        ),
        (
            "sent_bytes_total",
            "counter",
            "Bytes that have left.",
            stats.bytes_out,
        ),
        (
            "streams_open",
            "gauge",
            "Streams that have begun and not ended.",
            stats.streams_open(),
        ),
        (
            "stream_items_total",
            "counter",
            "Items of streams that were sent.",
            stats.stream_items,
        ),
        (
            "unknown_calls_total",
            "counter",
            "Calls of services and methods that do not exist.",
            stats.calls_unknown,
        ),
    ];
    for (name, kind, help, value) in numbers {
        out.family(name, kind, help);
        out.sample(name, &[], value);
    }
}

/// All methods, with the labels that name them.
fn methods(
    stats: &ServerStats,
) -> impl Iterator<Item = ([(&'static str, &'static str); 2], &MethodStats)> {
    stats.services.iter().flat_map(|service| {
        let labels = |method: &'static str| [("service", service.name), ("method", method)];
        service
            .methods
            .iter()
            .map(move |method| (labels(method.name), method))
    })
}

fn write_calls(stats: &ServerStats, out: &mut Lines) {
    out.family("calls_begun_total", "counter", "Calls that have arrived.");
    for (labels, method) in methods(stats) {
        out.sample("calls_begun_total", &labels, method.begun);
    }
    out.family("calls_total", "counter", "Calls that have ended, by code.");
    for (labels, method) in methods(stats) {
        for (code, n) in method.ended {
            // A series that never counts is not there; the one for OK always is.
            if n > 0 || code == Code::Ok {
                let labels = [labels[0], labels[1], ("code", code.name())];
                out.sample("calls_total", &labels, n);
            }
        }
    }
    out.family(
        "calls_in_flight",
        "gauge",
        "Calls that have arrived and are not answered.",
    );
    for (labels, method) in methods(stats) {
        out.sample("calls_in_flight", &labels, method.in_flight);
    }
}

fn write_latencies(stats: &ServerStats, out: &mut Lines) {
    out.family(
        "call_duration_seconds",
        "histogram",
        "Time from the arrival of a request to when its reply is ready to be sent.",
    );
    for (labels, method) in methods(stats) {
        write_histogram(&labels, &method.latency, out);
    }
}

fn write_histogram(labels: &[(&str, &str); 2], latency: &LatencyHistogram, out: &mut Lines) {
    let mut bucket = |edge: &str, count: u64| {
        let labels = [labels[0], labels[1], ("le", edge)];
        out.sample("call_duration_seconds_bucket", &labels, count);
    };
    for doublings in DOUBLINGS {
        let edge = Duration::from_nanos(1_024 << doublings).as_secs_f64();
        bucket(&edge.to_string(), latency.count_below(doublings));
    }
    bucket("+Inf", latency.count());
    let sum = latency.sum().as_secs_f64();
    out.sample("call_duration_seconds_sum", labels, sum);
    out.sample("call_duration_seconds_count", labels, latency.count());
}

fn write_workers(stats: &ServerStats, out: &mut Lines) {
    let families = [
        ("worker_threads", "Threads of a service that blocks."),
        (
            "worker_queue_length",
            "Calls that wait for one of its threads.",
        ),
        (
            "worker_queue_capacity",
            "How many may wait; further calls are refused.",
        ),
    ];
    for (position, (name, help)) in families.into_iter().enumerate() {
        out.family(name, "gauge", help);
        for queue in &stats.worker_queues {
            let value = [queue.threads, queue.waiting, queue.capacity][position];
            out.sample(name, &[("service", queue.service)], value);
        }
    }
}

/// The text, line by line. All names get the prefix `rpc_server_`.
struct Lines(String);

impl Lines {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP rpc_server_{name} {help}\n"));
        self.write(format_args!("# TYPE rpc_server_{name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.write(format_args!("rpc_server_{name}"));
        for (position, (label, text)) in labels.iter().enumerate() {
            let before = if position == 0 { '{' } else { ',' };
            self.write(format_args!("{before}{label}=\"{}\"", Label(text)));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{after} {value}\n"));
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes any text");
    }
}
