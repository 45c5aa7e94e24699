//! Which calls are tried again, and how often: those that were never sent on each endpoint left, five in all;
//! those that were refused unprocessed once more; all others never. Attempts are exact, in the counters and
//! at the endpoints.

#[path = "../pair/mod.rs"]
mod pair;

mod endpoint;
mod matrix;
mod sidecars;
mod storm;
mod weights;

use std::net::SocketAddr;
use std::sync::Arc;

use bench::certs::{Ca, Leaf};
use bench::closed::ClosedPort;
use bench::tls::{ServerTls, server_config};
use h2::Reason;
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{Fate, Reception, Script, row};
use crate::matrix::{ENDPOINTS, Expected, Plan, SHAPES, Shape, TRIES_MAX, run};
use crate::pair::peer::Peer;
use crate::pair::{ECHO_ID, SHOPPER_ID, Site, TRUST_DOMAIN};

/// The most endpoints of a service.
const ROW: usize = 6;
const FOR_EVER: usize = usize::MAX;

#[tokio::test]
async fn a_call_that_was_never_sent_is_tried_on_each_endpoint_left_and_five_in_all() {
    let site = Site::new();
    let ours = tls(&site.ca.leaf(ECHO_ID), &site.ca);
    let foreign = Ca::new(TRUST_DOMAIN);
    let friends = [(Reception::Plain, false), (Reception::Tls(ours.clone()), true)];
    let strangers = [
        ("RST at accept", 0, Reception::Reset),
        ("closed before SETTINGS", 0, Reception::Goodbye(None)),
        ("closed before SETTINGS, by TLS", 1, Reception::Goodbye(Some(ours))),
        ("a foreign authority", 1, Reception::Tls(tls(&foreign.leaf(ECHO_ID), &foreign))),
        ("a foreign identity", 1, Reception::Tls(tls(&site.ca.leaf(SHOPPER_ID), &site.ca))),
        ("plaintext where TLS should be", 1, Reception::Plain),
    ];
    let plans = [1, 4, 5, FOR_EVER].map(|unreachable| Plan { unreachable, fates: vec![Fate::Answer] });
    let mut cells = 0;
    for (what, friend, stranger) in &strangers {
        let (friend, mesh) = &friends[*friend];
        let script = Arc::new(Script::default());
        let peers = row(ROW, &script, friend, stranger).await;
        cells += run(&site, what, (&addresses(&peers), *mesh), &script, &plans, never_sent).await;
    }
    let closed: Vec<_> = (0..ROW).map(|_| ClosedPort::take().expect("a port")).collect();
    let addresses: Vec<SocketAddr> = closed.iter().map(|port| port.addr).collect();
    let expect = |count: usize, _| Expected {
        never_sent: TRIES_MAX.min(count) as u64,
        code: 14,
        ..Expected::default()
    };
    cells += sidecars::run_blind(&site, "nobody listens", &addresses, &SHAPES, expect).await;
    println!("never sent: {cells} cells");
}

fn never_sent(count: usize, _: Shape, plan: &Plan) -> Expected {
    let tries = TRIES_MAX.min(count);
    match plan.unreachable {
        some if some < tries => Expected { never_sent: some as u64, answered: 1, ..Expected::default() },
        _ => Expected { never_sent: tries as u64, code: 14, ..Expected::default() },
    }
}

#[tokio::test]
async fn a_call_that_was_refused_unprocessed_is_sent_once_more_and_elsewhere() {
    let site = Site::new();
    let by_tls = Reception::Tls(tls(&site.ca.leaf(ECHO_ID), &site.ca));
    let marked = Fate::Unavailable { trailers_only: true, marked: true };
    let kinds = [
        ("REFUSED_STREAM", Fate::Reset(Reason::REFUSED_STREAM), &Reception::Plain),
        ("REFUSED_STREAM, by TLS", Fate::Reset(Reason::REFUSED_STREAM), &by_tls),
        ("GOAWAY below", Fate::GoawayBelow, &Reception::Plain),
        ("GOAWAY below, by TLS", Fate::GoawayBelow, &by_tls),
        ("a sidecar's mark", marked, &by_tls),
    ];
    let mut cells = 0;
    for (what, fate, reception) in kinds {
        let script = Arc::new(Script::default());
        let peers = row(ROW, &script, reception, reception).await;
        let plans = [vec![fate, Fate::Answer], vec![fate], vec![fate, fate, Fate::Answer]]
            .map(|fates| Plan { unreachable: 0, fates });
        let mesh = matches!(reception, Reception::Tls(_));
        cells += run(&site, what, (&addresses(&peers), mesh), &script, &plans, refused).await;
    }
    println!("refused: {cells} cells");
}

