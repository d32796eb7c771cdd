//! One node in this process: started, watched, stopped.
//!
//! Alone (`--node I`) it runs until SIGINT or SIGTERM. Under a launcher it runs until its standard
//! input ends, which the launcher's death brings about as surely as its will; a SIGINT that the
//! terminal sends to the whole group is then the launcher's business.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, select};
use kvserver::{KvServer, KvServerOptions};
use proto::cluster::ClusterFile;
use raft::{NodeId, NodeOptions};
use rpc::EventLoops;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

use crate::cli::{Cli, node_dir};
use crate::failure::Failure;
use crate::supervisor::SAME_REQUEST;

/// How long a node may take to stop in order; then it ends as it would in a crash, which loses nothing
/// that was acknowledged.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Runs node `node` of the file that `cli` names until it is asked to stop or cannot go on.
pub(crate) fn run(node: usize, cli: &Cli) -> Result<(), Failure> {
    let cluster =
        ClusterFile::load(&cli.file).map_err(|error| Failure::failed(error.to_string()))?;
    if node >= cluster.nodes.len() {
        let (file, count) = (cli.file.display(), cluster.nodes.len());
        let last = count - 1;
        return Err(Failure::Usage(format!(
            "{file} lists {count} nodes: give --node a number from 0 to {last}"
        )));
    }
    let (ends, ended) = bounded(4);
    watch_signals(cli.supervised, ends.clone()).map_err(|error| no_thread(&error))?;
    if cli.supervised {
        watch_stdin(ends.clone()).map_err(|error| no_thread(&error))?;
    }

    let server = start(node, &cluster, cli)?;
    let asked = select! {
        recv(ended) -> asked => asked.ok(),
        recv(server.stopped()) -> _ => None,
    };
    if let Some(by) = asked {
        info!(by, "stopping");
    }
    // Also where it ended by itself: the disk that failed may hang what is left of it.
    end_without_delay_after(STOP_LIMIT);
    match server.shutdown() {
        Ok(()) if asked.is_some() => Ok(()),
        Ok(()) => Err(Failure::failed(
            "the node stopped by itself: start it again",
        )),
        Err(error) => Err(Failure::failed(one_line(&error))),
    }
}

/// Recovers the node and lets it serve. One event loop carries its clients and its peers.
fn start(node: usize, cluster: &ClusterFile, cli: &Cli) -> Result<KvServer, Failure> {
    let loops = EventLoops::start(1, "rpc").map_err(|error| no_thread(&error))?;
    let dir = node_dir(&cli.data_dir(), node);
    let id = NodeId::new(node as u64);
    let options = NodeOptions::new(id, &cluster.nodes, cluster.cluster_id, dir, loops);
    KvServerOptions::new(cli.knobs.apply_to(options))
        .and_then(KvServer::start)
        .map_err(|error| Failure::failed(one_line(&error)))
}

/// An error and its causes in one line. Some texts quote their cause already.
fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// Asks for the end on SIGTERM, and on SIGINT unless that is the launcher's business. A second time ends
/// the process at once.
fn watch_signals(supervised: bool, ends: Sender<&'static str>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut asked_at: Option<Instant> = None;
            for signal in signals.forever() {
                if signal == SIGINT && supervised {
                    continue;
                }
                if asked_at.is_some_and(|asked_at| asked_at.elapsed() >= SAME_REQUEST) {
                    process::exit(1);
                }
                asked_at = asked_at.or_else(|| Some(Instant::now()));
                let by = if signal == SIGTERM {
                    "SIGTERM"
                } else {
                    "SIGINT"
                };
                let _ = ends.try_send(by); // full: it has been asked already
            }
        })?;
    Ok(())
}

/// Asks for the end when standard input ends: only the launcher holds its other side.
fn watch_stdin(ends: Sender<&'static str>) -> io::Result<()> {
    thread::Builder::new()
        .name("launcher".to_owned())
        .spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut ignored = [0; 256];
            loop {
                match stdin.read(&mut ignored) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // Also where the node never got as far as waiting for this, or hangs while it starts.
            end_without_delay_after(STOP_LIMIT);
            let _ = ends.send("the launcher");
        })?;
    Ok(())
}

/// Ends the process when `limit` has passed, whatever hangs in it by then.
fn end_without_delay_after(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        let secs = limit.as_secs();
        let _ = writeln!(
            io::stderr(),
            "this node did not stop within {secs} s: ending it as a crash would"
        );
        process::exit(1);
    });
}

fn no_thread(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot start this node's threads: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(text: &'static str, source: Option<Told>) -> Told {
        Told {
            text,
            source: source.map(Box::new),
        }
    }

    #[test]
    fn an_error_and_its_causes_are_one_line() {
        let deep = told("no\nspace", None);
        let error = told("cannot start", Some(told("the disk fails", Some(deep))));
        assert_eq!(one_line(&error), "cannot start: the disk fails: no space");
        let quoting = told("cannot start: disk", Some(told("disk", None)));
        assert_eq!(one_line(&quoting), "cannot start: disk");
    }
}
