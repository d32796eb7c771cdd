//! The form in lines: `nodeIip=…`, `nodeIport=…`, `cluster_id=…`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{ClusterFile, HEADER, ListedNode, Listing, Located, MAX_NODES, Problem, Word, shown};

/// What the value of a key is.
enum Key {
    Ip(usize),
    Port(usize),
    ClusterId,
    /// Not ours.
    Other,
}

/// Takes the words out of `text`, each with its line.
pub(super) fn read(text: &str) -> Located<Listing> {
    let mut listing = Listing::default();
    let mut first_lines: BTreeMap<&str, usize> = BTreeMap::new();

    for (line, content) in (1..).zip(text.lines()) {
        let content = content.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let Some((key, value)) = content.split_once('=') else {
            return Err((
                line,
                Problem::NotKeyValue {
                    text: shown(content),
                },
            ));
        };
        let (key, value) = (key.trim_end(), value.trim_start());
        let meaning = key_meaning(key).map_err(|problem| (line, problem))?;
        if matches!(meaning, Key::Other) {
            continue;
        }
        if let Some(first_line) = first_lines.insert(key, line) {
            return Err((
                line,
                Problem::DuplicateKey {
                    key: shown(key),
                    first_line,
                },
            ));
        }
        let word = Some(Word {
            text: value.to_owned(),
            line,
        });
        match meaning {
            Key::Ip(node) => listed(&mut listing, node, line).ip = word,
            Key::Port(node) => listed(&mut listing, node, line).port = word,
            Key::ClusterId => listing.cluster_id = word,
            Key::Other => {}
        }
    }
    Ok(listing)
}

/// The node's place in the listing; `line` is kept if it is new.
fn listed(listing: &mut Listing, node: usize, line: usize) -> &mut ListedNode {
    listing.nodes.entry(node).or_insert_with(|| ListedNode {
        line,
        ..ListedNode::default()
    })
}

/// Numbers are written in one way only: `node01ip` beside `node1ip` would be a trap.
fn key_meaning(key: &str) -> Result<Key, Problem> {
    if key == "cluster_id" {
        return Ok(Key::ClusterId);
    }
    if !key
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("node"))
    {
        return Ok(Key::Other);
    }
    let bad_key = || Problem::BadNodeKey { key: shown(key) };
    let rest = key.strip_prefix("node").ok_or_else(bad_key)?;
    let (digits, is_ip) = match (rest.strip_suffix("ip"), rest.strip_suffix("port")) {
        (Some(digits), _) => (digits, true),
        (None, Some(digits)) => (digits, false),
        (None, None) => return Err(bad_key()),
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(bad_key());
    }
    let node = digits.parse().ok().filter(|&node: &usize| node < MAX_NODES);
    let node = node.ok_or_else(|| Problem::TooManyNodes {
        node: shown(digits),
    })?;
    Ok(if is_ip {
        Key::Ip(node)
    } else {
        Key::Port(node)
    })
}

/// The file in this form, under [`HEADER`].
pub(super) fn render(file: &ClusterFile) -> String {
    let mut text = format!("{HEADER}\ncluster_id={:016x}\n", file.cluster_id);
    for (node, address) in file.nodes.iter().enumerate() {
        let (ip, port) = (address.ip(), address.port());
        writeln!(text, "node{node}ip={ip}\nnode{node}port={port}")
            .expect("writing to a String cannot fail");
    }
    text
}
