//! What the system knows of a process (`/proc`).

use std::fs;
use std::time::Duration;

/// Resident memory, in bytes.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    kib.expect("a running process has a VmRSS line")
        .trim()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Time on a processor so far, in user and kernel mode.
pub(crate) fn cpu_time(process: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10); // USER_HZ is 100 on every Linux
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let after_name = stat
        .rsplit_once(')')
        .expect("the name stands in brackets")
        .1;
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| TICK * ticks.parse::<u32>().unwrap())
        .sum()
}

/// Whether there is such a process that has not ended (a zombie has).
pub(crate) fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .ok()
        .and_then(|stat| Some(!stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(false)
}
