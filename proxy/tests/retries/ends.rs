//! How a call ends whose attempts all failed: as the last of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bench::client::Client;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};

use crate::bed::{Bed, mesh};
use crate::pair::{ECHO, Site, UNARY, peer};

const HASTY: &str =
    "retries: {initial_backoff: 1ms, max_backoff: 1ms, retryable_status_codes: [UNAVAILABLE, ABORTED]}";

#[tokio::test]
async fn the_last_failure_is_the_one_that_is_told() {
    let bed = Bed::new(3, HASTY).await;
    for script in ["trailers-only:14", "disconnect", "trailers-only:10"] {
        bed.scripts.next(script);
    }
    let outcome = bed.call().await;
    assert_eq!((outcome.grpc_status, outcome.message.as_str()), (Some(10), "as the script says"));
    assert_eq!(bed.seen().len(), 3);
}

#[tokio::test]
async fn a_failure_that_is_not_retryable_ends_the_attempts() {
    let bed = Bed::new(3, HASTY).await;
    for script in ["trailers-only:14", "trailers-only:5"] {
        bed.scripts.next(script);
    }
    assert_eq!(bed.call().await.grpc_status, Some(5));
    assert_eq!(bed.seen().len(), 2);
}

#[tokio::test]
async fn a_failure_of_the_sidecars_own_says_how_many_attempts_there_were() {
    let bed = Bed::new(3, HASTY).await;
    bed.scripts.always(Some("disconnect"));
    let outcome = bed.call().await;
    assert_eq!(outcome.grpc_status, Some(14));
    assert!(outcome.message.contains("attempts 3"), "{}", outcome.message);
}

#[tokio::test]
async fn an_error_page_is_retried_as_the_status_that_it_means() {
    for (status, attempts) in [(503, 3), (404, 1)] {
        let seen = Arc::new(AtomicUsize::new(0));
        let app = {
            let seen = seen.clone();
            peer::app(None, move |request, respond| page(status, request, respond, seen.clone())).await
        };
        let site = Site::new();
        let listed = [format!("{{address: \"{}\", tls: none}}", app.addr)];
        let caller = site.caller(&mesh(&listed, HASTY), "").await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        let outcome = client.unary(ECHO, UNARY, b"x").await.expect("a call");
        assert_eq!(outcome.http_status, Some(status), "the caller makes of it what it means: {outcome:?}");
        assert_eq!(seen.load(Ordering::Relaxed), attempts, "{status}");
    }
}

async fn page(
    status: u16,
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: Arc<AtomicUsize>,
) {
    seen.fetch_add(1, Ordering::Relaxed);
    peer::drain(request.body_mut()).await;
    let page = Response::builder().status(status).body(()).expect("a head");
    let _ = respond.send_response(page, true);
}
