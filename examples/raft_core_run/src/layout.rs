//! FILE and the data directory of a cluster, before its nodes are started.
//!
//! What is there is used as it is, so that a restart finds its addresses and data again. What is
//! missing is written. `--fresh` starts over and destroys nothing: old data is moved aside.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use proto::cluster::ClusterFile;

use crate::cli::{Cli, node_dir};
use crate::failure::Failure;
use crate::node::STOP_LIMIT;

#[cfg(test)]
#[path = "layout_test.rs"]
mod tests;

/// Nodes whose launcher was killed stop by themselves within [`STOP_LIMIT`]; a launcher that comes
/// right after waits that long for their directories, and a little longer.
const PATIENCE_FOR_NODES: Duration = Duration::from_secs(STOP_LIMIT.as_secs() + 2);

/// Their ports are free at about the same time; any other program's will not be soon.
const PATIENCE_FOR_PORTS: Duration = Duration::from_secs(1);

/// How often these waits look.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Held, locked, by the launcher of a data directory; holds its process id.
const LAUNCHER_LOCK: &str = "launcher.lock";

/// Held, locked, by a running node in its own directory, with its process id (see the Persister).
const NODE_LOCK: &str = "LOCK";

/// Most directories of old data; past it the user is asked to clear them away.
const MAX_OLD: usize = 1000;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    nodes: usize,
    file: PathBuf,
    data_dir: PathBuf,
    base_port: u16,
    ip: IpAddr,
    fresh: bool,
}

/// A cluster that can be started: nobody else runs it, and its addresses are free.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) file: PathBuf,
    pub(crate) cluster: ClusterFile,
    pub(crate) data_dir: PathBuf,
    /// Keeps a second launcher out for as long as this one lives.
    _lock: File,
}

impl Wanted {
    pub(crate) fn from_cli(nodes: usize, cli: &Cli) -> Wanted {
        Wanted {
            nodes,
            file: cli.file.clone(),
            data_dir: cli.data_dir(),
            base_port: cli.base_port,
            ip: cli.ip,
            fresh: cli.fresh,
        }
    }
}

/// Reads or writes FILE, makes and locks the data directory, and sees that nothing is in the way.
pub(crate) fn prepare(wanted: &Wanted) -> Result<Layout, Failure> {
    let listed = listed_cluster(wanted)?;
    let lock = lock_data(&wanted.data_dir)?;
    let (cluster, lock) = match listed {
        Some(cluster) => (cluster, lock),
        None => write_cluster(wanted, lock)?,
    };
    wait_while(PATIENCE_FOR_NODES, || Ok(running_node(&wanted.data_dir)))?;
    wait_while(PATIENCE_FOR_PORTS, || port_in_use(&wanted.file, &cluster))?;
    let Wanted { file, data_dir, .. } = wanted;
    Ok(Layout {
        file: file.clone(),
        cluster,
        data_dir: data_dir.clone(),
        _lock: lock,
    })
}

/// The cluster in FILE; `None` where one is to be written. A broken file is never overwritten, not even
/// by `--fresh`: it may be a slip in `-f`.
fn listed_cluster(wanted: &Wanted) -> Result<Option<ClusterFile>, Failure> {
    let Wanted {
        nodes, file, fresh, ..
    } = wanted;
    match ClusterFile::load(file) {
        Ok(_) if *fresh => Ok(None),
        Ok(cluster) if cluster.nodes.len() == *nodes => Ok(Some(cluster)),
        Ok(cluster) => {
            let listed = cluster.nodes.len();
            Err(Failure::Usage(format!(
                "{} lists {}, not {nodes}: start them with -n {listed}, or start over with {} by adding --fresh",
                file.display(),
                counted(listed, "node"),
                counted(*nodes, "empty node"),
            )))
        }
        Err(error) if error.lists_no_node() => Ok(None),
        Err(error) => Err(Failure::failed(error.to_string())),
    }
}

/// Starts a cluster from nothing: old data out of the way, free ports found, FILE written.
fn write_cluster(wanted: &Wanted, lock: File) -> Result<(ClusterFile, File), Failure> {
    let Wanted {
        nodes,
        file,
        data_dir,
        base_port,
        ip,
        fresh,
    } = wanted;
    let has_data = has_node_dirs(data_dir).map_err(|error| no_access(data_dir, &error))?;
    if has_data && !fresh {
        return Err(Failure::failed(format!(
            "{} lists no node but {} holds a cluster's data: restore the file, or start over with --fresh, which moves that data aside",
            file.display(),
            data_dir.display(),
        )));
    }
    let nodes = free_addresses(*ip, *base_port, *nodes)?;
    let lock = if has_data {
        move_aside(data_dir, lock)?
    } else {
        lock
    };
    let cluster = ClusterFile {
        nodes,
        cluster_id: random_id(),
    };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(|error| no_access(folder, &error))?;
    }
    cluster
        .write(file)
        .map_err(|error| Failure::failed(error.to_string()))?;
    Ok((cluster, lock))
}

