//! The response of the endpoint that a call is committed to, on its way to the caller, to its status.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Sleep;

use crate::call::answer::{Answered, Stop, Tail};
use crate::call::attempt::Attempt;
use crate::call::exchange::Exchange;
use crate::call::origin::Origin;
use crate::call::pump::{Broken, Pump};
use crate::call::respond::Place;
use crate::call::still::Still;
use crate::call::verdict::poll_stop;
use crate::failure::{Failure, Reason};
use crate::grpc::status::Code;
use crate::metrics::calls::Direction;
use crate::metrics::counter::Counter;

/// A response whose head has gone on.
pub(crate) struct Reply {
    body: Pump,
    http: StatusCode,
    /// `grpc-status`, if it stood in the head.
    status: Option<Code>,
}

/// How the relay of a response ended.
enum End {
    Trailers(Option<HeaderMap>),
    Lost(h2::Error),
    Stopped(Stop),
}

impl<'a> Exchange<'a> {
    /// Sends the head of the response on; `Err` if that was all of it, or the caller is gone.
    pub(crate) fn begin_response(&mut self, attempt: &Attempt, answered: Answered) -> Result<Reply, Code> {
        self.request.commit();
        let Answered { response, tail } = answered;
        let over = matches!(tail, Tail::Nothing);
        let (mut parts, body) = response.into_parts();
        if let Some(rules) = self.plan.headers {
            rules.response.apply(&mut parts.headers);
        }
        let (http, status) = (parts.status, Code::of_headers(&parts.headers));
        if !over && self.grpc {
            // Trailers of ours may end it before so much has come.
            parts.headers.remove(CONTENT_LENGTH);
        }
        if self.caller.head(Response::from_parts(parts, ()), over).is_err() {
            return Err(Code::Cancelled);
        }
        if over {
            let code = status.unwrap_or(Code::of_http(http));
            if code == Code::Ok {
                self.judge().learn(attempt, Some(code));
            }
            return Err(code);
        }
        let tally = self.trail.tallies().map(|(_, response)| response);
        let mut body = Pump::new(body, attempt.held()).noted(tally).behind(self.barrier.take());
        match tail {
            Tail::More(Some(chunk)) => body.begin_with(chunk, self.response_count()),
            Tail::Trailers(trailers) => body.end_with(trailers),
            Tail::Nothing | Tail::More(None) => {}
        }
        Ok(Reply { body, http, status })
    }

    /// Relays the rest of a response, to its status.
    pub(crate) async fn relay(
        &mut self,
        attempt: &mut Attempt,
        response: &mut Reply,
        mut timer: Pin<&mut Option<Sleep>>,
        place: &mut Place,
        origin: &Origin,
    ) -> Code {
        place.phase = "stream";
        let failure = match self.exchange(attempt, &mut response.body, timer.as_mut()).await {
            End::Trailers(trailers) if !self.grpc => {
                return if self.caller.finish(trailers).is_ok() { Code::Ok } else { Code::Cancelled };
            }
            End::Trailers(trailers) => {
                // Of trailers that are too long, h2 hands out the beginning.
                let said = |trailers: &HeaderMap| Code::of_headers(trailers).or(response.status);
                match trailers.and_then(|trailers| Some((said(&trailers)?, trailers))) {
                    Some((code, trailers)) => {
                        self.judge().learn(attempt, Some(code));
                        return if self.caller.trailers(trailers).is_ok() { code } else { Code::Cancelled };
                    }
                    None => {
                        self.judge().learn(attempt, None);
                        response.without_status()
                    }
                }
            }
            End::Lost(error) => {
                self.judge().learn(attempt, None);
                attempt.lost(&error).0
            }
            End::Stopped(stop) => {
                attempt.cancel();
                place.endpoint = Some(attempt.endpoint().name.clone());
                return self.stopped(stop, place, origin, Some(&mut response.body)).await;
            }
        };
        place.endpoint = Some(attempt.endpoint().name.clone());
        self.fail(&failure, place, Some(&mut response.body)).await
    }

    /// Moves both directions until the response ends.
    async fn exchange(
        &mut self,
        attempt: &mut Attempt,
        response: &mut Pump,
        mut timer: Pin<&mut Option<Sleep>>,
    ) -> End {
        let (request_count, response_count) = (self.request_count(), self.response_count());
        let mut idle = Still::default();
        poll_fn(|cx| {
            if let Poll::Ready(stop) = attempt.poll_request(cx, &mut self.request, request_count) {
                return Poll::Ready(End::Stopped(stop));
            }
            let Some(stream) = self.caller.stream() else {
                return Poll::Ready(End::Stopped(Stop::CallerGone));
            };
            match response.poll_response(cx, stream, response_count) {
                Poll::Ready(Ok(trailers)) => return Poll::Ready(End::Trailers(trailers)),
                Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(End::Lost(error)),
                Poll::Ready(Err(Broken::Stalled)) => return Poll::Ready(End::Stopped(Stop::CallerStalled)),
                Poll::Ready(Err(Broken::Cut(code))) => return Poll::Ready(End::Stopped(Stop::Cut(code))),
                Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::Stopped(Stop::CallerGone)),
                Poll::Pending => {}
            }
            if let Poll::Ready(stop) = poll_stop(cx, timer.as_mut(), self.caller) {
                return Poll::Ready(End::Stopped(stop));
            }
            self.trail.poll_open(cx);
            let Some(limit) = self.plan.idle else { return Poll::Pending };
            let moved = self.request.moved() + response.moved();
            idle.poll(cx, moved, limit).map(|()| End::Stopped(Stop::Idle))
        })
        .await
    }

    /// Messages of the response: sent by a server, received by a client.
    fn response_count(&self) -> &'a Counter {
        match self.direction {
            Direction::Inbound => &self.series.sent,
            Direction::Outbound => &self.series.received,
        }
    }
}

impl Reply {
    /// Why a response fails that has ended without `grpc-status` in trailers.
    fn without_status(&self) -> Failure {
        if self.http != StatusCode::OK {
            let message = format!("the endpoint answered HTTP {} and no grpc-status", self.http.as_u16());
            return Failure::new(Reason::MissingStatus, Code::of_http(self.http), message);
        }
        let cut = if self.body.at_boundary() { "" } else { " in the middle of a message" };
        let message = format!("the endpoint ended the stream without a status{cut}");
        Failure::new(Reason::MissingStatus, Code::Internal, message)
    }
}
