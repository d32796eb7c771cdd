//! House rules that the compiler cannot check. Each message says what to do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// What the core must not name, and what it uses instead.
const FORBIDDEN_IN_CORE: &[(&str, &str)] = &[
    ("std::net", "messages leave as Effect::Send"),
    ("std::fs", "the disk is asked by WriteBatch"),
    ("std::time", "time is the Millis that tick() was given"),
    ("core::time", "time is the Millis that tick() was given"),
    ("std::thread", "the driver owns the threads"),
    (
        "Mutex",
        "one thread owns the core; what it shares never changes",
    ),
    (
        "RwLock",
        "one thread owns the core; what it shares never changes",
    ),
    ("Condvar", "one thread owns the core; it waits for nobody"),
    (
        "OnceLock",
        "one thread owns the core; what it shares never changes",
    ),
    (
        "LazyLock",
        "one thread owns the core; what it shares never changes",
    ),
    (
        "atomic",
        "one thread owns the core; what it shares never changes",
    ),
    ("mpsc", "inputs are method calls, outputs are effects"),
    ("Instant", "time is the Millis that tick() was given"),
    ("SystemTime", "time is the Millis that tick() was given"),
    ("mio", "sockets belong to the rpc crate"),
    ("rpc", "the node translates to calls"),
    ("proto", "the core has its own Message"),
    ("storage", "the disk is asked by WriteBatch"),
    (
        "HashMap",
        "its order differs from run to run; take a BTreeMap or a Vec",
    ),
    (
        "HashSet",
        "its order differs from run to run; take a BTreeSet or a Vec",
    ),
    (
        "Rng::new",
        "randomness is seeded by the driver: Rng::with_seed",
    ),
    // The original's defect 31; elsewhere clippy's print_stdout and print_stderr see to it.
    ("println", "say it with tracing"),
];

/// The algorithm is a function: same inputs, same effects. Simulation and replay rely on it.
#[test]
fn the_core_names_no_clock_thread_file_or_socket() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core");
    let mut findings = Vec::new();
    for path in rust_files(&core) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let source = line.split("//").next().unwrap();
            let place = format!(
                "core/{}:{}",
                path.strip_prefix(&core).unwrap().display(),
                number + 1
            );
            for (name, instead) in FORBIDDEN_IN_CORE {
                if names(source, name) {
                    findings.push(format!("{place}: names {name}; {instead}"));
                }
            }
            if source.contains("std::{") {
                findings.push(format!(
                    "{place}: import std's modules one by one, for this check to see"
                ));
            }
        }
    }
    assert!(
        findings.is_empty(),
        "the core must stay pure:\n{}",
        findings.join("\n")
    );
}

#[test]
fn the_check_recognises_a_name_and_not_a_part_of_one() {
    assert!(names("use std::time::Duration;", "std::time"));
    assert!(names("let x: HashMap<u8, u8>;", "HashMap"));
    assert!(!names("fn is_prototype()", "proto"));
    assert!(!names("let storages = 1;", "storage"));
}

/// Whether `code` has `name` as a word of its own.
fn names(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    assert!(
        !files.is_empty(),
        "no file in {}: has the core moved?",
        dir.display()
    );
    files
}
