//! HTTP/2 that is not gRPC, and requests that are refused by an HTTP status alone.

use ::http::Method;
use bench::process::Sidecar;
use bench::raw::{self, PREFACE};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::pair::{ECHO, Site, UNARY, frames, mesh, metric};
use crate::{ALL, Row, line};

#[tokio::test]
async fn a_request_of_http_is_told_by_method_path_and_status() {
    let mut row = Row::start(ALL).await;
    assert_eq!(row.ask(Method::GET, "/things/1?q=secret").await, Some(200));
    let (client, server) = row.spans().await;
    for span in [&client, &server] {
        assert_eq!((span.name.as_str(), span.is_error), ("GET", false));
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/things/1"),
            ("http.response.status_code", "200"),
            ("rpc.system", ""),
            ("error.type", ""),
            ("outrigger.service", "echo.shop"),
        ] {
            assert_eq!(span.attribute(key), value, "{key} of {span:?}");
        }
    }
    assert_eq!(server.parent, client.id);
    for sidecar in [&mut row.caller, &mut row.callee] {
        let said = line(sidecar).await;
        assert_eq!((&said["http_method"], &said["http_status"]), (&"GET".into(), &200.into()), "{said}");
        assert_eq!((&said["method"], &said["service"]), (&"/things/1".into(), &"echo.shop".into()));
        assert!(said["grpc_status"].is_null() && said["reason"].is_null(), "{said}");
    }
}

#[tokio::test]
async fn what_is_not_found_is_an_error_of_the_client_alone() {
    let row = Row::start("").await;
    assert_eq!(row.ask(Method::GET, "/missing").await, Some(404));
    let (client, server) = row.spans().await;
    assert_eq!((client.is_error, client.attribute("error.type")), (true, "404"));
    assert_eq!((server.is_error, server.attribute("error.type")), (false, ""));
}

#[tokio::test]
async fn a_response_that_breaks_behind_a_good_head_is_an_error_of_both_sides() {
    let mut row = Row::start(ALL).await;
    row.ask(Method::GET, "/broken").await;
    let (client, server) = row.spans().await;
    for span in [&client, &server] {
        let expected = (true, "ENDPOINT_RESET", "ENDPOINT_RESET", "200");
        let reason = span.attribute("outrigger.reason");
        let status = span.attribute("http.response.status_code");
        assert_eq!((span.is_error, span.attribute("error.type"), reason, status), expected, "{span:?}");
    }
    let said = line(&mut row.caller).await;
    assert_eq!((&said["http_status"], &said["reason"]), (&200.into(), &"ENDPOINT_RESET".into()), "{said}");
}

#[tokio::test]
async fn of_a_method_that_nobody_knows_no_more_is_kept_than_that() {
    let mut row = Row::start(ALL).await;
    let method = Method::from_bytes(&b"x".repeat(20_000)).expect("a method");
    assert_eq!(row.ask(method, "/").await, Some(200));
    let (client, server) = row.spans().await;
    for span in [client, server] {
        assert_eq!((span.name.as_str(), span.attribute("http.request.method")), ("HTTP", "_OTHER"));
    }
    let said = line(&mut row.caller).await;
    assert_eq!(said["http_method"], "_OTHER");
    assert!(said.to_string().len() < 1_000, "{said}");
}

#[tokio::test]
async fn a_request_that_is_refused_by_an_http_status_alone_is_logged_with_the_reason() {
    let site = Site::new();
    let mut caller = site.caller(&mesh(&[], ""), ALL).await;
    // Written without Huffman code they are within the limits; h2 would write them in it.
    let (method, value) = ("!".repeat(60_000), "\\".repeat(50_000));
    let echo = [(":scheme", "http"), (":authority", ECHO), (":path", UNARY)];
    let connect = [(":method", "CONNECT"), (":authority", "echo.shop:50051")];
    let long = [&[(":method", method.as_str())][..], &echo].concat();
    let call = [(":method", "POST"), ("content-type", "application/grpc"), ("x-long", &value)];
    let call = [&call[..1], &echo, &call[1..]].concat();
    for (head, status, reason) in
        [(&connect[..], 501, "NO_TUNNEL"), (&long, 431, "HEAD_TOO_LONG"), (&call, 431, "HEAD_TOO_LONG")]
    {
        let before = failures(&caller, reason).await;
        let mut tcp = TcpStream::connect(caller.outbound()).await.expect("a connection");
        let bytes = [PREFACE, &raw::settings(), &frames::headers(1, head, true)].concat();
        tcp.write_all(&bytes).await.expect("sent");
        let said = line(&mut caller).await;
        assert_eq!((&said["http_status"], &said["reason"]), (&status.into(), &reason.into()), "{said}");
        assert!(said["message"].as_str().is_some_and(|message| message.len() > 10), "{said}");
        if reason != "NO_TUNNEL" {
            assert_eq!(said["method"], UNARY, "a path, whatever it would have been");
        }
        assert_eq!(failures(&caller, reason).await, before + 1, "{reason}");
    }
}

async fn failures(sidecar: &Sidecar, reason: &str) -> u64 {
    metric(sidecar, "outrigger_failures_total", &[("reason", reason)]).await
}
