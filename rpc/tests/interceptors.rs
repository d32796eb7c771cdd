//! The interceptors that come with the crate.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::net::Shutdown;
use std::sync::Arc;

use common::*;
use prost::Message;
use rpc::interceptors::{
    AccessLog, CallMetrics, MethodLimits, TokenAuth, TokenCredentials, TokenError,
};
use rpc::{
    CallOutcome, ChannelOptions, ClientInterceptor, Code, FinishedCall, OutgoingCall,
    ProviderOptions, RpcChannel, RpcController, RpcError, ServerInterceptor,
};
use server_side::{Extra, one_thread, receive_frame, serve_spring, spring};

const TOKEN: &str = "a token of twenty-six bytes";
const OTHER: &str = "b token of twenty-six bytes";

fn behind(interceptor: impl ServerInterceptor) -> Server {
    serve_with(ProviderOptions {
        interceptors: vec![Arc::new(interceptor)],
        ..one_thread()
    })
}

fn through(server: &Server, interceptor: Arc<dyn ClientInterceptor>) -> RpcChannel {
    let options = ChannelOptions {
        interceptors: vec![interceptor],
        ..ChannelOptions::default()
    };
    channel_to(server.addr(), options)
}

fn with_token(server: &Server, token: &str) -> RpcChannel {
    through(server, Arc::new(TokenCredentials::new(token).unwrap()))
}

fn code(result: Result<Blob, RpcError>) -> Code {
    result.map_or_else(|error| error.code(), |_| Code::Ok)
}

// ---- tokens

#[test]
fn only_calls_with_a_known_token_pass_and_handlers_see_whose_it_was() {
    let server = behind(TokenAuth::new([("ann", TOKEN), ("bob", OTHER)]).unwrap());
    let refused = say(&server.channel(), "x").unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(!refused.may_have_executed());
    for wrong in [
        "a token of twenty-six byteX",
        "a token of twenty-six byte",
        "a token of twenty-six bytes.",
    ] {
        let result = say(&with_token(&server, wrong), "x");
        assert_eq!(code(result), Code::Unauthenticated, "{wrong}");
    }
    for (token, name) in [(TOKEN, "ann"), (OTHER, "bob")] {
        let channel = with_token(&server, token);
        let ended = begin(&channel, &HOLD, RpcController::new(), "x");
        let held = server.next_held();
        let metadata = held.context.metadata();
        assert_eq!(metadata.get_str(TokenAuth::CALLER), Some(name));
        assert_eq!(metadata.get_str("authorization"), Some(""));
        held.echo();
        end(&ended).unwrap();
    }
}

#[test]
fn no_token_is_seen_behind_the_one_that_counts() {
    let auth = TokenAuth::new([("ann", TOKEN)]).unwrap();
    let server = serve_spring(ProviderOptions {
        interceptors: vec![Arc::new(auth)],
        ..one_thread()
    });
    let mut socket = server.socket();
    let bearer = format!("Bearer {TOKEN}");
    let extra = Extra {
        metadata: &[("authorization", bearer.as_str()); 3],
        ..Extra::default()
    };
    socket.send(&spring("Hold", 1, "x", extra));
    let held = server.next_held();
    let metadata = held.context.metadata().iter();
    let seen: Vec<_> = metadata
        .filter(|(key, _)| *key == "authorization")
        .collect();
    assert_eq!(seen, [("authorization", &b""[..])]);
    held.echo();
    assert_eq!(receive_frame(&mut socket).code, 0);
}

#[test]
fn nobody_names_himself_where_no_token_is_asked_for() {
    let auth = TokenAuth::new([("ann", TOKEN)]).unwrap();
    let server = serve_spring(ProviderOptions {
        interceptors: vec![Arc::new(auth.exempt_service("Spring"))],
        ..one_thread()
    });
    let mut socket = server.socket();
    let extra = Extra {
        metadata: &[("authenticated-as", "ann"), ("authenticated-as", "ann")],
        ..Extra::default()
    };
    socket.send(&spring("Hold", 1, "x", extra));
    let held = server.next_held();
    assert_eq!(
        held.context.metadata().get(TokenAuth::CALLER),
        Some(&b""[..])
    );
    held.echo();
    assert_eq!(receive_frame(&mut socket).code, 0);
}

