//! `sim`: runs seeds, and says what they met.

use std::io::IsTerminal as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sim::{Coverage, FAULTS, Faults, Outcome, RunOptions, Situation, run_seed, shrink};

const EXAMPLES: &str = "\
Examples:
  sim --seeds 0..10000                 ten thousand clusters, with a summary
  sim --seed 42 --trace                one of them again, with the last that happened
  sim --seeds 0..200 --twice           each run twice: equal traces, or it fails
  sim --seed 42 --shrink               one that fails, made small

Exit codes: 0 every promise held, 1 one was broken, 2 wrong usage.";

/// Runs whole clusters from seeds, with faults, and holds every step against what Raft and the store
/// promise.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command"
)]
struct Cli {
    /// Seeds to run
    #[arg(long, value_name = "FROM..TO", default_value = "0..1000", value_parser = seeds, conflicts_with = "seed")]
    seeds: Range<u64>,

    /// Run this seed alone
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Events with faults, per seed
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    events: u64,

    /// Voters at the beginning [default: three or five, as the seed has it]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u64).range(0..=7))]
    nodes: u64,

    /// Kinds of faults to leave out, by the numbers that a summary gives them
    #[arg(long, value_name = "N,N..", default_value = "", hide_default_value = true, value_parser = faults)]
    without: Faults,

    /// Make a failing seed small: fewer kinds of faults, fewer events
    #[arg(long)]
    shrink: bool,

    /// Print the last that happened
    #[arg(long)]
    trace: bool,

    /// Run every seed twice and compare
    #[arg(long)]
    twice: bool,

    /// Fail if a situation was never met
    #[arg(long)]
    require_coverage: bool,

    /// Threads; each runs seeds of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("give FROM..TO, as 0..10000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let range = number(from)?..number(to)?;
    if range.is_empty() {
        return Err("an empty range of seeds".to_owned());
    }
    Ok(range)
}

fn faults(text: &str) -> Result<Faults, String> {
    let mut faults = Faults::default();
    for number in text.split(',').filter(|number| !number.is_empty()) {
        let fault: usize = number
            .parse()
            .map_err(|_| format!("{number} is no number"))?;
        if fault >= FAULTS.len() {
            return Err(format!("the last kind of faults is {}", FAULTS.len() - 1));
        }
        faults.insert(fault);
    }
    Ok(faults)
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    events: u64,
    virtual_us: u64,
    elections: u64,
    committed: u64,
    calls: u64,
    faults: Vec<u64>,
    coverage: Coverage,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.virtual_us += outcome.virtual_us;
        self.elections += outcome.elections;
        self.committed += outcome.committed;
        self.calls += outcome.calls;
        self.faults.resize(FAULTS.len(), 0);
        for (total, count) in self.faults.iter_mut().zip(&outcome.faults) {
            *total += count;
        }
        self.coverage.add(&outcome.coverage);
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let range = cli.seed.map_or(cli.seeds.clone(), |seed| seed..seed + 1);
    // A broken assertion is reported with its seed; its own report would drown that.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let progress = progress_bar(range.end - range.start);
    let next = AtomicU64::new(range.start);
    let broken = AtomicBool::new(false);
    let jobs = cli.jobs.max(1);
    let totals = std::thread::scope(|scope| {
        let work = || {
            let mut totals = Totals::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= range.end || broken.load(Ordering::Relaxed) {
                    return totals;
                }
                let outcome = run(seed, &cli);
                totals.add(&outcome);
                if outcome.violation.is_some() {
                    broken.store(true, Ordering::Relaxed);
                    progress.suspend(|| report_small(outcome, &cli));
                }
                progress.inc(1);
            }
        };
        let threads: Vec<_> = (1..jobs).map(|_| scope.spawn(work)).collect();
        let mut all = vec![work()];
        all.extend(threads.into_iter().filter_map(|thread| thread.join().ok()));
        all
    });
    progress.finish_and_clear();
    let mut sum = Totals::default();
    for totals in totals {
        sum.seeds += totals.seeds;
        sum.events += totals.events;
        sum.virtual_us += totals.virtual_us;
        sum.elections += totals.elections;
        sum.committed += totals.committed;
        sum.calls += totals.calls;
        sum.faults.resize(FAULTS.len(), 0);
        for (total, count) in sum.faults.iter_mut().zip(&totals.faults) {
            *total += count;
        }
        sum.coverage.add(&totals.coverage);
    }
    let missed = summary(&sum, started.elapsed());
    if broken.into_inner() || (cli.require_coverage && missed > 0) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn options(cli: &Cli) -> RunOptions {
    RunOptions {
        nodes: cli.nodes,
        events: cli.events,
        without: cli.without,
        trace: cli.trace,
    }
}

fn run(seed: u64, cli: &Cli) -> Outcome {
    let options = options(cli);
    let mut outcome = run_seed(seed, options);
    if cli.twice && outcome.violation.is_none() {
        let again = run_seed(seed, options);
        if again.trace_hash != outcome.trace_hash {
            outcome.violation = Some(sim::Violation {
                property: "the same seed is the same run",
                what: format!("{:016x} and {:016x}", outcome.trace_hash, again.trace_hash),
            });
        }
    }
    outcome
}

fn progress_bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    ProgressBar::new(seeds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Of a run that broke a promise: as it was, or, where that is wanted and possible, made small.
fn report_small(outcome: Outcome, cli: &Cli) {
    let options = options(cli);
    let small = cli.shrink.then(|| shrink(outcome.seed, options)).flatten();
    let (options, outcome) = small.unwrap_or((options, outcome));
    report(&outcome, options);
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn report(outcome: &Outcome, options: RunOptions) {
    let Some(violation) = &outcome.violation else {
        return;
    };
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("seed {}: broken: {}", outcome.seed, violation.property);
    println!("  {}", violation.what);
    println!(
        "  after {} events, {} us",
        outcome.events, outcome.virtual_us
    );
    let without = (0..FAULTS.len()).filter(|fault| options.without.contains(*fault));
    let without: Vec<String> = without.map(|fault| fault.to_string()).collect();
    let without = if without.is_empty() {
        String::new()
    } else {
        format!(" --without {}", without.join(","))
    };
    println!(
        "  again: cargo run --release -p sim -- --seed {} --events {} --nodes {}{without} --trace",
        outcome.seed, options.events, options.nodes
    );
}

/// Prints it; how many situations were missed.
#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn summary(totals: &Totals, elapsed: Duration) -> usize {
    let seconds = elapsed.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    let (rate, times) = (
        totals.events as f64 / seconds,
        totals.virtual_us as f64 / 1e6 / seconds,
    );
    println!(
        "{} seeds, {} events in {seconds:.1} s: {rate:.0} events/s, {times:.0} times real time",
        totals.seeds, totals.events
    );
    println!(
        "{} elections won, {} entries committed, {} calls of clients ended",
        totals.elections, totals.committed, totals.calls
    );
    println!("faults:");
    for (number, (name, count)) in FAULTS.iter().zip(&totals.faults).enumerate() {
        println!("  {count:>10}  {number:>2} {name}");
    }
    println!("situations:");
    let mut missed = 0;
    for &situation in Situation::ALL {
        let count = totals.coverage.count(situation);
        missed += usize::from(count == 0);
        println!("  {count:>10}  {}", situation.text());
    }
    if missed > 0 {
        println!("{missed} situations were not met");
    }
    missed
}
