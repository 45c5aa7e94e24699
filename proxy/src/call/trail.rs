//! The notes that a call leaves, where it is recorded or logged. Where it is not, each is a branch on `None`.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::call::origin::{Origin, Way};
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, MESSAGE_BYTES_MAX, QUOTE_BYTES_MAX, Reason, clip};
use crate::grpc::status::Code;
use crate::metrics::events::Outcome;
use crate::record::call::{AttemptRecord, CallRecord, End, Http, Moved, RouteName};
use crate::record::{Lines, Recorder};
use crate::tables::authorize::Authorization;
use crate::tables::rules::Verdict;
use crate::trace::context::{Incoming, Span, continue_or_begin};
use crate::trace::w3c;

/// The longest reason of an attempt that is kept, in bytes.
const REASON_BYTES_MAX: usize = 256;
/// The longest `tracestate` that is kept (Trace Context, section 3.3.1.5).
const STATE_BYTES_MAX: usize = 512;
/// Attempts of which notes are kept; a call makes fewer.
const ATTEMPTS_MAX: usize = 16;

/// What is kept of one call. Notes are handed over when it is dropped.
#[derive(Debug)]
pub(crate) enum Trail {
    Nothing,
    /// It is neither recorded nor logged, and its trace begins here: what goes on is what was decided about.
    Begins(Span),
    Noted(Box<Notes>),
}

/// The notes of one call.
#[derive(Debug)]
pub(crate) struct Notes {
    context: Rc<Context>,
    began: Instant,
    is_logged: bool,
    request: Rc<Tally>,
    response: Rc<Tally>,
    /// Handed over as it is. One that is still on its way as a line of an open call is copied at the next note.
    record: RefCell<Arc<CallRecord>>,
    /// How often the call is logged while it goes on.
    every: Option<Duration>,
    /// When it is logged next; made when the call first waits.
    next: RefCell<Option<Pin<Box<Sleep>>>>,
}

/// Counts what passes in one direction of a call.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    bytes: Cell<u64>,
    messages: Cell<u64>,
}

impl Tally {
    pub(crate) fn add(&self, bytes: usize, messages: u64) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.messages.set(self.messages.get() + messages);
    }

    fn moved(&self) -> Moved {
        Moved { bytes: self.bytes.get(), messages: self.messages.get() }
    }
}

impl Trail {
    /// Begins the notes of a call, if it is to be recorded or logged.
    pub(crate) fn begin(
        context: &Rc<Context>,
        origin: &Origin,
        head: &Parts,
        grpc: bool,
        began: Instant,
    ) -> Self {
        match &context.shared.recorder {
            None => Self::Nothing,
            Some(recorder) => Self::decide(recorder, context, origin, head, grpc, began),
        }
    }

    #[cold]
    fn decide(
        recorder: &Recorder,
        context: &Rc<Context>,
        origin: &Origin,
        head: &Parts,
        grpc: bool,
        began: Instant,
    ) -> Self {
        let random = &mut *context.random.borrow_mut();
        let is_logged =
            recorder.lines.as_ref().is_some_and(|lines| random.u32(..1_000_000) < lines.sample_ppm);
        let incoming = Incoming::read(&head.headers);
        let span = Span::settle(&incoming, context.shared.propagate, random, |trace| {
            let now = context.shared.clock.nanos(began);
            recorder.spans.as_ref().is_some_and(|spans| spans.sampler.decide(incoming.decision, trace, now))
        });
        if !span.recorded && !is_logged {
            return if span.begins() { Self::Begins(span) } else { Self::Nothing };
        }
        let http = (!grpc).then(|| Http::new(&head.method));
        let every = recorder.lines.as_ref().and_then(|lines| lines.streams);
        Self::Noted(Box::new(Notes {
            context: context.clone(),
            began,
            is_logged,
            request: Rc::default(),
            response: Rc::default(),
            record: RefCell::new(Arc::new(record(origin, head, http, began, span))),
            every: every.filter(|_| is_logged),
            next: RefCell::default(),
        }))
    }

    fn notes(&self) -> Option<&Notes> {
        match self {
            Self::Noted(notes) => Some(notes),
            _ => None,
        }
    }

    /// Writes the trace into the headers that go on; `false`: nobody here has anything to say.
    pub(crate) fn write(&self, headers: &mut HeaderMap) -> bool {
        match self {
            Self::Nothing => return false,
            Self::Begins(span) => span.write(headers),
            Self::Noted(notes) => notes.record.borrow().span.write(headers),
        }
        true
    }

