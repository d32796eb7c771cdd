//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::failure::{Failure, in_one_line};

const EXAMPLES: &str = "\
Examples:
  kvctl rpc list 127.0.0.1:7788
  kvctl rpc call 127.0.0.1:7788 FiendServiceRpc.GetFriendsList '{\"userid\": 1000}'
  kvctl cluster status 127.0.0.1:29016
  kvctl wal verify data/node0
  kvctl snapshot inspect data/node0/snapshot/0000000000000420-3.snap
  kvctl rpc --help

Exit status: 0 done, 1 failed, 2 wrong usage.";

const RPC_EXAMPLES: &str = "\
Examples:
  kvctl rpc list 127.0.0.1:7788                           what it serves
  kvctl rpc describe 127.0.0.1:7788 FiendServiceRpc       a service and its messages
  kvctl rpc call 127.0.0.1:7788 FiendServiceRpc.GetFriendsList '{\"userid\": 1000}'
  KVCTL_TOKEN=\"$(cat token)\" kvctl rpc list node7:7788 --tls-roots ca.pem
  kvctl rpc ping 127.0.0.1:7788 --count 10
  kvctl rpc health 127.0.0.1:7788 FiendServiceRpc --watch
  kvctl rpc bench 127.0.0.1:7788 FiendServiceRpc.GetFriendsList --concurrency 64 --duration 5

list, describe, call and bench ask the server's Reflection service, health its Health service: the
server has to offer the builtin services. ping needs nothing.

Exit status: 0 done, 1 failed, 2 wrong usage.";

const CLUSTER_EXAMPLES: &str = "\
Examples:
  kvctl cluster status 127.0.0.1:29016                    who is a member, who leads, who lags
  kvctl cluster add 127.0.0.1:29016 3 127.0.0.1:29019     node 3, a learner at that address
  kvctl cluster promote 127.0.0.1:29016 3                 it becomes a voter
  kvctl cluster replace 127.0.0.1:29016 1 3               or takes the place of voter 1
  kvctl cluster remove 127.0.0.1:29016 1                  node 1 is no member any longer
  kvctl cluster transfer 127.0.0.1:29016 2                node 2 is to lead

ADDR is any member: it is asked who leads. A node to be added is best started with
`raft_core_run --node I --join ADDR`, which adds and promotes it by itself.

Exit status: 0 done, 1 refused (with the reason) or failed, 2 wrong usage.";

const CALL_EXAMPLES: &str = "\
Examples:
  kvctl rpc call 127.0.0.1:7788 FiendServiceRpc.GetFriendsList '{\"userid\": 1000}'
  kvctl rpc call 127.0.0.1:7788 FiendServiceRpc.GetFriendsList - < args.json
  kvctl rpc call 127.0.0.1:7788 Health.Watch --timeout 60      each change, for a minute

JSON is protobuf's: bytes are base64, 64-bit numbers are strings, fields go by either name
(user_id, userId), and fields with their default value may be left out.";

const BENCH_EXAMPLES: &str = "\
Examples:
  kvctl rpc bench 127.0.0.1:7788 FiendServiceRpc.GetFriendsList --json '{\"userid\": 1000}'
  kvctl rpc bench 127.0.0.1:7788 FiendServiceRpc.GetFriendsList --concurrency 1 --duration 2
  kvctl rpc bench 127.0.0.1:7788 FiendServiceRpc.GetFriendsList --concurrency 1024 --connections 16";

const WAL_EXAMPLES: &str = "\
Examples:
  kvctl wal verify data/node0            would the node start, and if not, why
  kvctl wal dump data/node0              a line for each record
  kvctl wal dump data/node0 --json | jq 'select(.kind == \"hard-state\")'

DIR is the directory of one node, which must not run; while this looks, none starts in it.
Nothing is changed. For the log of a node that runs, give --live: its last records may look
cut off, because the node is writing them.

Exit status: 0 done, and for verify: a start would accept the log; 1 failed; 2 wrong usage.";

const SNAPSHOT_EXAMPLES: &str = "\
Examples:
  kvctl snapshot inspect data/node0/snapshot/0000000000000420-3.snap
  kvctl snapshot inspect copy-of-it --json

FILE is changed by nobody once it has its name, so the node may run.

Exit status: 0 whole and readable, 1 damaged or no snapshot, 2 wrong usage.";

const FORCE_EXAMPLES: &str = "\
Examples:
  kvctl wal verify data/node2                          which of those left has most? the greatest term, then index
  kvctl force-new-cluster data/node2 --node 2          tells what it would do
  kvctl force-new-cluster data/node2 --node 2 --i-accept-that-acknowledged-writes-may-be-lost

Only when a majority of the nodes is lost for good. Writes that were acknowledged and that this node had not
received are lost. No other node of the old cluster may ever run again. The old directory is moved aside and not
changed. docs/operations.md: \"When a majority is lost for good\".

