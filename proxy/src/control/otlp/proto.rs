//! Spans as OTLP writes them: `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`, and what is read
//! of the answer.
//!
//! Written by hand, as the details of a status are: seven flat messages, of which a collector sees no difference. The
//! tests read them back with the types that OpenTelemetry generates from its own protos.

use std::sync::Arc;
use std::time::Duration;

use crate::grpc::status::Code;
use crate::metrics::calls::Direction;
use crate::metrics::events::OUTCOMES;
use crate::record::call::{AttemptRecord, CallRecord, End, Http, Moved, OTHER_METHOD};
use crate::trace::parent::Parent;

/// Three tags with their lengths, at most.
const FRAMES: usize = 3 * 11;
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const STATUS_ERROR: u64 = 2;
/// Of `Span.flags`: sampled, and that it is known that the parent is remote.
const FLAGS: u32 = 0x301;

/// A request for one export, and how many of `calls` are in it: as many as stay below `max` bytes, and at least one.
/// `resource` are the attributes of this sidecar.
pub(crate) fn request(
    resource: &[(String, String)],
    calls: &[Arc<CallRecord>],
    max: usize,
) -> (Vec<u8>, usize) {
    let mut about = Message(Vec::new());
    for (key, value) in resource {
        about.attribute(1, key, Value::Text(value));
    }
    let mut scoped = Message(Vec::with_capacity(calls.len() * 768 + 256));
    scoped.message(1, |scope| {
        scope.text(1, "outrigger");
        scope.text(2, env!("CARGO_PKG_VERSION"));
    });
    let mut taken = 0;
    for call in calls {
        let before = scoped.0.len();
        if let Some(here) = &call.span.here {
            scoped.message(2, |span| write_span(span, call, here));
        }
        if taken > 0 && about.0.len() + scoped.0.len() + FRAMES > max {
            scoped.0.truncate(before);
            break;
        }
        taken += 1;
    }
    let mut request = Message(Vec::with_capacity(about.0.len() + scoped.0.len() + FRAMES));
    request.message(1, |spans| {
        spans.bytes(1, &about.0);
        spans.bytes(2, &scoped.0);
    });
    (request.0, taken)
}

fn write_span(span: &mut Message, call: &CallRecord, here: &Parent) {
    span.bytes(1, &here.trace.to_be_bytes());
    span.bytes(2, &here.span.to_be_bytes());
    if let Some(state) = &call.state {
        span.text(3, state);
    }
    if call.span.parent != 0 {
        span.bytes(4, &call.span.parent.to_be_bytes());
    }
    // Of HTTP the method alone: a path would make as many names as there are things.
    match &call.http {
        Some(Http { method: OTHER_METHOD, .. }) => span.text(5, "HTTP"),
        Some(http) => span.text(5, http.method),
        None if call.method.is_empty() => {}
        None => span.text(5, &call.method),
    }
    span.number(6, if call.direction == Direction::Inbound { SERVER } else { CLIENT });
    span.fixed64(7, nanos(call.began_unix));
    span.fixed64(8, nanos(call.began_unix + call.took));
    write_attributes(span, call);
    for (index, attempt) in call.attempts.iter().enumerate() {
        span.message(11, |event| write_attempt(event, call, index, attempt));
    }
    if let Some(end) = &call.end
        && is_error(call, end)
    {
        span.message(15, |status| {
            if let Some((_, message)) = &end.failure {
                status.text(2, message);
            }
            status.number(3, STATUS_ERROR);
        });
    }
    span.fixed32(16, FLAGS);
}

/// By the conventions for RPC and HTTP spans: for a server, a fault of the caller is no error.
fn is_error(call: &CallRecord, end: &End) -> bool {
    match (&call.http, call.direction) {
        (Some(Http { status: Some(status @ 400..), .. }), Direction::Inbound) => *status >= 500,
        (Some(Http { status: Some(400..), .. }), Direction::Outbound) => true,
        // The head was good; what came behind it may not have been.
        (Some(Http { status: Some(_), .. }), Direction::Outbound) => end.failure.is_some(),
        (Some(Http { status: Some(_), .. }), Direction::Inbound) => {
            end.failure.is_some() && is_servers_fault(end.code)
        }
        (_, Direction::Outbound) => end.code != Code::Ok,
        (_, Direction::Inbound) => is_servers_fault(end.code),
    }
}

