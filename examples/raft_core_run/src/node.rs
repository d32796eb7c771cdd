//! One node in this process: started, watched, stopped.
//!
//! Alone (`--node I`) it runs until SIGINT or SIGTERM. Under a launcher it runs until its standard
//! input ends, which the launcher's death brings about as surely as its will; a SIGINT that the
//! terminal sends to the whole group is then the launcher's business.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use proto::cluster::ClusterFile;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

use crate::cli::{Cli, Knobs, node_dir};
use crate::failure::Failure;

/// How long a node may take to stop in order; then it ends as it would in a crash, which loses nothing
/// that was acknowledged.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Why a node's run ends.
#[derive(Debug)]
enum End {
    Asked(&'static str),
    Died(String),
}

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

    let plan = NodePlan {
        node,
        addresses: cluster.nodes,
        cluster_id: cluster.cluster_id,
        dir: node_dir(&cli.data_dir(), node),
        knobs: cli.knobs.clone(),
    };
    let running = Running::start(plan, move |reason| {
        let _ = ends.send(End::Died(reason));
    })?;
    match ended.recv() {
        Ok(End::Asked(by)) => {
            info!(by, "stopping");
            end_without_delay_after(STOP_LIMIT);
            running.stop();
            Ok(())
        }
        Ok(End::Died(reason)) => Err(Failure::Failed(reason)),
        Err(_) => Err(Failure::failed(
            "the threads that watch this node have ended: start it again",
        )),
    }
}

/// What a node needs to know of itself.
#[derive(Debug)]
#[expect(dead_code, reason = "read once kvserver is there")]
struct NodePlan {
    node: usize,
    addresses: Vec<SocketAddr>,
    cluster_id: u64,
    dir: PathBuf,
    knobs: Knobs,
}

/// The running node. All that this program knows of `kvserver` is in here.
struct Running {}

impl Running {
    /// Starts it; `on_death` is told why, should it ever end by itself.
    fn start(
        _plan: NodePlan,
        _on_death: impl FnOnce(String) + Send + 'static,
    ) -> Result<Running, Failure> {
        Err(Failure::failed("the store is not built yet"))
    }

    #[expect(clippy::unused_self, reason = "until kvserver is there")]
    fn stop(self) {}
}

/// Asks for the end on SIGTERM, and on SIGINT unless that is the launcher's business. A second time ends
/// the process at once.
fn watch_signals(supervised: bool, ends: Sender<End>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut asked = false;
            for signal in signals
                .forever()
                .filter(|&signal| signal == SIGTERM || !supervised)
            {
                if asked {
                    process::exit(1);
                }
                asked = true;
                let _ = ends.send(End::Asked(if signal == SIGTERM {
                    "SIGTERM"
                } else {
                    "SIGINT"
                }));
            }
        })?;
    Ok(())
}

/// Asks for the end when standard input ends: only the launcher holds its other side.
fn watch_stdin(ends: Sender<End>) -> io::Result<()> {
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
            let _ = ends.send(End::Asked("the launcher"));
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
