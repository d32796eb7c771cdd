//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, ValueEnum};
use proto::cluster::MAX_NODES;
use raft::{Lease, NodeOptions, RecordOptions};
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;

/// The nodes' own defaults, for the check of one against the other.
const DEFAULT_HEARTBEAT_MS: u64 = 25;
const DEFAULT_ELECTION_TIMEOUT_MS: (u64, u64) = (300, 500);

const EXAMPLES: &str = "\
Examples:
  raft_core_run -n 3                        three nodes; addresses in bin/test.conf, data in bin/test.data
  raft_core_run -n 3                        again: the same addresses, the same data
  raft_core_run -n 5 --fresh                five empty nodes; the old data is moved aside
  raft_core_run --node 1                    brings node 1 back after it died, or runs one node a host
  raft_core_run --node 3 --join 127.0.0.1:29016               adds a node to a running cluster
  raft_core_run --node 3 --join 127.0.0.1:29016 --replace 1   puts it in the place of node 1
  raft_core_run -n 1 -f /tmp/a.conf --log debug

Stop it with Ctrl+C: every node stops in order. Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage.";

/// Starts a cluster of N nodes, each a process of its own, and stays until Ctrl+C.
#[derive(Clone, Debug, Parser)]
#[command(name = "raft_core_run", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Number of nodes to start
    #[arg(short = 'n', value_name = "N", required_unless_present = "node", value_parser = node_count)]
    nodes: Option<usize>,

    /// Cluster file; written if it is missing or lists no node
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        default_value = "bin/test.conf"
    )]
    pub(crate) file: PathBuf,

    /// Where the nodes keep their data [default: FILE with its extension replaced by .data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// First port tried when FILE is written; further ones are searched upward
    #[arg(long, value_name = "PORT", default_value_t = 29016, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) base_port: u16,

    /// Address of every node when FILE is written
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(crate) ip: IpAddr,

    /// Rewrite FILE for N empty nodes and move old data aside to DIR.old-1, DIR.old-2, ...
    #[arg(long, conflicts_with = "node")]
    pub(crate) fresh: bool,

    /// Run only node I of FILE, in the foreground
    #[arg(long, value_name = "I", conflicts_with = "nodes")]
    node: Option<usize>,

    #[command(flatten)]
    pub(crate) one: OneNode,

    /// Stop when standard input ends: how the launcher runs its nodes
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,

    #[command(flatten)]
    pub(crate) knobs: Knobs,
}

/// Where a single node comes from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct OneNode {
    /// With --node: let a new node, under a number never used, join the cluster of which a member
    /// listens there
    #[arg(long, value_name = "IP:PORT", conflicts_with = "nodes")]
    pub(crate) join: Option<SocketAddr>,

    /// With --join: take the place of node OLD, which is then no member any longer
    #[arg(long, value_name = "OLD", requires = "join")]
    pub(crate) replace: Option<u64>,

    /// With --join: stay a learner, which has no vote, until `kvctl cluster promote` makes it a voter
    #[arg(long, requires = "join", conflicts_with = "replace")]
    pub(crate) learner: bool,

    /// With --node: listen there [default: its address in FILE; elsewhere, where it listened before; for
    /// a new node, the first free port from --base-port up, at the address that reaches the cluster]
    #[arg(long, value_name = "IP:PORT", conflicts_with = "nodes")]
    pub(crate) listen: Option<SocketAddr>,

    /// With --node: start on an empty directory though the cluster has been used. Only for a node that
    /// FILE listed when the cluster began and that has NEVER RUN: one that lost its directory would vote
    /// on votes it has forgotten. NEVER for lines that were added to FILE later: they make no members, and
    /// such nodes would found a second cluster, which can be refused only where a member answers; use --join
    #[arg(long, conflicts_with_all = ["nodes", "join"])]
    pub(crate) start_empty: bool,
}

