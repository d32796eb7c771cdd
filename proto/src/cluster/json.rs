//! The form in JSON: `{"raft_nodes": [{"ip": …, "port": …}, …], "cluster_id": …}`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ClusterFile, ListedNode, Listing, Located, MAX_NODES, Problem, Word, line_of};

/// The file; its parts stay text, because where each of them begins tells its line.
#[derive(Deserialize)]
struct RawFile<'a> {
    #[serde(borrow, default)]
    raft_nodes: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    cluster_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawNode {
    ip: Option<Value>,
    port: Option<Value>,
}

/// Takes the words out of `text`. A node's words count as standing on the line where its object begins.
pub(super) fn read(text: &str) -> Located<Listing> {
    let raw: RawFile<'_> = serde_json::from_str(text).map_err(|error| {
        let line = error.line().max(1);
        (line, json_problem(&error))
    })?;
    let mut listing = Listing::default();

    for (node, raw_node) in raw.raft_nodes.into_iter().enumerate() {
        let line = line_within(text, raw_node);
        if node >= MAX_NODES {
            return Err((
                line,
                Problem::TooManyNodes {
                    node: node.to_string(),
                },
            ));
        }
        let RawNode { ip, port } = serde_json::from_str(raw_node.get()).map_err(|error| {
            let line = line + error.line().saturating_sub(1);
            (line, json_problem(&error))
        })?;
        let word = |value: Option<Value>| {
            value.map(|value| Word {
                text: word_text(value),
                line,
            })
        };
        listing.nodes.insert(
            node,
            ListedNode {
                ip: word(ip),
                port: word(port),
                line,
            },
        );
    }
    listing.cluster_id = raw.cluster_id.map(|raw_id| {
        let value = serde_json::from_str(raw_id.get()).unwrap_or(Value::Null);
        Word {
            text: word_text(value),
            line: line_within(text, raw_id),
        }
    });
    Ok(listing)
}

/// A text without its quotes, anything else as it is written: the checks come later, as for lines.
fn word_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The line on which `part`, a piece borrowed from `text`, begins.
fn line_within(text: &str, part: &RawValue) -> usize {
    let offset = part.get().as_ptr().addr() - text.as_ptr().addr();
    line_of(text.as_bytes(), offset)
}

/// What the parser said, without its own idea of the place: it may have been given a part of the file.
fn json_problem(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let said = text.split(" at line ").next().unwrap_or_default();
    Problem::Json {
        error: super::shown(said),
    }
}

/// The file in this form.
pub(super) fn render(file: &ClusterFile) -> String {
    #[derive(Serialize)]
    struct File {
        cluster_id: String,
        raft_nodes: Vec<Node>,
    }
    #[derive(Serialize)]
    struct Node {
        ip: String,
        port: u16,
    }
    let nodes = file.nodes.iter();
    let file = File {
        cluster_id: format!("{:016x}", file.cluster_id),
        raft_nodes: nodes
            .map(|node| Node {
                ip: node.ip().to_string(),
                port: node.port(),
            })
            .collect(),
    };
    serde_json::to_string_pretty(&file).expect("strings and numbers are always JSON") + "\n"
}
