//! One node in this process: started, watched, stopped.
//!
//! Alone (`--node I`) it runs until SIGINT or SIGTERM. Under a launcher it runs until its standard
//! input ends, which the launcher's death brings about as surely as its will; a SIGINT that the
//! terminal sends to the whole group is then the launcher's business.
//!
//! A leader that is asked to stop hands leadership over first, so that its clients wait for no
//! election. Not where too few are left to have a leader: the launcher's [`Farewell`] tells.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use kvserver::{Handover, KvServer};
use raft::{Membership, NodeId};
use rpc::EventLoops;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::join::Join;
use crate::origin::{self, Origin};
use crate::supervisor::SAME_REQUEST;

/// How long a node may take to stop in order; then it ends as it would in a crash, which loses nothing
/// that was acknowledged.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(4);

/// How long a leader may take to hand over before it stops all the same: an election timeout, in
/// which the handover succeeds or never, and a little more; but not most of [`STOP_LIMIT`].
fn handover_limit(longest_election_timeout: Duration) -> Duration {
    const MAX: Duration = Duration::from_secs(2);
    const MORE: Duration = Duration::from_millis(100);
    (longest_election_timeout + MORE).min(MAX)
}

/// Bytes of a farewell at most.
const MAX_FAREWELL_BYTES: usize = 64;

/// What a launcher writes to its nodes before it ends their input: that it stops all of its nodes,
/// those numbered below `nodes`. Nodes that were added later run elsewhere and may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    pub(crate) nodes: usize,
}

/// Why a node stops.
struct Asked {
    by: &'static str,
    /// With it, as far as it was told.
    farewell: Option<Farewell>,
}

impl Farewell {
    /// As a line of text.
    pub(crate) fn line(self) -> String {
        format!("stop {}\n", self.nodes)
    }

    fn parse(said: &[u8]) -> Option<Self> {
        let said = std::str::from_utf8(said).ok()?;
        let nodes = said.strip_prefix("stop ")?.strip_suffix('\n')?;
        nodes.parse().ok().map(|nodes| Self { nodes })
    }

    /// A voter that goes on when those of the farewell stop, if enough of them do to have a leader.
    fn survivor(self, members: &Membership) -> Option<NodeId> {
        let voters = members.voters();
        let mut left = voters.iter().filter(|node| node.get() >= self.nodes as u64);
        let is_majority = left.clone().count() > voters.len() / 2;
        left.next().copied().filter(|_| is_majority)
    }
}

/// Runs node `node` as `cli` says until it is asked to stop or cannot go on.
pub(crate) fn run(node: usize, cli: &Cli) -> Result<(), Failure> {
    let started = Instant::now();
    let loops = EventLoops::start(1, "rpc").map_err(|error| no_thread(&error))?;
    let Origin { mut options, join } = origin::of(node, cli, &loops, started)?;
    options.node = cli.knobs.apply_to(options.node);
    let (ends, ended) = bounded(4);
    watch_signals(cli.supervised, ends.clone()).map_err(|error| no_thread(&error))?;
    if cli.supervised {
        watch_stdin(ends.clone()).map_err(|error| no_thread(&error))?;
    }

    let handover_limit = handover_limit(options.node.election_timeout.1);
    let server = KvServer::start(options).map_err(|error| Failure::failed(one_line(&error)))?;
    let joining = join
        .map(see_in)
        .transpose()
        .map_err(|error| no_thread(&error))?;
    let (stopping, outsider) = joining.unzip();
    let outsider = outsider.unwrap_or_else(never);
    let mut stays_out = None;
    let asked = select! {
        recv(ended) -> asked => asked.ok(),
        recv(server.stopped()) -> _ => None,
        recv(outsider) -> failure => {
            stays_out = failure.ok();
            None
        }
    };
    drop(stopping);
    // Also where it ended by itself: the disk that failed may hang what is left of it.
    end_without_delay_after(STOP_LIMIT);
    if let Some(asked) = &asked {
        info!(by = asked.by, "stopping");
        hand_over(&server, asked.farewell, handover_limit);
    }
    let failure = match server.shutdown() {
        Ok(()) if asked.is_some() => return Ok(()),
        Ok(()) => Failure::failed("the node stopped by itself: start it again"),
        Err(error) => Failure::failed(one_line(&error)),
    };
    Err(stays_out.unwrap_or(failure))
}

