//! What all handles and calls of one clerk share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::call::Owner;
use crate::logic::Logic;
use crate::options::ClerkOptions;
use crate::permits::Permits;
use crate::stubs::Stubs;
use crate::timer::Timer;

/// No two of its locks are ever held together.
pub(crate) struct Shared {
    pub(crate) logic: Mutex<Logic<Owner>>,
    pub(crate) stubs: Mutex<Stubs>,
    pub(crate) timer: Timer,
    pub(crate) permits: Arc<Permits>,
    pub(crate) max_outstanding: usize,
}

impl Shared {
    /// # Errors
    /// The system refuses a thread.
    ///
    /// # Panics
    /// If `addresses` is empty.
    pub(crate) fn new(addresses: &[SocketAddr], options: ClerkOptions) -> io::Result<Arc<Self>> {
        let random = options
            .seed
            .map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let max_outstanding = options.max_outstanding.max(1);
        Ok(Arc::new(Self {
            logic: Mutex::new(Logic::new(addresses, &options, random)),
            timer: Timer::start()?,
            permits: Permits::new(max_outstanding),
            max_outstanding,
            stubs: Mutex::new(Stubs::new(addresses, options)),
        }))
    }
}
