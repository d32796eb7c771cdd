//! What arrived frames mean: calls to begin, and words about calls that are under way.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Connection, ConnectionError, Dialect};
use crate::error::{Code, RpcError};
use crate::metadata::Metadata;
use crate::reactor::{Batch, Turn};
use crate::reply::ReplySlot;
use crate::server::call::{Call, enter_interceptors};
use crate::server::call_state::CallState;
use crate::server::flow::Flow;
use crate::server::handler::run_handler;
use crate::server::outbox::{Answer, MethodIndex};
use crate::server::services::{Lookup, Target};
use crate::server::shared::ServerShared;
use crate::server::worker_pool::Job;
use crate::service::RpcContext;
use crate::trace::TraceContext;
use crate::transport::is_client_hello;
use crate::wire::{Peeked, PlainCall, ReplyKind, RequestKind, peek_plain_call, peek_request};

/// The header of a call, without its names.
struct Incoming {
    request_id: u64,
    deadline: Option<Instant>,
    credit: u32,
    metadata: Metadata,
    trace: Option<Box<TraceContext>>,
}

impl Incoming {
    /// A call with nothing that most calls do not have.
    fn plain(request_id: u64, deadline: Option<Instant>) -> Incoming {
        Incoming {
            request_id,
            deadline,
            credit: 0,
            metadata: Metadata::new(),
            trace: None,
        }
    }
}

impl Connection {
    /// Begins the calls of all whole frames that have arrived, and heeds the others.
    pub(super) fn dispatch_arrived(&mut self, turn: &mut Turn<'_>) -> Result<(), ConnectionError> {
        if self.speaks_http(turn) {
            self.answer_http();
            return Ok(());
        }
        let server = Arc::clone(&self.server);
        let outcome = self.dispatch_frames(&server, turn);
        self.path
            .cells
            .holds(self.in_flight, self.output.unsent_bytes());
        self.count_calls();
        outcome.map_err(|error| match self.dialect {
            Dialect::Unknown if is_client_hello(self.input.unread()) => {
                ConnectionError::TlsAtPlainPort
            }
            _ => error,
        })
    }

    fn dispatch_frames(
        &mut self,
        server: &Arc<ServerShared>,
        turn: &mut Turn<'_>,
    ) -> Result<(), ConnectionError> {
        let limits = &server.options.limits;
        let mut latest = self.latest.map(|place| server.services.target(place));
        self.more_frames = false;
        let batch = Batch::of(self.input.unread().len(), turn.share);
        for looked_at in 0.. {
            if self.input.is_empty() {
                return Ok(());
            }
            if self.must_pause(turn.share) {
                self.paused = true;
                return Ok(());
            }
            if !batch.goes_on(looked_at, self.input.unread().len()) {
                break;
            }
            if let Some(target) = &latest
                && self.front.bytes() == 0
                && let Some(frame) =
                    peek_plain_call(self.input.unread(), &target.method.names_in_header, limits)
            {
                self.timeouts.no_frame();
                let PlainCall {
                    request_id,
                    timeout_ms,
                    ..
                } = frame.head;
                let request = Incoming::plain(request_id, self.deadline(timeout_ms));
                let args = self.input.take(frame.body_start, frame.body_size);
                self.stats.begun(target.method.index.position(), 1);
                self.dispatch_call(target, request, args);
                continue;
            }
            let peek = |unread| peek_request(unread, limits);
            let frame = match self.front.peek(self.input.unread(), peek)? {
                Peeked::Incomplete { .. } => {
                    let begun = self.input.unread().len();
                    if self.timeouts.frame_begun(self.now, begun) {
                        self.set_alarm(turn);
                    }
                    return Ok(());
                }
                Peeked::Complete(frame) => frame,
            };
            self.timeouts.no_frame();
            let head = frame.head;
            if head.kind == RequestKind::Unknown {
                let frame_bytes = frame.body_start + frame.body_size;
                self.input.discard(frame_bytes);
                continue;
            }
            let request_id = head.request_id;
            if head.kind != RequestKind::Call {
                let (kind, credit) = (head.kind, head.credit);
                self.input.discard(frame.body_start + frame.body_size);
                self.settle_dialect(request_id, turn)?;
                self.heed(kind, request_id, credit)?;
                continue;
            }
            let request = Incoming {
                request_id,
                deadline: self.deadline(head.timeout_ms),
                credit: head.credit,
                metadata: head.metadata.into_owned(),
                trace: match &*head.traceparent {
                    "" => None,
                    traceparent => TraceContext::parse(traceparent).map(Box::new),
                },
            };
            let found = server
                .services
                .lookup(&head.service_name, &head.method_name);
            let args = self.input.take(frame.body_start, frame.body_size);
            self.settle_dialect(request_id, turn)?;
            match found {
                Lookup::Found(target) => {
                    // Its deadline is in the book from the beginning, whether anybody asks or not.
                    let watched = target.method.streaming && request.deadline.is_some();
                    self.stats.begun(target.method.index.position(), 1);
                    self.dispatch_call(&target, request, args);
                    if self.dialect == Dialect::Framed && !target.method.streaming {
                        self.latest = Some(target.place);
                        latest = Some(target);
                    }
                    if watched {
                        self.set_alarm(turn);
                    }
                }
                Lookup::Unknown(text) => {
                    tracing::debug!(peer = %self.peer, reason = %text, "call refused");
                    let error = RpcError::new(Code::Unimplemented, text);
                    self.stats.begun(MethodIndex::UNKNOWN.position(), 1);
                    self.refuse_call(MethodIndex::UNKNOWN, request_id, error);
                }
            }
        }
        self.more_frames = true;
        turn.again();
        Ok(())
    }