fn is_servers_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn write_attributes(span: &mut Message, call: &CallRecord) {
    let mut put = |key: &str, value: Value<'_>| span.attribute(9, key, value);
    match &call.http {
        None => {
            put("rpc.system", Value::Text("grpc"));
            let (service, method) = call.method.split_once('/').unwrap_or(("", &call.method));
            put("rpc.service", Value::Text(service));
            put("rpc.method", Value::Text(method));
            if let Some(end) = &call.end {
                put("rpc.grpc.status_code", Value::Number(i64::from(end.code.number())));
            }
        }
        Some(http) => {
            put("http.request.method", Value::Text(http.method));
            put("url.path", Value::Text(&call.method));
            if let Some(status) = http.status {
                put("http.response.status_code", Value::Number(i64::from(status)));
            }
        }
    }
    put("outrigger.direction", Value::Text(call.direction.as_str()));
    if !call.service.is_empty() {
        put("outrigger.service", Value::Text(&call.service));
    }
    if let Some(route) = &call.route {
        put("outrigger.route", Value::Text(&route.to_string()));
    }
    if let Some(peer) = &call.peer {
        put("outrigger.peer", Value::Text(peer));
    }
    if let Some(end) = &call.end {
        if let Some((reason, _)) = &end.failure {
            put("outrigger.reason", Value::Text(reason.as_str()));
        }
        if is_error(call, end) {
            match (&call.http, &end.failure) {
                (Some(Http { status: Some(status), .. }), _) if *status >= 400 => {
                    put("error.type", Value::Text(&status.to_string()));
                }
                // It broke behind a head that promised better.
                (Some(_), Some((reason, _))) => put("error.type", Value::Text(reason.as_str())),
                _ => put("error.type", Value::Text(end.code.name())),
            }
        }
    }
    if let Some(last) = call.attempts.last() {
        put("server.address", Value::Text(&last.endpoint.ip().to_string()));
        put("server.port", Value::Number(i64::from(last.endpoint.port())));
    }
    put("outrigger.attempts", Value::Number(call.attempts.len() as i64));
    for (name, Moved { bytes, messages }) in [("request", call.request), ("response", call.response)] {
        put(&format!("outrigger.{name}.bytes"), Value::Number(bytes as i64));
        put(&format!("outrigger.{name}.messages"), Value::Number(messages as i64));
    }
    if let Some(after) = call.head_after {
        put("outrigger.head_ms", Value::Fraction(after.as_secs_f64() * 1e3));
    }
}

fn write_attempt(event: &mut Message, call: &CallRecord, index: usize, attempt: &AttemptRecord) {
    event.fixed64(1, nanos(call.began_unix + attempt.ended_after));
    event.text(2, "attempt");
    let mut put = |key: &str, value: Value<'_>| event.attribute(3, key, value);
    put("outrigger.attempt", Value::Number(index as i64 + 1));
    put("outrigger.endpoint", Value::Text(&attempt.endpoint.to_string()));
    put("outrigger.outcome", Value::Text(OUTCOMES[attempt.outcome as usize]));
    if !attempt.reason.is_empty() {
        put("outrigger.reason", Value::Text(&attempt.reason));
    }
    put("outrigger.began_ms", Value::Fraction(attempt.began_after.as_secs_f64() * 1e3));
    let took = attempt.ended_after.saturating_sub(attempt.began_after);
    put("outrigger.took_ms", Value::Fraction(took.as_secs_f64() * 1e3));
    put("outrigger.resend", Value::Flag(attempt.resend));
}

