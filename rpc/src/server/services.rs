//! The services of a provider, and how a request finds its method among them.

use std::sync::Arc;

use super::outbox::MethodIndex;
use super::worker_pool::WorkerPool;
use crate::service::Service;
use crate::stats::{ServiceLayout, WorkerQueue};
use crate::wire::names_in_header;

/// One method of one registered service.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) place: MethodPlace,
    pub(super) service: &'a Registered,
    pub(super) method: &'a Method,
}

/// Where a provider has a method.
#[derive(Clone, Copy)]
pub(super) struct MethodPlace {
    /// Among the services.
    service: usize,
    /// Among the methods of its service.
    pub(super) method: usize,
}

/// What a request's names lead to.
pub(super) enum Lookup<'a> {
    Found(Target<'a>),
    /// Nothing; the text says what there is.
    Unknown(String),
}

/// A service with what is asked of it often at hand.
#[derive(Clone)]
pub(super) struct Registered {
    name: &'static str,
    methods: Vec<Method>,
    service: Arc<dyn Service>,
}

#[derive(Clone)]
pub(super) struct Method {
    pub(super) name: &'static str,
    /// The beginning of the header of nearly every call: the names of the service and the method.
    pub(super) names_in_header: Box<[u8]>,
    /// Among all methods of the provider.
    pub(super) index: MethodIndex,
    pub(super) streaming: bool,
    /// The threads that its calls run on; `None`: the event loops.
    pub(super) workers: Option<Arc<WorkerPool>>,
}

impl Registered {
    /// A service all of whose methods run on the event loops.
    pub(super) fn new(service: Arc<dyn Service>, first_method: usize) -> Registered {
        let method = |(index, &name)| Method {
            name,
            names_in_header: names_in_header(service.name(), name).into(),
            index: MethodIndex::new(first_method + index),
            streaming: service.is_streaming(index),
            workers: None,
        };
        Registered {
            name: service.name(),
            methods: service.methods().iter().enumerate().map(method).collect(),
            service,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn methods(&self) -> usize {
        self.methods.len()
    }

    pub(super) fn service(&self) -> &dyn Service {
        &*self.service
    }

    /// What the statistics need to know of it.
    fn layout(&self) -> ServiceLayout {
        ServiceLayout {
            name: self.name,
            methods: self.service.methods(),
            streaming: self.methods.iter().map(|method| method.streaming).collect(),
        }
    }

    /// Has a method run on workers; `false`: there is no such method.
    pub(super) fn move_to_workers(&mut self, method: &str, workers: &Arc<WorkerPool>) -> bool {
        let found = self.methods.iter_mut().find(|known| known.name == method);
        if let Some(found) = found {
            found.workers = Some(Arc::clone(workers));
            return true;
        }
        false
    }

    /// The workers behind its methods.
    fn pools(&self) -> Vec<&Arc<WorkerPool>> {
        let mut pools: Vec<&Arc<WorkerPool>> = Vec::new();
        for pool in self
            .methods
            .iter()
            .filter_map(|method| method.workers.as_ref())
        {
            if !pools.iter().any(|known| Arc::ptr_eq(known, pool)) {
                pools.push(pool);
            }
        }
        pools
    }
}

/// All of a provider.
pub(super) struct Services(Vec<Registered>);

impl Services {
    pub(super) fn new(services: Vec<Registered>) -> Services {
        Services(services)
    }

    /// What the statistics need to know of them.
    pub(super) fn layouts(&self) -> Vec<ServiceLayout> {
        self.0.iter().map(Registered::layout).collect()
    }

    /// Finds a method. There are few services, so comparing names is the fastest index.
    pub(super) fn lookup(&self, service: &[u8], method: &[u8]) -> Lookup<'_> {
        let Some(service_place) = self
            .0
            .iter()
            .position(|known| known.name.as_bytes() == service)
        else {
            let names: Vec<_> = self.0.iter().map(|known| known.name).collect();
            return Lookup::Unknown(format!(
                "no service {}; there is {}",
                Shown(service),
                listed(&names)
            ));
        };
        let found = &self.0[service_place];
        let Some(method_place) = found
            .methods
            .iter()
            .position(|known| known.name.as_bytes() == method)
        else {
            let names: Vec<_> = found.methods.iter().map(|known| known.name).collect();
            return Lookup::Unknown(format!(
                "service {} has no method {}; it has {}",
                found.name,
                Shown(method),
                listed(&names)
            ));
        };
        Lookup::Found(Target {
            place: MethodPlace {
                service: service_place,
                method: method_place,
            },
            service: found,
            method: &found.methods[method_place],
        })
    }

    /// The method at a place that [`lookup`](Services::lookup) has found.
    pub(super) fn target(&self, place: MethodPlace) -> Target<'_> {
        let service = &self.0[place.service];
        Target {
            place,
            service,
            method: &service.methods[place.method],
        }
    }

    /// How busy the workers behind them are.
    pub(super) fn worker_queues(&self) -> Vec<WorkerQueue> {
        let pools = self.0.iter().flat_map(Registered::pools);
        pools.map(|pool| pool.queue()).collect()
    }
}

/// Bytes of a peer, made fit for a log line.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Longer names than this are cut.
        const BYTES_MAX: usize = 64;
        let (shown, dots) = match self.0.get(..BYTES_MAX) {
            Some(start) => (start, "..."),
            None => (self.0, ""),
        };
        write!(f, "\"{}{dots}\"", shown.escape_ascii())
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
