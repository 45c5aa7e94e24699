//! Where the next attempt goes, and what it says of the ones before it.

use bench::call::CallSpec;
use bench::client::Client;
use bench::closed::ClosedPort;
use bench::server::Server;
use bench::tls::TlsIdentity;
use bench::wait::until;

use crate::bed::{Bed, mesh};
use crate::pair::{ANY, ECHO, ECHO_ID, SHOPPER_ID, Site, UNARY, metric};

const HASTY: &str = "retries: {max_attempts: 4, initial_backoff: 1ms, max_backoff: 1ms}";

#[tokio::test]
async fn each_attempt_goes_to_an_endpoint_that_has_not_been_tried() {
    for policy in ["round_robin", "random", "least_request", "peak_ewma"] {
        let bed = Bed::new(4, &format!("{HASTY}\nbalancing: {{policy: {policy}}}")).await;
        for _ in 0..10 {
            bed.clear();
            (0..3).for_each(|_| bed.scripts.next("trailers-only:14"));
            assert!(bed.call().await.is_ok());
            let mut servers: Vec<usize> = bed.seen().iter().map(|seen| seen.server).collect();
            servers.sort_unstable();
            assert_eq!(servers, [0, 1, 2, 3], "{policy}");
        }
    }
}

#[tokio::test]
async fn when_all_have_been_tried_it_does_not_go_where_the_last_one_was() {
    for policy in ["round_robin", "random", "least_request", "peak_ewma"] {
        let rule = HASTY.replace("max_attempts: 4", "max_attempts: 10");
        let bed = Bed::new(3, &format!("{rule}\nbalancing: {{policy: {policy}}}")).await;
        bed.scripts.always(Some("trailers-only:14"));
        assert_eq!(bed.call().await.grpc_status, Some(14));
        let servers: Vec<usize> = bed.seen().iter().map(|seen| seen.server).collect();
        assert_eq!(servers.len(), 10, "{policy}");
        assert!(servers.windows(2).all(|two| two[0] != two[1]), "{policy}: {servers:?}");
    }
}

#[tokio::test]
async fn a_lone_endpoint_is_asked_again() {
    let bed = Bed::new(1, HASTY).await;
    for fault in ["trailers-only:14", "disconnect", "goaway-above"] {
        bed.clear();
        bed.scripts.next(fault);
        assert!(bed.call().await.is_ok(), "{fault}");
        assert_eq!(bed.seen().len(), 2, "{fault}");
    }
}

#[tokio::test]
async fn each_attempt_says_how_many_retries_were_before_it() {
    let bed = Bed::new(2, HASTY).await;
    (0..3).for_each(|_| bed.scripts.next("trailers-only:14"));
    assert!(bed.call().await.is_ok());
    let said: Vec<Option<String>> =
        bed.seen().iter().map(|seen| seen.previous().map(str::to_owned)).collect();
    assert_eq!(said, [None, Some("1".into()), Some("2".into()), Some("3".into())]);
}

#[tokio::test]
async fn what_was_refused_unprocessed_counts_neither_there_nor_against_the_most() {
    let bed = Bed::new(4, &HASTY.replace("max_attempts: 4", "max_attempts: 2")).await;
    for script in ["refused", "trailers-only:14"] {
        bed.scripts.next(script);
    }
    assert!(bed.call().await.is_ok());
    let said: Vec<Option<String>> =
        bed.seen().iter().map(|seen| seen.previous().map(str::to_owned)).collect();
    assert_eq!(said, [None, None, Some("1".into())]);
}

#[tokio::test]
async fn what_is_refused_again_and_again_is_retried_as_unavailable() {
    for (codes, attempts) in [("UNAVAILABLE", 4), ("ABORTED", 2)] {
        let rule = HASTY.replace("max_attempts: 4", "max_attempts: 3");
        let rule = rule.replace('}', &format!(", retryable_status_codes: [{codes}]}}"));
        let bed = Bed::new(2, &rule).await;
        bed.scripts.always(Some("refused"));
        assert_eq!(bed.call().await.grpc_status, Some(14));
        assert_eq!(bed.seen().len(), attempts, "{codes}");
    }
}

#[tokio::test]
async fn ports_where_nobody_listens_count_for_nothing_between_attempts() {
    let site = Site::new();
    let closed: Vec<_> = (0..2).map(|_| ClosedPort::take().expect("a port")).collect();
    let server = Server::start(ANY).await.expect("a server");
    let addresses = closed.iter().map(|port| port.addr).chain([server.addr]);
    let listed: Vec<String> =
        addresses.map(|address| format!("{{address: \"{address}\", tls: none}}")).collect();
    let rule = HASTY.replace("max_attempts: 4", "max_attempts: 3");
    let caller = site.caller(&mesh(&listed, &rule), "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    server.script_next("trailers-only:14");
    server.script_next("trailers-only:14");
    let outcome = client.unary(ECHO, UNARY, b"x").await.expect("a call");
    assert!(outcome.is_ok(), "{outcome:?}");
    let calls = server.calls();
    let said: Vec<_> = calls.iter().map(|call| call.headers.get("grpc-previous-rpc-attempts")).collect();
    assert_eq!(said.len(), 3);
    assert!(said[0].is_none() && said[2].is_some_and(|count| count == "2"), "{said:?}");
    let never_sent = metric(&caller, "outrigger_attempts_total", &[("outcome", "never_sent")]).await;
    assert!(never_sent <= 4, "five tries in all, the one that was sent among them: {never_sent}");
}

#[tokio::test]
async fn the_callees_sidecar_repeats_nothing() {
    let site = Site::new();
    let app = Server::start(ANY).await.expect("an app");
    app.script_always(Some("trailers-only:14"));
    let policies = "    retries: {max_attempts: 5, initial_backoff: 1ms}";
    let callee = site.callee_as(&site.ca.leaf(ECHO_ID), app.addr, "", policies).await;
    let identity = TlsIdentity::mutual(&site.ca.leaf(SHOPPER_ID), site.ca.bundle_pem());
    let client = Client::connect(callee.inbound(), Some(identity)).await.expect("a mesh connection");
    let outcome = client.unary_with(CallSpec::new(ECHO, UNARY), b"x").await.expect("a call");
    assert_eq!(outcome.grpc_status, Some(14));
    assert_eq!(app.calls().len(), 1);
}

#[tokio::test]
async fn a_call_waits_for_the_only_endpoint_to_come_back() {
    let patient = "retries: {max_attempts: 10, initial_backoff: 100ms, max_backoff: 1s}";
    let mut bed = Bed::new(1, patient).await;
    bed.servers[0].kill().await;
    let call = async {
        let outcome = bed.client.unary(ECHO, UNARY, b"x").await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
    };
    let never_sent =
        async || metric(&bed.caller, "outrigger_attempts_total", &[("outcome", "never_sent")]).await;
    let server = &mut bed.servers[0];
    let coming_back = async {
        until("the call has found nobody", async || never_sent().await > 0).await;
        server.restart().await.expect("the same port");
    };
    tokio::join!(call, coming_back);
    let calls = bed.servers[0].calls();
    let last = calls.last().expect("a call");
    assert!(!last.headers.contains_key("grpc-previous-rpc-attempts"), "nobody has seen it before");
    assert_eq!(bed.count("outrigger_repeats_total", &[]).await, 0);
}
