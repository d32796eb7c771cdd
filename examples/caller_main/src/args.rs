//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  caller_main                                   500 rounds against the nodes of bin/test.conf
  caller_main -f my.conf --clients 8 --count 0  eight clients at once, until Ctrl+C
  caller_main --value-size 65536 --timeout 30   large values, a patient client
  caller_main --read-any                        reads are answered by nodes that do not lead, too

Is every acknowledged write there? Write under load, kill what you like, then look:
  caller_main --count 0 --clients 8 --journal acked.txt
  caller_main --verify acked.txt

Exit status: 0 all rounds done (with --count 0: stopped by Ctrl+C), 1 failed, 2 wrong usage.";

/// Sample client: each round Puts a new value and Gets it back.
///
/// Prints `get return :{VALUE}` for each round, then a summary. Fails if a Get returns anything but
/// the value just Put. Calls are repeated by themselves while a leader is being elected.
#[derive(Debug, Parser)]
#[command(name = "caller_main", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The cluster file: where the nodes are.
    #[arg(short, long, value_name = "FILE", default_value = "bin/test.conf")]
    pub(crate) file: PathBuf,

    /// Rounds of each client; 0: until Ctrl+C.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) count: u64,

    /// Clients at once, each with a key of its own: x, x1, x2, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) clients: u32,

    /// Pads values to N bytes (they have about 21 of their own: round, run and client).
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=32 << 20))]
    pub(crate) value_size: u32,

    /// How long a call may take, with all its repetitions, in seconds.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,

    /// Reads from any node, not from the leader alone: what is read is no older, and one trip dearer.
    #[arg(long)]
    pub(crate) read_any: bool,

    /// Gives every round a key of its own and adds each acknowledged write to FILE.
    #[arg(long, value_name = "FILE", conflicts_with = "verify")]
    pub(crate) journal: Option<PathBuf>,

    /// Does no rounds: reads every write of FILE, from --journal, back and fails if one is missing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "value_size"])]
    pub(crate) verify: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| *timeout >= Duration::from_millis(1))
        .ok_or_else(|| "write seconds, 0.001 or more, as in 10 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_has_its_defaults() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["caller_main"]).unwrap();
        assert_eq!(
            (args.count, args.clients, args.timeout.as_secs()),
            (500, 1, 10)
        );
        assert_eq!(args.file, PathBuf::from("bin/test.conf"));
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        for wrong in [
            ["--timeout", "0"],
            ["--timeout", "soon"],
            ["--timeout", "-1"],
            ["--clients", "0"],
            ["--value-size", "-1"],
        ] {
            let error = Args::try_parse_from(["caller_main"].iter().chain(&wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
    }
}
