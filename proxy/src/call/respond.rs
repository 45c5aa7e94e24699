//! The answer's side of a call, and the one place that turns a failure into what the caller sees.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as H2Reason, SendStream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use tokio::time::timeout;

use crate::call::head::UNPROCESSED;
use crate::call::leave::Leave;
use crate::call::origin::Link;
use crate::call::pump::Pump;
use crate::context::Context;
use crate::failure::{Failure, MESSAGE_BYTES_MAX, clip};
use crate::grpc::status::{Code, STATUS, encode_message, error_details};
use crate::metrics::calls::Direction;
use crate::metrics::events::Revocation;

/// How long the last bytes of a failed call may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// The caller, as the call's task speaks to it.
pub(crate) struct Caller {
    respond: SendResponse<Bytes>,
    /// Present once the response's head has gone out.
    stream: Option<SendStream<Bytes>>,
    link: Rc<Link>,
    /// Of a call from the mesh that was let in.
    pub(crate) leave: Option<Leave>,
    grpc: bool,
    /// Its answer may have no body (HEAD).
    bodyless: bool,
    status: Option<StatusCode>,
}

/// Where a call was when it failed; goes into the message and the details.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) phase: &'static str,
    pub(crate) endpoint: Option<String>,
    pub(crate) attempts: u32,
}

impl Caller {
    /// `grpc`: it reads `grpc-status`; else an HTTP status alone tells it of failures.
    pub(crate) fn new(respond: SendResponse<Bytes>, link: Rc<Link>, grpc: bool, method: &Method) -> Self {
        Self {
            respond,
            stream: None,
            link,
            leave: None,
            grpc,
            bodyless: method == Method::HEAD,
            status: None,
        }
    }

    /// Why the call may not go on; `None`: it may.
    pub(crate) fn revoked(&mut self) -> Option<Revocation> {
        self.leave.as_mut()?.revoked()
    }

