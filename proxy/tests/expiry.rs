//! Certificates that expire under open streams: a connection lives no longer than the certificate that was shown
//! on it, whichever side showed it, and the calls that are still on it are told.

mod pair;

use std::time::{Duration, SystemTime};

use bench::call::{Call, CallSpec};
use bench::certs::{Ca, Leaf, LeafSpec};
use bench::client::Client;
use bench::process::Sidecar;
use bench::record::CallEnd;
use bench::server::{Server, ServerOptions};
use bench::tls::{ServerTls, TlsIdentity};
use bench::wait::{soon, until, within};

use crate::pair::{ANY, BIDI, ECHO, ECHO_ID, SHOPPER_ID, Site, UNARY, mesh, metric};

/// What is left of a certificate when its sidecar starts. The longer ones are for a machine on which a shorter
/// one is over before a stream is open.
const LIVES_S: [u64; 4] = [6, 12, 24, 48];
/// Validity is written in whole seconds.
const SECOND: Duration = Duration::from_secs(1);
/// After the end of a certificate, on the slowest machine.
const LATE: Duration = Duration::from_secs(10);

const MTLS: &str = "outrigger_connections";
const FAILURES: &str = "outrigger_failures_total";

#[tokio::test]
async fn a_stream_ends_unavailable_when_the_certificate_of_its_callee_expires() {
    let row = Row::open(false, true).await;
    let message = row.ends_with_its_certificate().await;
    // Both sides end it, and whichever is first decides the words.
    assert!(message.starts_with("outrigger outbound:"), "{message}");
}

#[tokio::test]
async fn a_stream_ends_unavailable_when_the_certificate_of_its_caller_expires() {
    let row = Row::open(true, false).await;
    let message = row.ends_with_its_certificate().await;
    assert!(message.starts_with("outrigger outbound:"), "{message}");
}

#[tokio::test]
async fn a_stream_ends_unavailable_when_both_certificates_expire_at_once() {
    let row = Row::open(true, true).await;
    let message = row.ends_with_its_certificate().await;
    assert!(message.starts_with("outrigger outbound:"), "{message}");
}

#[tokio::test]
async fn our_own_certificate_ends_what_callers_have_on_us_and_then_new_ones_are_refused_by_a_reason_of_their_own()
 {
    let app = Server::start(ANY).await.expect("an app");
    let site = Site::new();
    // As in the rows above: what is too short for a slow machine is tried again with a longer life.
    for life in LIVES_S {
        let not_after = SystemTime::now() + Duration::from_secs(life);
        let callee = site.callee_as(&leaf(&site.ca, ECHO_ID, not_after), app.addr, "", "").await;
        // It shows a certificate that is good for a day, and looks at ours only when it connects.
        let lasting = TlsIdentity::mutual(&site.ca.leaf(SHOPPER_ID), site.ca.bundle_pem());
        let Ok(client) = Client::connect(callee.inbound(), Some(lasting.clone())).await else { continue };
        let mut stream = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        stream.send(b"hello").await.expect("sent");
        let echo = soon("an echo, or the end", stream.recv()).await;
        if echo.is_none() || SystemTime::now() + 2 * SECOND > not_after {
            continue;
        }
        let (_sender, receiver) = stream.split();
        let outcome = within(Duration::from_secs(life) + LATE, "its end", receiver.finish()).await;
        assert!(!outcome.is_ok(), "{outcome:?}");
        assert!(SystemTime::now() + 2 * SECOND > not_after, "it ended while ours was valid: {outcome:?}");

        assert!(Client::connect(callee.inbound(), Some(lasting)).await.is_err());
        until("it is counted", async || {
            metric(&callee, "outrigger_handshake_failures_total", &[("reason", "no_identity")]).await > 0
        })
        .await;
        let ready = callee.probe("/ready").await.expect("a page");
        assert_eq!((ready.status, ready.body.trim()), (503, "the identity has expired"));
        assert_eq!(metric(&callee, "outrigger_identity_state", &[("state", "expired")]).await, 1);
        until("stderr says so", async || callee.stderr().contains("THE leaf HAS EXPIRED")).await;
        return;
    }
    panic!("no stream could be opened within {LIVES_S:?} s");
}

