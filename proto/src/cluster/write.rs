//! Putting a cluster file into its place: the whole of it, or nothing.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// The comment at the head of a file in lines. An example file in a repository may be just this: it
/// lists no node, so the first run fills it in.
pub const HEADER: &str = "\
# Cluster file: where each node listens. Nodes and clients read the same file.
#
#   node0ip=127.0.0.1          an address or a host name
#   node0port=29016            node I has nodeIip and nodeIport; I counts from 0 without gaps
#   cluster_id=<16 hex digits> which cluster this is; keep it when an address changes
#
# `raft_core_run -n N -f FILE` fills in a file that lists no node; afterwards it uses the file as it is,
# so a restart finds its addresses and its data again. `--fresh` starts over.
";

/// Writes `text` beside `path`, then renames it into place: at no moment is there half a file, and a
/// crash leaves the old one or the new one.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("it is not the name of a file"))?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));

    // The process id keeps two writers apart; a leftover of our own number is simply overwritten.
    let temporary = folder.join(format!(
        ".{}.tmp-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = write_durably(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary); // the first error is the one worth telling
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
