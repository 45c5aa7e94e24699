//! HTTP/1.1 for people, Prometheus and the kubelet.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::context::Shared;
use crate::control::export::Exporter;
use crate::control::health::board::Board;
use crate::control::journal::Journal;
use crate::control::show;
use crate::explain::question::Known;
use crate::explain::{decision, listing, query};

/// Connections to one of the two listeners at a time. One more ends the oldest: silent ones must not keep the
/// kubelet from its answer, which would take the pod out of service.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the pages are made of.
pub(crate) struct Pages {
    pub(crate) shared: Arc<Shared>,
    pub(crate) exporter: Exporter,
    pub(crate) journal: Arc<Journal>,
    pub(crate) board: Arc<Board>,
}

/// Which listener is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Scrapes and probes from outside the pod: `/metrics`, `/ready`, `/live`.
    Probes,
    /// Operators on this host: those and `/config`, `/clusters`, `/routes`, `/explain`.
    Admin,
}

/// Serves a listener for as long as the process lives.
pub(crate) async fn serve(listener: TcpListener, audience: Audience, pages: Arc<Pages>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let pages = pages.clone();
        let connection = tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&pages, audience, &request);
                async { Ok::<_, Infallible>(response) }
            });
            // A client that breaks off is its own affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(tcp), answer)
                .await;
        });
        open.push_back(connection.abort_handle());
    }
}

fn answer(pages: &Pages, audience: Audience, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match (request.uri().path(), audience) {
        ("/metrics", _) => match pages.exporter.text() {
            Ok(metrics) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        ("/live", _) => text(StatusCode::OK, "live\n"),
        ("/ready", _) => match show::not_ready(&pages.journal, &pages.shared) {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
        },
        ("/config", Audience::Admin) => json(&show::config(&pages.journal, &pages.shared)),
        ("/clusters", Audience::Admin) => json(&show::clusters(&pages.shared, &pages.board)),
        ("/routes", Audience::Admin) => json(&listing::routes(&pages.shared.tables.load())),
        ("/explain", Audience::Admin) => explain(pages, request.uri().query().unwrap_or_default()),
        (_, Audience::Admin) => text(
            StatusCode::NOT_FOUND,
            "here are /metrics, /ready, /live, /config, /clusters, /routes and /explain\n",
        ),
        (_, Audience::Probes) => text(StatusCode::NOT_FOUND, "here are /metrics, /ready and /live\n"),
    }
}

/// Where a call would go by the snapshot in force, and why.
fn explain(pages: &Pages, query: &str) -> Response<Full<Bytes>> {
    match query::read(query) {
        Ok(call) => {
            let now = pages.shared.clock.nanos(tokio::time::Instant::now());
            json(&decision::explain(&pages.shared.tables.load(), &call, Known::Live(now)))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    }
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{value:#}\n").into_bytes())
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
