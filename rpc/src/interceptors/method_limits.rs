//! [`MethodLimits`]: bounds on what a method may have under way.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Code, RpcError};
use crate::interceptor::{CallOutcome, ServerInterceptor};
use crate::service::RpcContext;

/// Bounds on the calls of a method that are under way at once, on all connections together. A call
/// beyond is refused with `RESOURCE_EXHAUSTED`. Methods without a bound are not counted.
///
/// A stream counts until it has ended.
#[derive(Debug, Default)]
pub struct MethodLimits {
    /// Few, so comparing names is the fastest index.
    limits: Vec<Limit>,
}

#[derive(Debug)]
struct Limit {
    service: String,
    method: String,
    max: usize,
    running: AtomicUsize,
}

impl MethodLimits {
    /// No bounds yet.
    #[must_use]
    pub fn new() -> MethodLimits {
        MethodLimits::default()
    }

    /// Bounds a method, named as on the wire (the service without its package), to `max` calls at
    /// once. 0 switches it off. The last bound set for a method counts.
    #[must_use]
    pub fn limit(
        mut self,
        service: impl Into<String>,
        method: impl Into<String>,
        max: usize,
    ) -> MethodLimits {
        let (service, method) = (service.into(), method.into());
        self.limits
            .retain(|limit| (&limit.service, &limit.method) != (&service, &method));
        self.limits.push(Limit {
            service,
            method,
            max,
            running: AtomicUsize::new(0),
        });
        self
    }

    fn of(&self, context: &RpcContext) -> Option<&Limit> {
        self.limits
            .iter()
            .find(|limit| limit.service == context.service() && limit.method == context.method())
    }
}

impl ServerInterceptor for MethodLimits {
    fn before(&self, context: &mut RpcContext) -> Result<(), RpcError> {
        let Some(limit) = self.of(context) else {
            return Ok(());
        };
        let one_more = |running| (running < limit.max).then_some(running + 1);
        // Relaxed: the count guards nothing but itself.
        let counted = limit
            .running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if counted.is_ok() {
            return Ok(());
        }
        let Limit {
            service,
            method,
            max,
            ..
        } = limit;
        let text = format!("{service}.{method} has {max} calls under way (MethodLimits)");
        Err(RpcError::new(Code::ResourceExhausted, text))
    }

    fn after(&self, context: &RpcContext, _outcome: &CallOutcome<'_>) {
        if let Some(limit) = self.of(context) {
            limit.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
