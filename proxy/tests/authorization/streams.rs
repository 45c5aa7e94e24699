//! What a change of rules does to calls that are under way.

use std::time::Instant;

use bench::call::{Call, CallSpec};
use bench::wait::{soon, within};

use crate::kit::{BIDI, ECHO, ENDED_WITHIN, OK, PERMISSION_DENIED, Site, UNARY, echoes, id, status, stream};

const REVOKED: &str = "outrigger_calls_revoked_total";

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Messages go both ways.
    Talking,
    /// Nothing but its head has been sent, and nothing answered.
    Begun,
    /// Its message is half there.
    InAMessage,
    /// The caller does not read what comes.
    NotReading,
}

const STATES: [State; 4] = [State::Talking, State::Begun, State::InAMessage, State::NotReading];

struct Open {
    caller: &'static str,
    tenant: &'static str,
    state: State,
    call: Call,
}

/// Four callers, each with every state for two tenants, and two more that talk: forty calls.
async fn open(site: &Site) -> Vec<Open> {
    let mut all = Vec::new();
    for caller in ["orders", "users", "admin", "guest"] {
        let client = site.client(&id(caller)).await;
        for tenant in ["a", "b"] {
            for state in STATES.into_iter().chain([State::Talking]) {
                let headers = [("x-tenant", tenant)];
                let spec = CallSpec::new(ECHO, BIDI).header("x-tenant", tenant);
                let call = match state {
                    State::Talking => stream(&client, &headers).await,
                    State::Begun => client.call(spec).await.expect("a call"),
                    State::InAMessage => {
                        let mut call = stream(&client, &headers).await;
                        call.sender.send_raw(&[0, 0, 0, 0, 9, b'x']).await.expect("an open stream");
                        call
                    }
                    State::NotReading => {
                        let mut spec = spec;
                        spec.hold_window = true;
                        let mut call = client.call(spec).await.expect("a call");
                        echoes(&mut call).await;
                        // More than comes back at once.
                        for _ in 0..4 {
                            call.send(&[1; 1_000]).await.expect("an open stream");
                        }
                        call
                    }
                };
                all.push(Open { caller, tenant, state, call });
            }
        }
    }
    assert_eq!(all.len(), 40);
    all
}

#[tokio::test]
async fn a_change_ends_exactly_the_calls_that_it_forbids_and_at_once() {
    let site = Site::start(
        "{authorization: [{allow: {from: ['*']}}, {audit: {headers: [{name: x-tenant, present: true}]}}]}",
    )
    .await;
    let open = open(&site).await;
    // A caller that may call nothing any more, and one of whom a tenant is left.
    site.change(
        "{authorization: [{allow: {from: ['*']}}, {deny: {from: [spiffe://cluster.local/ns/shop/sa/users]}}, \
         {deny: {from: [spiffe://cluster.local/ns/shop/sa/admin], headers: [{name: x-tenant, exact: b}]}}]}",
    )
    .await;
    let changed = Instant::now();
    let is_forbidden = |it: &Open| it.caller == "users" || it.caller == "admin" && it.tenant == "b";
    let (forbidden, allowed): (Vec<Open>, Vec<Open>) = open.into_iter().partition(is_forbidden);
    assert_eq!(forbidden.len(), 15);
    for Open { caller, tenant, state, call } in forbidden {
        let outcome = within(ENDED_WITHIN, format!("{caller} {tenant} {state:?}"), call.finish()).await;
        assert_eq!(outcome.grpc_status, PERMISSION_DENIED, "{caller} {tenant} {state:?}: {outcome:?}");
        assert!(outcome.clean_end && outcome.message.contains("any more"), "{state:?}: {outcome:?}");
    }
    println!("all ended after {:?}", changed.elapsed());
    for Open { caller, tenant, state, mut call } in allowed {
        let what = format!("{caller} {tenant} {state:?}");
        match state {
            State::Talking | State::Begun => soon(&what, echoes(&mut call)).await,
            State::InAMessage => call.sender.send_raw(&[b'x'; 8]).await.expect("an open stream"),
            State::NotReading => call.receiver.release(),
        }
        call.half_close();
        let outcome = soon(&what, call.finish()).await;
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
    }
    assert_eq!(site.metric(REVOKED, &[("reason", "policy")]).await, 15.0);
    assert_eq!(site.metric(REVOKED, &[("reason", "trust")]).await, 0.0);
    assert_eq!(site.metric("outrigger_failures_total", &[("reason", "REVOKED")]).await, 15.0);
}

#[tokio::test]
async fn a_mesh_that_says_the_same_of_callers_ends_no_call() {
    let site = Site::start("{authorization: [{allow: {from: ['*']}}]}").await;
    let client = site.client(&id("orders")).await;
    let mut call = stream(&client, &[]).await;
    // Something else changes: a service is there once more, and the rule is written otherwise.
    for inbound in [
        "{authorization: [{allow: {from: ['*']}}]}\n    deadline: {max: 1h}",
        "{authorization: [{name: all, allow: {from: ['*'], methods: [bench.Echo/*]}}]}",
        "{}",
    ] {
        site.change(inbound).await;
        echoes(&mut call).await;
    }
    call.half_close();
    assert!(call.finish().await.is_ok());
    assert_eq!(site.metric(REVOKED, &[]).await, 0.0);
}

#[tokio::test]
async fn a_header_that_no_rule_named_before_speaks_against_calls_that_are_under_way() {
    let site = Site::start("{authorization: [{allow: {}}]}").await;
    let client = site.client(&id("orders")).await;
    let (mut other, call) = (stream(&client, &[]).await, stream(&client, &[("x-new", "1")]).await);
    site.change("{authorization: [{deny: {from: [spiffe://cluster.local/ns/shop/sa/users], headers: [{name: x-new, exact: '1'}]}}]}").await;
    echoes(&mut other).await;
    site.change("{authorization: [{deny: {headers: [{name: x-new, exact: '1'}]}}]}").await;
    let outcome = within(ENDED_WITHIN, "it ends", call.finish()).await;
    assert_eq!(outcome.grpc_status, PERMISSION_DENIED, "{outcome:?}");
    // It is known that the other one had no such header.
    echoes(&mut other).await;
    assert_eq!(status(&client, UNARY).await, OK, "what begins now is decided by what it has");
}

#[tokio::test]
async fn calls_that_come_while_rules_change_are_decided_by_the_old_or_the_new_and_none_stays_that_is_forbidden()
 {
    let (open, shut) = ("{authorization: [{allow: {from: ['*']}}]}", "{authorization: []}");
    let site = Site::start(open).await;
    let client = site.client(&id("orders")).await;
    let mut calls = Vec::new();
    for _ in 0..5 {
        let begin = async {
            let mut begun = Vec::new();
            for _ in 0..50 {
                begun.push(client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call"));
                tokio::task::yield_now().await;
            }
            begun
        };
        let (begun, ()) = tokio::join!(begin, site.change(shut));
        calls.extend(begun);
        for call in calls.drain(..) {
            let outcome = within(ENDED_WITHIN, "it ends", call.finish()).await;
            assert_eq!(outcome.grpc_status, PERMISSION_DENIED, "{outcome:?}");
        }
        site.change(open).await;
    }
}