/// What is handed on to each node. What is not given is the node's own default.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Knobs {
    /// Where a node keeps the map [default: skiplist]
    #[arg(long, value_enum, help_heading = "Node options")]
    pub(crate) engine: Option<Engine>,

    /// Bytes of log since its latest snapshot after which a node takes another one
    #[arg(long, value_name = "BYTES", help_heading = "Node options", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) snapshot_log_bytes: Option<u64>,

    /// Pause between a leader's heartbeats [default: 25]
    #[arg(long, value_name = "MS", help_heading = "Node options", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) heartbeat_ms: Option<u64>,

    /// Silence after which a follower stands for election, drawn from this range [default: 300-500]
    #[arg(long, value_name = "MIN-MAX", help_heading = "Node options", value_parser = millisecond_range)]
    pub(crate) election_timeout_ms: Option<(u64, u64)>,

    /// Let a leader answer reads without asking the others, for as long as none can have been elected;
    /// on all nodes or on none. Reads are then right only while no node's clock gains more than PERCENT
    /// on another's over an election timeout [default: off; --lease alone: 10]
    #[arg(long, value_name = "PERCENT", help_heading = "Node options", num_args = 0..=1, require_equals = true,
          default_missing_value = "10", value_parser = clap::value_parser!(u64).range(0..=99))]
    pub(crate) lease: Option<u64>,

    /// Write down what the node is told, for `kvctl replay`; of several nodes, each to FILE.nodeI
    #[arg(long, value_name = "FILE", help_heading = "Node options")]
    pub(crate) record: Option<PathBuf>,

    /// How much a record keeps of the latest, in bytes [default: 64 MiB]
    #[arg(long, value_name = "BYTES", help_heading = "Node options", requires = "record", value_parser = clap::value_parser!(u64).range(65_536..))]
    pub(crate) record_max_bytes: Option<u64>,

    /// off, error, warn, info, debug or trace [default: `RUST_LOG`, else info]
    #[arg(long, value_name = "LEVEL", help_heading = "Node options")]
    pub(crate) log: Option<LevelFilter>,
}

impl Knobs {
    /// What is given replaces the node's own default.
    pub(crate) fn apply_to(&self, mut node: NodeOptions) -> NodeOptions {
        let Engine::Skiplist = self.engine.unwrap_or(Engine::Skiplist);
        if let Some(bytes) = self.snapshot_log_bytes {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            node.snapshot_log_bytes = bytes.min(usize::MAX / 2);
            node.retained_log_bytes = node.retained_log_bytes.min(node.snapshot_log_bytes / 8);
            let most = node.snapshot_log_bytes.saturating_mul(2);
            node.max_log_bytes = node.max_log_bytes.max(most);
        }
        if let Some(max_drift_percent) = self.lease {
            node.lease = Some(Lease { max_drift_percent });
        }
        if let Some(ms) = self.heartbeat_ms {
            node.heartbeat = Duration::from_millis(ms);
        }
        if let Some((min, max)) = self.election_timeout_ms {
            node.election_timeout = (Duration::from_millis(min), Duration::from_millis(max));
        }
        if let Some(file) = &self.record {
            let mut record = RecordOptions::new(file.clone());
            if let Some(bytes) = self.record_max_bytes {
                record.max_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            }
            node.record = Some(record);
        }
        node
    }

    /// What each node would refuse, told once.
    fn check(&self) -> Result<(), Failure> {
        let heartbeat_ms = self.heartbeat_ms.unwrap_or(DEFAULT_HEARTBEAT_MS);
        let (min, max) = self
            .election_timeout_ms
            .unwrap_or(DEFAULT_ELECTION_TIMEOUT_MS);
        if heartbeat_ms < min {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "a heartbeat every {heartbeat_ms} ms does not keep an election timeout of {min}-{max} ms from ending: \
             lower --heartbeat-ms or raise --election-timeout-ms"
        )))
    }
}

/// Where a node keeps the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// In memory, on a concurrent skip list
    Skiplist,
}

/// What a command line comes down to.
#[derive(Debug)]
pub(crate) enum Asked {
    /// To read `--help` or `--version`.
    Text(String),
    /// To run one node.
    Node(usize, Cli),
    /// To run so many nodes.
    Cluster(usize, Cli),
}

impl Cli {
    pub(crate) fn from_command_line() -> Result<Asked, Failure> {
        Cli::from_arguments(std::env::args_os())
    }

    fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, Failure> {
        let cli = match Cli::try_parse_from(arguments) {
            Ok(cli) => cli,
            Err(error) => return explain(&error),
        };
        if cli.data_dir() == cli.file {
            let file = cli.file.display();
            return Err(Failure::Usage(format!(
                "{file} cannot be FILE and data directory at once: give --data-dir"
            )));
        }
        cli.knobs.check()?;
        match (cli.node, cli.nodes) {
            (Some(node), _) => Ok(Asked::Node(node, cli)),
            (None, Some(nodes)) => Ok(Asked::Cluster(nodes, cli)),
            (None, None) => unreachable!("clap requires -n where there is no --node"),
        }
    }

