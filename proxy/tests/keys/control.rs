//! A mesh that comes from a control plane.

use std::time::{Duration, SystemTime};

use bench::ads::Ads;
use bench::certs::{Ca, LeafSpec};
use bench::server::Server;
use bench::tls::ServerTls;
use serde_json::{Value, json};

use crate::kit::{Case, ECHO, OK, Running, Site, UNAVAILABLE, echo, landed, service, until};
use crate::plane::{plane, resources};

cases! {
    "sidecar.zone" => it_is_told,
    "sidecar.labels.*" => they_are_told,
    "sidecar.mesh.control[]" => it_is_the_one_that_is_asked,
    "sidecar.mesh.bundle" => it_vouches_for_the_control_plane,
    "sidecar.mesh.cache" => it_is_where_the_mesh_is_kept,
    "sidecar.mesh.cache_max_age" => a_cache_is_used_as_long,
    "sidecar.mesh.empty_grace" => endpoints_stay_as_long,
    "sidecar.mesh.protocol" => it_is_spoken,
    "sidecar.mesh.register.address" => it_is_announced,
}

/// A mesh of `caller`, and of `echo` with these endpoints.
fn mesh(endpoints: &[&Server]) -> String {
    let caller = service("caller", &[]);
    json!({"version": 1, "services": [caller, service("echo", endpoints)]}).to_string()
}

/// The sidecar of `caller.shop`, whose mesh comes from there.
fn controlled(ads: &Ads) -> Site {
    let mut site = Site::outbound(&[]);
    site.sidecar["mesh"] = json!({"control": [format!("http://{}", ads.addr)]});
    site
}

/// What the newest node says under a key, as text.
fn told(ads: &Ads, key: &str) -> String {
    let node = ads.seen().into_iter().rev().find_map(|seen| seen.node).expect("a node");
    let metadata = format!("{:?}", node.metadata.expect("metadata").fields["outrigger"]);
    metadata.split_once(&format!("\"{key}\"")).map_or_else(String::new, |(_, rest)| rest.to_owned())
}

async fn it_is_told(case: &Case) {
    let ads = plane(&mesh(&[])).await;
    let mut base = controlled(&ads);
    base.sidecar["zone"] = json!("here");
    let changed = case.change(&base, "sidecar zone", "there");
    for (site, word) in [(base, "\"here\""), (changed, "\"there\"")] {
        let _running = site.start().await;
        assert!(told(&ads, "zone").contains(word), "{word}");
    }
}

async fn they_are_told(case: &Case) {
    let ads = plane(&mesh(&[])).await;
    let mut base = controlled(&ads);
    base.sidecar["labels"] = json!({"version": "blue"});
    let changed = case.change(&base, "sidecar labels version", "green");
    for (site, word) in [(base, "\"blue\""), (changed, "\"green\"")] {
        let _running = site.start().await;
        assert!(told(&ads, "labels").contains(word), "{word}");
    }
}

async fn it_is_the_one_that_is_asked(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let (first, second) = (plane(&mesh(&[&one])).await, plane(&mesh(&[&two])).await);
    let base = controlled(&first);
    let changed = case.change(&base, "sidecar mesh control 0", format!("http://{}", second.addr));
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn it_vouches_for_the_control_plane(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let mut base = Site::outbound(&[]);
    let mut planes = Vec::new();
    let mut addresses = Vec::new();
    for (name, app) in [("one.crt", &one), ("two.crt", &two)] {
        let ca = Ca::new("cluster.local");
        let leaf = ca.leaf_with(&LeafSpec { addresses: vec![[127, 0, 0, 1].into()], ..LeafSpec::default() });
        let tls = ServerTls { leaf, client_trust: None };
        let ads = Ads::start_at(([127, 0, 0, 1], 0).into(), Some(&tls)).await.expect("a control plane");
        ads.set(resources(&mesh(&[app])));
        addresses.push(format!("https://{}", ads.addr));
        planes.push(ads);
        base = base.file(name, ca.bundle_pem());
    }
    base.sidecar["mesh"] = json!({"control": addresses, "bundle": "one.crt"});
    let changed = case.change(&base, "sidecar mesh bundle", "two.crt");
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn it_is_where_the_mesh_is_kept(case: &Case) {
    let ads = plane(&mesh(&[])).await;
    let mut base = controlled(&ads);
    base.sidecar["mesh"]["cache"] = json!("here");
    let changed = case.change(&base, "sidecar mesh cache", "there");
    for (site, name) in [(base, "here"), (changed, "there")] {
        let running = site.start().await;
        let file = running.dir.path().join(name).join("caller.shop.mesh");
        until("it is kept", async || file.exists()).await;
    }
}

async fn a_cache_is_used_as_long(case: &Case) {
    let ads = plane(&mesh(&[])).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = controlled(&ads);
    base.sidecar["mesh"]["cache"] = json!(folder.path());
    base.sidecar["mesh"]["cache_max_age"] = json!("1h");
    let changed = case.change(&base, "sidecar mesh cache_max_age", "1s");
    let file = folder.path().join("caller.shop.mesh");
    let running = base.start().await;
    until("it is kept", async || file.exists()).await;
    drop(running);
    until("it is two seconds old", async || {
        let written = std::fs::metadata(&file).and_then(|file| file.modified()).expect("a time");
        SystemTime::now().duration_since(written).is_ok_and(|age| age > Duration::from_secs(2))
    })
    .await;
    // The one that does not use it writes it anew.
    for (site, is_used) in [(base, true), (changed, false)] {
        let config: Value = config(&site.start().await).await;
        assert_eq!(config["mesh"]["control"]["cache"]["not_used_at_start"].is_null(), is_used, "{config:#}");
    }
}

async fn config(running: &Running) -> Value {
    serde_json::from_str(&running.get("/config").await.expect("a page").body).expect("JSON")
}

async fn endpoints_stay_as_long(case: &Case) {
    let app = echo("one").await;
    let ads = plane("version: 1\nservices: []\n").await;
    let mut base = controlled(&ads);
    base.sidecar["mesh"]["empty_grace"] = json!("1h");
    let changed = case.change(&base, "sidecar mesh empty_grace", "0s");
    for (site, held_back, status) in [(base, 1.0, OK), (changed, 0.0, UNAVAILABLE)] {
        ads.set(resources(&mesh(&[&app])));
        let running = site.start().await;
        assert_eq!(running.unary(ECHO).await.grpc_status, OK);
        ads.set(resources(&mesh(&[])));
        running.counts("outrigger_held_back_total", &[], held_back).await;
        until("it is in force", async || running.unary(ECHO).await.grpc_status == status).await;
    }
}

async fn it_is_spoken(case: &Case) {
    let ads = plane(&mesh(&[])).await;
    let mut base = controlled(&ads);
    base.sidecar["mesh"]["protocol"] = json!("delta");
    let changed = case.change(&base, "sidecar mesh protocol", "sotw");
    for (site, is_delta) in [(base, true), (changed, false)] {
        let _running = site.start().await;
        assert_eq!(ads.seen().last().expect("a request").is_delta, is_delta);
    }
}

async fn it_is_announced(case: &Case) {
    let ads = plane(&mesh(&[])).await;
    let mut base = controlled(&ads);
    base.sidecar["mesh"]["register"] = json!({"address": "10.0.0.1:15006"});
    let changed = case.change(&base, "sidecar mesh register address", "10.0.0.2:15006");
    for (site, address) in [(base, "10.0.0.1:15006"), (changed, "10.0.0.2:15006")] {
        let _running = site.start().await;
        until("it is announced", async || told(&ads, "endpoints").contains(address)).await;
    }
}
