//! [`RpcChannel`]: what callers hold.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::attempts::{Attempts, NewCall};
use super::loan::Borrowed;
use super::options::ChannelOptions;
use super::pending::{Completion, Ended};
use super::raw::Raw;
use super::shared::Request;
use super::state::ChannelState;
use super::stream::{CallbackSink, Decode, RpcStream, Sink, StreamCall, StreamParts, malformed};
use super::targets::{Balance, Targets};
use crate::controller::{Attached, RpcController, Terms};
use crate::error::{Code, RpcError};
use crate::handover::Waiter;
use crate::reactor::{EventLoops, on_group};
use crate::service::MethodDescriptor;

/// A long-lived, multiplexed, lazily made connection to one server, or to several that can stand in
/// for each other, shared by any number of threads.
///
/// A clone is another handle on the same connections. Every call ends: with a reply, or with an
/// [`RpcError`] that says whether a handler may have seen it; only streams without a deadline may
/// go on for as long as the server answers its pings. A call whose bytes may have reached a server
/// is never sent again by the channel, unless its [`RetryPolicy`](crate::RetryPolicy) and the
/// call's controller say that it may. When the last clone is dropped the connections are closed and
/// calls that are still under way end with `CANCELLED`.
///
/// A channel connects when it is used, waits for that at most `connect_timeout`, and after a
/// failure lets calls fail at once until its backoff has passed; the next call then tries again.
/// Of several servers it leaves out those that are down, looks after them in the background, and
/// takes one back when it answers. A call that was certainly not executed at one of them because it
/// cannot be reached (`UNAVAILABLE`) or a bound was reached (`RESOURCE_EXHAUSTED`: a limit of the
/// server, or of what may be under way to it) is tried at the next. If no server takes it, it fails
/// with the code of the last and the reasons of all.
///
/// A server that drains asks its clients to leave: new calls then connect again, those under way
/// end where they are.
#[derive(Clone)]
pub struct RpcChannel {
    addr: SocketAddr,
    /// Or why there is no event loop to run on.
    inner: Result<Arc<Inner>, Arc<str>>,
}

/// What the clones of a channel share; its end is the channel's.
struct Inner {
    targets: Arc<Targets>,
    /// The loops' group.
    group: u64,
    /// Keeps the threads alive.
    _loops: EventLoops,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.targets.close();
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
    pub fn with_options(addr: SocketAddr, options: ChannelOptions) -> RpcChannel {
        RpcChannel::over(&[addr], Balance::default(), options)
    }

    /// A channel to all servers of `addrs`, any of which can answer any call. Connects to each when
    /// it is first used. All its connections run on one event loop.
    ///
    /// Without an address all calls fail with `UNAVAILABLE`.
    #[must_use]
    pub fn over(addrs: &[SocketAddr], balance: Balance, mut options: ChannelOptions) -> RpcChannel {
        let unusable = |addr, text: String| RpcChannel {
            addr,
            inner: Err(text.into()),
        };
        let Some(&addr) = addrs.first() else {
            let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            return unusable(nowhere, "the channel was given no address".to_owned());
        };
        let loops = match options.loops.take().map_or_else(EventLoops::common, Ok) {
            Ok(loops) => loops,
            Err(error) => {
                return unusable(addr, format!("no event loop could be started: {error}"));
            }
        };
        let handle = loops.pick();
        let inner = Inner {
            targets: Targets::start(addrs, balance, &options, handle),
            group: handle.group(),
            _loops: loops,
        };
        RpcChannel {
            addr,
            inner: Ok(Arc::new(inner)),
        }
    }

