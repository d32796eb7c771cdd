//! `wal dump`, `wal verify`: the write-ahead log of a node.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use raft::core::{Compaction, Entry, HardState, LogId, NodeId, Payload};
use raft::storage::StorageError;
use raft::storage::inspect::{
    BadBytes, Directory, LogItem, LogReport, RECORD_OVERHEAD_BYTES, Record, RecordInfo,
    SegmentFacts, SegmentInfo,
};
use serde_json::{Map, Value, json};

use crate::args::NodeDir;
use crate::failure::{Failure, print};

pub(crate) fn dump(dir: &NodeDir, json: bool) -> Result<(), Failure> {
    let directory = open(dir)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if !json {
        let headings = [
            "segment", "offset", "kind", "index", "term", "bytes", "checksum", "content",
        ];
        line(&mut out, &columns(headings))?;
    }
    let mut segment = String::new();
    directory.dump_log(|item| {
        if let LogItem::Segment(info) = &item {
            segment = name_of(&info.file);
        }
        let row = Row::new(&segment, &item);
        if json {
            line(&mut out, &Value::Object(row.into_json()).to_string())
        } else {
            line(&mut out, &row.into_text())
        }
    })?;
    out.flush().map_err(|error| Failure::output(&error))
}

pub(crate) fn verify(dir: &NodeDir) -> Result<(), Failure> {
    let directory = open(dir)?;
    if let Some(problem) = directory.identity_problem() {
        print(format_args!("note: {problem}"))?;
    }
    let report = directory.verify_log().map_err(|error| refused(&error))?;
    let LogReport {
        segments,
        state,
        begins_after,
        torn_tail,
        unborn,
    } = report;
    let identity = directory.identity();
    print(format_args!(
        "node {} of cluster {:#018x}, {} segments",
        identity.node,
        identity.cluster,
        segments.len()
    ))?;
    print(format_args!("{}", hard_state_text(state.hard_state)))?;
    if begins_after == state.last_index {
        print(format_args!("no entries after {begins_after}"))?;
    } else {
        let first = begins_after.next();
        print(format_args!("entries {first} to {}", state.last_index))?;
    }
    print(format_args!("{}", compaction_text(state.compaction)))?;
    if let Some(unborn) = unborn {
        let file = unborn.display();
        print(format_args!(
            "{file}: a crash came while it was being created; a start removes it"
        ))?;
    }
    match torn_tail {
        None => print("the log is whole"),
        Some(torn) => print(format_args!(
            "torn tail: {} at byte {}: {} bytes that a crash cut off, and no sync had covered; a \
             start cuts them away. The log before them is whole",
            torn.file.display(),
            torn.offset,
            torn.bytes_dropped
        )),
    }
}

/// Why a start would refuse the log. The text of the storage says what to do.
fn refused(error: &StorageError) -> Failure {
    let kind = match error {
        StorageError::Corrupt { .. } => "damaged in the middle, not torn by a crash: ",
        StorageError::Missing { .. } | StorageError::Gap { .. } => "incomplete: ",
        _ => "",
    };
    Failure::Failed(format!("{kind}{error}"))
}

fn open(dir: &NodeDir) -> Result<Directory, Failure> {
    let NodeDir { path, live } = dir;
    if !path.join("wal").is_dir() {
        return Err(Failure::Usage(format!(
            "{} has no wal/ in it: give the directory of one node, such as data/node0",
            path.display()
        )));
    }
    let opened = if *live {
        Directory::open_live(path)
    } else {
        Directory::open(path)
    };
    opened.map_err(|error| match error {
        StorageError::InUse { file, holder } => Failure::Failed(format!(
            "{} is held by {holder}: stop that node, or give --live",
            file.display()
        )),
        error => Failure::Failed(error.to_string()),
    })
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Failure::Failed(error.to_string())
    }
}

fn line(out: &mut impl Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{line}").map_err(|error| Failure::output(&error))
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    name.to_string_lossy().into_owned()
}

/// A line of the dump: columns that most have, and what only its kind has.
struct Row {
    segment: String,
    offset: u64,
    kind: &'static str,
    id: Option<LogId>,
    bytes: u64,
    is_good: bool,
    content: String,
    /// The content, and what text leaves out.
    details: Value,
}

impl Row {
    fn new(segment: &str, item: &LogItem) -> Self {
        let row = match item {
            LogItem::Segment(info) => Self::of_segment(info),
            LogItem::Record(info) => Self::of_record(info),
            LogItem::Bad(bad) => Self::of_bad_bytes(bad),
        };
        Self {
            segment: segment.to_owned(),
            ..row
        }
    }

