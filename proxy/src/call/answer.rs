//! What an attempt comes to: a response, or why there is none.

use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Response, StatusCode};

use crate::call::pump::Broken;
use crate::call::retry::Pushback;
use crate::failure::Failure;
use crate::grpc::status::Code;
use crate::metrics::events::{Outcome, Revocation};

/// What an attempt came to, as far as the head of the response.
pub(crate) enum Answer {
    Response(Answered),
    /// Nothing of it was processed, says the endpoint.
    Refused(Failure),
    /// It took longer than an attempt may.
    TimedOut(Duration),
    /// It broke; it may have been processed.
    Broken(Failure),
    /// The call is over for other reasons.
    Stopped(Stop),
}

/// A response of which the head is here.
pub(crate) struct Answered {
    pub(crate) response: Response<RecvStream>,
    pub(crate) tail: Tail,
}

/// What is known of a response behind its head.
pub(crate) enum Tail {
    /// The head is all of it.
    Nothing,
    /// There may be more; DATA of it may have been met on the way to find that out.
    More(Option<Bytes>),
    /// No message came, and these trailers, if any.
    Trailers(Option<HeaderMap>),
}

impl Answer {
    /// As what it counts.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Response(_) => Outcome::Answered,
            Self::Refused(_) => Outcome::Refused,
            Self::Broken(_) => Outcome::Broken,
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::Stopped(stop) => stop.outcome(),
        }
    }

    /// Why there is no response, in words.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Response(_) => "",
            Self::Refused(failure) | Self::Broken(failure) => &failure.message,
            Self::TimedOut(_) => "per_attempt_timeout",
            Self::Stopped(stop) => stop.as_str(),
        }
    }
}

impl Answered {
    /// Whether nothing is known of what follows the head.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.tail, Tail::More(None)) && self.response.status() == StatusCode::OK
    }

    /// Looks at what follows the head: ready with the first DATA, or with the end.
    pub(crate) fn poll_tail(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Tail, h2::Error>> {
        let body = self.response.body_mut();
        loop {
            match ready!(body.poll_data(cx)) {
                // Empty, and not the end.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Poll::Ready(Ok(Tail::More(Some(chunk)))),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return body.poll_trailers(cx).map_ok(Tail::Trailers),
            }
        }
    }

    /// How the call has failed, if this is a whole response that says so.
    pub(crate) fn failure(&self) -> Option<(Code, Pushback)> {
        let head = self.response.headers();
        let http = self.response.status();
        let (code, said) = match &self.tail {
            Tail::Trailers(Some(trailers)) => {
                (Code::of_headers(trailers).or(Code::of_headers(head)), trailers)
            }
            Tail::Nothing | Tail::Trailers(None) => (Code::of_headers(head), head),
            // What is not gRPC, such as the error page of another proxy, is no answer of the service.
            Tail::More(_) if http != StatusCode::OK => (Code::of_headers(head), head),
            Tail::More(_) => return None,
        };
        let code = code.unwrap_or(if http == StatusCode::OK { Code::Internal } else { Code::of_http(http) });
        (code != Code::Ok).then(|| (code, Pushback::of(said)))
    }
}

/// What ends a call before its endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Deadline,
    /// The caller has reset the call, or its connection is gone.
    CallerGone,
    /// Nothing has moved for as long as the route lets a stream be idle.
    Idle,
    /// The endpoint fetches nothing of the request; see [`Broken::Stalled`].
    EndpointStalled,
    /// The caller fetches nothing of the response.
    CallerStalled,
    /// Another attempt of the same call was faster.
    Outrun,
    /// The sidecar has no more time.
    ShuttingDown,
    /// A fault on purpose ends it with this status.
    Cut(Code),
    /// Its caller may not call any more.
    Revoked(Revocation),
}

impl Stop {
    /// The word in notes of an attempt.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::CallerGone => "caller gone",
            Self::Idle => "idle",
            Self::EndpointStalled => "endpoint stalled",
            Self::CallerStalled => "caller stalled",
            Self::Outrun => "outrun",
            Self::ShuttingDown => "shutting down",
            Self::Cut(_) => "fault on purpose",
            Self::Revoked(_) => "not allowed any more",
        }
    }

    /// As what it counts for the attempt that it ends while that waits for a place on a connection.
    pub(crate) fn outcome_unsent(self) -> Outcome {
        match self.outcome() {
            Outcome::Broken => Outcome::NeverSent,
            outcome => outcome,
        }
    }

    /// As what it counts for the attempt that it ends.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Outrun => Outcome::Outrun,
            Self::ShuttingDown => Outcome::Broken,
            Self::Deadline | Self::CallerGone | Self::Cut(_) | Self::Revoked(_) => Outcome::Abandoned,
            Self::Idle | Self::EndpointStalled | Self::CallerStalled => Outcome::Broken,
        }
    }
}

impl From<Broken> for Stop {
    /// What it means for a call that its request cannot go on.
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stalled => Self::EndpointStalled,
            Broken::Cut(code) => Self::Cut(code),
            Broken::Source(_) | Broken::Sink => Self::CallerGone,
        }
    }
}