Exit status: 0 done, 1 failed and nothing was changed, 2 wrong usage.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  kvctl replay node0.rec                     every input, and what became of it
  kvctl replay node0.rec.1 node0.rec         the file before, then this one
  kvctl replay node0.rec --from 120000       prints only the end
  kvctl replay node0.rec --json | jq 'select(.state.role == \"leader\")'

A record is what `raft_core_run --record FILE` writes; docs/studying-a-run.md shows how to read one. It is
read by the build that wrote it.

Exit status: 0 the run is as it was, 1 it differs, or the record is damaged; 2 wrong usage.";

/// Looks into running servers, and into the files of a node.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) area: Area,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Area {
    /// Lists, describes, calls and measures the services of any server of the RPC layer.
    #[command(subcommand, after_help = RPC_EXAMPLES)]
    Rpc(Box<RpcCommand>),
    /// Shows a cluster's members, and changes them.
    #[command(subcommand, after_help = CLUSTER_EXAMPLES)]
    Cluster(Box<ClusterCommand>),
    /// Looks into the write-ahead log of a node that does not run.
    #[command(subcommand, after_help = WAL_EXAMPLES)]
    Wal(WalCommand),
    /// Looks into a snapshot's file.
    #[command(subcommand, after_help = SNAPSHOT_EXAMPLES)]
    Snapshot(SnapshotCommand),
    /// LAST RESORT, may lose acknowledged writes: makes one node the only member of a new cluster.
    #[command(after_help = FORCE_EXAMPLES)]
    ForceNewCluster(ForceArgs),
    /// Runs a node's recorded run again, step by step; fails where it is not as it was.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Prints the members: who leads, who has a vote, how far each one's log is.
    Status {
        #[command(flatten)]
        server: ServerArgs,
        /// Prints an object.
        #[arg(long)]
        json: bool,
    },
    /// Adds a learner, which receives the log and has no vote; or tells where a learner is now.
    Add {
        #[command(flatten)]
        server: ServerArgs,
        /// Its number, never used before in this cluster.
        #[arg(value_name = "NODE")]
        node: u64,
        /// Where the others call it.
        #[arg(value_name = "IP:PORT")]
        address: SocketAddr,
    },
    /// Makes a learner that has caught up a voter.
    Promote {
        #[command(flatten)]
        server: ServerArgs,
        #[arg(value_name = "NODE")]
        node: u64,
    },
    /// Makes a voter or learner a member no longer.
    Remove {
        #[command(flatten)]
        server: ServerArgs,
        #[arg(value_name = "NODE")]
        node: u64,
    },
    /// Puts a learner that has caught up in a voter's place.
    Replace {
        #[command(flatten)]
        server: ServerArgs,
        /// The voter.
        #[arg(value_name = "OLD")]
        old: u64,
        /// The learner.
        #[arg(value_name = "NEW")]
        new: u64,
    },
    /// Has the leader hand over: to NODE, or to whoever is nearest.
    Transfer {
        #[command(flatten)]
        server: ServerArgs,
        #[arg(value_name = "NODE")]
        to: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Prints the log record by record, also what is damaged of it.
    Dump {
        #[command(flatten)]
        dir: NodeDir,
        /// Prints an object a line.
        #[arg(long)]
        json: bool,
    },
    /// Reads the log as a start does: fails if the node would refuse it, and says why.
    Verify {
        #[command(flatten)]
        dir: NodeDir,
    },
}

/// A node's directory.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeDir {
    /// The node's directory: the one that has IDENTITY, wal/ and snapshot/ in it.
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    /// Looks even while a node serves the directory.
    #[arg(long)]
    pub(crate) live: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Verifies a snapshot; prints what it is of and what is in it.
    Inspect {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Prints an object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForceArgs {
    /// The directory of the node that is left, which must not run: the one that has IDENTITY in it.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Its number.
    #[arg(long, value_name = "I")]
    pub(crate) node: u64,
    /// Where it is called, as IP:PORT, if its log does not say, or says what is true no longer.
    #[arg(long, value_name = "ADDR", value_parser = ip_and_port)]
    pub(crate) address: Option<String>,
    /// Without this, what would be done is told and nothing is done.
    #[arg(long = "i-accept-that-acknowledged-writes-may-be-lost")]
    pub(crate) accepted: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The record; or its files in the order in which they were written.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Prints from this step on; the ones before are replayed all the same.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) from: u64,
    /// Prints an object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RpcCommand {
    /// Lists the services of a server and their methods.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Prints a service, or one method of it, and their messages, as a .proto would.
    Describe {
        #[command(flatten)]
        server: ServerArgs,
        /// A service, by its simple or full name, or one method of it.
        #[arg(value_name = "SERVICE[.METHOD]")]
        name: String,
    },
    /// Calls a method; prints its reply as JSON, a line for each message of a stream.
    #[command(after_help = CALL_EXAMPLES)]
    Call {
        #[command(flatten)]
        server: ServerArgs,
        #[arg(value_name = "SERVICE.METHOD", value_parser = method_name)]
        method: MethodName,
        /// The arguments; `-`: from standard input.
        #[arg(value_name = "JSON", default_value = "{}")]
        json: String,
        /// Prints fields also where they have their default value.
        #[arg(long)]
        defaults: bool,
    },
    /// Asks a server whether it is there, and how long the answer takes.
    Ping {
        #[command(flatten)]
        server: ServerArgs,
        /// How often.
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// The pause between two pings, in seconds.
        #[arg(long, value_name = "S", default_value = "1", value_parser = pause)]
        interval: Duration,
    },
    /// Asks a server whether it, or one service, should be sent calls; fails unless it is SERVING.
    Health {
        #[command(flatten)]
        server: ServerArgs,
        /// The simple name of a service; without one: the server as a whole.
        #[arg(value_name = "SERVICE", default_value = "", hide_default_value = true)]
        service: String,
        /// Prints the status now and whenever it changes.
        #[arg(long)]
        watch: bool,
    },
    /// Calls a method over and over; prints rate and latencies.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[arg(value_name = "SERVICE.METHOD", value_parser = method_name)]
    pub(crate) method: MethodName,
    /// The arguments of each call; `-`: from standard input.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) json: String,
    /// Calls that are under way at once, on all connections together.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) concurrency: u32,
    /// Connections to spread them over, at most 1024 calls on each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) connections: u32,
    /// How long to go on, in seconds.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub(crate) duration: Duration,
}

