//! What one side of a cell showed: in one round ([`Round`]), over all ([`Figures`]), and beside
//! another side ([`Ratios`]).

use serde::{Deserialize, Serialize};

use crate::latency::{Latency, median};
use crate::span::Span;
use crate::usage::cpu_of;

/// One side of a cell, measured once.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Round {
    /// Requests answered a second.
    pub requests_per_s: f64,
    /// Of these requests.
    pub latency: Latency,
    /// Microseconds of the server's CPU time for each.
    pub server_cpu_us: f64,
    /// Microseconds of the client's.
    pub client_cpu_us: f64,
    /// CPUs that were busy for others meanwhile.
    pub others_cpus: f64,
}

impl Round {
    /// What a span says that watched one server.
    #[must_use]
    pub fn of(span: &Span) -> Round {
        let server_cpu = span.servers.iter().map(cpu_of).sum();
        Round {
            requests_per_s: span.per_second(),
            latency: Latency::of(&span.latencies),
            server_cpu_us: span.us_per_request(server_cpu),
            client_cpu_us: span.us_per_request(span.client_cpu),
            others_cpus: span.others_cpus,
        }
    }
}

/// Medians over the rounds.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as in `Round`")]
pub struct Figures {
    pub requests_per_s: f64,
    #[serde(flatten)]
    pub latency: Latency,
    pub server_cpu_us: f64,
    pub client_cpu_us: f64,
    /// Of each round, in their order.
    pub rounds_requests_per_s: Vec<f64>,
}

impl Figures {
    /// The medians of `rounds`.
    #[must_use]
    pub fn of(rounds: &[Round]) -> Figures {
        let over = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
        Figures {
            requests_per_s: over(|round| round.requests_per_s),
            latency: Latency {
                p50_us: over(|round| round.latency.p50_us),
                p99_us: over(|round| round.latency.p99_us),
                p999_us: over(|round| round.latency.p999_us),
                max_us: over(|round| round.latency.max_us),
            },
            server_cpu_us: over(|round| round.server_cpu_us),
            client_cpu_us: over(|round| round.client_cpu_us),
            rounds_requests_per_s: rounds.iter().map(|round| round.requests_per_s).collect(),
        }
    }

    /// These figures divided by those of `other`.
    #[must_use]
    pub fn over(&self, other: &Figures) -> Ratios {
        Ratios {
            requests_per_s: self.requests_per_s / other.requests_per_s,
            p50: self.latency.p50_us / other.latency.p50_us,
            p99: self.latency.p99_us / other.latency.p99_us,
            p999: self.latency.p999_us / other.latency.p999_us,
            server_cpu: self.server_cpu_us / other.server_cpu_us,
            client_cpu: self.client_cpu_us / other.client_cpu_us,
        }
    }
}

/// One side's figures divided by another's.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "as in `Figures`")]
pub struct Ratios {
    pub requests_per_s: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub server_cpu: f64,
    pub client_cpu: f64,
}
