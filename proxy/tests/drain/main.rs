//! The way out, as DESIGN.md, "Drain", promises it: what each step lets through and what it ends.

mod frames;
mod lone;
mod socket;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::frames::{ACK, GOAWAY, PING, Wire};
use crate::lone::{Lone, PATIENCE, call, echoed};

/// Long enough that a test which waits for it fails.
const FOR_EVER: &str = "10m";

#[tokio::test]
async fn a_sigterm_fails_readiness_at_once_and_everything_goes_on_for_the_lag() {
    let mut lone = Lone::start(&format!("lag: {FOR_EVER}")).await;
    let mut before = lone.inbound_stream().await;
    lone.sidecar.term();
    lone.readiness_fails().await;
    assert_eq!(lone.sidecar.probe("/live").await.expect("an answer").status, 200);
    let metrics = lone.sidecar.metrics().await.expect("a scrape");
    assert_eq!(metrics.value("outrigger_draining", &[]), 1.0);
    call(lone.sidecar.inbound(), "near").await;
    call(lone.sidecar.outbound(), "far").await;
    echoed(&mut before).await;
    // The second one waits for nothing.
    lone.sidecar.term();
    lone.ends_well().await;
}

#[tokio::test]
async fn goaway_comes_in_two_phases_and_a_call_between_them_is_served() {
    let mut lone = Lone::start("lag: 0s").await;
    let mut wire = Wire::connect(lone.sidecar.inbound()).await;
    wire.preface().await;
    // Once the PING is answered the connection is served, and not just waiting to be accepted.
    wire.send(PING, 0, 0, b"are you?").await;
    assert_eq!(wire.next(&[PING]).await.flags, ACK);

    lone.drain().await;
    assert_eq!(wire.next(&[GOAWAY]).await.last_stream(), 0x7fff_ffff);
    let ping = wire.next(&[PING]).await;
    wire.begin_call(1, "near", "/bench.Echo/Unary").await;
    wire.end_call(1, b"hello").await;
    wire.response_ends(1).await;

    wire.send(PING, ACK, 0, &ping.payload).await;
    assert_eq!(wire.next(&[GOAWAY]).await.last_stream(), 1);
    wire.closes().await;
    lone.sidecar.term();
    lone.ends_well().await;
}

#[tokio::test]
async fn a_connection_that_shakes_hands_during_the_drain_is_told_of_it() {
    let mut lone = Lone::start("lag: 0s").await;
    let mut wire = Wire::connect(lone.sidecar.inbound()).await;
    // Connections are accepted in their order: the one before this has been as well.
    call(lone.sidecar.inbound(), "near").await;
    lone.drain().await;
    lone.inbound_closes().await;
    wire.preface().await;
    assert_eq!(wire.next(&[GOAWAY]).await.last_stream(), 0x7fff_ffff);
    wire.begin_call(1, "near", "/bench.Echo/Unary").await;
    let ping = wire.next(&[PING]).await;
    wire.send(PING, ACK, 0, &ping.payload).await;
    wire.end_call(1, b"hello").await;
    wire.response_ends(1).await;
    wire.closes().await;
    lone.sidecar.term();
    lone.ends_well().await;
}

#[tokio::test]
async fn drain_closes_inbound_and_keeps_outbound_until_sigterm() {
    let mut lone = Lone::start("lag: 0s").await;
    let mut app_calls = lone.outbound_stream().await;
    lone.drain().await;
    lone.readiness_fails().await;
    lone.inbound_closes().await;
    // Nothing is left inbound, and yet the app, which may still finish its work, finds its way out.
    call(lone.sidecar.outbound(), "far").await;
    echoed(&mut app_calls).await;
    let outcome = app_calls.finish().await;
    assert!(outcome.is_ok(), "{outcome:?}");
    lone.sidecar.term();
    lone.ends_well().await;
}

#[tokio::test]
async fn calls_in_flight_finish_and_the_app_may_call_out_until_they_have() {
    let mut lone = Lone::start(&format!("lag: 0s, deadline: {FOR_EVER}")).await;
    let mut inbound = lone.inbound_stream().await;
    lone.sidecar.term();
    lone.inbound_closes().await;
    call(lone.sidecar.outbound(), "far").await;
    let mut outbound = lone.outbound_stream().await;
    echoed(&mut inbound).await;
    let outcome = inbound.finish().await;
    assert!(outcome.is_ok(), "{outcome:?}");
    // What the app began meanwhile ends well too.
    echoed(&mut outbound).await;
    let outcome = outbound.finish().await;
    assert!(outcome.is_ok(), "{outcome:?}");
    lone.ends_well().await;
}

#[tokio::test]
async fn at_the_deadline_streams_end_with_unavailable_in_their_trailers() {
    const DEADLINE: Duration = Duration::from_millis(700);
    let mut lone = Lone::start("lag: 0s, deadline: 700ms").await;
    let (mut inbound, mut outbound) = (lone.inbound_stream().await, lone.outbound_stream().await);
    let began = Instant::now();
    lone.sidecar.term();
    for (call, hop) in [(&mut inbound, "inbound"), (&mut outbound, "outbound")] {
        let next = timeout(PATIENCE, call.recv()).await;
        assert_eq!(next.expect("an end in time"), None, "{hop}");
    }
    assert!(began.elapsed() >= DEADLINE, "{:?}", began.elapsed());
    for (call, hop) in [(inbound, "inbound"), (outbound, "outbound")] {
        let outcome = call.finish().await;
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(14), true), "{hop}: {outcome:?}");
        assert!(outcome.trailers.is_some(), "{hop}: {outcome:?}");
        let told = format!("outrigger {hop}: the sidecar is shutting down and drain.deadline is over");
        assert!(outcome.message.starts_with(&told), "{hop}: {}", outcome.message);
    }
    lone.ends_well().await;
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once_whatever_is_open() {
    let mut lone = Lone::start(&format!("lag: 0s, deadline: {FOR_EVER}")).await;
    let (_inbound, _outbound) = (lone.inbound_stream().await, lone.outbound_stream().await);
    lone.sidecar.term();
    lone.inbound_closes().await;
    lone.sidecar.term();
    lone.ends_well().await;
}

#[tokio::test]
async fn a_sigterm_ends_the_lag_of_a_drain_because_the_app_has_gone() {
    let mut lone = Lone::start(&format!("lag: {FOR_EVER}")).await;
    lone.drain().await;
    lone.readiness_fails().await;
    lone.sidecar.term();
    lone.ends_well().await;
}