/// Which server, and what all calls to it have in common.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// The server, as HOST:PORT.
    #[arg(value_name = "ADDR")]
    pub(crate) addr: String,
    /// How long a call may take, in seconds [default: 10; streams: no limit].
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Sends VALUE along with each call; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Sends `authorization: Bearer TOKEN` along with each call. Other users of this machine see
    /// what stands on a command line; they do not see the environment.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "KVCTL_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Speaks TLS, and trusts the certificates that these roots (a PEM file) have signed.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_roots: Option<PathBuf>,
    /// The name that the server's certificate has to be for [default: the HOST of ADDR].
    #[arg(long, value_name = "NAME", requires = "tls_roots")]
    pub(crate) tls_name: Option<String>,
    /// Shows the server this certificate (a PEM file), if it asks for one.
    #[arg(long, value_name = "FILE", requires_all = ["tls_roots", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of that certificate (a PEM file).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// `SERVICE.METHOD`; the service by its simple or full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodName {
    pub(crate) service: String,
    pub(crate) method: String,
}

/// Parses the command line; `None` when its user only asked for `--help` or `--version`.
///
/// # Errors
/// [`Failure::Usage`] with clap's lines (what is wrong, a tip) in one.
pub(crate) fn parse() -> Result<Option<Args>, Failure> {
    let error = match Args::try_parse() {
        Ok(args) => return Ok(Some(args)),
        Err(error) => error,
    };
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        let printed = error.print();
        printed.map_err(|error| Failure::Failed(format!("cannot print the help: {error}")))?;
        return Ok(None);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(Failure::Usage(
            "say what to do (--help shows examples)".to_owned(),
        ));
    }
    let text = error.render().to_string();
    let told = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let told = in_one_line(&told.collect::<Vec<_>>().join("\n"));
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    Err(Failure::Usage(format!("{told} (--help shows examples)")))
}

/// Takes `SERVICE.METHOD` apart; `None` if it is not of that form.
pub(crate) fn split_method(name: &str) -> Option<MethodName> {
    let (service, method) = name.rsplit_once('.')?;
    let whole = !service.is_empty() && !method.is_empty();
    whole.then(|| MethodName {
        service: service.to_owned(),
        method: method.to_owned(),
    })
}

fn ip_and_port(text: &str) -> Result<String, String> {
    let address = text.parse::<std::net::SocketAddr>();
    let address = address.map_err(|_| "write IP:PORT, as in 10.0.0.2:29016".to_owned())?;
    Ok(address.to_string())
}

fn method_name(text: &str) -> Result<MethodName, String> {
    split_method(text).ok_or_else(|| "write SERVICE.METHOD, as in Health.Check".to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| "write KEY=VALUE, as in tenant=blue".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    duration(text)
        .filter(|duration| *duration >= Duration::from_millis(1))
        .ok_or_else(|| "write seconds, 0.001 or more, as in 10 or 0.5".to_owned())
}

fn pause(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "write seconds, as in 1 or 0.5".to_owned())
}

/// At most a day, so that no sum of times overflows.
fn duration(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= Duration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_method_goes_by_the_simple_or_the_full_name_of_its_service() {
        let name = |service: &str, method: &str| MethodName {
            service: service.to_owned(),
            method: method.to_owned(),
        };
        assert_eq!(split_method("Keeper.Find"), Some(name("Keeper", "Find")));
        assert_eq!(
            split_method("zoo.Keeper.Find"),
            Some(name("zoo.Keeper", "Find"))
        );
        for wrong in ["Keeper", ".Find", "Keeper.", ""] {
            assert_eq!(split_method(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn metadata_may_have_any_value() {
        assert_eq!(key_value("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(key_value("a=").unwrap(), ("a".into(), String::new()));
        assert!(key_value("=b").is_err());
        assert!(key_value("a").is_err());
    }
}
