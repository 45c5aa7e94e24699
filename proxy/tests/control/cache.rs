//! What was in force is on disk, and serves while the control plane is away.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bench::ads::Manner;
use bench::wait::until;
use xds::Kind;

use crate::kit::{ECHO, Site, UNAVAILABLE, app, caller, mesh};
use crate::plane::{plane, resources};

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

const CACHE: &str = "cache: cache";
const FILE: &str = "cache/caller.shop.mesh";

/// A sidecar whose cache has been written, with `version: 1` of a mesh whose `echo` is `app`.
async fn cached(app: SocketAddr) -> Site {
    let ads = plane(&mesh(&[app])).await;
    let site = Site::ready(&caller(ads.addr, CACHE)).await;
    until("the cache is written", async || site.metric("outrigger_mesh_cache_writes_total", &[]).await > 0.0)
        .await;
    site
}

/// What is told of a cache that is not used.
async fn unused(site: &Site) -> String {
    assert_eq!(site.readiness().await.0, 503);
    site.says("is not used").await;
    let why = site.control().await["cache"]["not_used_at_start"].clone();
    why.as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn a_sidecar_that_starts_while_the_control_plane_is_away_serves_from_disk_at_once() {
    let app = app("one").await;
    let site = cached(app.addr).await.again(&caller(nowhere(), CACHE)).await;
    site.is_ready().await;
    assert!(site.call(ECHO).await.is_ok());
    let control = site.control().await;
    assert_eq!((&control["from_cache"], &control["synced"]), (&true.into(), &false.into()), "{control:#}");
    assert!(control["cache"]["age_seconds"].is_u64(), "{control:#}");
}

#[tokio::test]
async fn what_the_control_plane_says_takes_the_place_of_what_was_on_disk() {
    let (one, two) = (app("one").await, app("two").await);
    let site = cached(one.addr).await;
    let ads = plane(&mesh(&[two.addr])).await;
    let site = site.again(&caller(ads.addr, CACHE)).await;
    until("calls land on two", async || {
        site.call(ECHO).await.headers.get("x-server").is_some_and(|name| name == "two")
    })
    .await;
    assert_eq!(site.control().await["from_cache"], false);
    let mut endpoints = resources(&mesh(&[two.addr]));
    endpoints.retain(|one| one.type_url == Kind::Endpoints.type_url() && one.name == ECHO);
    let said = &endpoints[0].value;
    until("it is on disk", async || {
        let written = std::fs::read(site.dir.path().join(FILE)).expect("a cache");
        written.windows(said.len()).any(|part| part == said)
    })
    .await;
    let site = site.again(&caller(nowhere(), CACHE)).await;
    assert_eq!(site.call(ECHO).await.headers["x-server"], "two");
}

#[tokio::test]
async fn the_last_change_before_the_control_plane_dies_is_on_disk() {
    let (one, two) = (app("one").await, app("two").await);
    let ads = plane(&mesh(&[one.addr])).await;
    let site = Site::ready(&caller(ads.addr, CACHE)).await;
    let writes = async || site.metric("outrigger_mesh_cache_writes_total", &[]).await;
    until("the cache is written", async || writes().await > 0.0).await;
    // Sooner than the next writing may come.
    let before = writes().await;
    ads.set(resources(&mesh(&[two.addr])));
    until("calls land on two", async || site.call(ECHO).await.headers["x-server"] == "two").await;
    ads.behave(Manner::Deaf);
    ads.hang_up();
    until("it is written", async || writes().await > before).await;
    let site = site.again(&caller(nowhere(), CACHE)).await;
    site.is_ready().await;
    assert_eq!(site.call(ECHO).await.headers["x-server"], "two");
}

#[tokio::test]
async fn a_cache_that_is_damaged_is_told_and_not_used() {
    let app = app("one").await;
    let site = cached(app.addr).await;
    let path = site.dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).expect("a cache");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("a file");
    let site = site.again(&caller(nowhere(), CACHE)).await;
    assert!(unused(&site).await.contains("checksum"));
    let outcome = site.call(ECHO).await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    let ads = plane(&mesh(&[app.addr])).await;
    let site = site.again(&caller(ads.addr, CACHE)).await;
    site.is_ready().await;
    assert!(site.call(ECHO).await.is_ok(), "it does not stand in the way of a good mesh");
}

#[tokio::test]
async fn a_cache_of_another_trust_domain_is_told_and_not_used() {
    let app = app("one").await;
    let other = format!("{}trust_domain: example.org\n", caller(nowhere(), CACHE));
    let site = cached(app.addr).await.again(&other).await;
    assert!(unused(&site).await.contains("trust domain"));
}

#[tokio::test]
async fn a_cache_that_is_too_old_is_told_and_not_used() {
    let app = app("one").await;
    let site = cached(app.addr).await;
    let path = site.dir.path().join(FILE);
    let written = || std::fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
    until("it is two seconds old", async || {
        SystemTime::now().duration_since(written()).is_ok_and(|age| age > Duration::from_secs(2))
    })
    .await;
    let site = site.again(&caller(nowhere(), "cache: cache, cache_max_age: 1s")).await;
    assert!(unused(&site).await.contains("cache_max_age"));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_and_costs_no_call() {
    let app = app("one").await;
    let ads = plane(&mesh(&[app.addr])).await;
    let site = Site::ready(&caller(ads.addr, "cache: sidecar.yaml")).await;
    site.says("mesh.cache: ").await;
    let failures = "outrigger_mesh_cache_failures_total";
    until("it is counted", async || site.metric(failures, &[]).await > 0.0).await;
    assert!(!site.control().await["cache"]["failing"].is_null());
    assert!(site.call(ECHO).await.is_ok());
}