fn nanos(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads `ExportTraceServiceResponse`: how many spans were rejected, and why. What cannot be read is none.
pub(crate) fn rejected(response: &[u8]) -> (u64, String) {
    let mut rejected = (0, String::new());
    let mut fields = Fields(response);
    while let Some((field, Read::Bytes(partial))) = fields.next() {
        let mut inner = Fields(partial);
        while let Some((inner_field, value)) = inner.next().filter(|_| field == 1) {
            match (inner_field, value) {
                (1, Read::Number(count)) => rejected.0 = count,
                (2, Read::Bytes(text)) => rejected.1 = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
    }
    rejected
}

/// Reads `google.rpc.Status`, as `grpc-status-details-bin` carries it: the delay of its `RetryInfo`, if it has one.
pub(crate) fn retry_delay(status: &[u8]) -> Option<Duration> {
    let mut details = Fields(status);
    while let Some((field, value)) = details.next() {
        let (3, Read::Bytes(any)) = (field, value) else { continue };
        let (mut is_retry, mut info) = (false, &[][..]);
        let mut fields = Fields(any);
        while let Some((field, value)) = fields.next() {
            match (field, value) {
                (1, Read::Bytes(url)) => is_retry = url.ends_with(b"/google.rpc.RetryInfo"),
                (2, Read::Bytes(value)) => info = value,
                _ => {}
            }
        }
        if is_retry {
            return Some(duration(info));
        }
    }
    None
}

/// `RetryInfo.retry_delay`; one that is negative or left out is none.
fn duration(info: &[u8]) -> Duration {
    let (mut seconds, mut nanos) = (0, 0);
    let mut info = Fields(info);
    while let Some((1, Read::Bytes(delay))) = info.next() {
        let mut delay = Fields(delay);
        while let Some((field, Read::Number(number))) = delay.next() {
            match field {
                1 => seconds = i64::try_from(number).unwrap_or_default(),
                2 => nanos = u32::try_from(number).unwrap_or_default(),
                _ => {}
            }
        }
    }
    Duration::from_secs(seconds.unsigned_abs()).saturating_add(Duration::from_nanos(nanos.into()))
}

#[derive(Clone, Copy)]
enum Value<'v> {
    Text(&'v str),
    Flag(bool),
    Number(i64),
    Fraction(f64),
}

/// A message that is being written.
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn tag(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn number(&mut self, field: u64, number: u64) {
        self.tag(field, 0);
        self.varint(number);
    }

    fn fixed64(&mut self, field: u64, number: u64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn fixed32(&mut self, field: u64, number: u32) {
        self.tag(field, 5);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn attribute(&mut self, field: u64, key: &str, value: Value<'_>) {
        self.message(field, |pair| {
            pair.text(1, key);
            pair.message(2, |any| match value {
                Value::Text(text) => any.text(1, text),
                Value::Flag(flag) => any.number(2, u64::from(flag)),
                Value::Number(number) => any.number(3, number as u64),
                Value::Fraction(fraction) => any.fixed64(4, fraction.to_bits()),
            });
        });
    }
}

/// The fields of a message that is being read; ends at the first that cannot be.
struct Fields<'m>(&'m [u8]);

enum Read<'m> {
    Number(u64),
    Bytes(&'m [u8]),
    /// Of a fixed width; nothing that is read has one.
    Other,
}

impl<'m> Fields<'m> {
    fn next(&mut self) -> Option<(u64, Read<'m>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Read::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Read::Bytes(bytes)
            }
            kind @ (1 | 5) => {
                let (_, rest) = self.0.split_at_checked(if kind == 1 { 8 } else { 4 })?;
                self.0 = rest;
                Read::Other
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_rejected_is_read_and_nonsense_is_nothing() {
        assert_eq!(rejected(&[]), (0, String::new()));
        assert_eq!(rejected(b"\x0a\x08\x08\x96\x01\x12\x03why"), (150, "why".to_owned()));
        for end in 0..10 {
            let _ = rejected(&b"\x0a\x08\x08\x96\x01\x12\x03why"[..end]);
        }
        assert_eq!(rejected(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), (0, String::new()));
        assert_eq!(rejected(b"\x0a\xff\xff\xff\xff\x0fabc"), (0, String::new()));
    }
}
