//! Before the first mesh.

use std::time::{Duration, Instant};

use bench::ads::{Ads, Manner};
use bench::call::CallSpec;
use bench::wait::until;

use crate::kit::{ECHO, Site, UNARY, UNAVAILABLE, app, callee, caller, mesh, yaml};
use crate::plane::{plane, resources};

/// A control plane that accepts and says nothing.
async fn deaf() -> Ads {
    let ads = Ads::start().await.expect("a control plane");
    ads.behave(Manner::Deaf);
    ads
}

/// It serves a mesh from now on.
fn awake(ads: &Ads, mesh: &str) {
    ads.set(resources(mesh));
    ads.behave(Manner::Well);
    ads.hang_up();
}

#[tokio::test]
async fn calls_of_both_directions_wait_for_the_first_mesh_and_then_go_on() {
    let (app, ads) = (app("one").await, deaf().await);
    let folder = || tempfile::tempdir().expect("a folder");
    let out = Site::start(&caller(ads.addr, ""), folder()).await;
    let into = Site::start(&callee(app.addr, ads.addr, ""), folder()).await;
    for site in [&out, &into] {
        let (status, why) = site.readiness().await;
        assert_eq!(status, 503);
        assert!(why.starts_with("no config yet"), "{why}");
    }
    let waiting = async {
        until("both calls wait", async || {
            let in_flight = "outrigger_calls_in_flight";
            out.metric(in_flight, &[]).await + into.metric(in_flight, &[]).await == 2.0
        })
        .await;
        awake(&ads, &mesh(&[app.addr]));
    };
    let (one, two, ()) = tokio::join!(out.call(ECHO), into.call(ECHO), waiting);
    assert!(one.is_ok() && two.is_ok(), "{one:?}\n{two:?}");
    out.is_ready().await;
    into.is_ready().await;
}

