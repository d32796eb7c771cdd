//! Why a cluster file was refused: each in one line that names file, line and what to do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{MAX_FILE_BYTES, MAX_NODES};

/// Why a cluster file could not be read or written. Its text is one line and needs no source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterFileError {
    /// There is no such file.
    #[error("{}: no such file: start raft_core_run first, or name another file with -f", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Only blanks and comments, or an empty list.
    #[error("{}: lists no node: start raft_core_run -n N first, or name another file with -f", path.display())]
    NoNode {
        /// The file.
        path: PathBuf,
    },
    /// It is there and cannot be read.
    #[error("{}: cannot be read: {error}: make it readable, or name another file with -f", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It cannot be replaced; it is as it was.
    #[error("{}: cannot be written: {error}: name a file in a folder you may write to with -f", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("{}: over {MAX_FILE_BYTES} bytes, so not a cluster file: name another file with -f", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line says what it should not.
    #[error("{}:{line}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: Problem,
    },
}

impl ClusterFileError {
    /// Whether the file is missing or empty: nothing is wrong, the cluster has just never been started.
    #[must_use]
    pub fn lists_no_node(&self) -> bool {
        matches!(
            self,
            ClusterFileError::Missing { .. } | ClusterFileError::NoNode { .. }
        )
    }

    pub(super) fn malformed(path: &Path, line: usize, problem: Problem) -> ClusterFileError {
        ClusterFileError::Malformed {
            path: path.to_owned(),
            line,
            problem,
        }
    }

    pub(super) fn unreadable(path: &Path, error: io::Error) -> ClusterFileError {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => ClusterFileError::Missing { path },
            _ => ClusterFileError::Read { path, error },
        }
    }
}

/// What is wrong with a line, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "each text says what its variant and fields are"
)]
pub enum Problem {
    #[error("not UTF-8 text: write names and comments in UTF-8")]
    NotUtf8,
    #[error("no `=` in \"{text}\": write key=value, or put # before a comment")]
    NotKeyValue { text: String },
    #[error(
        "unknown key \"{key}\": a node is given by nodeIip and nodeIport, with I = 0, 1, 2, ..."
    )]
    BadNodeKey { key: String },
    #[error("\"{key}\" was already given in line {first_line}: remove one of the two")]
    DuplicateKey { key: String, first_line: usize },
    #[error("node {node} is one too many: at most {MAX_NODES} nodes, numbered from 0")]
    TooManyNodes { node: String },
    #[error(
        "node {listed} is listed but node {missing} is not: number the nodes from 0 without gaps"
    )]
    Gap { listed: usize, missing: usize },
    #[error("node {node} has an ip but no port: add node{node}port=PORT")]
    MissingPort { node: usize },
    #[error("node {node} has a port but no ip: add node{node}ip=ADDRESS")]
    MissingIp { node: usize },
    #[error("node {node} has neither ip nor port: write {{\"ip\": \"ADDRESS\", \"port\": PORT}}")]
    MissingBoth { node: usize },
    #[error("node {node}'s ip \"{text}\" is no address: write one like 127.0.0.1, or a host name")]
    BadAddress { node: usize, text: String },
    #[error(
        "node {node}'s ip {ip} stands for every address: write the one that the others connect to"
    )]
    UnspecifiedAddress { node: usize, ip: IpAddr },
    #[error(
        "node {node}'s host \"{name}\" is not found ({error}): correct it, or write an IP address"
    )]
    UnknownHost {
        node: usize,
        name: String,
        error: String,
    },
    #[error("node {node}'s port \"{text}\" is no port: write a number from 1 to 65535")]
    BadPort { node: usize, text: String },
    #[error("node {node} has the address of node {other}, {address}: give each node its own")]
    DuplicateAddress {
        node: usize,
        other: usize,
        address: SocketAddr,
    },
    #[error(
        "cluster_id \"{text}\" is not 16 hex digits: restore it, or remove it if this cluster is new"
    )]
    BadClusterId { text: String },
    #[error(
        "not the JSON of a cluster file ({error}): write {{\"raft_nodes\": [{{\"ip\": \"127.0.0.1\", \"port\": 29016}}]}}"
    )]
    Json { error: String },
}