pub(crate) fn refused(_: usize, shape: Shape, plan: &Plan) -> Expected {
    match plan.fates[..] {
        _ if shape == Shape::TooMuch => Expected { refused: 1, code: 14, ..Expected::default() },
        [_, Fate::Answer] => Expected { refused: 1, answered: 1, ..Expected::default() },
        _ => Expected { refused: 2, code: 14, ..Expected::default() },
    }
}

#[tokio::test]
async fn a_call_that_may_have_been_processed_is_never_repeated() {
    let site = Site::new();
    let by_tls = Reception::Tls(tls(&site.ca.leaf(ECHO_ID), &site.ca));
    let unavailable = |trailers_only, marked| Fate::Unavailable { trailers_only, marked };
    let plain = &Reception::Plain;
    let kinds = [
        ("INTERNAL_ERROR", Fate::Reset(Reason::INTERNAL_ERROR), plain, 13),
        ("CANCEL", Fate::Reset(Reason::CANCEL), plain, 1),
        ("ENHANCE_YOUR_CALM", Fate::Reset(Reason::ENHANCE_YOUR_CALM), &by_tls, 8),
        ("NO_ERROR", Fate::Reset(Reason::NO_ERROR), plain, 13),
        ("GOAWAY at the call", Fate::Goaway(0, Reason::NO_ERROR), plain, 14),
        ("GOAWAY at the call, an error", Fate::Goaway(0, Reason::INTERNAL_ERROR), &by_tls, 14),
        ("GOAWAY above the call", Fate::Goaway(1_000, Reason::NO_ERROR), plain, 14),
        ("RST", Fate::Cut, plain, 14),
        ("RST, by TLS", Fate::Cut, &by_tls, 14),
        ("FIN", Fate::Fin, plain, 14),
        ("FIN, by TLS", Fate::Fin, &by_tls, 14),
        ("an app's mark", unavailable(true, true), plain, 14),
        ("an app's mark in trailers", unavailable(false, true), plain, 14),
        ("a sidecar's mark in trailers", unavailable(false, true), &by_tls, 14),
        ("UNAVAILABLE", unavailable(true, false), &by_tls, 14),
    ];
    let mut cells = 0;
    for (what, fate, reception, code) in kinds {
        let script = Arc::new(Script::default());
        let peers = row(ROW, &script, reception, reception).await;
        // A repeat would find an endpoint that answers.
        let plans = [Plan { unreachable: 0, fates: vec![fate, Fate::Answer] }];
        let answered = matches!(fate, Fate::Unavailable { .. });
        let expect = |_, _, _: &Plan| match answered {
            true => Expected { answered: 1, code, ..Expected::default() },
            false => Expected { broken: 1, code, ..Expected::default() },
        };
        let mesh = matches!(reception, Reception::Tls(_));
        cells += run(&site, what, (&addresses(&peers), mesh), &script, &plans, expect).await;
    }
    println!("perhaps processed: {cells} cells");
}

#[tokio::test]
async fn tries_that_were_never_sent_do_not_count_against_the_one_repeat() {
    let site = Site::new();
    let script = Arc::new(Script::default());
    let peers = row(ROW, &script, &Reception::Plain, &Reception::Reset).await;
    let refusal = Fate::Reset(Reason::REFUSED_STREAM);
    let plans = [vec![refusal, Fate::Answer], vec![refusal]].map(|fates| Plan { unreachable: 1, fates });
    let expect = |count: usize, shape, plan: &Plan| match count {
        1 => Expected { never_sent: 1, code: 14, ..Expected::default() },
        _ => Expected { never_sent: 1, ..refused(count, shape, plan) },
    };
    let cells = run(&site, "both", (&addresses(&peers), false), &script, &plans, expect).await;
    assert_eq!(cells, ENDPOINTS.len() * SHAPES.len() * plans.len());
}

fn tls(leaf: &Leaf, ca: &Ca) -> TlsAcceptor {
    let tls = ServerTls { leaf: leaf.clone(), client_trust: Some(ca.bundle_pem().to_owned()) };
    TlsAcceptor::from(server_config(&tls).expect("a leaf and its key"))
}

fn addresses(peers: &[Peer]) -> Vec<SocketAddr> {
    peers.iter().map(|peer| peer.addr).collect()
}
