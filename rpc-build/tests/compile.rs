//! What a build script sees, and what the generated code looks like. That it works is shown by
//! `generated.rs`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
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
fn a_method_that_takes_a_stream_is_refused_by_name() {
    for reply in ["Reply", "stream Reply"] {
        let error = compile(&format!(
            "{MESSAGES} service S {{ rpc Put(stream Args) returns ({reply}); }}"
        ))
        .unwrap_err();
        assert!(
            matches!(error, CompileError::ClientStreaming { .. }),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .starts_with("x.proto: S.Put takes a stream"),
            "{error}"
        );
    }
}

/// `UPDATE_GOLDEN=1` writes the files anew.
#[test]
fn the_golden_files_are_what_is_generated() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let out = tempfile::tempdir().unwrap();
    rpc_build::compile_into(out.path(), &["shop.proto", "bare.proto"], &[&golden]).unwrap();

    let generated = rust_files(out.path());
    let names: Vec<_> = generated.keys().map(String::as_str).collect();
    assert_eq!(names, ["_.rs", "goods.rs", "shop.rs"]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for (name, text) in &generated {
            fs::write(golden.join(name), text).unwrap();
        }
        return;
    }
    assert!(
        rust_files(&golden) == generated,
        "the generated code has changed: UPDATE_GOLDEN=1 cargo test -p rpc-build --test compile, and read the diff"
    );
}

fn rust_files(folder: &Path) -> BTreeMap<String, String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = paths.filter(|file| file.path().extension().is_some_and(|end| end == "rs"));
    files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, fs::read_to_string(file.path()).unwrap())
        })
        .collect()
}