    /// The server's address; of several, the first.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many calls are under way, pings included. Any thread.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner
            .as_ref()
            .map_or(0, |inner| inner.targets.in_flight())
    }

    /// What is known about the way to the server; of several, the best.
    #[must_use]
    pub fn state(&self) -> ChannelState {
        match &self.inner {
            Ok(inner) => inner.targets.state(),
            Err(reason) => ChannelState::Down {
                reason: reason.to_string(),
            },
        }
    }

    /// Has each new state told to `callback` from now on, in order, for as long as the channel
    /// lives. It runs on the event loop's thread and must not block. It must not hold the channel,
    /// which would then never end.
    pub fn on_state_change(&self, callback: impl Fn(ChannelState) + Send + Sync + 'static) {
        if let Ok(inner) = &self.inner {
            inner.targets.watch(Arc::new(callback));
        }
    }

    /// Asks a server whether it is there, connecting if need be, and waits for its answer. Returns
    /// how long it took. Needs nothing of the services there.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`, `UNAVAILABLE`, `RESOURCE_EXHAUSTED` at a bound of the channel, and
    /// `INTERNAL` on a thread of the channel's own event loops.
    pub fn ping(&self, timeout: Duration) -> Result<Duration, RpcError> {
        let inner = self.to_wait_on()?;
        let waiter = Waiter::new();
        let begun = Instant::now();
        let index = inner.targets.pick(&[]).unwrap_or(0);
        let completion = Completion::Blocking(Arc::clone(&waiter));
        let server = inner.targets.sub(index);
        server
            .begin_ping(timeout, completion)
            .map_err(|(_, error)| error)?;
        match waiter.wait().result {
            // Before it knew pings it took them for calls of no service: also an answer.
            Err(error) if error.code() != Code::Unimplemented => Err(error),
            _ => Ok(begun.elapsed()),
        }
    }

    // ---- unary calls

    /// Calls a method and waits for its end, at most for the call's timeout. Any number of threads
    /// may do so at once. One that is alone, and calls again and again, sends and reads on its own
    /// thread, which spares it two hand-overs to the event loop and back.
    ///
    /// # Errors
    /// Whatever the server answered; `DEADLINE_EXCEEDED`, `CANCELLED`, `UNAVAILABLE`;
    /// `RESOURCE_EXHAUSTED` at a bound of the channel, or for a reply over its limits;
    /// `INVALID_ARGUMENT` for arguments or metadata over its limits; `INTERNAL` for a reply that is
    /// not an `R`, where an interceptor panicked before it, and on a thread of the channel's own event loops,
    /// which must not wait for themselves.
    pub fn call<A: Message, R: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        controller: &mut RpcController,
        args: &A,
    ) -> Result<R, RpcError> {
        self.call_and_decode(method, controller, args, |body| R::decode(body))
    }

    /// Calls a method whose messages the caller encodes and decodes itself: `args` are the bytes of
    /// an encoded message, and so is the reply.
    ///
    /// # Errors
    /// As those of [`call`](RpcChannel::call).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the arguments are given away, as in the other forms"
    )]
    pub fn call_raw(
        &self,
        method: &'static MethodDescriptor,
        controller: &mut RpcController,
        args: Bytes,
    ) -> Result<Bytes, RpcError> {
        self.call_and_decode(method, controller, &Raw(&args), Ok)
    }

    fn call_and_decode<R>(
        &self,
        method: &'static MethodDescriptor,
        controller: &RpcController,
        args: &impl Message,
        decode: Decode<R>,
    ) -> Result<R, RpcError> {
        let ended = self.wait_for_call(method, controller, args);
        let Ended { result, metadata } = ended.unwrap_or_else(Ended::from);
        let result = decoded(method, result, decode);
        controller.end(result.as_ref().err(), metadata);
        result
    }

    fn wait_for_call(
        &self,
        method: &'static MethodDescriptor,
        controller: &RpcController,
        args: &impl Message,
    ) -> Result<Ended, RpcError> {
        let inner = self.to_wait_on()?;
        let terms = controller.begin()?;
        let waiter = Waiter::new();
        let completion = Completion::Blocking(Arc::clone(&waiter));
        let borrowed = inner.begin(method, controller, terms, args, 0, completion);
        if let Some(borrowed) = borrowed {
            borrowed.drive(&waiter);
        }
        Ok(waiter.wait())
    }

    /// Calls a method and returns at once.
    ///
    /// `done` runs exactly once: on the event loop's thread, where it must not block, or, if the
    /// call cannot even begin, on the caller's own before this returns.
    pub fn call_async<A: Message, R: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        mut controller: RpcController,
        args: &A,
        done: impl FnOnce(Result<R, RpcError>) + Send + 'static,
    ) {
        let (inner, mut terms) = match self.may_begin(&controller) {
            Ok(begun) => begun,
            Err(error) => return done(Err(error)),
        };
        // Nobody learns of what is written down in a controller that was given away.
        terms.watched = controller.is_shared();
        let its_controller = terms.watched.then(|| controller.clone());
        let callback = move |ended: Ended| {
            let result = decoded(method, ended.result, |body| R::decode(body));
            if let Some(controller) = its_controller {
                controller.end(result.as_ref().err(), ended.metadata);
            }
            done(result);
        };
        let completion = Completion::Callback(Box::new(callback));
        inner.begin(method, &controller, terms, args, 0, completion);
    }

    // ---- streams

    /// Calls a method that answers with a stream of messages, and returns before they come.
    ///
    /// Without a timeout or deadline at its controller the stream may go on for ever. Dropping what
    /// this returns cancels the call.
    ///
    /// # Errors
    /// Why the call could not begin, as for [`call`](RpcChannel::call). Later failures are the
    /// stream's last item.
    pub fn open_stream<A: Message, R: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        controller: &mut RpcController,
        args: &A,
    ) -> Result<RpcStream<R>, RpcError> {
        self.open_and_decode(method, controller, args, |body| R::decode(body))
    }

    /// Opens a stream whose messages the caller encodes and decodes itself: `args` are the bytes of
    /// an encoded message, and so is each item.
    ///
    /// # Errors
    /// As those of [`open_stream`](RpcChannel::open_stream).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the arguments are given away, as in the other forms"
    )]
    pub fn open_stream_raw(
        &self,
        method: &'static MethodDescriptor,
        controller: &mut RpcController,
        args: Bytes,
    ) -> Result<RpcStream<Bytes>, RpcError> {
        self.open_and_decode(method, controller, &Raw(&args), Ok)
    }

    fn open_and_decode<R>(
        &self,
        method: &'static MethodDescriptor,
        controller: &RpcController,
        args: &impl Message,
        decode: Decode<R>,
    ) -> Result<RpcStream<R>, RpcError> {
        let (inner, terms) = self.may_begin(controller)?;
        let (stream, sink) = RpcStream::new(StreamParts {
            controller: controller.clone(),
            serial: terms.serial,
            method,
            decode,
            group: inner.group,
            window: inner.window(),
        });
        inner.begin_stream(method, controller, terms, args, sink);
        stream.begun()
    }

    /// Calls a method that answers with a stream of messages, and returns at once.
    ///
    /// `on_item` runs for each message on the event loop's thread, where it must not block: while
    /// it runs nothing else is read, which is what holds the server back. Then `done` runs exactly
    /// once: there too, or, if the call cannot even begin, on the caller's own thread before this
    /// returns. Ends early by [`start_cancel`](RpcController::start_cancel).
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the controller goes with its call"
    )]
    pub fn call_stream_async<A: Message, R: Message + Default + 'static>(
        &self,
        method: &'static MethodDescriptor,
        controller: RpcController,
        args: &A,
        on_item: impl FnMut(R) + Send + 'static,
        done: impl FnOnce(Result<(), RpcError>) + Send + 'static,
    ) {
        let (inner, terms) = match self.may_begin(&controller) {
            Ok(begun) => begun,
            Err(error) => return done(Err(error)),
        };
        let sink = Box::new(CallbackSink {
            method,
            controller: controller.clone(),
            decode: |body| R::decode(body),
            on_item,
            done,
        });
        inner.begin_stream(method, &controller, terms, args, sink);
    }

    // ---- beginnings

    /// The channel's inner half, for a thread that is going to wait.
    fn to_wait_on(&self) -> Result<&Inner, RpcError> {
        let inner = self.inner.as_ref().map_err(no_loop)?;
        if on_group(inner.group) {
            let text = "a blocking call on a thread of its own event loops would wait for itself; \
                        use call_async there";
            return Err(RpcError::new(Code::Internal, text));
        }
        Ok(inner)
    }

    /// Begins a call at its controller, which is told if it cannot begin.
    fn may_begin(&self, controller: &RpcController) -> Result<(&Inner, Terms), RpcError> {
        let inner = self.inner.as_ref().map_err(no_loop);
        let begun = inner.and_then(|inner| Ok((&**inner, controller.begin()?)));
        if let Err(error) = &begun {
            controller.end(Some(error), crate::Metadata::new());
        }
        begun
    }
}

