//! [`RpcChannel`]: what callers hold.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;

use super::driver::Driver;
use super::options::ChannelOptions;
use super::pending::{Completion, Outcome, Waiter};
use super::shared::ChannelShared;
use crate::controller::RpcController;
use crate::error::{Code, RpcError};
use crate::reactor::{EventLoops, Next, Post, Source, Turn, on_group};
use crate::service::MethodDescriptor;

/// A long-lived, multiplexed, lazily made connection to one server, shared by any number of threads.
///
/// A clone is another handle on the same connection. Every call ends: with a reply, or with an
/// [`RpcError`] that says whether a handler may have seen it. A call whose bytes may have reached
/// the server is never sent again by the channel. When the last clone is dropped the connection is
/// closed and calls that are still under way end with `CANCELLED`.
///
/// A channel connects when it is used, waits for that at most `connect_timeout`, and after a
/// failure lets calls fail at once until its backoff has passed; the next call then tries again.
#[derive(Clone)]
pub struct RpcChannel {
    addr: SocketAddr,
    /// Or why there is no event loop to run on.
    inner: Result<Arc<Inner>, Arc<str>>,
}

/// What the clones of a channel share; its end is the channel's.
struct Inner {
    shared: Arc<ChannelShared>,
    /// Keeps the threads alive.
    _loops: EventLoops,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl RpcChannel {
    /// A channel to `addr` with default options. Connects when it is first used.
    #[must_use]
    pub fn new(addr: SocketAddr) -> RpcChannel {
        RpcChannel::with_options(addr, ChannelOptions::default())
    }

    /// A channel to `addr`. Connects when it is first used.
    #[must_use]
    pub fn with_options(addr: SocketAddr, mut options: ChannelOptions) -> RpcChannel {
        let loops = match options.loops.take().map_or_else(EventLoops::common, Ok) {
            Ok(loops) => loops,
            Err(error) => {
                let text = format!("no event loop could be started: {error}");
                return RpcChannel {
                    addr,
                    inner: Err(text.into()),
                };
            }
        };
        let handle = Arc::clone(loops.pick());
        let shared = Arc::new(ChannelShared::new(addr, options, Arc::clone(&handle)));
        let drivers = Arc::clone(&shared);
        let build = move |turn: &mut Turn<'_>| {
            drivers.set_source(turn.id);
            let mut driver = Driver::new(drivers);
            let next = driver.look(turn);
            (next == Next::Keep).then(|| Box::new(driver) as Box<dyn Source>)
        };
        // We hold the loops, so they have not ended.
        let _ = handle.post(Post::Add(Box::new(build)));
        RpcChannel {
            addr,
            inner: Ok(Arc::new(Inner {
                shared,
                _loops: loops,
            })),
        }
    }

    /// The server's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many calls are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner
            .as_ref()
            .map_or(0, |inner| inner.shared.in_flight())
    }

    /// Calls a method and waits for its end.
    ///
    /// # Errors
    /// Whatever the server answered; `DEADLINE_EXCEEDED`, `CANCELLED`, `UNAVAILABLE`;
    /// `RESOURCE_EXHAUSTED` at a bound of the channel, or for a reply over its limits;
    /// `INVALID_ARGUMENT` for arguments over its limits; `INTERNAL` for a reply that is not an `R`,
    /// and on a thread of the channel's own event loops, which must not wait for themselves.
    pub fn call<A: Message, R: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        controller: &mut RpcController,
        args: &A,
    ) -> Result<R, RpcError> {
        let result = self.wait_for_call(method, controller, args);
        controller.end(result.as_ref().err());
        result
    }

    fn wait_for_call<A: Message, R: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        controller: &RpcController,
        args: &A,
    ) -> Result<R, RpcError> {
        let inner = self.inner.as_ref().map_err(no_loop)?;
        if on_group(inner.shared.handle.group()) {
            let text = "a blocking call on a thread of its own event loops would wait for itself; \
                        use call_async there";
            return Err(RpcError::new(Code::Internal, text));
        }
        let timeout = controller.begin()?;
        let waiter = Waiter::new();
        let completion = Completion::Blocking(Arc::clone(&waiter));
        let id = inner
            .shared
            .begin(method, timeout, args, completion)
            .map_err(|(_, error)| error)?;
        controller.attach(&inner.shared, id);
        decoded(method, waiter.wait())
    }

    /// Calls a method and returns at once.
    ///
    /// `done` runs exactly once: on the event loop's thread, where it must not block, or, if the
    /// call cannot even begin, on the caller's own before this returns.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the controller goes with its call"
    )]
    pub fn call_async<A: Message, R: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        controller: RpcController,
        args: &A,
        done: impl FnOnce(Result<R, RpcError>) + Send + 'static,
    ) {
        let begun = self.inner.as_ref().map_err(no_loop).and_then(|inner| {
            let timeout = controller.begin()?;
            Ok((inner, timeout))
        });
        let (inner, timeout) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                controller.end(Some(&error));
                return done(Err(error));
            }
        };
        let its_controller = controller.clone();
        let callback = move |outcome: Outcome| {
            let result = decoded(method, outcome);
            its_controller.end(result.as_ref().err());
            done(result);
        };
        let completion = Completion::Callback(Box::new(callback));
        match inner.shared.begin(method, timeout, args, completion) {
            Ok(id) => controller.attach(&inner.shared, id),
            Err((Completion::Callback(callback), error)) => callback(Err(error)),
            Err((Completion::Blocking(_), _)) => unreachable!("a callback was handed over"),
        }
    }
}

fn no_loop(text: &Arc<str>) -> RpcError {
    RpcError::new(Code::Unavailable, text.to_string())
}

fn decoded<R: Message + Default>(
    method: &MethodDescriptor,
    outcome: Outcome,
) -> Result<R, RpcError> {
    R::decode(outcome?).map_err(|error| {
        let text = format!(
            "malformed reply of {}.{}: {error}",
            method.service, method.method
        );
        RpcError::new(Code::Internal, text).with_may_have_executed(true)
    })
}

impl fmt::Debug for RpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcChannel")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}