    /// When a request that has just arrived must have been answered; `timeout_ms` 0: whenever.
    fn deadline(&self, timeout_ms: u32) -> Option<Instant> {
        (timeout_ms > 0).then(|| self.arrived + Duration::from_millis(timeout_ms.into()))
    }

    /// The first request decides how the caller speaks.
    fn settle_dialect(
        &mut self,
        request_id: u64,
        turn: &mut Turn<'_>,
    ) -> Result<(), ConnectionError> {
        let dialect = if request_id == 0 {
            Dialect::Legacy
        } else {
            Dialect::Framed
        };
        if self.dialect == Dialect::Unknown {
            self.dialect = dialect;
            self.path.cells.set_dialect(dialect);
            if let Some(certificate) = self.stream.peer_certificate() {
                self.path.set_peer_certificate(certificate);
            }
            self.ask_to_go();
            self.set_alarm(turn);
        }
        if self.dialect == dialect {
            Ok(())
        } else {
            Err(ConnectionError::MixedDialects)
        }
    }

    /// A frame that begins no call.
    fn heed(&mut self, kind: RequestKind, id: u64, credit: u32) -> Result<(), ConnectionError> {
        if id == 0 {
            return Err(ConnectionError::NoRequestId);
        }
        match kind {
            RequestKind::Cancel if self.in_flight > 0 => {
                let max_in_flight = self.server.options.limits.max_in_flight;
                self.path.book.cancel(id, max_in_flight);
            }
            RequestKind::Credit => {
                if let Some(flow) = self.path.book.flow(id) {
                    flow.add_credit(credit);
                }
            }
            RequestKind::Ping => self.path.send_control(ReplyKind::Pong, id),
            RequestKind::Goodbye => self.goodbye = true,
            // A pong was a sign of life when it arrived; a cancelled call is answered already.
            RequestKind::Pong | RequestKind::Cancel | RequestKind::Call | RequestKind::Unknown => {}
        }
        Ok(())
    }

    fn dispatch_call(&mut self, target: &Target<'_>, request: Incoming, args: Bytes) {
        let &Target {
            place,
            service,
            method,
        } = target;
        let Incoming {
            request_id,
            deadline,
            ..
        } = request;
        self.path.book.forget_early(request_id);
        if let Err(error) = self.check_limits() {
            tracing::debug!(peer = %self.peer, reason = error.text(), "call refused");
            return self.refuse_call(method.index, request_id, error);
        }
        if deadline.is_some_and(|deadline| deadline <= self.now) {
            let text = "the deadline passed before the call was begun";
            let error = RpcError::new(Code::DeadlineExceeded, text);
            return self.refuse_call(method.index, request_id, error);
        }
        if method.streaming && request_id == 0 {
            let text = "a legacy caller cannot be answered with a stream";
            let error = RpcError::new(Code::Unimplemented, text);
            return self.refuse_call(method.index, request_id, error);
        }
        let flow = method
            .streaming
            .then(|| Arc::new(Flow::new(request.credit)));
        let mut context = RpcContext {
            call: Arc::new(Call {
                path: Some(Arc::clone(&self.path)),
                peer: self.peer,
                request_id,
                service: service.name(),
                method: method.name,
                method_index: method.index,
                arrived: self.arrived,
                deadline,
                request_bytes: args.len(),
                metadata: request.metadata,
                trace: request.trace,
                flow: flow.clone(),
                original: None,
                state: CallState::new(),
                entered: AtomicUsize::new(0),
                reply_metadata: Mutex::default(),
            }),
        };
        if let Some(flow) = &flow
            && !self.path.book.enter_stream(&context.call, flow)
        {
            let text = format!("request_id {request_id} is in use by a call under way");
            let error = RpcError::new(Code::InvalidArgument, text);
            return self.refuse_call(method.index, request_id, error);
        }
        self.in_flight += 1;
        let interceptors = &self.server.options.interceptors;
        if !interceptors.is_empty()
            && let Err(error) = enter_interceptors(&mut context, interceptors)
        {
            return ReplySlot::to_connection(context.call).refuse(error);
        }
        let reply = ReplySlot::to_connection(Arc::clone(&context.call));
        match &method.workers {
            None => run_handler(service.service(), place.method, context, args, reply),
            Some(workers) => workers.submit(Job {
                method: place.method,
                context,
                args,
                reply,
            }),
        }
    }

    /// Whether another call may be begun.
    fn check_limits(&mut self) -> Result<(), RpcError> {
        let (max_in_flight, max_calls) = {
            let limits = &self.server.options.limits;
            (limits.max_in_flight, limits.max_calls)
        };
        let over = |connection: &Connection| {
            let elsewhere = connection.server.calls().saturating_sub(connection.counted);
            (
                connection.in_flight >= max_in_flight,
                elsewhere + connection.in_flight >= max_calls,
            )
        };
        if over(self) == (false, false) {
            return Ok(());
        }
        // Calls whose answers have gathered are under way no more.
        self.collect_replies(Instant::now());
        let text = match over(self) {
            (false, false) => return Ok(()),
            (true, _) => format!(
                "the connection has {max_in_flight} calls under way (Limits::max_in_flight)"
            ),
            (false, true) => {
                format!("the server has {max_calls} calls under way (Limits::max_calls)")
            }
        };
        Err(RpcError::new(Code::ResourceExhausted, text))
    }

    /// Answers a call that no handler and no interceptor has seen.
    fn refuse_call(&mut self, method: MethodIndex, request_id: u64, error: RpcError) {
        self.in_flight += 1;
        let answer = Answer {
            request_id,
            method,
            arrived: self.arrived,
            metadata: Metadata::new(),
        };
        self.path.fail(&answer, error.with_may_have_executed(false));
    }
}
