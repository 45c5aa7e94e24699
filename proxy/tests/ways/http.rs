//! HTTP/2 that is not gRPC, through both sidecars: it arrives as it was sent.

use bench::client::Client;
use bench::process::Sidecar;
use bench::wait::{soon, until};
use bytes::Bytes;
use h2::RecvStream;
use http::{Method, Request};

use crate::kit::{FAILURES, counts, noise, none_left};
use crate::pair::peer::{self, Peer};
use crate::pair::{ECHO, Site, UNARY, around, metric};
use crate::web::{self, Answer, BIG, Web, answer, request};

const REQUESTS: &str = "outrigger_http_requests_total";
const IN_FLIGHT: &str = "outrigger_calls_in_flight";

/// A web app behind both sidecars, and a client.
struct Row {
    web: Web,
    caller: Sidecar,
    callee: Sidecar,
    _app: Peer,
    _site: Site,
}

impl Row {
    async fn start() -> Self {
        let app = web::app().await;
        let (site, callee, caller) = around(app.addr, "").await;
        let web = Web::connect(caller.outbound()).await;
        Self { web, caller, callee, _app: app, _site: site }
    }

    async fn get(&self, path: &str) -> Answer {
        self.web.get(ECHO, path).await
    }
}

#[tokio::test]
async fn a_get_arrives_with_its_query_and_its_answer_is_whole() {
    let row = Row::start().await;
    let found = row.get("/find/a%2Fb?q=1&q=%20x&empty").await;
    assert_eq!((found.status, found.header("x-method")), (200, "GET"), "{found:?}");
    assert_eq!(found.header("x-path"), "/find/a%2Fb?q=1&q=%20x&empty");
    assert_eq!((found.header("x-authority"), found.header("x-was-asked")), (ECHO, "yes"));
    assert!(found.fault.is_none() && found.trailers.is_none(), "{found:?}");
}

#[tokio::test]
async fn a_long_body_comes_whole_with_its_content_length_and_ends_cleanly_without_trailers() {
    let row = Row::start().await;
    let big = row.get("/big").await;
    assert_eq!((big.status, big.header("content-length")), (200, "300000"));
    assert!(big.body == noise(BIG, 7), "{} bytes are not the same", big.body.len());
    assert!(big.fault.is_none() && big.trailers.is_none());
}

#[tokio::test]
async fn an_upload_arrives_whole() {
    let row = Row::start().await;
    for length in [0, 1, 100_000, 3 << 20] {
        let body = noise(length, 3);
        let back = row.web.post(ECHO, "/upload", &body).await;
        assert_eq!((back.status, back.header("x-method")), (200, "POST"), "{length}");
        assert_eq!(back.header("content-length"), length.to_string());
        assert!(back.body == body && back.fault.is_none(), "{length} bytes are not the same");
    }
}

#[tokio::test]
async fn trailers_that_are_not_of_grpc_pass() {
    let row = Row::start().await;
    let answer = row.get("/trailers").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"body"[..]), "{answer:?}");
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers, peer::headers(&[("x-sum", "1"), ("x-sum", "2")]));
}