    /// The directory under which each node has its own.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir
            .clone()
            .unwrap_or_else(|| self.file.with_extension("data"))
    }

    /// The command line of the process that runs `node` for a launcher with this one.
    pub(crate) fn arguments_of_node(&self, node: usize) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--node".into(),
            node.to_string().into(),
            "--supervised".into(),
        ];
        let mut option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            // In one word, so that a value may begin with a dash.
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            arguments.push(word);
        };
        option("file", &self.file);
        option("data-dir", &self.data_dir());
        let Knobs {
            engine,
            snapshot_log_bytes,
            heartbeat_ms,
            election_timeout_ms,
            lease,
            record,
            record_max_bytes,
            log,
        } = &self.knobs;
        if let Some(Engine::Skiplist) = engine {
            option("engine", &"skiplist");
        }
        if let Some(bytes) = snapshot_log_bytes {
            option("snapshot-log-bytes", &bytes.to_string());
        }
        if let Some(heartbeat_ms) = heartbeat_ms {
            option("heartbeat-ms", &heartbeat_ms.to_string());
        }
        if let Some((min, max)) = election_timeout_ms {
            option("election-timeout-ms", &format!("{min}-{max}"));
        }
        if let Some(percent) = lease {
            option("lease", &percent.to_string());
        }
        if let Some(record) = record {
            let mut file = record.clone().into_os_string();
            file.push(format!(".node{node}"));
            option("record", &file);
        }
        if let Some(bytes) = record_max_bytes {
            option("record-max-bytes", &bytes.to_string());
        }
        if let Some(level) = log {
            option("log", &level.to_string());
        }
        arguments
    }
}

/// Where node `node` keeps its data.
pub(crate) fn node_dir(data_dir: &Path, node: usize) -> PathBuf {
    data_dir.join(format!("node{node}"))
}

/// Puts clap's several lines (what, a tip, the usage) into one; `--help` stays as it is.
fn explain(error: &clap::Error) -> Result<Asked, Failure> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Asked::Text(text)),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(Failure::Usage(text)),
        _ => {
            let told = text.lines().take_while(|line| !line.starts_with("Usage:"));
            let told: Vec<&str> = told
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            let told = told.join(" ");
            let told = told.strip_prefix("error: ").unwrap_or(&told);
            Err(Failure::Usage(format!("{told} (--help shows examples)")))
        }
    }
}

fn node_count(text: &str) -> Result<usize, String> {
    let count = text
        .parse()
        .ok()
        .filter(|count| (1..=MAX_NODES).contains(count));
    count.ok_or_else(|| format!("write a number of nodes from 1 to {MAX_NODES}"))
}