    /// Counts what passes of the request, and of the response.
    pub(crate) fn tallies(&self) -> Option<(Rc<Tally>, Rc<Tally>)> {
        self.notes().map(|notes| (notes.request.clone(), notes.response.clone()))
    }

    /// To be polled wherever the call waits: logs it every so often, where that was asked for.
    pub(crate) fn poll_open(&self, cx: &mut TaskContext<'_>) {
        if let Self::Noted(notes) = self
            && let Some(every) = notes.every
        {
            notes.poll_open(cx, every);
        }
    }

    /// Notes which service is called.
    pub(crate) fn called(&self, service: &str) {
        if let Some(notes) = self.notes() {
            notes.note(|record| record.service = service.into());
        }
    }

    /// Notes by which route it goes.
    pub(crate) fn routed(&self, route: RouteName) {
        if let Some(notes) = self.notes() {
            notes.note(|record| record.route = Some(route));
        }
    }

    /// Notes what the rules of the callee make of it.
    pub(crate) fn judged(&self, rules: &Authorization, verdict: Verdict) {
        if let Some(notes) = self.notes()
            && let Some((by, audit)) = rules.names(verdict)
        {
            notes.note(|record| (record.authorization, record.audit) = (Some(by), audit));
        }
    }

    /// Notes how an attempt ended that began at `began`.
    pub(crate) fn attempt(&self, endpoint: &Endpoint, began: Instant, outcome: Outcome, reason: &str) {
        if let Some(notes) = self.notes() {
            notes.attempt(endpoint, began, outcome, reason);
        }
    }

    /// Notes why this sidecar ends the call.
    pub(crate) fn failed(&self, failure: &Failure) {
        if let Some(notes) = self.notes() {
            notes.failed(failure.reason, failure.code, &failure.message);
        }
    }

    /// Notes that a request was refused by an HTTP status alone, and why.
    pub(crate) fn refused(&self, status: StatusCode, reason: Reason, message: &str) {
        if let Some(notes) = self.notes() {
            notes.note(|record| {
                if record.http.is_none() {
                    // A call of gRPC is told as a request of HTTP from here on.
                    record.method = clip(&format!("/{}", record.method), QUOTE_BYTES_MAX).into();
                }
                let http = record.http.get_or_insert_with(|| Http::new(&Method::POST));
                http.status = Some(status.as_u16());
            });
            notes.failed(reason, Code::of_http(status), message);
        }
    }

    /// Notes with what the call ended, and which HTTP status has gone out, if one has.
    pub(crate) fn end(&self, code: Code, status: Option<StatusCode>) {
        if let Some(notes) = self.notes() {
            notes.note(|record| {
                record.end.get_or_insert(End { code, failure: None }).code = code;
                if let (Some(http), Some(status)) = (&mut record.http, status) {
                    http.status = Some(status.as_u16());
                }
            });
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(notes) = self.notes() {
            notes.hand_over();
        }
    }
}

impl Notes {
    fn note(&self, write: impl FnOnce(&mut CallRecord)) {
        write(Arc::make_mut(&mut self.record.borrow_mut()));
    }

    fn attempt(&self, endpoint: &Endpoint, began: Instant, outcome: Outcome, reason: &str) {
        let after = |at: Instant| at.saturating_duration_since(self.began);
        let now = after(Instant::now());
        self.note(|record| {
            match outcome {
                Outcome::Answered => record.head_after = Some(now),
                Outcome::Outrun => {}
                _ => record.head_after = None,
            }
            if record.attempts.len() < ATTEMPTS_MAX {
                let resend =
                    record.attempts.iter().any(|before| !matches!(before.outcome, Outcome::NeverSent));
                record.attempts.push(AttemptRecord {
                    endpoint: endpoint.address,
                    outcome,
                    reason: clip(reason, REASON_BYTES_MAX).into(),
                    began_after: after(began),
                    ended_after: now,
                    resend,
                });
            }
        });
    }

    fn failed(&self, reason: Reason, code: Code, message: &str) {
        let failure = Some((reason, clip(message, MESSAGE_BYTES_MAX).into()));
        self.note(|record| record.end = Some(End { code, failure }));
    }