#[tokio::test]
async fn answers_without_a_body_keep_what_they_say() {
    let row = Row::start().await;
    let head = row.web.ask(request(Method::HEAD, ECHO, "/big")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "300000", 0));
    assert!(head.fault.is_none(), "{head:?}");
    for (path, status) in [("/204", 204), ("/404", 404)] {
        let answer = row.get(path).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{answer:?}");
        assert!(answer.fault.is_none() && answer.trailers.is_none(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_stream_is_not_held_back() {
    let row = Row::start().await;
    let (response, mut sending) = row.web.begin(request(Method::PUT, ECHO, "/stream"), false).await;
    let response = soon("a head before any of the request's body", response).await.expect("a head");
    let mut body = response.into_body();
    for piece in [&b"one"[..], b"two", &noise(40_000, 5)] {
        sending.send_data(Bytes::copy_from_slice(piece), false).expect("sent");
        assert!(read(&mut body, piece.len()).await == piece);
    }
    sending.send_data(Bytes::new(), true).expect("sent");
    // h2 hands out the empty frame that ends it.
    while let Some(data) = soon("the end", body.data()).await {
        assert!(data.expect("no reset").is_empty());
    }
    none_left(&row.caller, IN_FLIGHT).await;
    none_left(&row.callee, IN_FLIGHT).await;
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_never_ends_cleanly() {
    let row = Row::start().await;
    for path in ["/short", "/long"] {
        let answer = row.get(path).await;
        let bad_gateway = answer.status == 502 && answer.fault.is_none();
        assert!(answer.fault.is_some() || bad_gateway, "{path}: {answer:?}");
    }
    assert_eq!(row.get("/").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_content_type_that_only_begins_like_grpc_is_not_grpc() {
    let row = Row::start().await;
    for content_type in ["application/grpc-web", "application/grpcx", "application/json"] {
        let mut post = request(Method::POST, ECHO, UNARY);
        post.headers_mut().insert("content-type", content_type.parse().expect("a value"));
        let (response, mut stream) = row.web.begin(post, false).await;
        stream.send_data("{}".into(), true).expect("sent");
        let answer = answer(response).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]), "{content_type}: {answer:?}");
    }
    // One that is, to an app that answers without a status, is the other way around.
    let client = Client::connect(row.caller.outbound(), None).await.expect("a connection");
    let outcome = client.unary(ECHO, UNARY, b"x").await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(13), "{outcome:?}");
}

#[tokio::test]
async fn each_request_is_counted_by_its_status_and_none_of_them_as_grpc() {
    let row = Row::start().await;
    for path in ["/", "/big", "/trailers", "/204", "/404", "/404"] {
        row.get(path).await;
    }
    let (hanging, _stream) = row.web.begin(request(Method::GET, ECHO, "/hang"), true).await;
    for sidecar in [&row.caller, &row.callee] {
        until("one in flight", async || metric(sidecar, IN_FLIGHT, &[]).await == 1).await;
    }
    // Whoever gives up has no status.
    drop((hanging, _stream));
    row.get("/reset").await;
    for (sidecar, direction) in [(&row.caller, "outbound"), (&row.callee, "inbound")] {
        none_left(sidecar, IN_FLIGHT).await;
        for (code, exactly) in [("2xx", 4), ("3xx", 0), ("4xx", 2), ("5xx", 1), ("none", 1)] {
            counts(sidecar, REQUESTS, &[("direction", direction), ("code", code)], exactly).await;
        }
        counts(sidecar, REQUESTS, &[], 8).await;
        assert_no_grpc(sidecar).await;
    }
    counts(&row.callee, FAILURES, &[("reason", "ENDPOINT_RESET")], 1).await;
}

async fn assert_no_grpc(sidecar: &Sidecar) {
    let metrics = sidecar.metrics().await.expect("a scrape");
    let counted: Vec<_> =
        metrics.samples().iter().filter(|s| s.name.starts_with("grpc_") && s.value != 0.0).collect();
    assert!(counted.is_empty(), "{counted:?}");
}

#[tokio::test]
async fn connect_inside_of_http_2_is_not_implemented() {
    let row = Row::start().await;
    let connect = Request::builder().method(Method::CONNECT).uri("echo.shop:80").body(()).expect("a request");
    let answer = row.web.ask(connect).await;
    assert_eq!((answer.status, answer.body.len()), (501, 0), "{answer:?}");
    counts(&row.caller, FAILURES, &[("direction", "outbound"), ("reason", "NO_TUNNEL")], 1).await;
    counts(&row.caller, REQUESTS, &[("direction", "outbound"), ("code", "5xx")], 1).await;
    assert_no_grpc(&row.caller).await;
    assert_eq!(row.get("/").await.status, 200, "the connection goes on");
}

/// The next bytes of a response, and no more.
async fn read(body: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < length {
        let data = soon("more of the response", body.data()).await.expect("more").expect("no reset");
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data);
    }
    read
}
