//! `snapshot inspect`: what a snapshot is of, whether it is whole, and what is in it.

use std::iter;
use std::path::Path;

use bytes::Bytes;
use kvserver::{Engine, EngineError, MemoryView, Pair, StateMachine, StateMachineOptions};
use raft::storage::inspect::SnapshotFile;
use raft::{Membership, NodeId};
use serde_json::{Value, json};

use crate::failure::{Failure, print};

pub(crate) fn inspect(file: &Path, json: bool) -> Result<(), Failure> {
    let found = SnapshotFile::open(file)?;
    if !json {
        print_header(&found)?;
    }
    let reader = found.verify()?;
    let members = reader.membership().cloned();
    let state = StateMachine::restore(Census::default(), StateMachineOptions::default(), reader)
        .map_err(|error| {
            let file = file.display();
            Failure::Failed(format!(
                "{file} is whole, but its content is not a state of the store: {error}"
            ))
        })?;
    let (keys, data_bytes) = (state.key_count(), state.data_bytes());
    let (sessions, legacy) = (state.session_count(), state.legacy_client_count());
    let log_time_ms = state.log_time().as_millis();
    let digest = format!("{:#010x}", state.digest().get());
    if json {
        return print(json!({
            "file": file.display().to_string(),
            "index": found.id.index.get(), "term": found.id.term.get(),
            "cluster": format!("{:#018x}", found.cluster),
            "file_bytes": found.file_bytes,
            "checksum": format!("{:#010x}", found.checksum), "checksum_ok": true,
            "keys": keys, "data_bytes": data_bytes,
            "sessions": sessions, "legacy_clients": legacy,
            "log_time_ms": log_time_ms, "digest": digest,
            "members": members.as_deref().map(members_json),
        }));
    }
    print("checksum ok")?;
    print(format_args!(
        "keys: {keys}, of {data_bytes} bytes with their values"
    ))?;
    print(format_args!(
        "sessions: {sessions}, legacy clients: {legacy}"
    ))?;
    print(format_args!("log time: {log_time_ms} ms"))?;
    if let Some(members) = &members {
        let addresses = members.addresses().iter();
        let each: Vec<String> = addresses
            .map(|(node, at)| format!("{node} at {at}"))
            .collect();
        print(format_args!("members: {members}, {}", each.join(", ")))?;
    }
    print(format_args!("digest of the commands: {digest}"))
}

fn members_json(members: &Membership) -> Value {
    let role = |node: NodeId| match () {
        () if members.voters().contains(&node) => "voter",
        () if members.outgoing().contains(&node) => "outgoing",
        () => "learner",
    };
    let addresses = members.addresses().iter();
    let each =
        addresses.map(|(node, at)| json!({"node": node.get(), "role": role(*node), "address": at}));
    each.collect()
}

fn print_header(found: &SnapshotFile) -> Result<(), Failure> {
    let id = found.id;
    print(format_args!(
        "state up to entry {} of term {}, cluster {:#018x}",
        id.index, id.term, found.cluster
    ))?;
    if found.named.is_some_and(|named| named != id) {
        print("note: its name says another entry; a node would refuse it under this name")?;
    }
    print(format_args!(
        "{} bytes, CRC-32C {:#010x}",
        found.file_bytes, found.checksum
    ))
}

/// An engine that counts what it is given, and keeps none of it: a snapshot may be larger than the
/// memory of the machine that looks.
#[derive(Default)]
struct Census {
    keys: usize,
    bytes: u64,
}

impl Engine for Census {
    type View = MemoryView;

    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.keys += 1; // a snapshot has each key once
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    fn remove(&mut self, _key: &[u8]) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn clear(&mut self) -> Result<(), EngineError> {
        *self = Self::default();
        Ok(())
    }

    fn len(&self) -> usize {
        self.keys
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn iter(&self) -> impl Iterator<Item = Result<Pair, EngineError>> + '_ {
        iter::empty()
    }

    fn begin_view(&mut self) -> Option<Self::View> {
        None
    }
}