fn millisecond_range(text: &str) -> Result<(u64, u64), String> {
    const MAX_MS: u64 = 60_000;
    let range = text
        .split_once('-')
        .and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    let range = range.filter(|&(min, max)| 0 < min && min <= max && max <= MAX_MS);
    range.ok_or_else(|| {
        format!(
            "write two times in ms, like 300-500, the first not above the second, at most {MAX_MS}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked, Failure> {
        Cli::from_arguments(line.split_whitespace().map(OsString::from))
    }

    fn usage(line: &str) -> String {
        match parse(line) {
            Err(Failure::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_data_directory_follows_the_file() {
        let Ok(Asked::Cluster(3, cli)) = parse("raft_core_run -n 3") else {
            panic!("-n 3 is a cluster")
        };
        assert_eq!(
            (cli.file.as_path(), cli.data_dir()),
            (Path::new("bin/test.conf"), "bin/test.data".into())
        );
        let Ok(Asked::Node(0, cli)) = parse("raft_core_run --node 0 -f a.conf --data-dir b") else {
            panic!("--node 0 is a node")
        };
        assert_eq!(cli.data_dir(), Path::new("b"));
        assert!(usage("raft_core_run -n 3 -f a.data").contains("give --data-dir"));
    }

    #[test]
    fn a_node_is_given_every_knob_of_its_launcher() {
        let line = "raft_core_run -n 3 -f -odd.conf --engine skiplist --snapshot-log-bytes 4096 --heartbeat-ms 10 \
                    --election-timeout-ms 100-200 --lease --log debug";
        let line = line.replace("-f -odd", "--file=-odd");
        let Ok(Asked::Cluster(3, launcher)) = parse(&line) else {
            panic!("a cluster")
        };
        let line = std::iter::once("raft_core_run".into()).chain(launcher.arguments_of_node(2));
        let Ok(Asked::Node(2, node)) = Cli::from_arguments(line) else {
            panic!("node 2")
        };

        assert!(node.supervised);
        assert_eq!(node.knobs, launcher.knobs);
        assert_eq!(node.knobs.election_timeout_ms, Some((100, 200)));
        assert_eq!(node.knobs.lease, Some(10));
        assert_eq!(
            (&node.file, node.data_dir()),
            (&launcher.file, launcher.data_dir())
        );
    }

    /// A log that is at its bound before the first snapshot would stay there.
    #[test]
    fn the_bound_of_the_log_stays_above_what_starts_a_snapshot() {
        let loops = rpc::EventLoops::start(1, "test-node").unwrap();
        let node = NodeOptions::joining(raft::NodeId::new(0), 7, "data".into(), loops);
        for bytes in [4_096, 1 << 30, u64::MAX] {
            let knobs = Knobs {
                snapshot_log_bytes: Some(bytes),
                ..Knobs::default()
            };
            let adapted = knobs.apply_to(node.clone());
            assert!(
                adapted.snapshot_log_bytes < adapted.max_log_bytes,
                "{bytes}"
            );
            assert!(adapted.retained_log_bytes < adapted.max_log_bytes / 2);
            assert!(adapted.max_log_bytes >= node.max_log_bytes);
        }
    }

    #[test]
    fn each_node_records_to_a_file_of_its_own() {
        let record = |line: std::vec::Vec<OsString>| match Cli::from_arguments(line) {
            Ok(Asked::Node(_, cli) | Asked::Cluster(_, cli)) => {
                (cli.knobs.record, cli.knobs.record_max_bytes)
            }
            other => panic!("{other:?}"),
        };
        let line = "raft_core_run -n 3 --record /tmp/run.rec --record-max-bytes 1000000";
        let Ok(Asked::Cluster(3, launcher)) = parse(line) else {
            panic!("a cluster")
        };
        let of_node = std::iter::once("raft_core_run".into()).chain(launcher.arguments_of_node(2));
        let (file, bytes) = record(of_node.collect());
        assert_eq!(file, Some("/tmp/run.rec.node2".into()));
        assert_eq!(bytes, Some(1_000_000));
        let alone = "raft_core_run --node 1 --record r"
            .split(' ')
            .map(OsString::from);
        assert_eq!(record(alone.collect()), (Some("r".into()), None));
        assert!(usage("raft_core_run -n 3 --record-max-bytes 1000000").contains("--record"));
    }

    #[test]
    fn what_was_not_given_is_left_to_the_node() {
        let Ok(Asked::Cluster(1, launcher)) = parse("raft_core_run -n 1") else {
            panic!("a cluster")
        };
        assert_eq!(
            launcher.arguments_of_node(0).len(),
            5,
            "node, its number, supervised, file, data directory"
        );
    }

    #[test]
    fn wrong_usage_is_told_in_one_line() {
        for (line, told) in [
            ("raft_core_run -n 0", "write a number of nodes from 1 to 99"),
            (
                "raft_core_run -n 100",
                "write a number of nodes from 1 to 99",
            ),
            ("raft_core_run -f a.conf", "-n <N>"),
            ("raft_core_run -n 3 --node 1", "cannot be used with"),
            ("raft_core_run --node 1 --fresh", "cannot be used with"),
            (
                "raft_core_run -n 3 --join 127.0.0.1:1",
                "cannot be used with",
            ),
            ("raft_core_run --node 3 --replace 1", "--join"),
            ("raft_core_run --node 3 --join here", "--join"),
            (
                "raft_core_run --node 3 --join 127.0.0.1:1 --start-empty",
                "cannot be used with",
            ),
            ("raft_core_run -n 3 --lease=100", "--lease"),
            ("raft_core_run -n 3 --nod 1", "similar argument"),
            ("raft_core_run -n 3 --engine lsm", "skiplist"),
            (
                "raft_core_run -n 3 --election-timeout-ms 500-300",
                "like 300-500",
            ),
            (
                "raft_core_run -n 3 --election-timeout-ms 0-300",
                "like 300-500",
            ),
            (
                "raft_core_run -n 3 --election-timeout-ms 300",
                "like 300-500",
            ),
            (
                "raft_core_run -n 3 --election-timeout-ms 20-40",
                "a heartbeat every 25 ms does not keep an election timeout of 20-40 ms",
            ),
            (
                "raft_core_run -n 3 --heartbeat-ms 300",
                "lower --heartbeat-ms",
            ),
            ("raft_core_run -n 3 --base-port 0", "--base-port"),
            ("raft_core_run -n 3 --log loud", "--log"),
        ] {
            let text = usage(line);
            assert!(text.contains(told), "{line}: {text}");
            assert!(!text.contains('\n'), "{line}: {text}");
        }
    }

    #[test]
    fn help_shows_examples() {
        let Ok(Asked::Text(help)) = parse("raft_core_run --help") else {
            panic!("help is text")
        };
        assert!(help.contains("raft_core_run -n 5 --fresh"), "{help}");
        assert!(!help.contains("supervised"), "{help}");
        assert!(usage("raft_core_run").contains("Examples:"));
    }
}
