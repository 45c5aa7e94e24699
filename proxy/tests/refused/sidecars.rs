//! The same over two hops: real sidecars before the endpoints say that nothing of a call reached their app.

use std::net::SocketAddr;
use std::sync::Arc;

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::closed::ClosedPort;
use bench::process::Sidecar;
use bench::server::Server;
use bench::tls::TlsIdentity;
use bench::wait::{soon, until};
use h2::Reason;
use tokio::net::TcpStream;

use crate::endpoint::{Fate, Reception, Script, row};
use crate::matrix::{ENDPOINTS, Expected, Plan, Shape, TRIES_MAX, attempts, call, check, run, services};
use crate::pair::{ANY, BIDI, ECHO, SHOPPER_ID, Site, metric};
use crate::{ROW, refused};

/// All that do not depend on how much of a request has left when the answer comes.
const SMALL: [Shape; 5] = [Shape::Bare, Shape::Unary, Shape::Silent, Shape::One, Shape::Several];
const REFUSED_TWICE: Expected = Expected { refused: 2, code: 14, never_sent: 0, broken: 0, answered: 0 };

#[tokio::test]
async fn what_an_app_refuses_unprocessed_its_sidecar_hands_back_to_be_sent_elsewhere() {
    let site = Site::new();
    let mut cells = 0;
    for (what, fate) in [
        ("REFUSED_STREAM of an app", Fate::Reset(Reason::REFUSED_STREAM)),
        ("GOAWAY below of an app", Fate::GoawayBelow),
    ] {
        let script = Arc::new(Script::default());
        let apps = row(ROW, &script, &Reception::Plain, &Reception::Plain).await;
        let mut callees = Vec::new();
        for app in &apps {
            callees.push(site.callee(app.addr, "").await);
        }
        let plans = [vec![fate, Fate::Answer], vec![fate]].map(|fates| Plan { unreachable: 0, fates });
        cells += run(&site, what, (&inbound(&callees), true), &script, &plans, refused).await;
        // No repeat is the callee's: it knows one app, the caller knows all.
        let mut refusals = 0;
        for callee in &callees {
            let refused = metric(callee, "outrigger_attempts_total", &[("outcome", "refused")]).await;
            let failed = [("direction", "inbound"), ("reason", "REFUSED")];
            assert_eq!(metric(callee, "outrigger_failures_total", &failed).await, refused, "{what}");
            refusals += refused;
        }
        assert!(refusals > 0, "{what}");
    }
    println!("refused by apps: {cells} cells");
}

#[tokio::test]
async fn a_sidecar_whose_app_does_not_listen_says_so_and_the_call_goes_elsewhere_once() {
    let site = Site::new();
    let nobody = ClosedPort::take().expect("a port");
    let mut callees = Vec::new();
    for _ in 0..ROW {
        callees.push(site.callee(nobody.addr, "").await);
    }
    let cells =
        run_blind(&site, "an app that does not listen", &inbound(&callees), &SMALL, |_, _| REFUSED_TWICE)
            .await;
    assert_eq!(started(&callees).await, 2 * cells as u64, "each call came to two sidecars, or to one twice");
}

#[tokio::test]
async fn a_sidecar_at_its_limit_of_calls_sheds_and_the_call_goes_elsewhere_once() {
    let site = Site::new();
    let app = Server::start(ANY).await.expect("an app");
    let (mut callees, mut open) = (Vec::new(), Vec::new());
    for _ in 0..ROW {
        let callee = site.callee(app.addr, "limits: {calls: 1}").await;
        open.push(occupy(&site, &callee).await);
        callees.push(callee);
    }
    let taken = app.calls().len();
    let shed = |_, _| REFUSED_TWICE;
    let cells = run_blind(&site, "a full sidecar", &inbound(&callees), &SMALL, shed).await;
    let mut refusals = 0;
    for callee in &callees {
        refusals += metric(callee, "outrigger_refused_total", &[("limit", "calls")]).await;
    }
    assert_eq!((refusals, app.calls().len()), (2 * cells as u64, taken));
    for mut call in open {
        call.send(b"x").await.expect("an open call");
        assert!(soon("an echo", call.recv()).await.is_some(), "what was there goes on");
    }
}

#[tokio::test]
async fn a_draining_sidecar_takes_no_new_call_and_none_is_sent_to_it() {
    let site = Site::new();
    let app = Server::start(ANY).await.expect("an app");
    let (mut callees, mut open) = (Vec::new(), Vec::new());
    for _ in 0..ROW {
        let callee = site.callee(app.addr, "").await;
        open.push(occupy(&site, &callee).await);
        callee.term();
        let inbound = callee.inbound();
        until("no more connections", async || TcpStream::connect(inbound).await.is_err()).await;
        callees.push(callee);
    }
    let taken = app.calls().len();
    let never_sent = |count: usize, _| Expected {
        never_sent: TRIES_MAX.min(count) as u64,
        code: 14,
        ..Expected::default()
    };
    run_blind(&site, "draining sidecars", &inbound(&callees), &SMALL, never_sent).await;
    assert_eq!(app.calls().len(), taken);
}

/// [`run`] for endpoints that no script directs.
pub(crate) async fn run_blind(
    site: &Site,
    what: &str,
    endpoints: &[SocketAddr],
    shapes: &[Shape],
    expect: impl Fn(usize, Shape) -> Expected,
) -> usize {
    let cells: Vec<(usize, Shape)> =
        ENDPOINTS.iter().flat_map(|count| shapes.iter().map(move |shape| (*count, *shape))).collect();
    let yaml = services(endpoints, cells.iter().map(|(count, _)| *count), true);
    let caller = site.caller(&yaml, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    for (number, (count, shape)) in cells.iter().enumerate() {
        let cell = format!("{what}, {count} endpoints, {shape:?}");
        let outcome = soon(&cell, call(&client, number, *shape)).await;
        check(&cell, &outcome, expect(*count, *shape));
    }
    let metrics = caller.metrics().await.expect("a scrape");
    for (number, (count, shape)) in cells.iter().enumerate() {
        let cell = format!("{what}, {count} endpoints, {shape:?}");
        let expected = Expected { code: 0, ..expect(*count, *shape) };
        assert_eq!(attempts(&metrics, number), expected, "{cell}");
    }
    println!("{what}: {} cells", cells.len());
    cells.len()
}

/// A stream through a sidecar, from a peer of the mesh that is none.
async fn occupy(site: &Site, callee: &Sidecar) -> Call {
    let identity = TlsIdentity::mutual(&site.ca.leaf(SHOPPER_ID), site.ca.bundle_pem());
    let client = Client::connect(callee.inbound(), Some(identity)).await.expect("a mesh connection");
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    call.send(b"x").await.expect("sent");
    assert!(soon("an echo", call.recv()).await.is_some());
    call
}

async fn started(callees: &[Sidecar]) -> u64 {
    let mut started = 0;
    for callee in callees {
        started += metric(callee, "grpc_server_started_total", &[]).await;
    }
    started
}

fn inbound(callees: &[Sidecar]) -> Vec<SocketAddr> {
    callees.iter().map(Sidecar::inbound).collect()
}
