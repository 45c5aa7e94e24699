//! The control plane is away for longer than half of a leaf's life, and comes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench::vigil::{Duty, Vigil};
use bench::wait::{until, within};
use tokio::time::{Instant, sleep, sleep_until};

use crate::ground::{Ground, Member};

const PER_SECOND: u32 = 50;
const GROWTH_MAX: u64 = 64 << 20;
const LIVE_MAX: Duration = Duration::from_secs(10);
/// The life of a leaf here.
const LIFE: Duration = Duration::from_secs(90);
/// How long the control plane is away: longer than half of that, and a tenth for chance.
const AWAY: Duration = Duration::from_secs(52);
/// What is left of each leaf when it goes, so that none ends meanwhile.
const LEFT_MIN: Duration = Duration::from_secs(75);
/// Between two looks at what comes in its own time.
const LOOK: Duration = Duration::from_millis(50);

#[tokio::test]
async fn nobody_notices_a_control_plane_that_is_away_for_longer_than_half_of_a_leafs_life() {
    let ground = Ground::new("leaf_life: 90s");
    let mut control = ground.control(None).await;
    let ads = control.bound.ads;
    let one = ground.callee("one", ads, "").await;
    ground.mesh(&[one.sidecar.inbound()]);
    let caller = ground.caller("caller", ads, "").await;
    let mut cached = ground.caller("cached", ads, "cache: cache").await;
    for member in [&one, &caller, &cached] {
        member.is_ready().await;
    }
    caller.reaches_echo().await;
    cached.reaches_echo().await;
    // What was there before the mesh had an endpoint is on disk too.
    until("mesh and identity are on disk", async || {
        let mesh = std::fs::read(ground.path("cached/mesh-cache/caller.shop.mesh")).unwrap_or_default();
        String::from_utf8_lossy(&mesh).contains(&one.sidecar.inbound().ip().to_string())
            && ground.path("cached/cache/identity.pem").exists()
    })
    .await;
    let vigil = Vigil::begin(Duty::new(
        "echo.shop",
        PER_SECOND,
        &[("caller", &caller.sidecar), ("one", &one.sidecar)],
    ));
    // They are, unless the machine was slow to come here: then they are when both have been renewed.
    within(LIFE, "everybody's leaf is young", async {
        while left_of(&one).await <= LEFT_MIN || left_of(&caller).await <= LEFT_MIN {
            sleep(LOOK).await;
        }
    })
    .await;
    let ends = end_of(&caller).await;
    control.kill();
    control.wait().await.expect("it ends");
    let away = Instant::now();

    // Restarted meanwhile: with a cache it serves at once, without one it says why not, and stays.
    cached.restart().await;
    cached.is_ready().await;
    assert_eq!(cached.identity().await["from"], "cache");
    cached.reaches_echo().await;
    let mut bare = ground.caller("bare", ads, "").await;
    until("it says why it is not ready", async || {
        let (status, why) = bare.readiness().await;
        status == 503 && why.starts_with("no identity yet: ") && why.contains("onnect")
    })
    .await;
    let outcome = bare.call().await;
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.message.contains("no identity yet: "), "{outcome:?}");
    assert_eq!(bare.metric("outrigger_identity_state", &[("state", "missing")]).await, 1.0);
    assert!(bare.metric("outrigger_identity_failures_total", &[("reason", "connect")]).await > 0.0);
    until("it says so", async || bare.sidecar.stderr().contains("identity: there is no certificate yet"))
        .await;

    // Nothing tells that it has been long enough but the time itself.
    sleep_until(away + AWAY).await;
    for member in [&one, &caller] {
        until("it has missed the control plane", async || {
            member.identity().await["trouble"]["reason"] == "connect"
        })
        .await;
        assert!(left_of(member).await < LIFE / 2, "{}", member.identity().await);
    }
    assert_eq!(end_of(&caller).await, ends, "nobody has renewed it");
    let control = ground.control(Some(ads)).await;
    for (name, member) in [("one", &one), ("caller", &caller), ("cached", &cached)] {
        within(LIFE, format!("{name} has a new leaf"), async {
            until("a later end", async || {
                end_of(member).await > ends && member.identity().await["trouble"].is_null()
            })
            .await;
        })
        .await;
    }
    bare.is_ready().await;
    bare.reaches_echo().await;
    until("it says so", async || bare.sidecar.stderr().contains("identity: a good certificate is in force"))
        .await;
    let report = vigil.end().await;
    report.nothing_noticed("a control plane that was away", LIVE_MAX, GROWTH_MAX);
    bare.restart().await;
    bare.is_ready().await;
    drop(control);
}

/// When the leaf in force ends, in seconds since the epoch.
async fn end_of(member: &Member) -> u64 {
    member.identity().await["expires_at_unix_seconds"].as_u64().unwrap_or_default()
}

/// How long it is still good.
async fn left_of(member: &Member) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    Duration::from_secs(end_of(member).await).saturating_sub(now)
}
