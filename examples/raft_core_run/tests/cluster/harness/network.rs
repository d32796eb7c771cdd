//! Hosts for nodes: a network namespace each, and a router between them that loses what it is told to.
//!
//! ```text
//! node 0, 10.0.0.2 ── 10.0.0.1 ┐
//! node 1, 10.0.1.2 ── 10.0.1.1 ├ the router: also the test itself, and its clients
//! node 2, 10.0.2.2 ── 10.0.2.1 ┘
//! ```
//!
//! What is cut is silent, as between machines: packets get lost, one way or both ways, and the systems'
//! TCP makes of it what it does. (The relays of [`Links`](super::links::Links) hold bytes back; connections
//! through them go on where they stopped.) Clients reach every node at all times.
//!
//! A test enters its network by running itself once more in [namespaces](super::namespaces). It takes the
//! right to make namespaces, which most systems give everybody, and iproute2; and nftables to lose packets at
//! random.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::namespaces::is_inside;
use super::skip::not_tested;
use super::tool::run;

/// A test runs as its own root, with networks and mounts of its own.
const NAMESPACES: [&str; 3] = ["--map-root-user", "--net", "--mount"];

/// Every node has a host of its own, so they may all listen there.
const PORT: u16 = 7000;

/// The table of the rules that lose packets at random.
const LOSS: &str = "loss";

/// Does nothing but need the rights.
const PROBE: [&str; 5] = ["ip", "link", "set", "lo", "up"];

/// The hosts, and what is cut between them.
pub(crate) struct Network {
    hosts: usize,
    /// From which host to which.
    cut: Mutex<BTreeSet<(usize, usize)>>,
    /// Whether packets get lost at random.
    is_lossy: AtomicBool,
}

impl Network {
    /// The network of a test, which names itself. `None`: the test has passed inside; or it cannot run
    /// here, and a line in the output says why.
    ///
    /// # Panics
    /// If the test has failed inside.
    pub(crate) fn of<T: Fn()>(test: T, hosts: usize) -> Option<Arc<Self>> {
        if !is_inside(test, "network", &NAMESPACES, &PROBE) {
            return None;
        }
        match Self::set_up(hosts) {
            Ok(network) => Some(Arc::new(network)),
            Err(error) => {
                not_tested("network", &error);
                None
            }
        }
    }

