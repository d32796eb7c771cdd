//! The cluster file: which nodes there are, where each listens, and which cluster this is.
//!
//! Nodes and clients read the same file. It comes in two forms, told apart by the first character that
//! is not blank:
//!
//! ```text
//! # lines: `#` starts a comment, order is free     {"cluster_id": "00c0ffee00c0ffee",
//! cluster_id=00c0ffee00c0ffee                       "raft_nodes": [
//! node0ip=127.0.0.1                                   {"ip": "127.0.0.1", "port": 29016},
//! node0port=29016                                     {"ip": "127.0.0.1", "port": 29017}]}
//! node1ip=127.0.0.1
//! node1port=29017
//! ```
//!
//! Nodes are numbered from 0 without gaps. `ip` is an address or a host name, which is resolved when the
//! file is loaded. Unknown keys are ignored, so that other programs may keep theirs in the same file; a
//! key that begins with `node` and is none of ours is taken for a slip and refused.
//!
//! `cluster_id` (16 hex digits) is what tells two clusters apart when addresses change hands. A file
//! without one gets [`derived_cluster_id`]; then changing an address makes another cluster of it.
//!
//! ```text
//! text ─ lines.rs │ json.rs ─> Listing (words with their lines) ─ assemble ─> ClusterFile
//! ```
//!
//! ```
//! use proto::cluster::ClusterFile;
//!
//! let file = ClusterFile::parse("node0ip = 127.0.0.1\nnode0port = 29016", "test.conf".as_ref())?;
//! assert_eq!(file.nodes, ["127.0.0.1:29016".parse()?]);
//!
//! let error = ClusterFile::parse("node0ip = 127.0.0.1", "test.conf".as_ref()).unwrap_err();
//! assert_eq!(error.to_string(), "test.conf:1: node 0 has an ip but no port: add node0port=PORT");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
mod lines;
mod write;

#[cfg(test)]
mod cluster_test;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

pub use error::{ClusterFileError, Problem};
pub use write::HEADER;

/// Most nodes a file may list. Far above any cluster that makes sense (a commit waits for a majority),
/// low enough that a slip (`node1000ip`) is found.
pub const MAX_NODES: usize = 99;

/// Longest file that is read, in bytes: several times what [`MAX_NODES`] with long names and comments
/// take. Keeps a wrong `-f` from being read into memory.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The nodes of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    /// Where each node listens; node I is at index I. 1 to [`MAX_NODES`], no two alike.
    pub nodes: Vec<SocketAddr>,
    /// Which cluster this is: stored in every data directory, sent in every message between nodes.
    pub cluster_id: u64,
}

