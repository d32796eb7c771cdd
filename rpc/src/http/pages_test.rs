//! The pages of a server that does not exist, and the metrics under a strict reader.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Instant;

use super::*;
use crate::error::Code;
use crate::http::{Parsed, exchange, parse};
use crate::stats::{ConnectionCells, ServerMeter, ServiceLayout, WorkerQueue};

struct Fake {
    meter: ServerMeter,
    healthy: bool,
}

/// Service and method names that try to break out of whatever they are put into.
const SERVICE: &str = "<b>\"Evil\\";
const METHOD: &str = "Run\n{x}&'";

fn fake() -> Fake {
    let meter = ServerMeter::new(
        vec![
            ServiceLayout {
                name: "Echo",
                methods: &["Say", "Follow"],
                streaming: vec![false, true],
            },
            ServiceLayout {
                name: SERVICE,
                methods: &[METHOD],
                streaming: vec![false],
            },
        ],
        2,
    );
    for index in 0..2 {
        let stats = meter.for_loop(index).clone();
        thread::spawn(move || {
            let arrived = Instant::now();
            let now = arrived + Duration::from_millis(3);
            stats.begun(0, 10);
            stats.ended(0, arrived, now, Code::Ok, 6);
            stats.ended(0, arrived, now, Code::NotFound, 2);
            stats.begun(1, 1);
            stats.begun(2, 1);
            stats.ended(2, arrived, arrived + Duration::from_hours(1), Code::Ok, 1);
            stats.items(7);
        })
        .join()
        .unwrap();
    }
    Fake {
        meter,
        healthy: true,
    }
}

impl Observed for Fake {
    fn stats(&self) -> ServerStats {
        let queue = WorkerQueue {
            service: "Echo",
            waiting: 3,
            capacity: 8,
            threads: 2,
        };
        self.meter.snapshot(1_234, false, vec![queue])
    }

    fn connections(&self, max: usize) -> Vec<ConnectionInfo> {
        let opened = Instant::now();
        let connection = |port| {
            let peer = format!("[fe80::1%3]:{port}").parse().unwrap();
            ConnectionCells::new(peer, opened).info(opened + Duration::from_secs(90))
        };
        (1..=1_234).take(max).map(connection).collect()
    }

    fn health(&self, service: &str) -> (bool, &'static str) {
        match (service, self.healthy) {
            ("" | "Echo", true) => (true, "SERVING"),
            (_, false) => (false, "NOT_SERVING"),
            _ => (false, "UNKNOWN"),
        }
    }
}

fn get(path: &str, fake: &Fake) -> Answer {
    let text = format!("GET {path} HTTP/1.1\r\n\r\n");
    let Parsed::Request(request) = parse(text.as_bytes()) else {
        panic!("{text} is a request");
    };
    answer(&request, fake)
}

#[test]
fn every_page_is_there_and_no_other() {
    let fake = fake();
    for path in [
        "/",
        "/connections",
        "/services",
        "/metrics",
        "/health",
        "/services?x=y",
    ] {
        assert_eq!(get(path, &fake).status, 200, "{path}");
    }
    for path in ["/metrics/", "//", "/../etc/passwd", "/favicon.ico"] {
        assert_eq!(get(path, &fake).status, 404, "{path}");
    }
}

#[test]
fn health_is_a_status_code_and_a_word() {
    let mut fake = fake();
    let shown = |fake: &Fake, path| {
        let answer = get(path, fake);
        (answer.status, answer.body)
    };
    assert_eq!(shown(&fake, "/health"), (200, "SERVING\n".into()));
    assert_eq!(
        shown(&fake, "/health?service=Echo"),
        (200, "SERVING\n".into())
    );
    assert_eq!(
        shown(&fake, "/health?service=No"),
        (503, "UNKNOWN\n".into())
    );
    fake.healthy = false;
    assert_eq!(shown(&fake, "/health"), (503, "NOT_SERVING\n".into()));
}

#[test]
fn methods_are_listed_with_their_numbers() {
    let page = get("/services", &fake()).body;
    let row = "<tr><td>Echo</td><td>Say</td><td>16</td><td>4</td><td>4</td><td>16.0</td>";
    assert!(page.contains(row), "{page}");
    assert!(
        page.contains("<td>Follow (stream)</td><td>0</td>"),
        "{page}"
    );
    let row = "<tr><td>Echo</td><td>2</td><td>3</td><td>8</td></tr>";
    assert!(page.contains(row), "{page}");
}

#[test]
fn many_connections_are_cut_with_a_note() {
    let page = get("/connections", &fake()).body;
    assert_eq!(
        page.matches("<td>unknown</td>").count(),
        CONNECTIONS_SHOWN_MAX
    );
    assert!(page.contains("<p>and 234 more</p>"));
    assert!(page.contains("<td>1 min 30 s</td>"));
}

#[test]
fn names_stay_text_whatever_they_are() {
    let page = get("/services", &fake()).body;
    assert!(
        page.contains("<td>&lt;b&gt;&quot;Evil\\</td><td>Run\\n{x}&amp;&#39;</td>"),
        "{page}"
    );
    assert!(!page.contains("<b>"));
}

