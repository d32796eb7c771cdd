//! A file of acknowledged writes, one `KEY<tab>VALUE` a line, and the check that all are there.
//!
//! A line is written once the cluster has acknowledged its write: after any crash of nodes, what the
//! file lists must be readable. The file itself is not synced; it is the nodes that are to crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::rounds::Store;

/// Reads under way at once while verifying.
const READERS: usize = 16;

pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Adds to the file at `path`, or creates it.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| trouble(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
        })
    }

    /// One write call a line: a crash of this program leaves at most one line cut off.
    pub(crate) fn acknowledged(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let line = [key, b"\t", value, b"\n"].concat();
        self.file
            .lock()
            .write_all(&line)
            .map_err(|error| trouble(&self.path, &error))
    }
}

/// Reads every write of the file at `path` back. Returns how many there were.
///
/// # Errors
/// In one line: which are not there, or that one could not be read.
pub(crate) fn verify<S: Store>(store: &S, path: &Path) -> Result<usize, String> {
    let journal = fs::read(path)
        .map(Bytes::from)
        .map_err(|error| trouble(path, &error))?;
    let writes = parse(&journal).ok_or_else(|| {
        let path = path.display();
        format!("{path}: not a journal of caller_main (KEY, a tab, VALUE on each line)")
    })?;
    let gave_up = AtomicBool::new(false);
    let share = writes.len().div_ceil(READERS).max(1);
    let shares: Vec<Result<Vec<String>, String>> = thread::scope(|scope| {
        let readers: Vec<_> = writes
            .chunks(share)
            .map(|writes| scope.spawn(|| verify_share(store, writes, &gave_up)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("readers do not panic"))
            .collect()
    });
    let lost = shares.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    match lost.first() {
        None => Ok(writes.len()),
        Some(first) => {
            let (lost, all) = (lost.len(), writes.len());
            Err(format!(
                "{lost} of {all} acknowledged writes are not there; the first: {first}"
            ))
        }
    }
}

/// Tells what is not as it should be. Gives up when a read fails: the clerk has tried for long.
fn verify_share<S: Store>(
    store: &S,
    writes: &[(Bytes, Bytes)],
    gave_up: &AtomicBool,
) -> Result<Vec<String>, String> {
    let mut lost = Vec::new();
    for (key, value) in writes {
        if gave_up.load(Ordering::Relaxed) {
            break;
        }
        let shown = String::from_utf8_lossy(key);
        match store.get(key) {
            Ok(Some(found)) if found == value => {}
            Ok(Some(_)) => lost.push(format!("{shown} has another value")),
            Ok(None) => lost.push(format!("{shown} is missing")),
            Err(error) => {
                gave_up.store(true, Ordering::Relaxed);
                return Err(format!("{shown} could not be read: {error}"));
            }
        }
    }
    Ok(lost)
}

/// `None` if a line has no tab. A last line without its end was never completed: it is left out.
fn parse(journal: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let complete = journal
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    journal[..complete]
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| {
            let line = journal.slice_ref(&line[..line.len() - 1]);
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            Some((line.slice(..tab), line.slice(tab + 1..)))
        })
        .collect()
}

fn trouble(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}: name another file", path.display())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clerk::ClerkError;

    use super::*;

    struct Map(BTreeMap<Bytes, Bytes>);

    impl Store for Map {
        fn put(&self, _key: &Bytes, _value: &Bytes) -> Result<(), ClerkError> {
            unreachable!("verifying writes nothing")
        }

        fn get(&self, key: &Bytes) -> Result<Option<Bytes>, ClerkError> {
            if key == "unreadable" {
                return Err(ClerkError::Overloaded {
                    what: "too much".to_owned(),
                });
            }
            Ok(self.0.get(key).cloned())
        }
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_or_changed_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acked");
        let mut map = Map(BTreeMap::new());
        for session in 0..2 {
            let journal = Journal::open(&path).unwrap();
            for round in 0..50 {
                let (key, value) = (format!("x/{session}/{round}"), format!("{round}"));
                journal
                    .acknowledged(key.as_bytes(), value.as_bytes())
                    .unwrap();
                map.0.insert(key.into(), value.into());
            }
        }
        assert_eq!(verify(&map, &path), Ok(100));
        map.0.insert("x/1/49".into(), "50".into());
        let text =
            "1 of 100 acknowledged writes are not there; the first: x/1/49 has another value";
        assert_eq!(verify(&map, &path), Err(text.to_owned()));
        map.0.remove(&Bytes::from_static(b"x/0/7"));
        let error = verify(&map, &path).unwrap_err();
        assert!(
            error.starts_with("2 of 100") && error.ends_with("x/0/7 is missing"),
            "{error}"
        );
        Journal::open(&path)
            .unwrap()
            .acknowledged(b"unreadable", b"")
            .unwrap();
        let error = verify(&map, &path).unwrap_err();
        assert!(error.starts_with("unreadable could not be read"), "{error}");
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_left_out() {
        let writes = parse(&Bytes::from_static(b"x/1\ta\nx/2\t\nx/3\tcu")).unwrap();
        assert_eq!(
            writes,
            [("x/1".into(), "a".into()), ("x/2".into(), Bytes::new())]
        );
        assert_eq!(parse(&Bytes::new()), Some(vec![]));
        assert_eq!(parse(&Bytes::from_static(b"no journal\n")), None);
    }
}