impl Inner {
    /// What a server may send ahead of a stream's consumer.
    fn window(&self) -> u32 {
        self.targets.options.stream_credit_bytes.max(1)
    }

    fn begin_stream(
        &self,
        method: &'static MethodDescriptor,
        controller: &RpcController,
        terms: Terms,
        args: &impl Message,
        sink: Box<dyn Sink>,
    ) {
        let stream = StreamCall::new(self.window(), sink);
        let completion = Completion::Stream(Box::new(stream));
        self.begin(method, controller, terms, args, self.window(), completion);
    }

    /// Begins a call; `credit` 0: a unary one. What keeps it from beginning ends it. A connection
    /// that it returns has to be driven.
    fn begin(
        &self,
        method: &'static MethodDescriptor,
        controller: &RpcController,
        mut terms: Terms,
        args: &impl Message,
        credit: u32,
        completion: Completion,
    ) -> Option<Borrowed<'_>> {
        if terms.timeout.is_none() && credit == 0 {
            terms.timeout = Some(self.targets.options.default_timeout);
        }
        let Some(server) = self.targets.only() else {
            let call = NewCall {
                method,
                controller: controller.clone(),
                terms,
                args: args.encode_to_vec().into(),
                credit,
                completion,
            };
            Attempts::begin(&self.targets, call);
            return None;
        };
        let request = Request {
            method,
            timeout: terms.timeout,
            metadata: &terms.metadata,
            trace: terms.trace.as_ref(),
            credit,
        };
        match server.begin(&request, args, completion) {
            Ok((id, borrowed)) => {
                if terms.watched {
                    let call = Attached::InFlight(Arc::downgrade(server), id);
                    controller.attach(terms.serial, 1, call);
                }
                borrowed
            }
            Err((completion, error)) => {
                completion.end(error.into());
                None
            }
        }
    }
}

fn no_loop(text: &Arc<str>) -> RpcError {
    RpcError::new(Code::Unavailable, text.to_string())
}

fn decoded<R>(
    method: &MethodDescriptor,
    result: Result<Bytes, RpcError>,
    decode: impl FnOnce(Bytes) -> Result<R, DecodeError>,
) -> Result<R, RpcError> {
    decode(result?).map_err(|error| malformed("reply", method, &error))
}

impl fmt::Debug for RpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcChannel")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}