#[test]
fn legacy_callers_pass_only_where_they_are_admitted() {
    let tokens = || TokenAuth::new([("ann", TOKEN)]).unwrap();
    for (auth, answer) in [
        (tokens(), &b""[..]),
        (tokens().admit_legacy(), b"\x0a\x01x"),
    ] {
        let server = behind(auth);
        let mut socket = server.socket();
        socket.send(&echo_request(&SAY, 0, "x"));
        socket.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket.receive_until_closed(), answer);
    }
}

#[test]
fn tokens_are_replaced_while_the_server_runs() {
    let auth = Arc::new(TokenAuth::new([("ann", TOKEN)]).unwrap());
    let server = serve_with(ProviderOptions {
        interceptors: vec![Arc::clone(&auth) as Arc<dyn ServerInterceptor>],
        ..one_thread()
    });
    let credentials = Arc::new(TokenCredentials::new(TOKEN).unwrap());
    let channel = through(
        &server,
        Arc::clone(&credentials) as Arc<dyn ClientInterceptor>,
    );
    assert_eq!(code(say(&channel, "x")), Code::Ok);
    auth.replace([("ann", OTHER)]).unwrap();
    assert_eq!(code(say(&channel, "x")), Code::Unauthenticated);
    credentials.replace(OTHER).unwrap();
    assert_eq!(code(say(&channel, "x")), Code::Ok);
    auth.replace([("ann", "short")]).unwrap_err();
    assert_eq!(code(say(&channel, "x")), Code::Ok, "the old tokens stay");
}

#[test]
fn tokens_that_can_be_guessed_are_refused_and_none_is_printed() {
    for len in [0, 15, 1025] {
        let error = TokenCredentials::new(vec![b'x'; len]).unwrap_err();
        assert_eq!(error, TokenError::Length { len });
        assert!(TokenAuth::new([("ann", vec![b'x'; len])]).is_err());
    }
    let auth = TokenAuth::new([("ann", TOKEN)]).unwrap();
    let credentials = TokenCredentials::new(TOKEN).unwrap();
    let shown = format!("{auth:?} {credentials:?}");
    assert!(
        shown.contains("ann") && !shown.contains("twenty"),
        "{shown}"
    );
}

// ---- limits

#[test]
fn a_method_has_no_more_calls_under_way_than_its_limit() {
    let limits = MethodLimits::new()
        .limit("Echo", "Hold", 100)
        .limit("Echo", "Hold", 2)
        .limit("Echo", "Fail", 0);
    let server = behind(limits);
    // The bound is the method's, on whatever connection.
    let (first, second) = (server.channel(), server.channel());
    let calls = [
        begin(&first, &HOLD, RpcController::new(), "1"),
        begin(&second, &HOLD, RpcController::new(), "2"),
    ];
    let held = [server.next_held(), server.next_held()];
    let error = call(&first, &HOLD, "3").unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(
        error.text(),
        "Echo.Hold has 2 calls under way (MethodLimits)"
    );
    assert_eq!(code(call(&first, &FAIL, [5])), Code::ResourceExhausted);
    assert_eq!(code(say(&first, "x")), Code::Ok, "it has no bound");
    held.into_iter().for_each(Held::echo);
    for call in calls {
        end(&call).unwrap();
    }
    // What has ended counts no more, a refused call least of all.
    for _ in 0..3 {
        let next = begin(&first, &HOLD, RpcController::new(), "x");
        server.next_held().echo();
        end(&next).unwrap();
    }
}

// ---- panics

/// Panics before or after a call whose metadata or arguments ask for it.
struct Panics;

