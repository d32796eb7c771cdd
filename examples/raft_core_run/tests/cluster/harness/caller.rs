//! The sample client, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `caller_main -f FILE`.
pub(crate) fn caller_main(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .arg("-f")
        .arg(file)
        .args(arguments)
        .env_remove("RUST_LOG");
    command
}

/// The sample client belongs to another package, which `cargo test -p raft_core_run` does not build:
/// this does, beside the launcher under test.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let launcher = Path::new(env!("CARGO_BIN_EXE_raft_core_run"));
        let profile_dir = launcher.parent().expect("a program stands in a directory");
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let target_dir = profile_dir
            .parent()
            .expect("cargo names it after the profile");
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "-p",
                "caller_main",
                "--profile",
                profile,
                "--target-dir",
            ])
            .arg(target_dir)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "caller_main does not build");
        launcher.with_file_name("caller_main")
    })
}
