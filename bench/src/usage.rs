//! What processes cost: CPU time, wake-ups and write calls of each thread, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// `USER_HZ`, the unit of times in `/proc`: part of Linux's interface, the same everywhere.
const TICK: Duration = Duration::from_millis(10);

/// What one thread, or several of the same name, used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThreadUsage {
    /// Nanoseconds on a CPU, in the kernel or outside.
    pub cpu_ns: u64,
    /// How often it went to sleep and was woken (voluntary context switches).
    pub wakeups: u64,
    /// How many `write`, `writev`, `pwrite`... calls it made (not `send`).
    pub writes: u64,
}

/// What each thread of a process has used so far.
#[derive(Clone, Debug, Default)]
pub struct Usage(BTreeMap<u32, (String, ThreadUsage)>);

impl Usage {
    /// Reads the threads of process `pid`. A thread that has ended is not counted.
    ///
    /// # Errors
    /// The process is gone, or the system does not tell (`schedstat` is missing).
    pub fn of(pid: u32) -> io::Result<Usage> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let dir = entry?.path();
            let Some(tid) = dir.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            let read = ["comm", "schedstat", "status", "io"]
                .map(|file| fs::read_to_string(dir.join(file)));
            let [Ok(name), Ok(schedstat), Ok(status), Ok(io)] = read else {
                if !dir.exists() {
                    continue; // it has ended since the directory was read
                }
                return Err(io::Error::other(format!(
                    "{} lacks schedstat, status or io",
                    dir.display()
                )));
            };
            let usage = ThreadUsage {
                cpu_ns: first_number(&schedstat),
                wakeups: number_after(&status, "\nvoluntary_ctxt_switches:"),
                writes: number_after(&io, "syscw:"),
            };
            threads.insert(tid, (name.trim_end().to_owned(), usage));
        }
        Ok(Usage(threads))
    }

    /// How many threads there were.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.0.len()
    }

    /// What was used between an earlier reading and this one, by name of thread.
    #[must_use]
    pub fn since(&self, earlier: &Usage) -> BTreeMap<String, ThreadUsage> {
        let mut by_name = BTreeMap::<String, ThreadUsage>::new();
        for (tid, (name, now)) in &self.0 {
            let then = earlier
                .0
                .get(tid)
                .map(|(_, then)| *then)
                .unwrap_or_default();
            *by_name.entry(name.clone()).or_default() += ThreadUsage {
                cpu_ns: now.cpu_ns.saturating_sub(then.cpu_ns),
                wakeups: now.wakeups.saturating_sub(then.wakeups),
                writes: now.writes.saturating_sub(then.writes),
            };
        }
        by_name
    }
}

impl AddAssign for ThreadUsage {
    fn add_assign(&mut self, more: ThreadUsage) {
        self.cpu_ns += more.cpu_ns;
        self.wakeups += more.wakeups;
        self.writes += more.writes;
    }
}

/// The CPU time of all threads.
#[must_use]
pub fn cpu_of(threads: &BTreeMap<String, ThreadUsage>) -> Duration {
    Duration::from_nanos(threads.values().map(|usage| usage.cpu_ns).sum())
}

/// The CPU time of a process so far, threads that have ended included, to 10 ms.
///
/// # Errors
/// The process is gone, or the system does not tell.
pub fn cpu_of_process(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name is in parentheses and may hold anything; the times are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = times.filter_map(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}

/// The CPU time of this process so far, threads that have ended included.
#[must_use]
pub fn own_cpu() -> Duration {
    // The conversion fails for negative times, which CPU time is not.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// The CPU time of everything on this machine so far, interrupts included.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub fn machine_cpu() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let ticks: Vec<u32> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    // user nice system idle iowait irq softirq; then steal, which is no use of this machine's.
    let busy = [0, 1, 2, 5, 6]
        .into_iter()
        .filter_map(|field| ticks.get(field));
    Ok(TICK * busy.sum::<u32>())
}

fn first_number(text: &str) -> u64 {
    let number = text.split_whitespace().next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn number_after(text: &str, label: &str) -> u64 {
    text.split_once(label)
        .map_or(0, |(_, rest)| first_number(rest))
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn a_busy_thread_is_seen_by_its_name() {
        let before = Usage::of(process::id()).unwrap();
        let own_before = own_cpu();
        let (finished, wait_finished) = crossbeam_channel::bounded(0);
        let (release, wait_release) = crossbeam_channel::bounded::<()>(0);
        let busy = std::thread::Builder::new()
            .name("busy".to_owned())
            .spawn(move || {
                while own_cpu() < own_before + Duration::from_millis(50) {
                    fs::write("/dev/null", "x").unwrap();
                }
                finished.send(()).unwrap();
                let _ = wait_release.recv();
            });
        wait_finished.recv().unwrap();
        let own = cpu_of_process(process::id()).unwrap();
        assert!(own >= Duration::from_millis(30), "{own:?}");
        let used = Usage::of(process::id()).unwrap().since(&before);
        drop(release);
        busy.unwrap().join().unwrap();

        assert!(used["busy"].cpu_ns > 0, "{used:?}");
        assert!(used["busy"].writes > 0, "{used:?}");
        assert!(cpu_of(&used) > Duration::ZERO);
        assert!(machine_cpu().unwrap() > Duration::ZERO);
    }
}
