//! Compiles `.proto` files for the `rpc` crate, from a build script, with no `protoc` installed.
//!
//! ```text
//! friend.proto --protox--> FileDescriptorSet --prost-build--> messages
//!                                            `--service.rs--> trait, adapter, stub
//! ```
//!
//! In `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), rpc_build::CompileError> {
//!     rpc_build::compile(&["friend.proto"], &["proto/"])
//! }
//! ```
//!
//! In the crate, for `package fixbug;`:
//!
//! ```text
//! include!(concat!(env!("OUT_DIR"), "/fixbug.rs"));
//! ```
//!
//! For `service Foo { rpc GetBar(BarArgs) returns (BarReply); }` this yields the trait `Foo` to
//! implement, `FooService` that registers an implementation with a provider, and `FooStub` that
//! calls one through a channel. On the wire a service goes by its simple name as written in the
//! file. Messages are prost's; their `bytes` fields are `bytes::Bytes`.

use std::path::{Path, PathBuf};

use prost_build::Config;
use protox::prost_reflect::prost_types::FileDescriptorSet;

mod service;

/// Why the files could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The `.proto` files are wrong; the text names file, line and column.
    #[error("{0:?}")]
    Parse(#[source] protox::Error),
    /// A method takes or returns a stream, which this version does not offer.
    #[error("{service}.{method} is streaming; only unary methods are supported")]
    Streaming {
        /// The service's simple name.
        service: String,
        /// The method's name.
        method: String,
    },
    /// The generated code could not be written.
    #[error("cannot write the generated code")]
    Write(#[source] std::io::Error),
}

/// Compiles `files`, looked up in the folders `includes`, into `OUT_DIR`: one file per package.
///
/// For build scripts only: it prints `cargo::rerun-if-changed` lines.
///
/// # Errors
/// [`CompileError`], whose text names the place in the `.proto` file.
pub fn compile(
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), CompileError> {
    for include in includes {
        #[expect(clippy::print_stdout, reason = "how a build script talks to cargo")]
        {
            println!("cargo::rerun-if-changed={}", include.as_ref().display());
        }
    }
    compile_with(&mut Config::new(), files, includes)
}

/// As [`compile`], into the folder `out_dir` and without a word to cargo.
///
/// # Errors
/// As [`compile`].
pub fn compile_into(
    out_dir: impl Into<PathBuf>,
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), CompileError> {
    compile_with(Config::new().out_dir(out_dir), files, includes)
}

fn compile_with(
    config: &mut Config,
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), CompileError> {
    let descriptors = describe(files, includes).map_err(CompileError::Parse)?;
    for service in descriptors.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            if method.client_streaming() || method.server_streaming() {
                return Err(CompileError::Streaming {
                    service: service.name().to_owned(),
                    method: method.name().to_owned(),
                });
            }
        }
    }
    config
        .bytes(["."])
        .service_generator(Box::new(service::Generator))
        .compile_fds(descriptors)
        .map_err(CompileError::Write)
}

/// Parses the files, comments included.
fn describe(
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<FileDescriptorSet, protox::Error> {
    let mut compiler = protox::Compiler::new(includes)?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?;
    Ok(compiler.file_descriptor_set())
}