impl ClientInterceptor for Panics {
    fn before(&self, call: &mut OutgoingCall<'_>) -> Result<(), RpcError> {
        let asked = call.metadata.get_str("panic") == Some("before");
        assert!(!asked, "before a call (expected in this test)");
        Ok(())
    }

    fn after(&self, _: &FinishedCall<'_>, outcome: &CallOutcome<'_>) {
        let asked = outcome.request_bytes == blob(AFTER).encoded_len();
        assert!(!asked, "after a call (expected in this test)");
    }
}

/// What [`Panics`] knows a call by, on its way back: no other call here has so many bytes.
const AFTER: &str = "panic after it";

#[test]
fn an_interceptor_of_a_client_that_panics_costs_its_call_and_no_other() {
    let server = serve();
    let metrics = Arc::new(CallMetrics::new());
    let options = ChannelOptions {
        interceptors: vec![
            Arc::clone(&metrics) as Arc<dyn ClientInterceptor>,
            Arc::new(Panics),
        ],
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr(), options);
    let other = begin(&channel, &HOLD, RpcController::new(), "x");
    let held = server.next_held();

    let mut controller = RpcController::with_timeout(LONG);
    controller.set_metadata("panic", "before");
    let before: Result<Blob, _> = channel.call(&SAY, &mut controller, &blob("x"));
    let error = before.unwrap_err();
    assert_eq!(
        (error.code(), error.text(), error.may_have_executed()),
        (
            Code::Internal,
            "an interceptor panicked before the call",
            false
        )
    );
    assert_eq!(say(&channel, AFTER).unwrap().data, AFTER.as_bytes());
    // As the interceptor around it sees them.
    let stats = metrics.snapshot();
    let say_stats = stats.iter().find(|it| it.method == "Say").unwrap();
    assert_eq!(say_stats.count_of(Code::Internal), 1);
    assert_eq!(say_stats.count_of(Code::Ok), 1);

    held.echo();
    assert_eq!(end(&other).unwrap().data, "x");
    assert_eq!(say(&channel, "x").unwrap().data, "x");
    assert_eq!(server.handle.connections(), 1);
}

// ---- records

#[test]
fn a_clients_calls_are_counted_by_method_and_code() {
    let server = serve();
    let metrics = Arc::new(CallMetrics::new());
    let channel = through(&server, Arc::clone(&metrics) as Arc<dyn ClientInterceptor>);
    say(&channel, "abc").unwrap();
    say(&channel, "abcd").unwrap();
    call(&channel, &FAIL, [5]).unwrap_err();
    let stats = metrics.snapshot();
    let named: Vec<_> = stats.iter().map(|it| (it.service, it.method)).collect();
    assert_eq!(named, [("Echo", "Fail"), ("Echo", "Say")]);
    let (fail, say) = (&stats[0], &stats[1]);
    assert_eq!((fail.count(), fail.count_of(Code::NotFound)), (1, 1));
    assert_eq!((say.count(), say.count_of(Code::Ok)), (2, 2));
    assert_eq!(
        (say.request_bytes, say.reply_bytes, say.retries),
        (11, 11, 0)
    );
    assert_eq!(say.latency.count(), 2);
}

#[test]
fn the_access_log_has_a_line_for_each_call_on_both_sides() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // The only one of this process: events are written on the loops' threads.
    let _ = tracing_subscriber::util::SubscriberInitExt::try_init(subscriber);
    let server = behind(AccessLog);
    let channel = through(&server, Arc::new(AccessLog));
    call(&channel, &FAIL, [7]).unwrap_err();
    let text = log.text();
    for (side, more) in [("client", "attempt=1"), ("server", "trace_id=0000")] {
        let side = format!("side=\"{side}\"");
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("rpc.access") && line.contains(&side))
            .collect();
        let [line] = lines[..] else {
            panic!("{lines:?}, not one with {side}, in {text}");
        };
        for part in [
            "service=\"Echo\"",
            "method=\"Fail\"",
            "peer=127.0.0.1:",
            "code=\"PERMISSION_DENIED\"",
            "request_bytes=3",
            more,
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
    }
}
