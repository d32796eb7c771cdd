//! [`CallMetrics`]: what a client's calls cost, by method.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::error::{Code, RpcError};
use crate::interceptor::{CallOutcome, ClientInterceptor, FinishedCall};
use crate::service::MethodDescriptor;
use crate::stats::LatencyHistogram;

/// Counts a channel's calls and their latencies by method. Share one among channels to count them
/// together.
///
/// Takes about 4 KiB for each method that was called, and a short lock for each call.
#[derive(Debug, Default)]
pub struct CallMetrics {
    methods: Mutex<BTreeMap<(&'static str, &'static str), CallStats>>,
}

/// What was counted for one method.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallStats {
    /// The simple name of the service.
    pub service: &'static str,
    /// The method, as the `.proto` writes it.
    pub method: &'static str,
    /// Attempts that have ended, by the code that they ended with. Codes that did not occur are 0.
    pub ended: [(Code, u64); Code::ALL.len()],
    /// Attempts that were not a call's first.
    pub retries: u64,
    /// Bytes of encoded arguments.
    pub request_bytes: u64,
    /// Bytes of encoded replies and items.
    pub reply_bytes: u64,
    /// From the beginning of an attempt to its end.
    pub latency: LatencyHistogram,
}

impl CallStats {
    fn new(method: &MethodDescriptor) -> CallStats {
        CallStats {
            service: method.service,
            method: method.method,
            ended: Code::ALL.map(|code| (code, 0)),
            retries: 0,
            request_bytes: 0,
            reply_bytes: 0,
            latency: LatencyHistogram::new(),
        }
    }

    /// Attempts that have ended.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ended.iter().map(|(_, n)| n).sum()
    }

    /// Attempts that have ended with `code`.
    #[must_use]
    pub fn count_of(&self, code: Code) -> u64 {
        let ended = self.ended.iter().filter(|(known, _)| *known == code);
        ended.map(|(_, n)| n).sum()
    }
}

impl CallMetrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> CallMetrics {
        CallMetrics::default()
    }

    /// What has been counted, ordered by service and method. Any thread.
    #[must_use]
    pub fn snapshot(&self) -> Vec<CallStats> {
        self.methods.lock().values().cloned().collect()
    }
}

impl ClientInterceptor for CallMetrics {
    fn after(&self, call: &FinishedCall<'_>, outcome: &CallOutcome<'_>) {
        let code = outcome.error.map_or(Code::Ok, RpcError::code);
        let mut methods = self.methods.lock();
        let stats = methods
            .entry((call.method.service, call.method.method))
            .or_insert_with(|| CallStats::new(call.method));
        for (known, n) in &mut stats.ended {
            *n += u64::from(*known == code);
        }
        stats.retries += u64::from(call.attempt > 1);
        stats.request_bytes += outcome.request_bytes as u64;
        stats.reply_bytes += outcome.reply_bytes as u64;
        stats.latency.record(outcome.elapsed);
    }
}
