//! What a sidecar announces of the app beside it.

use std::collections::BTreeMap;

use bench::ads::Ads;
use bench::wait::until;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use crate::kit::{Site, app, callee, mesh};
use crate::plane::{plane, resources};

/// The endpoints of the newest node, as `key=value` texts.
fn announced(ads: &Ads) -> Vec<BTreeMap<String, String>> {
    let seen = ads.seen();
    let Some(node) = seen.iter().rev().find_map(|seen| seen.node.as_ref()) else { return Vec::new() };
    let metadata = node.metadata.as_ref().expect("metadata");
    let ours = fields(&metadata.fields["outrigger"]);
    let Some(Kind::ListValue(list)) = ours.fields.get("endpoints").and_then(|list| list.kind.clone()) else {
        return Vec::new();
    };
    let text = |value: &Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => fields(value).fields.iter().map(|(key, value)| format!("{key}:{:?}", value.kind)).collect(),
    };
    let one =
        |value: &Value| fields(value).fields.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    list.values.iter().map(one).collect()
}

fn fields(value: &Value) -> Struct {
    match &value.kind {
        Some(Kind::StructValue(fields)) => fields.clone(),
        _ => Struct::default(),
    }
}

async fn drain(site: &Site) {
    let yaml = site.dir.path().join("sidecar.yaml");
    let binary = env!("CARGO_BIN_EXE_outrigger-proxy");
    let done = tokio::process::Command::new(binary).arg("drain").arg(yaml).output().await.expect("drain");
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test]
async fn an_endpoint_is_announced_once_the_sidecar_is_ready_and_withdrawn_before_the_lag_of_the_drain() {
    let app = app("one").await;
    let ads = plane(&mesh(&[])).await;
    let yaml = callee(app.addr, ads.addr, "register: {address: \"10.0.0.8:15006\"}");
    let site = Site::ready(&format!("{yaml}zone: a\nlabels: {{version: v1}}\n")).await;
    until("it is announced", async || announced(&ads).len() == 1).await;
    let one = &announced(&ads)[0];
    assert_eq!((one["service"].as_str(), one["address"].as_str()), ("echo", "10.0.0.8:15006"));
    assert_eq!(one["zone"], "a");
    assert!(one["labels"].contains("v1"), "{one:?}");
    drain(&site).await;
    until("it is withdrawn", async || announced(&ads).is_empty()).await;
    assert!(site.client().await.is_open(), "the lag is not over: inbound goes on");
}

#[tokio::test]
async fn a_sidecar_that_comes_back_to_what_it_has_on_disk_announces_its_endpoint_again() {
    let app = app("one").await;
    let ads = plane(&mesh(&[])).await;
    let yaml = callee(app.addr, ads.addr, "cache: cache, register: {address: \"10.0.0.8:15006\"}");
    let site = Site::ready(&yaml).await;
    until("it is announced", async || announced(&ads).len() == 1).await;
    let written = "outrigger_mesh_cache_writes_total";
    until("it is on disk", async || site.metric(written, &[]).await > 0.0).await;
    drain(&site).await;
    until("it is withdrawn", async || announced(&ads).is_empty()).await;
    // The control plane has nothing new to say.
    let site = site.again(&yaml).await;
    site.is_ready().await;
    until("it is announced again", async || announced(&ads).len() == 1).await;
}

#[tokio::test]
async fn an_endpoint_is_withdrawn_while_nobody_knows_who_may_call_it() {
    let app = app("one").await;
    let ads = plane(&mesh(&[])).await;
    let site = Site::ready(&callee(app.addr, ads.addr, "register: {address: \"10.0.0.8:15006\"}")).await;
    until("it is announced", async || announced(&ads).len() == 1).await;
    ads.set(resources(&mesh(&[])).into_iter().filter(|one| one.name != "inbound/echo.shop"));
    until("it is not ready", async || site.readiness().await.0 == 503).await;
    until("it is withdrawn", async || announced(&ads).is_empty()).await;
    ads.set(resources(&mesh(&[])));
    until("it is announced again", async || announced(&ads).len() == 1).await;
}

#[tokio::test]
async fn an_endpoint_is_announced_to_every_control_plane_and_to_one_that_comes_back() {
    let app = app("one").await;
    let (one, two) = (plane(&mesh(&[])).await, plane(&mesh(&[])).await);
    let yaml = callee(app.addr, one.addr, "register: {address: \"10.0.0.8:15006\"}");
    let both = format!("\"http://{}\", \"http://{}\"", one.addr, two.addr);
    let site = Site::ready(&yaml.replace(&format!("\"http://{}\"", one.addr), &both)).await;
    for ads in [&one, &two] {
        until("it is announced", async || heralded(ads).is_some_and(|endpoints| endpoints == 1)).await;
    }
    let asked = |ads: &Ads| {
        let seen = ads.seen();
        let is_herald =
            |node: &Option<_>| node.as_ref().is_some_and(|node: &Node| node.id.ends_with("~herald"));
        let streams: Vec<usize> =
            seen.iter().filter(|one| is_herald(&one.node)).map(|one| one.stream).collect();
        seen.iter().any(|one| streams.contains(&one.stream) && !one.subscribe.is_empty())
    };
    assert!(!asked(&one) && !asked(&two), "who announces subscribes to nothing");
    let before = two.streams();
    two.hang_up();
    until("it is announced once more", async || two.streams() > before && heralded(&two) == Some(1)).await;
    drain(&site).await;
    for ads in [&one, &two] {
        until("it is withdrawn", async || heralded(ads) == Some(0)).await;
    }
}

/// How many endpoints the newest herald announces; and those who ask announce none.
fn heralded(ads: &Ads) -> Option<usize> {
    let nodes: Vec<_> = ads.seen().into_iter().filter_map(|seen| seen.node).collect();
    let endpoints = |ours: &Struct| match ours.fields.get("endpoints").and_then(|list| list.kind.clone()) {
        Some(Kind::ListValue(list)) => list.values.len(),
        _ => 0,
    };
    let ours = |node: &Node| fields(&node.metadata.as_ref().expect("metadata").fields["outrigger"]);
    let (heralds, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.id.ends_with("~herald"));
    assert!(others.iter().all(|node| endpoints(&ours(node)) == 0), "heralds announce, and nobody else");
    heralds.last().map(|node| endpoints(&ours(node)))
}
