//! What must hold whatever stands in a cluster file; see `docs/fuzzing.md`.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::{ClusterFile, ClusterFileError, MAX_NODES, json, lines, parse_with};

/// Longest error text: a few words of the file, each cut to 60 characters, and our own.
const ERROR_BYTES_MAX: usize = 1_000;

/// Takes `data` as the text of a cluster file, if it is one in UTF-8.
///
/// A file that is accepted lists 1 to [`MAX_NODES`] different addresses to connect to, and says the
/// same when it is written in either form and read again. A refusal is one line, not long, and names
/// a line that the file has. A byte order mark in front changes nothing.
///
/// # Panics
/// When one of that does not hold.
pub fn cluster_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = parse(text);
    if !text.starts_with('\u{feff}') {
        let marked = parse(&format!("\u{feff}{text}"));
        assert_eq!(format!("{marked:?}"), format!("{parsed:?}"));
    }
    match parsed {
        Ok(file) => check_file(&file),
        Err(error) => check_error(&error, text),
    }
}

fn check_file(file: &ClusterFile) {
    assert!((1..=MAX_NODES).contains(&file.nodes.len()));
    let different: BTreeSet<_> = file.nodes.iter().collect();
    assert_eq!(different.len(), file.nodes.len(), "an address stands twice");
    for node in &file.nodes {
        assert!(node.port() != 0 && !node.ip().is_unspecified(), "{node}");
    }
    for text in [lines::render(file), json::render(file)] {
        assert_eq!(parse(&text).as_ref().ok(), Some(file), "written as {text}");
    }
}

fn check_error(error: &ClusterFileError, text: &str) {
    let said = error.to_string();
    assert!(said.starts_with("test.conf:"), "{said}");
    assert!(
        said.len() <= ERROR_BYTES_MAX,
        "{} bytes: {said}",
        said.len()
    );
    assert!(!said.chars().any(char::is_control), "{said:?}");
    match error {
        ClusterFileError::NoNode { .. } => {}
        ClusterFileError::Malformed { line, .. } => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(line), "line {line} of {lines}: {said}");
        }
        other => panic!("text in memory has no such trouble: {other:?}"),
    }
}

/// Reads a file without asking anybody for hosts: every name but those with a `z` has an address.
fn parse(text: &str) -> Result<ClusterFile, ClusterFileError> {
    parse_with(text, Path::new("test.conf"), |name| {
        if name.contains('z') {
            return Err(io::Error::other("no such host"));
        }
        let last = u8::try_from(name.len()).unwrap_or(u8::MAX);
        Ok(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_corpus_of_cluster_files_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/cluster_file");
        let mut files = 0;
        for entry in fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display()); // shown when it panics
            cluster_file(&fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= 10, "{files} files in {}", corpus.display());
    }
}