impl ClusterFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ClusterFileError`]: one line that names file, line and what to do. A file that is missing or
    /// lists no node is told apart: [`ClusterFileError::lists_no_node`].
    pub fn load(path: impl AsRef<Path>) -> Result<ClusterFile, ClusterFileError> {
        let path = path.as_ref();
        let bytes =
            read_bounded(path).map_err(|error| ClusterFileError::unreadable(path, error))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ClusterFileError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = line_of(&bytes, error.valid_up_to());
            ClusterFileError::malformed(path, line, Problem::NotUtf8)
        })?;
        ClusterFile::parse(text, path)
    }

    /// Reads a file's `text`; `path` is only named in errors. Host names are resolved by the system.
    ///
    /// # Errors
    /// As [`load`](ClusterFile::load).
    pub fn parse(text: &str, path: &Path) -> Result<ClusterFile, ClusterFileError> {
        parse_with(text, path, resolve_by_system)
    }

    /// Replaces the file at `path` by this one, all of it or nothing: JSON if `path` ends in `.json`,
    /// lines under [`HEADER`] otherwise. Durable when it returns.
    ///
    /// # Errors
    /// [`ClusterFileError::Write`]; the file is then as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ClusterFileError> {
        let path = path.as_ref();
        write::replace(path, &self.to_text(path)).map_err(|error| ClusterFileError::Write {
            path: path.to_owned(),
            error,
        })
    }

    /// What [`write`](ClusterFile::write) puts into a file of that name.
    fn to_text(&self, path: &Path) -> String {
        if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
        {
            json::render(self)
        } else {
            lines::render(self)
        }
    }
}

/// The id of a cluster whose file names none: FNV-1a (64 bits) over `ip:port` and a newline for each
/// node in order.
///
/// The words are the file's own (addresses in their usual spelling, host names in lower case), not what
/// a host name resolves to, which may differ from machine to machine.
#[must_use]
pub fn derived_cluster_id<'a>(nodes: impl IntoIterator<Item = (&'a str, u16)>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    let mut hash = OFFSET_BASIS;
    for (ip, port) in nodes {
        let spelled = ip
            .parse::<IpAddr>()
            .map_or_else(|_| ip.to_ascii_lowercase(), |ip| ip.to_string());
        for byte in format!("{spelled}:{port}\n").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    hash
}

/// A word of the file and the line it stands on (from 1).
#[derive(Debug)]
struct Word {
    text: String,
    line: usize,
}

/// What one form or the other says of a node; neither word has been looked at yet.
#[derive(Debug, Default)]
struct ListedNode {
    ip: Option<Word>,
    port: Option<Word>,
    /// Where to point when both are missing.
    line: usize,
}

/// A file's content before its words are checked: the same for both forms.
#[derive(Debug, Default)]
struct Listing {
    nodes: BTreeMap<usize, ListedNode>,
    cluster_id: Option<Word>,
}

/// A problem and its line; the file's name is added where it is known.
type Located<T> = Result<T, (usize, Problem)>;

/// [`ClusterFile::parse`] with the resolver of host names as an argument, for tests.
fn parse_with(
    text: &str,
    path: &Path,
    resolve: impl FnMut(&str) -> io::Result<IpAddr>,
) -> Result<ClusterFile, ClusterFileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let listing = if text.trim_start().starts_with('{') {
        json::read(text)
    } else {
        lines::read(text)
    };
    let file = listing.and_then(|listing| assemble(&listing, resolve));
    match file {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(ClusterFileError::NoNode {
            path: path.to_owned(),
        }),
        Err((line, problem)) => Err(ClusterFileError::malformed(path, line, problem)),
    }
}

/// Checks the words; `None` if there is no node.
fn assemble(
    listing: &Listing,
    mut resolve: impl FnMut(&str) -> io::Result<IpAddr>,
) -> Located<Option<ClusterFile>> {
    let stated_id = listing.cluster_id.as_ref().map(cluster_id).transpose()?;
    let mut nodes: Vec<SocketAddr> = Vec::with_capacity(listing.nodes.len());
    let mut spelled: Vec<(&str, u16)> = Vec::with_capacity(listing.nodes.len());

    for (&node, listed) in &listing.nodes {
        let expected = nodes.len();
        if node != expected {
            return Err((
                listed.line,
                Problem::Gap {
                    listed: node,
                    missing: expected,
                },
            ));
        }
        let (ip, port) = match (&listed.ip, &listed.port) {
            (Some(ip), Some(port)) => (ip, port),
            (Some(ip), None) => return Err((ip.line, Problem::MissingPort { node })),
            (None, Some(port)) => return Err((port.line, Problem::MissingIp { node })),
            (None, None) => return Err((listed.line, Problem::MissingBoth { node })),
        };
        let port_number = port_number(node, port)?;
        let address = SocketAddr::new(ip_address(node, ip, &mut resolve)?, port_number);
        if let Some(other) = nodes.iter().position(|&known| known == address) {
            return Err((
                ip.line.max(port.line),
                Problem::DuplicateAddress {
                    node,
                    other,
                    address,
                },
            ));
        }
        nodes.push(address);
        spelled.push((&ip.text, port_number));
    }

    let cluster_id = stated_id.unwrap_or_else(|| derived_cluster_id(spelled));
    Ok((!nodes.is_empty()).then_some(ClusterFile { nodes, cluster_id }))
}

fn cluster_id(word: &Word) -> Located<u64> {
    let Word { text, line } = word;
    let all_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = all_hex
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten();
    id.ok_or_else(|| (*line, Problem::BadClusterId { text: shown(text) }))
}

fn port_number(node: usize, word: &Word) -> Located<u16> {
    let digits_only = word.text.bytes().all(|byte| byte.is_ascii_digit()); // parse() would take "+1"
    let port = digits_only.then(|| word.text.parse::<u16>().ok()).flatten();
    port.filter(|&port| port != 0).ok_or_else(|| {
        (
            word.line,
            Problem::BadPort {
                node,
                text: shown(&word.text),
            },
        )
    })
}

fn ip_address(
    node: usize,
    word: &Word,
    mut resolve: impl FnMut(&str) -> io::Result<IpAddr>,
) -> Located<IpAddr> {
    let Word { text, line } = word;
    let ip = match text.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if is_host_name(text) => resolve(text).map_err(|error| {
            (
                *line,
                Problem::UnknownHost {
                    node,
                    name: shown(text),
                    error: error.to_string(),
                },
            )
        })?,
        Err(_) => {
            return Err((
                *line,
                Problem::BadAddress {
                    node,
                    text: shown(text),
                },
            ));
        }
    };
    if ip.is_unspecified() {
        return Err((*line, Problem::UnspecifiedAddress { node, ip }));
    }
    Ok(ip)
}

/// Whether it is worth asking the resolver. `300.1.1.1` is a mistyped address, not a name.
fn is_host_name(text: &str) -> bool {
    const MAX_NAME_BYTES: usize = 253; // RFC 1035 §2.3.4, without the length bytes
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    text.len() <= MAX_NAME_BYTES
        && text.bytes().all(of_name)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// The first address the system's resolver gives: the one it would itself connect to first.
fn resolve_by_system(name: &str) -> io::Result<IpAddr> {
    let mut addresses = (name, 0).to_socket_addrs()?;
    let first = addresses
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    Ok(first.ip())
}

/// At most one byte more than [`MAX_FILE_BYTES`], which is how a longer file shows.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The line (from 1) that holds the byte at `offset`.
fn line_of(bytes: &[u8], offset: usize) -> usize {
    let before = bytes.iter().take(offset);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

/// A word as an error shows it: on one line, and short.
fn shown(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 60;
    let mut escaped = text.escape_debug();
    let mut shown: String = escaped.by_ref().take(MAX_SHOWN_CHARS).collect();
    if escaped.next().is_some() {
        shown.push('…');
    }
    shown
}
