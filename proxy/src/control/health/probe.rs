//! One check of one endpoint, over a connection that is kept for the next.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use config::health::{Check, Health};
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Uri, Version};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::context::Shared;
use crate::control::health::answer::{Answer, request};
use crate::control::health::board::Finding;
use crate::endpoint::Endpoint;
use crate::grpc::timeout::format as format_timeout;
use crate::tls::credentials::Client;
use crate::tls::expiry::{Expiry, Now, Stage};
use crate::upstream::connect::{Connected, connect};

const PATH: &str = "/grpc.health.v1.Health/Check";
/// An answer that is longer is none.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How an endpoint is checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) service: Arc<str>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) tls: Option<Arc<Client>>,
    pub(crate) user_timeout: Duration,
    pub(crate) health: Arc<Health>,
}

/// The way to an endpoint.
#[derive(Debug)]
pub(crate) struct Prober {
    shared: Arc<Shared>,
    kept: Option<Kept>,
}

/// A connection, closed when dropped.
#[derive(Debug)]
struct Kept {
    /// Empty as soon as the endpoint takes no more calls on it.
    sender: Rc<RefCell<Option<SendRequest<Bytes>>>>,
    task: AbortHandle,
    /// By the certificates of both.
    expiry: Option<Expiry>,
    tls: Option<Arc<Client>>,
}

/// What a check came to, and why in words.
pub(crate) type Found = (Finding, String);

impl Prober {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, kept: None }
    }

    /// Checks once, within `health.timeout`. Dropped before its end, it leaves nothing behind.
    pub(crate) async fn check(&mut self, plan: &Plan) -> Found {
        let limit = plan.health.timeout;
        match timeout(limit, self.try_check(plan)).await {
            Ok(found) => found,
            Err(_) => {
                // Whatever is wrong with it, the next check had better find out whether another one can be had.
                let what = if self.kept.take().is_some() { "answer" } else { "connection" };
                (Finding::Timeout, format!("no {what} within {limit:?}"))
            }
        }
    }

    async fn try_check(&mut self, plan: &Plan) -> Found {
        let Check::Grpc { service } = &plan.health.check else {
            self.kept = None;
            return match self.reach(plan).await {
                Ok(()) => (Finding::Healthy, String::new()),
                Err(why) => (Finding::Unreachable, why),
            };
        };
        // An endpoint that has closed the connection since is not to blame for it, if a new one can be had.
        if self.kept.take_if(|kept| !kept.serves(plan)).is_none()
            && let Some(kept) = &self.kept
            && let Ok(found) = kept.ask(plan, service).await
        {
            return found;
        }
        self.kept = None;
        let kept = match self.open(plan).await {
            Ok(kept) => self.kept.insert(kept),
            Err(why) => return (Finding::Unreachable, why),
        };
        match kept.ask(plan, service).await {
            Ok(found) => found,
            Err(error) => {
                self.kept = None;
                (Finding::Unreachable, format!("the connection was lost: {error}"))
            }
        }
    }

    /// Connects, and nothing more: by TCP, and to the endpoint's sidecar by TLS and HTTP/2, so that it is known that it
    /// takes us for one of the mesh.
    async fn reach(&self, plan: &Plan) -> Result<(), String> {
        if plan.tls.is_some() {
            return self.open(plan).await.map(drop);
        }
        let dialled = self.shared.dialled.dial(plan.endpoint.address, plan.user_timeout).await;
        dialled.map(drop).map_err(|error| format!("connect: {error}"))
    }

    async fn open(&self, plan: &Plan) -> Result<Kept, String> {
        let Shared { limits, dialled, .. } = &*self.shared;
        let connected =
            connect(&plan.endpoint, plan.tls.as_ref(), plan.user_timeout, limits, dialled).await?;
        let sender = Rc::new(RefCell::new(Some(connected.sender.clone())));
        let expiry = connected.expiry;
        let task = tokio::task::spawn_local(drive(connected, sender.clone())).abort_handle();
        Ok(Kept { sender, task, expiry, tls: plan.tls.clone() })
    }
}

impl Kept {
    /// Whether it is still such as would be opened now.
    fn serves(&self, plan: &Plan) -> bool {
        let same_tls = match (&self.tls, &plan.tls) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs) || ours.is_widened_by(theirs),
            _ => false,
        };
        same_tls
            && self.sender.borrow().is_some()
            && self.expiry.is_none_or(|expiry| expiry.stage(Now::read()) == Stage::Good)
    }

    /// Asks; an error means that there was no answer, and that the connection is of no more use.
    async fn ask(&self, plan: &Plan, service: &str) -> Result<Found, h2::Error> {
        let sender = self.sender.borrow().clone();
        let Some(sender) = sender else { return Err(h2::Reason::NO_ERROR.into()) };
        let Some(head) = head(plan) else {
            return Ok((Finding::Error, "its name makes no `:authority`".to_owned()));
        };
        let (response, mut stream) = sender.ready().await?.send_request(head, false)?;
        stream.send_data(request(service).into(), true)?;
        let (head, mut body) = match response.await {
            Ok(response) => response.into_parts(),
            Err(error) => return reset(error),
        };
        let mut answer = Answer { http: head.status, head: head.headers, ..Answer::default() };
        while let Some(chunk) = body.data().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return reset(error),
            };
            let _ = body.flow_control().release_capacity(chunk.len());
            if answer.body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Ok((Finding::Error, format!("its answer is longer than {ANSWER_BYTES_MAX} bytes")));
            }
            answer.body.extend_from_slice(&chunk);
        }
        answer.trailers = match body.trailers().await {
            Ok(trailers) => trailers,
            Err(error) => return reset(error),
        };
        Ok(answer.judge(service))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stream that is reset on a connection that stays is an answer of its kind.
fn reset(error: h2::Error) -> Result<Found, h2::Error> {
    match error.is_reset() && error.reason() != Some(h2::Reason::REFUSED_STREAM) {
        true => Ok((Finding::Error, error.to_string())),
        false => Err(error),
    }
}

fn head(plan: &Plan) -> Option<Request<()>> {
    let scheme = if plan.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(&*plan.service).path_and_query(PATH).build().ok()?;
    let mut head = Request::new(());
    *head.method_mut() = Method::POST;
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let agent = concat!("outrigger-health/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    headers.insert("grpc-timeout", HeaderValue::try_from(format_timeout(plan.health.timeout)).ok()?);
    Some(head)
}

/// Drives a connection to its end. One on which the endpoint says goodbye is closed at once, so that nobody who leaves
/// waits for us.
async fn drive(connected: Connected, shared: Rc<RefCell<Option<SendRequest<Bytes>>>>) {
    let Connected { sender, mut connection, turn, remembered: _remembered, .. } = connected;
    let mut probe = Some(sender);
    poll_fn(|cx| {
        loop {
            turn.begin();
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let left = |probe: &mut SendRequest<Bytes>| matches!(probe.poll_ready(cx), Poll::Ready(Err(_)));
            if !probe.as_mut().is_some_and(left) {
                return Poll::Pending;
            }
            // With no handle left, h2 closes once the last stream is over.
            probe = None;
            shared.borrow_mut().take();
        }
    })
    .await;
    shared.borrow_mut().take();
}
