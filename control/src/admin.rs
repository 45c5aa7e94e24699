//! HTTP/1.1 for people, Prometheus and the kubelet.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, spawn_blocking};
use xds::audience::Certificates;
use xds::{Audience, Client};

use crate::ads::hub::Hub;
use crate::ca::show::page;
use crate::counters::Refusal;
use crate::metrics::Exporter;
use crate::show;

/// Connections at a time. One more ends the oldest: silent ones must not keep the kubelet from its answer.
const CONNECTIONS_MAX: usize = 256;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the pages are made of.
pub(crate) struct Pages {
    pub(crate) exporter: Exporter,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leaving: AtomicBool,
}

/// Serves the listener for as long as the process lives.
pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let Ok((tcp, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            pages.exporter.counters.refuse(Refusal::Pages);
            oldest.abort();
        }
        let pages = pages.clone();
        let connection = tokio::spawn(async move {
            let answer = service_fn(|request| paged(pages.clone(), request, from.ip()));
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

/// Whether a page is shown to whoever asks from there. What tells the mesh is for those on this host: nothing is asked of callers
/// here, and who may be on the network may not know all services, endpoints and identities.
fn is_shown(path: &str, from: IpAddr) -> bool {
    matches!(path, "/metrics" | "/ready" | "/live") || from.to_canonical().is_loopback()
}

/// Pages on a thousand proxies or services take their time: they are made where streams need not wait for them. Probes are
/// answered at once, whatever else is going on.
async fn paged(
    pages: Arc<Pages>,
    request: Request<Incoming>,
    from: IpAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if matches!(request.uri().path(), "/ready" | "/live") {
        return Ok(answer(&pages, &request, from));
    }
    let made = spawn_blocking(move || answer(&pages, &request, from)).await;
    Ok(made.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n"))))
}

fn answer(pages: &Pages, request: &Request<Incoming>, from: IpAddr) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    if !is_shown(request.uri().path(), from) {
        let rule = "from other hosts there are /metrics, /ready and /live; ask on loopback for the rest, \
            as `kubectl port-forward` does\n";
        return text(StatusCode::FORBIDDEN, rule);
    }
    match request.uri().path() {
        "/metrics" => match pages.exporter.text() {
            Ok(metrics) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" if pages.leaving.load(Ordering::Relaxed) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n")
        }
        "/ready" => text(StatusCode::OK, "ready\n"),
        "/proxies" => json(&pages.hub.registry().page()),
        "/mesh" => json(&show::mesh(&pages.exporter)),
        "/ca" => match pages.hub.ca() {
            Some(ca) => json(&page(ca, SystemTime::now())),
            None => text(
                StatusCode::NOT_FOUND,
                "this control plane signs no certificates; `ca` would have it do so\n",
            ),
        },
        "/resources" => resources(pages, request.uri().query()),
        _ => {
            let there = "here are /proxies, /mesh, /ca, /resources, /resources?proxy=ID, /metrics, /ready and /live\n";
            text(StatusCode::NOT_FOUND, there)
        }
    }
}

/// What a proxy is to hold; without one, what any of our own sidecars would if it asked for everything.
fn resources(pages: &Pages, query: Option<&str>) -> Response<Full<Bytes>> {
    let asked =
        query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("proxy="));
    let Some(id) = asked.map(decoded) else {
        let own = Audience { client: Client::Outrigger, certificates: Some(Certificates::Own) };
        // Nobody waits for a lock while it is encoded.
        let world = pages.exporter.worlds.borrow().clone();
        let set = world.set(&own);
        let all = xds::Kind::ALL.into_iter().flat_map(|kind| set.all(kind));
        return json(&show::resources(all));
    };
    match pages.hub.registry().resources(&id) {
        Some(resources) => json(&show::resources(&resources)),
        None => text(StatusCode::NOT_FOUND, &format!("no proxy `{id}` is connected; /proxies lists them\n")),
    }
}

/// Undoes `%7E` and `+`, as tools write what stands in a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_learn_nothing_of_the_mesh() {
        let all = [
            "/proxies",
            "/mesh",
            "/ca",
            "/resources",
            "/metrics",
            "/ready",
            "/live",
            "/",
            "//mesh",
            "/metrics/",
        ];
        let shown = |from: &str| {
            let from = from.parse().unwrap();
            all.into_iter().filter(|path| is_shown(path, from)).collect::<Vec<_>>()
        };
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(shown(here), all, "{here}");
        }
        for elsewhere in ["10.0.0.7", "::ffff:10.0.0.7", "fe80::1", "0.0.0.0", "::"] {
            assert_eq!(shown(elsewhere), ["/metrics", "/ready", "/live"], "{elsewhere}");
        }
    }

    #[test]
    fn what_a_query_has_escaped_is_undone() {
        assert_eq!(decoded("orders.shop~host~7f"), "orders.shop~host~7f");
        assert_eq!(decoded("orders.shop%7Ehost+a%2b%"), "orders.shop~host a+%");
        assert_eq!(decoded("%zz%e4"), "%zz\u{fffd}");
    }
}