/// Makes the data directory if need be and locks it against a second launcher.
fn lock_data(data_dir: &Path) -> Result<File, Failure> {
    let open = || {
        fs::create_dir_all(data_dir)?;
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data_dir.join(LAUNCHER_LOCK))
    };
    let mut lock = open().map_err(|error| no_access(data_dir, &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::failed(format!(
                "{} is in use by another raft_core_run ({}): stop that one, or choose another -f or --data-dir",
                data_dir.display(),
                holder(&mut lock),
            )));
        }
        Err(TryLockError::Error(error)) => return Err(no_access(data_dir, &error)),
    }
    let sign = |lock: &mut File| {
        lock.set_len(0)?;
        writeln!(lock, "process {}", std::process::id())
    };
    sign(&mut lock).map_err(|error| no_access(data_dir, &error))?;
    Ok(lock)
}

/// Who a lock file says holds it.
fn holder(lock: &mut File) -> String {
    const MAX_BYTES: u64 = 100;
    let mut text = String::new();
    match lock.take(MAX_BYTES).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.split_whitespace().collect::<Vec<_>>().join(" "),
        _ => "which does not say its process id".to_owned(),
    }
}

fn has_node_dirs(data_dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(data_dir)? {
        if entry?.file_name() != LAUNCHER_LOCK {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Renames the data directory to the first free of `<data>.old-1`, `-2`, ... and makes an empty one.
fn move_aside(data_dir: &Path, lock: File) -> Result<File, Failure> {
    // A node of the old cluster that runs alone would go on writing into the directory that was moved.
    wait_while(PATIENCE_FOR_NODES, || Ok(running_node(data_dir)))?;
    let old = (1..=MAX_OLD).map(|number| {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(format!(".old-{number}"));
        PathBuf::from(name)
    });
    let free = old.into_iter().find(|old| !old.exists());
    let old = free.ok_or_else(|| {
        let data_dir = data_dir.display();
        Failure::failed(format!(
            "{data_dir}.old-1 to -{MAX_OLD} all exist: remove those you no longer need"
        ))
    })?;
    fs::rename(data_dir, &old).map_err(|error| no_access(&old, &error))?;
    let new_lock = lock_data(data_dir)?;
    let _ = fs::remove_file(old.join(LAUNCHER_LOCK)); // moved along; it means nothing there
    drop(lock);
    Ok(new_lock)
}

/// Ports from `base_port` up that nobody listens on. All are held until the last one is found.
fn free_addresses(ip: IpAddr, base_port: u16, count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let mut listeners = Vec::with_capacity(count);
    let mut addresses = Vec::with_capacity(count);
    for port in base_port..=u16::MAX {
        if addresses.len() == count {
            break;
        }
        let address = SocketAddr::new(ip, port);
        match TcpListener::bind(address) {
            Ok(listener) => {
                listeners.push(listener);
                addresses.push(address);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(cannot_listen(address, &error)),
        }
    }
    if addresses.len() < count {
        return Err(Failure::failed(format!(
            "{ip} has only {} free from {base_port} up, not {count}: choose a lower --base-port",
            counted(addresses.len(), "port"),
        )));
    }
    Ok(addresses)
}

fn random_id() -> u64 {
    RandomState::new().build_hasher().finish() // its keys come from the system's random numbers
}

/// An address of the cluster that somebody listens on; one that can never be listened on is a failure.
fn port_in_use(file: &Path, cluster: &ClusterFile) -> Result<Option<String>, Failure> {
    for (node, &address) in cluster.nodes.iter().enumerate() {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Ok(Some(format!(
                    "{address}, node {node}'s address in {}, is in use by another process: stop it (`ss -ltnp` names it), or start over on free ports with --fresh",
                    file.display(),
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(Failure::failed(format!(
                    "{address}, node {node}'s address in {0}, is not of this machine: run `raft_core_run --node {node} -f {0}` on the machine that has it",
                    file.display(),
                )));
            }
            Err(error) => return Err(cannot_listen(address, &error)),
        }
    }
    Ok(None)
}

/// A node's directory that a process has locked.
fn running_node(data_dir: &Path) -> Option<String> {
    for node in 0..proto::cluster::MAX_NODES {
        let dir = node_dir(data_dir, node);
        let Ok(mut lock) = File::open(dir.join(NODE_LOCK)) else {
            continue;
        };
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let (dir, holder) = (dir.display(), holder(&mut lock));
            return Some(format!(
                "{dir} is in use by a running node ({holder}): stop it first"
            ));
        }
    }
    None
}

/// Waits for an obstacle to go away; after `patience` it is the reason to fail.
fn wait_while(
    patience: Duration,
    mut obstacle: impl FnMut() -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    let give_up = Instant::now() + patience;
    while let Some(text) = obstacle()? {
        if Instant::now() >= give_up {
            return Err(Failure::Failed(text));
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot listen on {address}: {error}: choose another --ip or --base-port"
    ))
}

fn no_access(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::failed(format!(
        "{path}: {error}: choose another -f or --data-dir, or make this one writable"
    ))
}

/// A number and its noun.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