#[test]
fn an_exchange_is_one_answer_and_head_asks_for_its_head() {
    let fake = fake();
    assert_eq!(exchange(b"GET /health HTTP/1.1\r\n", &fake), None);
    let sent = |bytes: &[u8]| String::from_utf8(exchange(bytes, &fake).unwrap()).unwrap();
    assert!(sent(b"GET /health HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nSERVING\n"));
    let head = sent(b"HEAD /health HTTP/1.1\r\n\r\n");
    assert!(
        head.contains("Content-Length: 8\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(sent(b"POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
}

#[test]
fn spans_are_short() {
    for (nanos, text) in [
        (0, "0.000ns"),
        (1_500, "1.500\u{b5}s"),
        (59_000_000_000, "59.000s"),
        (61_000_000_000, "1 min 1 s"),
        (7_260_000_000_000, "2 h 1 min"),
        (90_000_000_000_000, "1 d 1 h"),
    ] {
        assert_eq!(Span(Duration::from_nanos(nanos)).to_string(), text);
    }
}

// ---- the metrics

/// A name with its labels, all of them sorted.
type Series = (String, BTreeMap<String, String>);

/// Reads the text format 0.0.4, and holds it to every rule that it knows.
fn read_metrics(text: &str) -> BTreeMap<Series, f64> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = None;
    let mut family = "";
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        assert_eq!(line, line.trim(), "no space around a line");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(is_name(name) && !help.is_empty(), "{line}");
            helped = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(helped.take(), Some(name), "HELP comes before TYPE");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "{name} comes once");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = name;
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (name, labels, value) = read_sample(line);
            let suffix = name
                .strip_prefix(family)
                .expect("samples follow their family");
            let suffixes: &[&str] = match types[family] {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
            assert!(
                samples.insert((name, labels), value).is_none(),
                "twice: {line}"
            );
        }
    }
    check_histograms(&samples, &types);
    samples
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn read_sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let name_len = line.find(['{', ' ']).expect("a name, then more");
    let (name, mut rest) = line.split_at(name_len);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"").expect("a label");
            assert!(is_name(label), "{line}");
            let (value, after) = read_quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.split_at(1) {
                (",", after) => inside = after,
                ("}", after) => {
                    rest = after;
                    break;
                }
                _ => panic!("neither comma nor brace: {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("one space");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

/// A label's value up to its closing quote, and what follows that.
fn read_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => match letters.next().expect("something escaped").1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                other => panic!("\\{other} is no escape"),
            },
            letter => value.push(letter),
        }
    }
    panic!("a value without an end");
}

/// Buckets rise in edge and count, the last is +Inf, and it counts all.
fn check_histograms(samples: &BTreeMap<Series, f64>, types: &BTreeMap<&str, &str>) {
    for (family, _) in types.iter().filter(|(_, kind)| **kind == "histogram") {
        let mut series: BTreeSet<BTreeMap<String, String>> = BTreeSet::new();
        let mut buckets: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), &value) in samples {
            if *name == format!("{family}_bucket") {
                let mut labels = labels.clone();
                let edge = labels.remove("le").unwrap().parse().unwrap();
                buckets.entry(labels).or_default().push((edge, value));
            } else if name.starts_with(family) {
                series.insert(labels.clone());
            }
        }
        assert_eq!(series, buckets.keys().cloned().collect());
        for (labels, mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{buckets:?}"
            );
            let last = buckets.last().unwrap();
            assert!(last.0.is_infinite());
            let count = samples[&(format!("{family}_count"), labels.clone())];
            assert!((last.1 - count).abs() < 0.5, "{labels:?}");
            assert!(samples.contains_key(&(format!("{family}_sum"), labels)));
        }
    }
}

#[test]
fn metrics_keep_to_the_format_and_say_what_was_counted() {
    let text = get("/metrics", &fake()).body;
    let samples = read_metrics(&text);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let series = (format!("rpc_server_{name}"), labels.collect());
        *samples
            .get(&series)
            .unwrap_or_else(|| panic!("{series:?} in {text}"))
    };
    let say = [("service", "Echo"), ("method", "Say")];
    let code = |name| [say[0], say[1], ("code", name)];
    let below = |edge| [say[0], say[1], ("le", edge)];
    for (name, labels, expected) in [
        ("connections_open", &[][..], 1_234.0),
        ("stream_items_total", &[], 14.0),
        ("streams_open", &[], 2.0),
        ("calls_begun_total", &say, 20.0),
        ("calls_in_flight", &say, 4.0),
        ("calls_total", &code("OK"), 12.0),
        ("calls_total", &code("NOT_FOUND"), 4.0),
        ("call_duration_seconds_bucket", &below("0.002097152"), 0.0),
        ("call_duration_seconds_bucket", &below("0.004194304"), 16.0),
        ("call_duration_seconds_bucket", &below("+Inf"), 16.0),
        ("call_duration_seconds_count", &say, 16.0),
        ("call_duration_seconds_sum", &say, 0.048),
        (
            "calls_total",
            &[("service", SERVICE), ("method", METHOD), ("code", "OK")],
            2.0,
        ),
        (
            "call_duration_seconds_sum",
            &[("service", SERVICE), ("method", METHOD)],
            7_200.0,
        ),
        ("worker_queue_length", &[("service", "Echo")], 3.0),
        ("worker_queue_capacity", &[("service", "Echo")], 8.0),
        ("worker_threads", &[("service", "Echo")], 2.0),
    ] {
        let found = value(name, labels);
        assert!(
            (found - expected).abs() < 1e-9,
            "{name} {labels:?}: {found}"
        );
    }
    let absent = code("INTERNAL").map(|(k, v)| (k.to_owned(), v.to_owned()));
    let series = ("rpc_server_calls_total".to_owned(), absent.into());
    assert!(
        !samples.contains_key(&series),
        "a code that never came has no series"
    );
}