    fn of_segment(info: &SegmentInfo) -> Self {
        let SegmentInfo {
            file,
            file_bytes,
            header,
        } = info;
        let (content, details) = match header {
            None => {
                let text = "the header does not match its checksum".to_owned();
                (text, json!({}))
            }
            Some(SegmentFacts {
                version,
                number,
                identity,
                previous_end,
                state,
            }) => {
                let content = format!(
                    "node {} of cluster {:#018x}; before it: {}, last entry {}, {}",
                    identity.node,
                    identity.cluster,
                    hard_state_text(state.hard_state),
                    state.last_index,
                    compaction_text(state.compaction)
                );
                let details = json!({
                    "format": version, "number": number, "node": identity.node.get(),
                    "cluster": format!("{:#018x}", identity.cluster),
                    "previous_end": previous_end, "last_index": state.last_index.get(),
                    "hard_state": hard_state_json(state.hard_state),
                    "compaction": compaction_json(state.compaction),
                });
                (content, details)
            }
        };
        let mut details = details;
        details["file"] = json!(file.display().to_string());
        Self {
            segment: String::new(),
            offset: 0,
            kind: "segment",
            id: None,
            bytes: *file_bytes,
            is_good: header.is_some(),
            content,
            details,
        }
    }

    fn of_record(info: &RecordInfo) -> Self {
        let (kind, id, content, mut details) = match &info.record {
            Record::HardState(state) => {
                let details = hard_state_json(*state);
                ("hard-state", None, hard_state_text(*state), details)
            }
            Record::Reset(to) => {
                let content = "a snapshot replaced the log".to_owned();
                ("reset", Some(*to), content, json!({}))
            }
            Record::Truncate(from) => {
                let content = format!("entries from {from} on are forgotten");
                ("truncate", None, content, json!({ "from": from.get() }))
            }
            Record::Entry(entry) => {
                let (kind, content) = entry_text(entry, info.bytes);
                (kind, Some(entry.id), content, json!({}))
            }
            Record::Compaction(compaction) => {
                let content = compaction_text(*compaction);
                let details = compaction_json(*compaction);
                ("compaction", None, content, details)
            }
            Record::Synced => {
                let content = format!("durable up to byte {}", info.synced);
                ("synced", None, content, json!({}))
            }
        };
        details["synced"] = json!(info.synced);
        Self {
            segment: String::new(),
            offset: info.offset,
            kind,
            id,
            bytes: info.bytes,
            is_good: true,
            content,
            details,
        }
    }

    fn of_bad_bytes(bad: &BadBytes) -> Self {
        Self {
            segment: String::new(),
            offset: bad.offset,
            kind: "bad",
            id: None,
            bytes: bad.bytes,
            is_good: false,
            content: format!("{}; `kvctl wal verify` says what that means", bad.what),
            details: json!({ "what": bad.what }),
        }
    }

    fn into_text(self) -> String {
        let Self {
            segment,
            offset,
            kind,
            id,
            bytes,
            is_good,
            content,
            ..
        } = self;
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        columns([
            &segment,
            &offset.to_string(),
            kind,
            &number(id.map(|id| id.index.get())),
            &number(id.map(|id| id.term.get())),
            &bytes.to_string(),
            if is_good { "ok" } else { "BAD" },
            &content,
        ])
    }

    fn into_json(self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("segment".to_owned(), json!(self.segment));
        object.insert("offset".to_owned(), json!(self.offset));
        object.insert("kind".to_owned(), json!(self.kind));
        if let Some(id) = self.id {
            object.insert("index".to_owned(), json!(id.index.get()));
            object.insert("term".to_owned(), json!(id.term.get()));
        }
        object.insert("bytes".to_owned(), json!(self.bytes));
        object.insert("checksum_ok".to_owned(), json!(self.is_good));
        if let Value::Object(details) = self.details {
            object.extend(details);
        }
        object
    }
}

fn columns([segment, offset, kind, index, term, bytes, checksum, content]: [&str; 8]) -> String {
    format!(
        "{segment:<20} {offset:>10}  {kind:<11} {index:>8} {term:>7} {bytes:>9}  {checksum:<8}  {content}"
    )
}

/// Commands are the store's, and its users': their size is all that is shown.
fn entry_text(entry: &Entry, record_bytes: u64) -> (&'static str, String) {
    const LOG_ID_BYTES: u64 = 16;
    match &entry.payload {
        Payload::Empty => ("empty", "a leader's first entry".to_owned()),
        Payload::Command(_) => {
            let bytes = record_bytes.saturating_sub(RECORD_OVERHEAD_BYTES + LOG_ID_BYTES);
            ("command", format!("{bytes} bytes of command"))
        }
        Payload::Membership(membership) => ("members", membership.to_string()),
    }
}

fn hard_state_text(state: HardState) -> String {
    let vote = state
        .voted_for
        .map_or("no vote".to_owned(), |node| format!("vote for node {node}"));
    format!("term {}, {vote}", state.current_term)
}

fn hard_state_json(state: HardState) -> Value {
    json!({
        "current_term": state.current_term.get(),
        "voted_for": state.voted_for.map(NodeId::get),
    })
}

fn compaction_text(compaction: Compaction) -> String {
    let Compaction {
        snapshot,
        drop_upto,
    } = compaction;
    if snapshot == LogId::ZERO {
        return "no snapshot".to_owned();
    }
    format!(
        "snapshot of entry {} of term {}, entries up to {} may go",
        snapshot.index, snapshot.term, drop_upto.index
    )
}

fn compaction_json(compaction: Compaction) -> Value {
    let id = |id: LogId| json!({ "index": id.index.get(), "term": id.term.get() });
    json!({ "snapshot": id(compaction.snapshot), "drop_upto": id(compaction.drop_upto) })
}
