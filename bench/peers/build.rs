//! Generates tonic's messages, server and client of the benchmark's `echo.proto`, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(["echo.proto"], ["../proto"])?;
    // As `rpc_build` does: payloads are not copied into vectors.
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