#[tokio::test]
async fn our_own_certificate_ends_what_we_have_at_endpoints_and_calls_then_say_that_it_has_expired() {
    let site = Site::new();
    let tls = ServerTls { leaf: site.ca.leaf(ECHO_ID), client_trust: Some(site.ca.bundle_pem().to_owned()) };
    let options = ServerOptions { tls: Some(tls), ..ServerOptions::default() };
    // It would serve for ever.
    let endpoint = Server::start_with(ANY, options).await.expect("an endpoint");
    let mesh = mesh(&[endpoint.addr], "    upstream: {connect_timeout: 20s}");
    for life in LIVES_S {
        let not_after = SystemTime::now() + Duration::from_secs(life);
        let caller = site.caller_as(&leaf(&site.ca, SHOPPER_ID, not_after), &mesh, "").await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        let mut stream = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        stream.send(b"hello").await.expect("sent");
        let echo = soon("an echo, or the end", stream.recv()).await;
        if echo.is_none() || SystemTime::now() + 2 * SECOND > not_after {
            continue;
        }
        let (_sender, receiver) = stream.split();
        let outcome = within(Duration::from_secs(life) + LATE, "its end", receiver.finish()).await;
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{outcome:?}");
        assert!(outcome.message.contains("expired"), "{outcome:?}");
        assert!(SystemTime::now() + 2 * SECOND > not_after, "it ended while ours was valid: {outcome:?}");
        let after = soon("a call after it", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
        assert!(after.message.contains("our own certificate expired at"), "{after:?}");
        return;
    }
    panic!("no stream could be opened within {LIVES_S:?} s");
}

/// Two sidecars, and a stream that is open through both.
struct Row {
    caller: Sidecar,
    callee: Sidecar,
    app: Server,
    client: Client,
    stream: Call,
    not_after: SystemTime,
    _site: Site,
}

impl Row {
    /// The certificates of those who are named soon expire.
    async fn open(caller_expires: bool, callee_expires: bool) -> Self {
        for life in LIVES_S {
            if let Some(row) = Self::open_within(life, caller_expires, callee_expires).await {
                println!("certificates of {life} s");
                return row;
            }
        }
        panic!("no stream could be opened within {LIVES_S:?} s");
    }

    async fn open_within(life: u64, caller_expires: bool, callee_expires: bool) -> Option<Self> {
        let app = Server::start(ANY).await.expect("an app");
        let site = Site::new();
        let not_after = SystemTime::now() + Duration::from_secs(life);
        let leaf = |id, expires| if expires { leaf(&site.ca, id, not_after) } else { site.ca.leaf(id) };
        let callee = site.callee_as(&leaf(ECHO_ID, callee_expires), app.addr, "", "").await;
        let mesh = mesh(&[callee.inbound()], "    upstream: {connect_timeout: 20s}");
        let caller = site.caller_as(&leaf(SHOPPER_ID, caller_expires), &mesh, "").await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        let mut stream =
            client.call(CallSpec::new(ECHO, BIDI).header("x-nonce", "open")).await.expect("a call");
        stream.send(b"hello").await.expect("sent");
        let echo = soon("an echo, or the end", stream.recv()).await;
        if echo.is_none() || SystemTime::now() + 2 * SECOND > not_after {
            return None;
        }
        assert_eq!(metric(&caller, MTLS, &[("direction", "upstream"), ("security", "mtls")]).await, 1);
        assert_eq!(metric(&callee, MTLS, &[("direction", "inbound"), ("security", "mtls")]).await, 1);
        Some(Self { caller, callee, app, client, stream, not_after, _site: site })
    }

    /// Waits for the end of the stream; what the caller is told. Nothing is left on either side by then, and
    /// nothing new begins.
    async fn ends_with_its_certificate(self) -> String {
        let Self { caller, callee, app, client, stream, not_after, _site } = self;
        let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        // Nothing is sent any more, and END_STREAM is not either.
        let (_sender, receiver) = stream.split();
        let outcome = within(left + LATE, "the end of the stream", receiver.finish()).await;
        let since = SystemTime::now().duration_since(not_after - SECOND);
        println!("ended {since:?} after the certificate's last second began: {}", outcome.message);
        assert!(since.is_ok(), "it ended while the certificate was valid: {outcome:?}");
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{outcome:?}");
        assert!(outcome.trailers.is_some(), "its head was there already: {outcome:?}");
        let lost = [("direction", "outbound"), ("reason", "CONNECTION_LOST")];
        assert_eq!(metric(&caller, FAILURES, &lost).await, 1);

        until("the stream's end at the app", async || {
            matches!(app.calls_with_nonce("open")[0].end, CallEnd::ResetByPeer(_))
        })
        .await;
        for sidecar in [&caller, &callee] {
            until("no connection is left", async || {
                metric(sidecar, MTLS, &[("security", "mtls")]).await == 0
            })
            .await;
            until("no call is left", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0)
                .await;
        }
        let after = soon("a call after it", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
        assert_eq!((after.grpc_status, after.clean_end), (Some(14), true), "{after:?}");
        assert_eq!(app.calls().len(), 1, "the app is not reached any more");
        outcome.message
    }
}

fn leaf(ca: &Ca, id: &str, not_after: SystemTime) -> Leaf {
    ca.leaf_with(&LeafSpec { uris: vec![id.to_owned()], not_after, ..LeafSpec::default() })
}