    /// The HTTP status that has gone out.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Ready when the caller has reset the stream or its connection is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.poll_reason(cx).map(drop)
    }

    fn poll_reason(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<H2Reason, h2::Error>> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        }
    }

    /// Whether a caller that is gone has reset the call, and not just lost its connection.
    pub(crate) async fn has_reset(&mut self) -> bool {
        let seen = poll_fn(|cx| Poll::Ready(self.poll_reason(cx))).await;
        matches!(seen, Poll::Ready(Ok(_)))
    }

    /// Whether its connection is being ended, because the sidecar has no more time.
    pub(crate) fn is_ending(&self) -> bool {
        self.link.is_ending()
    }

    /// Whether the head of a response has gone out.
    pub(crate) fn is_answered(&self) -> bool {
        self.stream.is_some()
    }

    /// Sends the head of the endpoint's response; with `end`, that is all of it.
    pub(crate) fn head(&mut self, response: Response<()>, end: bool) -> Result<(), h2::Error> {
        self.status = Some(response.status());
        self.stream = Some(self.respond.send_response(response, end)?);
        Ok(())
    }

    /// Where the response's DATA goes, once its head has gone out.
    pub(crate) fn stream(&mut self) -> Option<&mut SendStream<Bytes>> {
        self.stream.as_mut()
    }

    /// Ends a response that is not gRPC.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
        match (&mut self.stream, trailers) {
            (Some(stream), Some(trailers)) => stream.send_trailers(trailers),
            (Some(stream), None) => stream.send_data(Bytes::new(), true),
            (None, _) => Ok(()),
        }
    }

    /// Ends the response with the endpoint's trailers.
    pub(crate) fn trailers(&mut self, mut trailers: HeaderMap) -> Result<(), h2::Error> {
        // A word between sidecars, and not said here: a call that has a head has been processed.
        trailers.remove(UNPROCESSED);
        match &mut self.stream {
            Some(stream) => stream.send_trailers(trailers),
            None => Ok(()),
        }
    }

    /// Refuses a request by an HTTP status alone, as h2 does a header list that is too long.
    pub(crate) fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // A caller that is gone needs no answer.
        let _ = self.respond.send_response(response, true);
    }

    /// Ends the call with a failure of ours: trailers-only if nothing has been answered, else trailers,
    /// after what was left of the response; RST_STREAM(CANCEL) if they cannot leave within a second.
    pub(crate) async fn fail(
        &mut self,
        context: &Context,
        direction: Direction,
        failure: &Failure,
        place: &Place,
        rest: Option<&mut Pump>,
    ) -> Code {
        context.events().fail(direction, failure.reason);
        if !self.grpc {
            self.fail_http(direction, failure, place);
            return failure.code;
        }
        let fields = status_fields(direction, failure, place);
        let Some(stream) = &mut self.stream else {
            let mut response = Response::new(());
            *response.headers_mut() = fields;
            // Only here: once a head has gone out, the app has seen the call, whatever ended it.
            if failure.unprocessed && direction == Direction::Inbound {
                response.headers_mut().insert(UNPROCESSED, HeaderValue::from_static("1"));
            }
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let _ = self.respond.send_response(response, true);
            return failure.code;
        };
        let mut flushed = true;
        if let Some(rest) = rest {
            flushed = timeout(FLUSH, poll_fn(|cx| rest.poll_flush(cx, stream))).await.is_ok();
        }
        let sent = flushed && stream.send_trailers(fields).is_ok() && self.link.turn.writes_out(FLUSH).await;
        if !sent && let Some(stream) = &mut self.stream {
            context.events().flush_resets.add(1);
            stream.send_reset(H2Reason::CANCEL);
        }
        failure.code
    }

    /// Ends a request that is not gRPC: with an HTTP status and a text, or by a reset where a head has gone out.
    fn fail_http(&mut self, direction: Direction, failure: &Failure, place: &Place) {
        if let Some(stream) = &mut self.stream {
            return stream.send_reset(H2Reason::INTERNAL_ERROR);
        }
        let mut text = message(direction, failure, place);
        text.push('\n');
        let mut response = Response::new(());
        *response.status_mut() = failure.http_status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // A caller that is gone needs no answer.
        if self.head(response, self.bodyless).is_ok()
            && !self.bodyless
            && let Some(stream) = &mut self.stream
        {
            let _ = stream.send_data(text.into(), true);
        }
    }
}

/// What is said of a failure, in words.
fn message(direction: Direction, failure: &Failure, place: &Place) -> String {
    let mut message = format!("outrigger {}: {}", direction.as_str(), failure.message);
    if !place.phase.is_empty() {
        message.push_str(&format!("; phase {}", place.phase));
    }
    if let Some(endpoint) = &place.endpoint {
        message.push_str(&format!("; endpoint {endpoint}"));
    }
    if place.attempts > 0 {
        message.push_str(&format!("; attempts {}", place.attempts));
    }
    message
}

/// `grpc-status`, `grpc-message` and `grpc-status-details-bin`.
fn status_fields(direction: Direction, failure: &Failure, place: &Place) -> HeaderMap {
    let attempts = place.attempts.to_string();
    let message = message(direction, failure, place);
    let mut metadata = vec![("hop", direction.as_str())];
    if !place.phase.is_empty() {
        metadata.push(("phase", place.phase));
    }
    if let Some(endpoint) = &place.endpoint {
        metadata.push(("endpoint", endpoint));
    }
    if place.attempts > 0 {
        metadata.push(("attempts", &attempts));
    }
    let message = clip(&message, MESSAGE_BYTES_MAX);
    let details = error_details(failure.code, message, failure.reason.as_str(), &metadata);
    let mut fields = HeaderMap::with_capacity(5);
    fields.insert(STATUS, HeaderValue::from(u16::from(failure.code.number())));
    if let Ok(value) = HeaderValue::try_from(encode_message(message)) {
        fields.insert("grpc-message", value);
    }
    if let Ok(value) = HeaderValue::try_from(details) {
        fields.insert("grpc-status-details-bin", value);
    }
    fields
}
