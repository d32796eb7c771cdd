//! A client in another language, written from `docs/wire.md` alone, against a running provider.
//! `python/client.py` asserts what it gets; this side asserts what arrived here.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::LONG;
use prost::Message;
use rpc::{
    Code, Done, Keepalive, ProviderOptions, ReplySlot, RpcContext, RpcError, RpcProvider, Service,
    StreamError, StreamSender,
};

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// What this side saw, counted.
type Seen = BTreeMap<String, usize>;

struct Echo {
    seen: Sender<String>,
    drain: Mutex<Sender<()>>,
}

impl Service for Echo {
    fn name(&self) -> &'static str {
        "Echo"
    }

    fn methods(&self) -> &'static [&'static str] {
        &[
            "Say",
            "Fail",
            "Metadata",
            "Hold",
            "Drain",
            "Count",
            "CountAndFail",
        ]
    }

    fn is_streaming(&self, method: usize) -> bool {
        self.methods()[method].starts_with("Count")
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        let args = match Text::decode(args) {
            Ok(args) => args,
            Err(error) => {
                let error = RpcError::new(Code::InvalidArgument, error.to_string());
                return reply.refuse(error);
            }
        };
        let note = |what: &str| self.seen.send(what.to_owned()).unwrap();
        if context.is_legacy() {
            note("legacy call");
        }
        let method = self.methods()[method];
        match method {
            "Say" => Done::new(reply).run(args),
            "Fail" => reply.fail(RpcError::new(Code::NotFound, args.text)),
            "Metadata" => {
                let tenant = context.metadata().get_str("tenant").unwrap().to_owned();
                context.add_reply_metadata("tenant", tenant);
                let text = context.trace().unwrap().to_string();
                Done::new(reply).run(Text { text });
            }
            "Hold" => {
                if context.deadline().is_some() {
                    note("a deadline");
                }
                let (seen, text) = (self.seen.clone(), args.text);
                context.on_cancel(move || {
                    seen.send(format!("given up: {text}")).unwrap();
                    reply.fail(RpcError::new(Code::Cancelled, "given up"));
                });
            }
            "Drain" => {
                self.drain.lock().unwrap().send(()).unwrap();
                Done::new(reply).run(args);
            }
            counting => {
                let sender = StreamSender::<Text>::new(reply);
                let items = args.text.parse().unwrap();
                let (seen, fails) = (self.seen.clone(), counting == "CountAndFail");
                thread::spawn(move || count(&seen, items, fails, sender));
            }
        }
    }
}

fn count(seen: &Sender<String>, items: usize, fails: bool, sender: StreamSender<Text>) {
    for item in 0..items {
        let text = Text {
            text: item.to_string(),
        };
        let sent = match sender.try_send(&text) {
            Err(StreamError::WouldBlock) => {
                seen.send("a stream that waited for credit".to_owned())
                    .unwrap();
                sender.send(&text)
            }
            sent => sent,
        };
        if let Err(StreamError::Closed(error)) = sent {
            seen.send(format!("a stream that was closed: {}", error.code()))
                .unwrap();
            break;
        }
    }
    if fails {
        sender.fail(RpcError::new(Code::NotFound, "no more"));
    } else {
        sender.finish();
    }
}

fn counted(seen: &Receiver<String>) -> Seen {
    let mut counts = Seen::new();
    for what in seen.try_iter() {
        *counts.entry(what).or_default() += 1;
    }
    counts
}

#[test]
fn a_client_written_from_the_page_talks_to_a_provider() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no python3 on this machine");
        return;
    }
    let (seen, was_seen) = channel();
    let (drain, asked_to_drain) = channel();
    let mut provider = RpcProvider::new(ProviderOptions {
        keepalive: Keepalive {
            after: Duration::from_millis(100),
            timeout: LONG,
        },
        ..ProviderOptions::default()
    });
    let drain = Mutex::new(drain);
    provider.notify_service(Echo { seen, drain }).unwrap();
    let mut handle = provider.start("127.0.0.1:0").unwrap();

    let python = Command::new("python3")
        .args([
            "-B",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/client.py"),
        ])
        .arg(handle.local_addr().port().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = thread::spawn(move || python.wait_with_output().unwrap());
    // Its last part asks for this; if an earlier one fails, it never will.
    let drained = loop {
        match asked_to_drain.recv_timeout(Duration::from_millis(20)) {
            Ok(()) => break handle.drain(LONG),
            Err(RecvTimeoutError::Timeout) if !output.is_finished() => {}
            Err(_) => break false,
        }
    };
    let output = output.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "client.py said:\n{said}{complained}"
    );
    for part in [
        "unary", "errors", "streams", "cancel", "pings", "legacy", "goaway",
    ] {
        assert!(said.contains(&format!("{part}: ok")), "{said}");
    }

    assert!(drained, "the client left in time, and no call was cut off");
    let seen = counted(&was_seen);
    let times = |what: &str| seen.get(what).copied().unwrap_or(0);
    assert_eq!(times("legacy call"), 4, "{seen:?}");
    assert_eq!(times("a deadline"), 1, "{seen:?}");
    for call in ["deadline", "cancel", "drain"] {
        assert_eq!(times(&format!("given up: {call}")), 1, "{seen:?}");
    }
    assert!(times("a stream that waited for credit") >= 1, "{seen:?}");
    assert_eq!(times("a stream that was closed: CANCELLED"), 1, "{seen:?}");
}