    fn set_up(hosts: usize) -> Result<Self, String> {
        run(
            Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]),
            "",
        )?;
        let mut router = "link set lo up\n".to_owned();
        for host in 0..hosts {
            let gateway = gateway(host);
            let _ = write!(
                router,
                "netns add n{host}\n\
                 link add p{host} type veth peer name e0 netns n{host}\n\
                 addr add {gateway}/24 dev p{host}\n\
                 link set p{host} up\n"
            );
        }
        ip(&[], &router)?;
        for host in 0..hosts {
            let (address, gateway) = (address(host), gateway(host));
            let commands = format!(
                "link set lo up\n\
                 addr add {address}/24 dev e0\n\
                 link set e0 up\n\
                 route add default via {gateway}\n"
            );
            ip(&["-n", &format!("n{host}")], &commands)?;
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .map_err(|error| format!("this system does not forward packets: {error}"))?;
        Ok(Self {
            hosts,
            cut: Mutex::default(),
            is_lossy: AtomicBool::default(),
        })
    }

    /// Where the node of a host listens.
    pub(crate) fn address(&self, host: usize) -> SocketAddr {
        assert!(host < self.hosts, "there is no host {host}");
        (address(host), PORT).into()
    }

    /// Runs `command` on a host, in the same process.
    pub(crate) fn on_host(&self, host: usize, command: &Command) -> Command {
        assert!(host < self.hosts, "there is no host {host}");
        let mut there = Command::new("nsenter");
        there
            .arg(format!("--net=/run/netns/n{host}"))
            .arg(command.get_program())
            .args(command.get_args());
        there
    }

    /// Loses what `from` sends to `to`, from now on.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.change(&[(from, to)], true);
    }

    /// Loses what the two send to each other.
    pub(crate) fn cut_both_ways(&self, one: usize, other: usize) {
        self.change(&[(one, other), (other, one)], true);
    }

    /// Cuts off a host from all others.
    pub(crate) fn isolate(&self, host: usize) {
        for other in (0..self.hosts).filter(|other| *other != host) {
            self.cut_both_ways(host, other);
        }
    }

    /// Loses so many percent of all packets between hosts, at random, from now on.
    ///
    /// # Errors
    /// Where the system has no nftables, or not what this takes.
    pub(crate) fn lose(&self, percent: u32) -> Result<(), String> {
        self.lose_no_more();
        let rules = format!(
            "table ip {LOSS} {{
                chain between {{
                    type filter hook forward priority 0;
                    numgen random mod 100 < {percent} counter drop
                }}
            }}"
        );
        run(Command::new("nft").args(["-f", "-"]), &rules)?;
        self.is_lossy.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// How many packets were lost so since [`lose`](Self::lose).
    pub(crate) fn lost(&self) -> u64 {
        assert!(self.is_lossy.load(Ordering::Relaxed), "nothing gets lost");
        let listed = Command::new("nft").args(["list", "table", LOSS]).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let mut words = listed
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        let count = words.nth(1).and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("no counter in {listed}"))
    }

    fn lose_no_more(&self) {
        if self.is_lossy.swap(false, Ordering::Relaxed) {
            run(Command::new("nft").args(["delete", "table", LOSS]), "").unwrap();
        }
    }

    /// Lets through so many kilobits a second of what others, and clients, send to a host. What waits for
    /// longer than a tenth of a second gets lost.
    ///
    /// # Errors
    /// Where the system has no token bucket filter.
    pub(crate) fn narrow(&self, host: usize, kbit: u32) -> Result<(), String> {
        assert!(host < self.hosts, "there is no host {host}");
        let link =
            format!("qdisc add dev p{host} root tbf rate {kbit}kbit burst 4kb latency 100ms\n");
        run(Command::new("tc").args(["-batch", "-"]), &link)
    }

    /// Takes back [`narrow`](Self::narrow).
    pub(crate) fn widen(&self, host: usize) {
        assert!(host < self.hosts, "there is no host {host}");
        let link = format!("qdisc del dev p{host} root\n");
        run(Command::new("tc").args(["-batch", "-"]), &link).unwrap();
    }

    /// Nothing gets lost any longer.
    pub(crate) fn heal(&self) {
        self.lose_no_more();
        let all: Vec<_> = self.cut.lock().unwrap().iter().copied().collect();
        self.change(&all, false);
    }

    fn change(&self, links: &[(usize, usize)], cut: bool) {
        let mut is_cut = self.cut.lock().unwrap();
        let mut commands = String::new();
        for &(from, to) in links {
            let is_news = if cut {
                is_cut.insert((from, to))
            } else {
                is_cut.remove(&(from, to))
            };
            if is_news {
                let action = if cut { "add" } else { "del" };
                let (from, to) = (address(from), address(to));
                let _ = writeln!(commands, "rule {action} from {from} to {to} blackhole");
            }
        }
        ip(&[], &commands).unwrap();
    }
}

fn address(host: usize) -> Ipv4Addr {
    on_link(host, 2)
}

/// The router's side of a host's link.
fn gateway(host: usize) -> Ipv4Addr {
    on_link(host, 1)
}

fn on_link(host: usize, end: u8) -> Ipv4Addr {
    let link = u8::try_from(host).expect("there are few hosts");
    Ipv4Addr::new(10, 0, link, end)
}

fn ip(options: &[&str], commands: &str) -> Result<(), String> {
    run(
        Command::new("ip").args(options).args(["-batch", "-"]),
        commands,
    )
}
