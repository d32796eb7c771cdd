//! The program, as its user sees it, against a running server.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../rpc/tests/common/certificates.rs"]
mod certificates;
mod common;
mod files;
mod replay;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use rpc::builtin::ServingStatus;
use rpc::{ProviderOptions, TlsServer};

use common::{Zoo, kvctl};

#[test]
fn list_names_services_and_methods_as_call_takes_them() {
    let expected = "\
zoo.Keeper
  Keeper.Find
  Keeper.Watch (stream)
  Keeper.Escape
  Keeper.Sleep
  Keeper.WhoAmI
Old (without descriptors)
  Old.Creak
";
    let told = Zoo::open().kvctl("list", &[]).ok();
    assert!(told.starts_with(expected), "{told}");
    assert!(told.contains("  Health.Watch (stream)\n"), "{told}");
}

#[test]
fn describe_prints_a_method_its_messages_and_how_to_call_it() {
    let zoo = Zoo::open();
    let expected = format!(
        "\
// zoo.proto
service zoo.Keeper {{
  rpc Watch(zoo.WatchArgs) returns (stream zoo.Visitor);
}}

message zoo.WatchArgs {{
  uint32 visitors = 1;
  bool fail = 2;
}}

message zoo.Visitor {{
  uint32 number = 1;
  string name = 2;
}}

// kvctl rpc call {} Keeper.Watch '{{\"visitors\":0,\"fail\":false}}'
",
        zoo.addr()
    );
    for name in ["Keeper.Watch", "zoo.Keeper.Watch"] {
        assert_eq!(zoo.kvctl("describe", &[name]).ok(), expected);
    }
}

#[test]
fn describe_prints_every_kind_of_field() {
    let text = Zoo::open().kvctl("describe", &["Keeper"]).ok();
    for method in ["Find", "Watch", "Escape", "Sleep", "WhoAmI"] {
        assert!(text.contains(&format!("  rpc {method}(")), "{text}");
    }
    let animal = "\
message zoo.animals.Animal {
  string name = 1;
  zoo.animals.Diet diet = 2;
  uint64 weight_g = 3;
  optional uint32 cage = 4;
  oneof origin {
    string born_in = 5;
    zoo.animals.Animal.Mark mark = 6;
  }
  repeated string nicknames = 7;
  map<string, zoo.animals.Diet> treats = 8;
  zoo.animals.Animal mother = 9;
}
";
    let mark = "message zoo.animals.Animal.Mark {\n  bytes chip = 1;\n}\n";
    let diet = "enum zoo.animals.Diet {\n  UNKNOWN = 0;\n  MEAT = 1;\n  LEAVES = 2;\n}\n";
    for part in [animal, mark, diet] {
        assert_eq!(text.matches(part).count(), 1, "{part} once in {text}");
    }
}

#[test]
fn call_takes_and_prints_protobuf_json() {
    let animal = "{\"name\":\"Ada\",\"diet\":\"LEAVES\",\"weightG\":\"4100000\",\"cage\":0,\
                  \"mark\":{\"chip\":\"AP8=\"},\"nicknames\":[\"a\",\"b\"],\
                  \"treats\":{\"hay\":\"LEAVES\"},\"mother\":{\"name\":\"Eve\"}}";
    let zoo = Zoo::open();
    let told = zoo.kvctl("call", &["Keeper.Find", animal]).ok();
    assert_eq!(told, format!("{animal}\n"), "it echoes");

    let by_proto_names = zoo.kvctl("call", &["zoo.Keeper.Find", "{\"weight_g\": 7}"]);
    assert_eq!(by_proto_names.ok(), "{\"weightG\":\"7\"}\n");

    let addr = zoo.addr();
    let told = kvctl(
        ["rpc", "call", &addr, "Keeper.Find", "-"],
        "{\"name\":\n\"Ada\"}",
    );
    assert_eq!(told.ok(), "{\"name\":\"Ada\"}\n", "from standard input");

    assert_eq!(zoo.kvctl("call", &["Keeper.Find"]).ok(), "{}\n");
    let all = zoo.kvctl("call", &["Keeper.Find", "--defaults"]).ok();
    assert!(all.contains("\"weightG\":\"0\""), "{all}");
}

