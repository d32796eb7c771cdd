//! What a build script sees. That the generated code works is shown by `examples/rpc_friend` and
//! by every crate that uses `proto`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use rpc_build::{CompileError, compile_into};

fn compile(proto: &str) -> Result<String, CompileError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.proto"), proto).unwrap();
    let out: &Path = dir.path();
    compile_into(out, &["x.proto"], &[dir.path()])?;
    Ok(fs::read_to_string(out.join("x.rs")).unwrap())
}

const MESSAGES: &str =
    "syntax = \"proto3\"; package x; message Args { bytes Key = 1; } message Reply {}";

#[test]
fn a_service_becomes_trait_adapter_and_stub_under_its_simple_name() {
    let code = compile(&format!(
        "{MESSAGES} \n// Greets.\nservice friendRpc {{\n // Says it.\n rpc SayHello(Args) returns (Reply); }}"
    ))
    .unwrap();
    for expected in [
        "pub trait FriendRpc",
        "/// Greets.",
        "/// Says it.",
        "fn say_hello(",
        "pub struct FriendRpcService<T>",
        "\"friendRpc\"",
        "&[\"SayHello\"]",
        "pub struct FriendRpcStub",
        "pub fn say_hello_async(",
        "pub key: ::prost::bytes::Bytes",
    ] {
        assert!(
            code.contains(expected),
            "{expected:?} is missing in:\n{code}"
        );
    }
}

#[test]
fn a_mistake_is_reported_with_file_and_line() {
    let error = compile("syntax = \"proto3\";\nmessage {").unwrap_err();
    assert!(error.to_string().contains("x.proto:2"), "{error}");
}

#[test]
fn a_streaming_method_is_refused_by_name() {
    let error = compile(&format!(
        "{MESSAGES} service S {{ rpc Watch(Args) returns (stream Reply); }}"
    ))
    .unwrap_err();
    assert!(
        error.to_string().contains("S.Watch is streaming"),
        "{error}"
    );
}