    /// Brings the record up to date and offers it to whoever wants it.
    fn hand_over(&self) {
        // A task that is dropped before its end is a call that was cut off.
        self.note(|record| {
            record.end.get_or_insert(End { code: Code::Cancelled, failure: None });
        });
        let record = self.so_far();
        let Some(recorder) = &self.context.shared.recorder else { return };
        if let (true, Some(spans)) = (record.span.recorded, &recorder.spans)
            && !spans.queue.offer(record.clone())
        {
            self.context.events().spans_dropped.add(1);
        }
        if let (true, Some(lines)) = (self.is_logged, &recorder.lines) {
            self.log(lines, record);
        }
    }

    /// Logs the call if its time has come, and sees to it that the task is woken when it comes next.
    fn poll_open(&self, cx: &mut TaskContext<'_>, every: Duration) {
        let mut next = self.next.borrow_mut();
        let next = next.get_or_insert_with(|| Box::pin(sleep_until(self.began + every)));
        while next.as_mut().poll(cx).is_ready() {
            self.report();
            next.as_mut().reset(Instant::now() + every);
        }
    }

    /// Logs a call that goes on.
    fn report(&self) {
        if let Some(lines) =
            self.context.shared.recorder.as_ref().and_then(|recorder| recorder.lines.as_ref())
        {
            self.log(lines, self.so_far());
        }
    }

    fn log(&self, lines: &Lines, record: Arc<CallRecord>) {
        if !lines.queue.offer(record) {
            self.context.events().lines_dropped.add(1);
        }
    }

    /// The record, brought up to date.
    fn so_far(&self) -> Arc<CallRecord> {
        self.note(|record| {
            record.took = self.began.elapsed();
            (record.request, record.response) = (self.request.moved(), self.response.moved());
        });
        self.record.borrow().clone()
    }
}

/// What is known of a call when it comes.
fn record(origin: &Origin, head: &Parts, http: Option<Http>, began: Instant, span: Span) -> CallRecord {
    let path = head.uri.path();
    let path = if http.is_some() { path } else { path.strip_prefix('/').unwrap_or(path) };
    let peer = match &origin.way {
        Way::Inbound { peer: Some(id), .. } => Some(id.as_str().into()),
        _ => None,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CallRecord {
        span,
        state: span.recorded.then(|| state(&head.headers)).flatten(),
        direction: origin.direction(),
        service: "".into(),
        method: clip(path, QUOTE_BYTES_MAX).into(),
        http,
        peer,
        route: None,
        authorization: None,
        audit: None,
        began_unix: now.saturating_sub(began.elapsed()),
        took: Duration::ZERO,
        head_after: None,
        attempts: Vec::new(),
        request: Moved::default(),
        response: Moved::default(),
        end: None,
    }
}

/// `tracestate`, in one line if it came in several (Trace Context, section 3.3.1); `None` if it is longer than need be kept.
fn state(headers: &HeaderMap) -> Option<Box<str>> {
    let mut state = String::new();
    for value in headers.get_all(w3c::TRACESTATE) {
        let value = value.to_str().ok()?.trim_matches([' ', '\t', ',']);
        let joint = if state.is_empty() || value.is_empty() { "" } else { "," };
        if state.len() + joint.len() + value.len() > STATE_BYTES_MAX {
            return None;
        }
        state.push_str(joint);
        state.push_str(value);
    }
    (!state.is_empty()).then(|| state.into())
}

/// The trace of a call on its way on.
pub(crate) fn trace(trail: &Trail, headers: &mut HeaderMap, context: &Context) {
    if !trail.write(headers) {
        continue_or_begin(headers, context.shared.propagate, &mut context.random.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_in_several_headers_is_one_and_one_that_is_too_long_is_none() {
        let joined = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(w3c::TRACESTATE, value.parse().unwrap());
            }
            state(&headers).map(String::from)
        };
        assert_eq!(joined(&[]), None);
        assert_eq!(joined(&["", " "]), None);
        assert_eq!(joined(&["a=1,b=2", "", "c=3, "]), Some("a=1,b=2,c=3".to_owned()));
        let (most, half) = ("x".repeat(STATE_BYTES_MAX), "x".repeat(STATE_BYTES_MAX / 2));
        assert_eq!(joined(&[&most]).as_ref(), Some(&most));
        assert_eq!(joined(&[&most, "a"]), None);
        assert_eq!(joined(&[&half, &half]), None, "with its comma it is one too long");
    }
}