#[test]
fn call_prints_a_line_for_each_message_of_a_stream_and_fails_if_it_does() {
    let items = "{\"number\":1,\"name\":\"visitor 1\"}\n{\"number\":2,\"name\":\"visitor 2\"}\n";
    let zoo = Zoo::open();
    let whole = zoo.kvctl("call", &["Keeper.Watch", "{\"visitors\":2}"]);
    assert_eq!(whole.ok(), items);
    let broken = zoo.kvctl("call", &["Keeper.Watch", "{\"visitors\":2,\"fail\":true}"]);
    assert_eq!(broken.out, items, "{broken:?}");
    let addr = zoo.addr();
    assert_eq!(
        broken.failed(1),
        format!("Keeper.Watch at {addr}: NOT_FOUND: the zoo is closed")
    );
}

#[test]
fn a_failed_call_is_told_in_one_line_with_its_code() {
    let zoo = Zoo::open();
    let addr = zoo.addr();
    let told = zoo.kvctl("call", &["Keeper.Escape"]).failed(1);
    assert_eq!(
        told,
        format!("Keeper.Escape at {addr}: PERMISSION_DENIED: the cage is locked")
    );
    let told = zoo.kvctl("call", &["Keeper.Sleep", "--timeout", "0.05"]);
    let told = told.failed(1);
    assert!(
        told.contains("DEADLINE_EXCEEDED") && told.contains("--timeout"),
        "{told}"
    );
}

#[test]
fn metadata_and_a_token_travel_with_calls() {
    let options = ["--token", "s3cret", "--metadata", "tenant=blue"];
    let told = Zoo::open().kvctl("call", &[&["Keeper.WhoAmI"], &options[..]].concat());
    assert_eq!(told.ok(), "{\"name\":\"Bearer s3cret, blue\"}\n");
}

#[test]
fn a_token_may_be_in_the_environment_which_ps_does_not_show() {
    let zoo = Zoo::open();
    let told = Command::new(env!("CARGO_BIN_EXE_kvctl"))
        .args(["rpc", "call", &zoo.addr(), "Keeper.WhoAmI"])
        .args(["--metadata", "tenant=blue"])
        .env("KVCTL_TOKEN", "s3cret")
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told, "{\"name\":\"Bearer s3cret, blue\"}\n");
}

