//! The launcher as a process, where it needs no working node: exit codes, and errors of one line.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs the launcher with `arguments` in a folder of its own; waits for its end.
fn run(folder: &TempDir, arguments: &str) -> Output {
    command(folder, arguments).output().unwrap()
}

fn command(folder: &TempDir, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_core_run"));
    command
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// The one line on stderr of a run that ended with `code` and printed nothing else.
fn refusal(folder: &TempDir, arguments: &str, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = run(folder, arguments);
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments}: {text}");
    assert!(stdout.is_empty(), "{arguments}");
    text
}

/// A cluster file of so many nodes on ports that were free a moment ago.
fn write_file(folder: &TempDir, nodes: usize) -> PathBuf {
    let listeners: Vec<_> = (0..nodes)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let lines = listeners.iter().enumerate().map(|(node, listener)| {
        let port = listener.local_addr().unwrap().port();
        format!("node{node}ip=127.0.0.1\nnode{node}port={port}\n")
    });
    let path = folder.path().join("t.conf");
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

#[test]
fn help_goes_to_stdout_and_is_a_success() {
    let folder = tempfile::tempdir().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = run(&folder, "--help");
    assert!(status.success() && stderr.is_empty());
    assert!(String::from_utf8(stdout).unwrap().contains("Examples:"));
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        "-n 0",
        "-n three",
        "-f t.conf",
        "-n 3 --node 1",
        "--frsh -n 3",
        "-n 3 -f t.data",
    ] {
        let text = refusal(&folder, arguments, 2);
        assert!(text.starts_with("raft_core_run: "), "{text}");
    }
    assert!(
        fs::read_dir(&folder).unwrap().next().is_none(),
        "nothing is written before all is understood"
    );
}

#[test]
fn another_number_of_nodes_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let before = fs::read(write_file(&folder, 2)).unwrap();
    let text = refusal(&folder, "-n 3 -f t.conf", 2);
    assert!(
        text.contains("t.conf lists 2 nodes, not 3") && text.contains("--fresh"),
        "{text}"
    );
    assert_eq!(fs::read(folder.path().join("t.conf")).unwrap(), before);
    assert!(!folder.path().join("t.data").exists());
}

/// The original's defect 15 (`docs/failures.md`): whatever its file says, a run goes on with something.
#[test]
fn a_broken_file_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    for (text, told) in [
        (
            "node0ip=127.0.0.1\n",
            "t.conf:1: node 0 has an ip but no port: add node0port=PORT",
        ),
        (
            "node0port=1\nnode0ip=127.0.0\n",
            "t.conf:2: node 0's ip \"127.0.0\" is no address",
        ),
        (
            "node0ip=::1\nnode0port=1\nnode0port=2\n",
            "t.conf:3: \"node0port\" was already given in line 2",
        ),
    ] {
        fs::write(folder.path().join("t.conf"), text).unwrap();
        for arguments in [
            "-n 1 -f t.conf",
            "--node 0 -f t.conf",
            "-n 1 -f t.conf --fresh",
        ] {
            let refused = refusal(&folder, arguments, 1);
            assert!(refused.contains(told), "{refused}");
        }
    }
}

#[test]
fn one_node_alone_needs_a_file_that_lists_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(&folder, "--node 0 -f t.conf", 1);
    assert!(
        text.contains("t.conf: no such file: start raft_core_run first"),
        "{text}"
    );
    write_file(&folder, 2);
    let text = refusal(&folder, "--node 2 -f t.conf", 2);
    assert!(
        text.contains("t.conf lists 2 nodes: give --node a number from 0 to 1"),
        "{text}"
    );
}

#[test]
fn a_second_launcher_on_the_same_data_says_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder, 1);
    let _first = hold(&folder.path().join("t.data/launcher.lock"));
    for arguments in [
        "-n 1 -f t.conf",
        "-n 1 -f t.conf --fresh",
        "-n 1 -f other.conf --data-dir t.data",
    ] {
        let text = refusal(&folder, arguments, 1);
        assert!(
            text.contains("t.data is in use by another raft_core_run (process 4711)"),
            "{text}"
        );
    }
    assert!(!folder.path().join("other.conf").exists());
}

#[test]
fn a_second_launcher_on_the_same_addresses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (ip, port) = (address.ip(), address.port());
    fs::write(
        folder.path().join("t.conf"),
        format!("node0ip={ip}\nnode0port={port}\n"),
    )
    .unwrap();
    let text = refusal(&folder, "-n 1 -f t.conf --data-dir elsewhere", 1);
    assert!(
        text.contains(&format!("{address}, node 0's address in t.conf, is in use")),
        "{text}"
    );
}

/// Nodes that cannot start: each says why under its name, and the launcher does not stay without nodes.
#[test]
fn a_launcher_whose_nodes_all_refuse_ends() {
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder, 3);
    fs::create_dir(folder.path().join("t.data")).unwrap();
    for node in 0..3 {
        fs::write(
            folder.path().join(format!("t.data/node{node}")),
            "a file where a directory belongs",
        )
        .unwrap();
    }
    let Output {
        status,
        stdout,
        stderr,
    } = run(&folder, "-n 3 -f t.conf");
    let (stdout, stderr) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    );
    assert_eq!(status.code(), Some(1), "{stderr}");
    for node in 0..3 {
        assert!(
            stdout.contains(&format!("node {node}: 127.0.0.1:")),
            "{stdout}"
        );
        assert!(
            stderr.contains(&format!("[node {node}] raft_core_run: ")),
            "{stderr}"
        );
        assert!(
            stderr.contains(&format!("node {node} died: exit code 1; ")),
            "{stderr}"
        );
    }
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("raft_core_run: no node is left"),
        "{stderr}"
    );
}

/// A closed stdout (`| head`) is no reason to fail otherwise than for its own reasons.
#[test]
fn nobody_has_to_read_what_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder, 1);
    fs::create_dir(folder.path().join("t.data")).unwrap();
    fs::write(
        folder.path().join("t.data/node0"),
        "a file where a directory belongs",
    )
    .unwrap();
    for arguments in ["--help", "-n 1 -f t.conf"] {
        let mut command = command(&folder, arguments);
        let mut launcher = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((launcher.stdout.take(), launcher.stderr.take()));
        let expected = i32::from(arguments != "--help");
        assert_eq!(
            launcher.wait().unwrap().code(),
            Some(expected),
            "{arguments}"
        );
    }
}

fn hold(path: &Path) -> File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "process 4711\n").unwrap();
    let lock = File::open(path).unwrap();
    lock.try_lock().unwrap();
    lock
}