#[tokio::test]
async fn nobody_is_let_in_by_the_first_mesh_whom_it_does_not_allow() {
    let (app, ads) = (app("one").await, deaf().await);
    let site = Site::start(&callee(app.addr, ads.addr, ""), tempfile::tempdir().expect("a folder")).await;
    let ruled = "version: 1\nservices:\n  - name: echo\n    namespace: shop\n    inbound: {authorization: [{allow: {methods: [bench.Echo/Other]}}]}\n";
    let waiting = async {
        until("the call waits", async || site.metric("outrigger_calls_in_flight", &[]).await == 1.0).await;
        awake(&ads, ruled);
    };
    let (outcome, ()) = tokio::join!(site.call(ECHO), waiting);
    assert_eq!(outcome.grpc_status, Some(7), "{outcome:?}");
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn a_service_whose_rules_for_callers_are_not_here_lets_nobody_in() {
    let (app, ads) = (app("one").await, Ads::start().await.expect("a control plane"));
    let (rules, rest): (Vec<_>, Vec<_>) =
        resources(&mesh(&[app.addr])).into_iter().partition(|one| one.name == "inbound/echo.shop");
    assert_eq!(rules.len(), 1);
    ads.set(rest.clone());
    let site = Site::start(&callee(app.addr, ads.addr, ""), tempfile::tempdir().expect("a folder")).await;
    site.says("says nothing yet of who may call it").await;
    let (status, why) = site.readiness().await;
    assert_eq!((status, why.contains("who may call service echo.shop")), (503, true), "{why}");
    assert_eq!(site.control().await["without_rules"], serde_json::json!([ECHO]));
    let outcome = site.call(ECHO).await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert_eq!(app.accepted(), 0);
    ads.set([rest, rules].concat());
    site.is_ready().await;
    assert!(site.call(ECHO).await.is_ok());
}

#[tokio::test]
async fn outbound_calls_go_on_while_the_rules_of_the_own_service_are_not_here() {
    let (ours, other) = (app("ours").await, app("other").await);
    let both =
        format!("{}  - {{name: other, namespace: shop, endpoints: [\"{}\"]}}\n", mesh(&[]), other.addr);
    let ads = Ads::start().await.expect("a control plane");
    ads.set(resources(&both).into_iter().filter(|one| one.name != "inbound/echo.shop"));
    let yaml = format!("{}outbound: {{listen: \"127.0.0.1:0\"}}\n", callee(ours.addr, ads.addr, ""));
    let site = Site::start(&yaml, tempfile::tempdir().expect("a folder")).await;
    let outcome = site.call("other.shop").await;
    assert_eq!(outcome.headers.get("x-server").map(|name| name == "other"), Some(true), "{outcome:?}");
    assert_eq!(site.readiness().await.0, 503);
}

#[tokio::test]
async fn a_service_that_is_taken_away_while_a_route_leads_there_lets_nobody_in() {
    let app = app("one").await;
    // The callers of `echo` are told by rules; a route of `front` keeps its cluster here when the service goes.
    let ruled = format!(
        "version: 1\nservices:\n  - {{name: front, namespace: shop, routes: [{{match: {{service: bench.Echo}}, backends: [{{service: echo}}]}}]}}\n  \
         - {{name: echo, namespace: shop, endpoints: [\"{}\"], inbound: {{authorization: [{{allow: {{methods: [bench.Echo/Other]}}}}]}}}}\n",
        app.addr
    );
    let ads = plane(&ruled).await;
    let site = Site::ready(&callee(app.addr, ads.addr, "")).await;
    assert_eq!(site.call(ECHO).await.grpc_status, Some(7));
    let is_its_listener = |name: &str| [ECHO, "echo", "inbound/echo.shop"].contains(&name);
    ads.set(
        resources(&ruled)
            .into_iter()
            .filter(|one| one.type_url != xds::Kind::Listener.type_url() || !is_its_listener(&one.name)),
    );
    until("nobody is let in", async || site.call(ECHO).await.grpc_status == UNAVAILABLE).await;
    assert_eq!(site.readiness().await.0, 503);
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn rules_of_another_control_plane_that_cannot_be_honoured_let_nobody_in() {
    let app = app("one").await;
    // As for proxyless gRPC: nothing private stands in it, as in what other control planes send.
    let source = mesh(&[app.addr]);
    let parsed = config::parse_mesh(config::Source { name: "mesh.yaml", text: &source }).expect("a mesh");
    let audience = xds::Audience { client: xds::Client::Grpc, certificates: None };
    let foreign = xds::encode::mesh(&parsed, &audience).into_iter().map(|one| bench::ads::Resource {
        type_url: one.kind.type_url().to_owned(),
        name: one.name,
        version: one.version,
        value: one.bytes.to_vec(),
    });
    let foreign: Vec<_> = foreign.collect();
    let ads = Ads::start().await.expect("a control plane");
    ads.set(foreign.clone());
    let yaml = callee(app.addr, ads.addr, "cache: cache");
    let site = Site::ready(&yaml).await;
    assert!(site.call(ECHO).await.is_ok(), "it says nothing about callers, and that is all it says");
    // A listener of its name that is no protobuf behind it.
    let rules = bench::ads::Resource {
        type_url: xds::Kind::Listener.type_url().to_owned(),
        name: "inbound/echo.shop".to_owned(),
        version: "1".to_owned(),
        value: b"\x0a\x11inbound/echo.shop\x12\xff".to_vec(),
    };
    ads.set(foreign.iter().cloned().chain([rules]));
    until("nobody is let in", async || site.call(ECHO).await.grpc_status == UNAVAILABLE).await;
    assert_eq!(site.readiness().await.0, 503);
    let written = async || site.metric("outrigger_mesh_cache_writes_total", &[]).await;
    until("it is on disk", async || written().await > 1.0).await;
    ads.behave(Manner::Deaf);
    let site = site.again(&yaml).await;
    assert_eq!(site.call(ECHO).await.grpc_status, UNAVAILABLE, "nor after a restart");
    assert_eq!(site.readiness().await.0, 503);
    ads.set(foreign);
    ads.behave(Manner::Well);
    ads.hang_up();
    until("the rules were taken back", async || site.call(ECHO).await.is_ok()).await;
}

#[tokio::test]
async fn without_a_mesh_calls_end_after_five_seconds_or_at_their_deadline() {
    let (app, ads) = (app("one").await, deaf().await);
    let folder = || tempfile::tempdir().expect("a folder");
    let out = Site::start(&caller(ads.addr, ""), folder()).await;
    let into = Site::start(&callee(app.addr, ads.addr, ""), folder()).await;
    let began = Instant::now();
    let hasty = CallSpec::new(ECHO, UNARY).header("grpc-timeout", "500m");
    let (one, two, hasty) = tokio::join!(out.call(ECHO), into.call(ECHO), out.call_with(hasty));
    assert!(began.elapsed() >= Duration::from_secs(5));
    for outcome in [&one, &two] {
        assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
        assert!(outcome.message.contains("no config yet"), "{outcome:?}");
    }
    assert_eq!(two.headers["outrigger-unprocessed"], "1", "another sidecar may send it elsewhere");
    assert_eq!(hasty.grpc_status, Some(4), "{hasty:?}");
    assert_eq!(app.accepted(), 0);
    assert_eq!(out.metric("outrigger_failures_total", &[("reason", "NO_CONFIG")]).await, 1.0);
}

#[tokio::test]
async fn calls_that_wait_count_against_the_limit() {
    let ads = deaf().await;
    let yaml = yaml("caller", "outbound: {listen: \"127.0.0.1:0\"}\nlimits: {calls: 1}", ads.addr, "");
    let site = Site::start(&yaml, tempfile::tempdir().expect("a folder")).await;
    let (one, two) = tokio::join!(site.call(ECHO), async {
        until("a call waits", async || site.metric("outrigger_calls_in_flight", &[]).await == 1.0).await;
        site.call(ECHO).await
    });
    assert!(one.message.contains("no config yet"), "{one:?}");
    assert!(two.message.contains("the limit `calls`"), "{two:?}");
}

#[tokio::test]
async fn a_service_that_is_not_in_the_mesh_gets_no_calls_and_is_not_ready_until_it_is() {
    let app = app("one").await;
    let ads = plane("version: 1\nservices: [{name: caller, namespace: shop}]\n").await;
    let site = Site::start(&callee(app.addr, ads.addr, ""), tempfile::tempdir().expect("a folder")).await;
    site.says("has no service echo.shop").await;
    let (status, why) = site.readiness().await;
    assert_eq!((status, why.contains("echo.shop")), (503, true), "{why}");
    let outcome = site.call(ECHO).await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(outcome.message.contains("echo.shop"), "{outcome:?}");
    assert_eq!(site.control().await["not_in_mesh"], serde_json::json!(["echo.shop"]));
    ads.set(resources(&mesh(&[app.addr])));
    site.is_ready().await;
    assert!(site.call(ECHO).await.is_ok());
    ads.set(resources("version: 1\nservices: [{name: caller, namespace: shop}]\n"));
    until("it is gone again", async || site.readiness().await.0 == 503).await;
    assert_eq!(site.call(ECHO).await.grpc_status, UNAVAILABLE);
}

#[tokio::test]
async fn a_contradiction_that_the_first_mesh_had_keeps_nothing_else_out_also_after_a_restart() {
    let apps = [app("one").await, app("two").await, app("three").await];
    // `thief` claims the host of `echo`, which goes first in the order of names.
    let with = |echo: &bench::server::Server| {
        let good = mesh(&[echo.addr]);
        let thief = "version: 1\nservices: [{name: thief, namespace: shop, hosts: [echo.shop]}]\n";
        let thief = resources(thief).into_iter().filter(|one| one.name.ends_with("thief.shop"));
        resources(&good).into_iter().chain(thief).collect::<Vec<_>>()
    };
    let ads = Ads::start().await.expect("a control plane");
    ads.set(with(&apps[0]));
    let yaml = caller(ads.addr, "cache: cache");
    let site = Site::ready(&yaml).await;
    site.says("is used as far as it goes").await;
    assert_eq!(site.control().await["conflicts"].as_array().map(Vec::len), Some(1));
    ads.set(with(&apps[1]));
    until("calls land on two", async || site.call(ECHO).await.headers["x-server"] == "two").await;
    let written = async || site.metric("outrigger_mesh_cache_writes_total", &[]).await;
    let before = written().await;
    until("it is on disk", async || written().await > before || before > 1.0).await;
    let site = site.again(&yaml).await;
    site.is_ready().await;
    ads.set(with(&apps[2]));
    until("calls land on three", async || site.call(ECHO).await.headers["x-server"] == "three").await;
    assert_eq!(site.metric("outrigger_config_rejected_total", &[("source", "mesh")]).await, 0.0);
}

#[tokio::test]
async fn a_set_that_contradicts_itself_changes_nothing_until_it_is_good_again() {
    let (one, two) = (app("one").await, app("two").await);
    let good = mesh(&[one.addr]);
    let ads = plane(&good).await;
    let site = Site::ready(&caller(ads.addr, "")).await;
    let thief = format!(
        "version: 1\nservices: [{{name: thief, namespace: shop, hosts: [echo.shop], endpoints: [\"{}\"]}}]\n",
        two.addr
    );
    let both = resources(&good)
        .into_iter()
        .chain(resources(&thief).into_iter().filter(|one| one.name.ends_with("thief.shop")));
    ads.set(both);
    let rejected = [("source", "mesh")];
    until("it is turned down", async || {
        site.metric("outrigger_config_rejected_total", &rejected).await == 1.0
    })
    .await;
    assert!(!site.config().await["mesh"]["rejected"].is_null());
    site.says("what was in force stays so").await;
    let said = |text: &str| {
        let seen = ads.seen();
        let last = seen.iter().rev().find_map(|seen| seen.node.as_ref());
        last.is_some_and(|node| format!("{node:?}").contains(text))
    };
    until("the control plane is told", async || said("turned_down") && said("echo.shop")).await;
    let outcome = site.call(ECHO).await;
    assert_eq!(outcome.headers["x-server"], "one", "{outcome:?}");
    ads.set(resources(&good));
    until("it is good again", async || site.config().await["mesh"]["rejected"].is_null()).await;
    until("that is told too", async || !said("turned_down")).await;
}