#[test]
fn tls_asks_for_the_servers_certificate_and_shows_its_own() {
    let files = certificates::Files::new();
    let file = |name| files.path(name).to_str().unwrap().to_owned();
    let tls = TlsServer::new(file("server.pem"), file("server.key")).unwrap();
    let zoo = Zoo::with_options(ProviderOptions {
        tls: Some(tls.with_client_roots(file("ca.pem")).unwrap()),
        ..ProviderOptions::default()
    });
    let (roots, certificate, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let call = ["Keeper.Find", "--tls-roots", &roots];
    let identity = ["--tls-cert", &certificate, "--tls-key", &key];
    let told = zoo.kvctl("call", &[&call[..], &identity].concat());
    assert_eq!(told.ok(), "{}\n", "the certificate is for 127.0.0.1");
    let name = ["--tls-name", "localhost"];
    let told = zoo.kvctl("call", &[&call[..], &identity, &name].concat());
    assert_eq!(told.ok(), "{}\n");

    let name = ["--tls-name", "another.host"];
    for wrong in [
        &[&call[..], &identity, &name].concat(),
        &call[..],
        &call[..1],
    ] {
        let line = zoo.kvctl("call", wrong).failed(1);
        assert!(line.contains("UNAVAILABLE"), "{line}");
    }
    let line = zoo.kvctl("list", &["--tls-roots", "no.pem"]).failed(1);
    assert!(line.contains("no.pem"), "{line}");
    let line = zoo.kvctl("list", &["--tls-name", "localhost"]).failed(2);
    assert!(line.contains("--tls-roots"), "{line}");
}

#[test]
fn what_the_server_does_not_have_is_told_with_what_it_has() {
    let zoo = Zoo::open();
    let told = zoo.kvctl("call", &["Keeper.Feed"]).failed(1);
    assert_eq!(
        told,
        "zoo.Keeper has no method Feed; it has Find, Watch, Escape, Sleep, WhoAmI"
    );
    for (command, name) in [("call", "Till.Open"), ("describe", "Till")] {
        let told = zoo.kvctl(command, &[name]).failed(1);
        assert!(told.contains("no service Till"), "{told}");
        assert!(told.contains("kvctl rpc list"), "{told}");
    }
    let silent = Zoo::without_builtin_services();
    for (command, arguments) in [
        ("list", &[][..]),
        ("call", &["Keeper.Find"]),
        ("health", &[]),
    ] {
        let told = silent.kvctl(command, arguments).failed(1);
        assert!(told.contains("offer the builtin services"), "{told}");
    }
}

#[test]
fn without_a_server_every_command_says_so_and_fails() {
    let addr = {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        unused.local_addr().unwrap().to_string()
    };
    for (command, argument) in [
        ("list", None),
        ("describe", Some("Keeper")),
        ("call", Some("Keeper.Find")),
        ("health", None),
        ("bench", Some("Keeper.Find")),
    ] {
        let told = kvctl(["rpc", command, &addr].into_iter().chain(argument), "");
        let told = told.failed(1);
        assert!(
            told.contains(&addr) && told.contains("UNAVAILABLE") && told.contains("running there?"),
            "{command}: {told}"
        );
    }
    let pings = kvctl(
        ["rpc", "ping", &addr, "--count", "2", "--interval", "0"],
        "",
    );
    assert_eq!(pings.out.matches("UNAVAILABLE").count(), 2, "{pings:?}");
    let told = pings.failed(1);
    assert!(told.starts_with("2 of 2 pings"), "{told}");
}

#[test]
fn ping_prints_a_time_for_each_answer() {
    let told = Zoo::open().kvctl("ping", &["--count", "3", "--interval", "0"]);
    let told = told.ok();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    for (index, line) in lines[..3].iter().enumerate() {
        let ms = line.strip_prefix(&format!("{}: ", index + 1));
        let ms = ms.and_then(|ms| ms.strip_suffix(" ms"));
        assert!(ms.unwrap().parse::<f64>().unwrap() > 0.0, "{told}");
    }
    assert!(lines[3].starts_with("min "), "{told}");
}

#[test]
fn health_succeeds_only_where_calls_are_welcome() {
    let zoo = Zoo::open();
    zoo.health.set("Old", ServingStatus::NotServing);
    assert_eq!(zoo.kvctl("health", &[]).ok(), "SERVING\n");
    assert_eq!(zoo.kvctl("health", &["Keeper"]).ok(), "SERVING\n");
    for (service, status) in [("Old", "NOT_SERVING\n"), ("Cafe", "UNKNOWN\n")] {
        let told = zoo.kvctl("health", &[service]);
        assert_eq!(told.out, status);
        let line = told.failed(1);
        assert!(line.contains(service), "{line}");
    }
}

#[test]
fn health_watch_prints_each_change() {
    let zoo = Zoo::open();
    let addr = zoo.addr();
    let mut kvctl = Command::new(env!("CARGO_BIN_EXE_kvctl"))
        .args(["rpc", "health", &addr, "Keeper", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(kvctl.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "SERVING");
    zoo.health.set("Keeper", ServingStatus::NotServing);
    assert_eq!(lines.next().unwrap().unwrap(), "NOT_SERVING");
    drop(zoo);
    kvctl.wait().unwrap();
}

#[test]
fn bench_prints_rate_and_latencies() {
    let zoo = Zoo::open();
    let arguments = [
        "Keeper.Find",
        "--json",
        "{\"name\":\"Ada\"}",
        "--concurrency",
        "5",
        "--connections",
        "2",
        "--duration",
        "0.1",
    ];
    let told = zoo.kvctl("bench", &arguments).ok();
    let figure = |name: &str| -> f64 {
        let line = told.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {told}"));
        line.trim().parse().unwrap()
    };
    assert!(figure("answered") >= 5.0, "{told}");
    assert!(figure("per second") > 0.0, "{told}");
    assert!(figure("failed") == 0.0, "{told}");
    let latencies = ["min", "p50", "p90", "p99 ", "p99.9", "max"].map(figure);
    assert!(latencies.is_sorted() && latencies[0] > 0.0, "{told}");
}

#[test]
fn bench_counts_failures_by_code_and_fails_at_the_end() {
    let arguments = ["Keeper.Escape", "--json", "{\"visitors\":8}"];
    let options = ["--concurrency", "4", "--duration", "1"];
    let told = Zoo::open().kvctl("bench", &[&arguments[..], &options].concat());
    let figures: Vec<_> = told.out.split_whitespace().collect();
    let figure = |name| figures[1 + figures.iter().position(|it| *it == name).unwrap()];
    // One more was answered before the measuring began.
    assert_eq!(figure("answered"), "7", "{told:?}");
    assert_eq!(figure("failed"), figure("PERMISSION_DENIED"), "{told:?}");
    let failed: u64 = figure("failed").parse().unwrap();
    assert!(failed > 4, "each of the four calls again: {told:?}");
    let line = told.failed(1);
    let expected = format!("{failed} of {} calls failed", failed + 7);
    assert!(line.contains(&expected), "{line}");
    assert!(line.ends_with("the cage is locked"), "{line}");
}

#[test]
fn bench_measures_neither_failures_nor_streams() {
    let zoo = Zoo::open();
    let told = zoo.kvctl("bench", &["Keeper.Escape", "--duration", "0.1"]);
    assert!(told.failed(1).contains("PERMISSION_DENIED"));
    let told = zoo.kvctl("bench", &["Keeper.Watch", "--duration", "0.1"]);
    assert!(told.failed(2).contains("stream"));
}

#[test]
fn wrong_usage_is_told_in_one_line_and_with_code_2() {
    let zoo = Zoo::open();
    let addr = zoo.addr();
    for (arguments, told) in [
        (&[][..], "--help"),
        (&["rpc"], "--help"),
        (&["rpc", "shout"], "shout"),
        (&["rpc", "list"], "<ADDR>"),
        (&["rpc", "list", "localhost"], "HOST:PORT"),
        (&["rpc", "list", "localhost:http"], "HOST:PORT"),
        (&["rpc", "call", &addr, "Keeper"], "SERVICE.METHOD"),
        (&["rpc", "call", &addr, "Keeper.Find", "{\"nam\":1}"], "nam"),
        (&["rpc", "call", &addr, "Keeper.Find", "{} x"], "column"),
        (&["rpc", "list", &addr, "--timeout", "0"], "0.001"),
        (&["rpc", "list", &addr, "--metadata", "x"], "KEY=VALUE"),
        (
            &[
                "rpc",
                "bench",
                &addr,
                "Keeper.Find",
                "--concurrency",
                "1025",
            ],
            "--connections",
        ),
    ] {
        let line = kvctl(arguments.iter().copied(), "").failed(2);
        assert!(line.contains(told), "{arguments:?}: {line}");
    }
}

#[test]
fn help_shows_examples() {
    for arguments in [
        &["--help"][..],
        &["rpc", "--help"],
        &["rpc", "call", "--help"],
        &["rpc", "bench", "--help"],
    ] {
        let help = kvctl(arguments.iter().copied(), "").ok();
        assert!(help.contains("Examples:"), "{arguments:?}: {help}");
    }
}
