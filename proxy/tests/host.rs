//! A request may name its service by `host` alone (RFC 9113, 8.3.1); what is sent on has `:authority`.

mod pair;

use bench::call::CallSpec;
use bench::client::Client;
use bench::tls::TlsIdentity;
use bench::wait::soon;

use crate::pair::{ECHO, Pair, SHOPPER_ID, UNARY, metric, well};

const CALLS: usize = 5;

#[tokio::test]
async fn a_call_with_host_alone_goes_through_both_sidecars_and_no_connection_is_given_up_for_it() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    well(soon("a call", client.unary(ECHO, UNARY, b"x")).await);
    for _ in 0..CALLS {
        well(soon("a call", client.unary_with(by_host(), b"x")).await);
    }
    seen_by(&pair, 1 + CALLS);
    let never = [("outcome", "never_sent")];
    for sidecar in [&pair.caller, &pair.callee] {
        let opened = metric(sidecar, "outrigger_connections_total", &[("direction", "upstream")]).await;
        assert_eq!((opened, metric(sidecar, "outrigger_attempts_total", &never).await), (1, 0));
    }
}

#[tokio::test]
async fn an_app_gets_authority_though_its_caller_gave_host_alone() {
    let pair = Pair::start().await;
    let identity = TlsIdentity::mutual(&pair.site.ca.leaf(SHOPPER_ID), pair.site.ca.bundle_pem());
    let client = Client::connect(pair.callee.inbound(), Some(identity)).await.expect("a mesh connection");
    for _ in 0..CALLS {
        well(soon("a call", client.unary_with(by_host(), b"x")).await);
    }
    seen_by(&pair, CALLS);
    let opened = metric(&pair.callee, "outrigger_connections_total", &[("direction", "upstream")]).await;
    assert_eq!(opened, 1);
}

fn by_host() -> CallSpec<'static> {
    CallSpec::new("", UNARY).header("host", ECHO)
}

/// The app has seen so many calls, each with `:authority`.
fn seen_by(pair: &Pair, calls: usize) {
    let seen = pair.app.calls();
    assert_eq!(seen.len(), calls);
    for call in &seen {
        assert_eq!(call.authority, ECHO);
        assert!(call.headers.get("host").is_none_or(|host| host == ECHO), "{:?}", call.headers);
    }
}
