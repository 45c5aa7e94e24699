//! HTTP/2 that is not gRPC and does not go well: an HTTP status and a line of text, and nothing is repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bench::client::Client;
use bench::closed::ClosedPort;
use bench::wait::until;
use h2::Reason;
use http::Method;

use crate::kit::{FAILURES, counts, none_left};
use crate::pair::peer::{self, Peer};
use crate::pair::{ECHO, ECHO_ID, Site, UNARY, around, mesh, metric};
use crate::web::{self, Web, request};

const REQUESTS: &str = "outrigger_http_requests_total";
const IN_FLIGHT: &str = "outrigger_calls_in_flight";

#[tokio::test]
async fn who_names_no_service_or_two_is_told_so_by_the_nearer_sidecar() {
    let app = web::app().await;
    let (_site, _callee, caller) = around(app.addr, "").await;
    let web = Web::connect(caller.outbound()).await;
    let unknown = web.get("nobody.example", "/").await;
    unknown.assert_failed(404, "outrigger outbound: no service of the mesh answers to `nobody.example`");

    let mut two = request(Method::GET, ECHO, "/");
    two.headers_mut().insert("host", "other.shop".parse().expect("a value"));
    web.ask(two).await.assert_failed(400, "outrigger outbound: :authority and host differ");

    let labels = |code| [("direction", "outbound"), ("code", code)];
    counts(&caller, REQUESTS, &labels("4xx"), 2).await;
    counts(&caller, REQUESTS, &[], 2).await;
    for reason in ["UNKNOWN_SERVICE", "MALFORMED_REQUEST"] {
        counts(&caller, FAILURES, &[("reason", reason)], 1).await;
    }
    assert_eq!(web.get(ECHO, "/").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_path_is_let_in_as_a_method_is_and_else_forbidden() {
    let (app, site) = (web::app().await, Site::new());
    let rules = "    inbound:\n      authorization: [{allow: {methods: [web.Pages/Get]}}]";
    let callee = site.callee_as(&site.ca.leaf(ECHO_ID), app.addr, "", rules).await;
    let caller = site.caller(&mesh(&[callee.inbound()], PATIENT), "").await;
    let web = Web::connect(caller.outbound()).await;
    let allowed = web.get(ECHO, "/web.Pages/Get?a=1").await;
    assert_eq!((allowed.status, allowed.header("x-path")), (200, "/web.Pages/Get?a=1"));
    for path in ["/", "/web.Pages/Put", "/web.Pages/Get/", "//web.Pages/Get", "/web.Pages/../web.Pages/Get"] {
        let told = web.get(ECHO, path).await;
        told.assert_failed(403, "outrigger inbound: spiffe://cluster.local/ns/shop/sa/shopper may not call ");
    }
    counts(&callee, FAILURES, &[("reason", "NOT_ALLOWED")], 5).await;
    counts(&callee, REQUESTS, &[("code", "4xx")], 5).await;
}

#[tokio::test]
async fn an_app_that_is_away_is_a_503_of_the_sidecar_beside_it() {
    let away = ClosedPort::take().expect("a port");
    let (_site, callee, caller) = around(away.addr, "").await;
    let web = Web::connect(caller.outbound()).await;
    let text = "outrigger inbound: no endpoint of echo.shop could be reached: ";
    web.get(ECHO, "/").await.assert_failed(503, text);
    web.post(ECHO, "/", b"body").await.assert_failed(503, text);
    counts(&callee, FAILURES, &[("reason", "NEVER_SENT")], 2).await;
    // To the caller's it is an answer as any other.
    counts(&caller, FAILURES, &[], 0).await;
    counts(&caller, "outrigger_attempts_total", &[("outcome", "answered")], 2).await;
}

#[tokio::test]
async fn at_the_deadline_of_its_route_a_request_is_a_504_or_reset_once_its_answer_has_begun() {
    let (app, site) = (web::app().await, Site::new());
    let callee = site.callee(app.addr, "").await;
    let deadline = format!("{PATIENT}\n    deadline: {{default: 1s}}");
    let caller = site.caller(&mesh(&[callee.inbound()], &deadline), "").await;
    let web = Web::connect(caller.outbound()).await;
    let late = web.get(ECHO, "/hang").await;
    late.assert_failed(504, "outrigger outbound: the call's 1s are over; phase ");

    let (response, _stream) = web.begin(request(Method::PUT, ECHO, "/stream"), false).await;
    let begun = web::answer(response).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let reset = begun.fault.and_then(|fault| fault.reason());
    assert_eq!(reset, Some(Reason::INTERNAL_ERROR), "no clean end");
    counts(&caller, FAILURES, &[("reason", "DEADLINE_EXCEEDED")], 2).await;
    none_left(&callee, IN_FLIGHT).await;
}

#[tokio::test]
async fn a_reset_is_a_502_before_the_answer_and_a_reset_after_it() {
    let app = web::app().await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let web = Web::connect(caller.outbound()).await;
    web.get(ECHO, "/reset").await.assert_failed(502, "outrigger inbound: the endpoint reset the stream: ");

    let later = web.get(ECHO, "/reset-later").await;
    assert_eq!((later.status, &later.body[..]), (200, &b"some"[..]), "{later:?}");
    assert!(later.fault.as_ref().is_some_and(h2::Error::is_reset), "{later:?}");
    counts(&callee, FAILURES, &[("reason", "ENDPOINT_RESET")], 2).await;
    // A head has gone out, so that is what it is counted by.
    for sidecar in [&caller, &callee] {
        counts(sidecar, REQUESTS, &[("code", "2xx")], 1).await;
        counts(sidecar, REQUESTS, &[("code", "5xx")], 1).await;
    }
}

#[tokio::test]
async fn past_the_limit_on_calls_it_is_a_503() {
    let app = web::app().await;
    let (_site, _callee, caller) = around(app.addr, "limits: {calls: 1}").await;
    let web = Web::connect(caller.outbound()).await;
    let (first, stream) = web.begin(request(Method::GET, ECHO, "/hang"), true).await;
    until("one in flight", async || metric(&caller, IN_FLIGHT, &[]).await == 1).await;
    let text = "outrigger outbound: 1 calls are in flight, which is the limit `calls`";
    web.get(ECHO, "/").await.assert_failed(503, text);
    drop((first, stream));
    none_left(&caller, IN_FLIGHT).await;
    assert_eq!(web.get(ECHO, "/").await.status, 200, "there is room again");
}

#[tokio::test]
async fn what_is_refused_is_not_repeated_though_it_was_not_processed() {
    let row = TwoRefuse::start().await;
    let web = Web::connect(row.caller.outbound()).await;
    web.get(ECHO, "/").await.assert_failed(503, "outrigger outbound: refused unprocessed: ");
    web.post(ECHO, "/", b"body").await.assert_failed(503, "outrigger outbound: refused unprocessed: ");
    assert_eq!(row.seen.load(Ordering::Relaxed), 2, "one attempt for each");
    // Of gRPC, such a call goes once more elsewhere.
    let client = Client::connect(row.caller.outbound(), None).await.expect("a connection");
    let outcome = client.unary(ECHO, UNARY, b"x").await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert_eq!(row.seen.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn what_was_never_sent_goes_to_the_next_endpoint() {
    let (app, site) = (web::app().await, Site::new());
    let away = ClosedPort::take().expect("a port");
    for path in ["/one", "/two", "/three", "/four", "/five"] {
        // A new sidecar knows of no endpoint that it is down; which one it asks first is chance.
        let caller = site.caller(&plain_mesh(&[away.addr, app.addr]), "").await;
        let web = Web::connect(caller.outbound()).await;
        for _ in 0..8 {
            let answer = web.post(ECHO, path, b"body").await;
            assert_eq!((answer.status, &answer.body[..]), (200, &b"body"[..]), "{answer:?}");
        }
        if metric(&caller, "outrigger_attempts_total", &[("outcome", "never_sent")]).await > 0 {
            return;
        }
    }
    panic!("of forty requests, none was tried at the endpoint that is down");
}

/// By default two seconds, which a handshake may take on a loaded machine.
const PATIENT: &str = "    upstream: {connect_timeout: 20s}";

/// Two endpoints, spoken to without TLS, that refuse everything.
struct TwoRefuse {
    caller: bench::process::Sidecar,
    seen: Arc<AtomicUsize>,
    _endpoints: [Peer; 2],
    _site: Site,
}

impl TwoRefuse {
    async fn start() -> Self {
        let (site, seen) = (Site::new(), Arc::new(AtomicUsize::new(0)));
        let refuse = async || {
            let seen = seen.clone();
            peer::app(None, move |_request, mut respond| {
                seen.fetch_add(1, Ordering::Relaxed);
                async move { respond.send_reset(Reason::REFUSED_STREAM) }
            })
            .await
        };
        let endpoints = [refuse().await, refuse().await];
        let caller = site.caller(&plain_mesh(&[endpoints[0].addr, endpoints[1].addr]), "").await;
        Self { caller, seen, _endpoints: endpoints, _site: site }
    }
}

/// The service `echo` with these endpoints, without TLS.
fn plain_mesh(endpoints: &[std::net::SocketAddr]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|address| format!("{{address: \"{address}\", tls: none}}")).collect();
    let named = endpoints.join(", ");
    mesh(&[], PATIENT).replace("endpoints: []", &format!("endpoints: [{named}]"))
}