/// Sees a new node in while it runs. Yields what stops that when it is dropped, and where a failure
/// comes from.
fn see_in(join: Join) -> io::Result<(Sender<()>, Receiver<Failure>)> {
    let (running, stopped) = bounded(0);
    let (failed, failure) = bounded(1);
    thread::Builder::new()
        .name("join".to_owned())
        .spawn(move || {
            let say = |text: &str| {
                let _ = writeln!(io::stdout(), "{text}"); // a reader that went away wanted no more
            };
            if let Err(why) = join.run(&stopped, say) {
                let _ = failed.send(why); // the node may have stopped meanwhile
            } else {
                let _ = stopped.recv(); // a receiver without a sender would look like a failure
            }
        })?;
    Ok((running, failure))
}

/// Leaves the cluster with a leader, where it can have one without this node.
fn hand_over(server: &KvServer, farewell: Option<Farewell>, limit: Duration) {
    let to = farewell.map(|farewell| farewell.survivor(&server.status().membership));
    if to == Some(None) {
        return;
    }
    match server.hand_over(to.flatten(), limit) {
        Handover::NotLeading => {}
        Handover::To(leader) => info!(%leader, "handed leadership over"),
        Handover::Failed(error) => warn!(%error, "stops as leader"),
        Handover::Unfinished => warn!("stops as leader: handing over takes too long"),
    }
}

/// An error and its causes in one line. Some texts quote their cause already.
pub(crate) fn one_line(error: &dyn Error) -> String {
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
fn watch_signals(supervised: bool, ends: Sender<Asked>) -> io::Result<()> {
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
                let asked = Asked { by, farewell: None };
                let _ = ends.try_send(asked); // full: it has been asked already
            }
        })?;
    Ok(())
}

/// Asks for the end when standard input ends: only the launcher holds its other side.
fn watch_stdin(ends: Sender<Asked>) -> io::Result<()> {
    thread::Builder::new()
        .name("launcher".to_owned())
        .spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut said = Vec::new();
            let mut more = [0; 256];
            loop {
                match stdin.read(&mut more) {
                    Ok(0) => break,
                    Ok(read) => {
                        let room = MAX_FAREWELL_BYTES - said.len();
                        said.extend_from_slice(&more[..read.min(room)]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // Also where the node never got as far as waiting for this, or hangs while it starts.
            end_without_delay_after(STOP_LIMIT);
            let _ = ends.send(Asked {
                by: "the launcher",
                farewell: Farewell::parse(&said),
            });
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

pub(crate) fn no_thread(error: &io::Error) -> Failure {
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
    fn a_farewell_says_who_stops_and_nothing_else_is_one() {
        let farewell = Farewell { nodes: 12 };
        assert_eq!(Farewell::parse(farewell.line().as_bytes()), Some(farewell));
        for other in [
            "",
            "stop 12",
            "stop \n",
            "stop -1\n",
            "stop 1\nstop 2\n",
            "x\n",
        ] {
            assert_eq!(Farewell::parse(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_farewell_leaves_a_leader_only_to_a_majority() {
        let members = |ids: &[u64]| {
            let members = ids.iter().map(|id| (NodeId::new(*id), format!("h:{id}")));
            Membership::of_voters(members).unwrap()
        };
        let survivor = |ids: &[u64]| Farewell { nodes: 3 }.survivor(&members(ids));
        assert_eq!(survivor(&[0, 1, 2]), None);
        assert_eq!(survivor(&[1, 2, 3, 4]), None, "two of four are no majority");
        assert_eq!(survivor(&[2, 3, 4]), Some(NodeId::new(3)));
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
