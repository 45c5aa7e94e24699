//! Leaves and roots that change every few seconds under calls and open streams.

use std::time::Duration;

use bench::client::Client;
use bench::plane::ControlPlane;
use bench::vigil::{Duty, Vigil};
use bench::wait::{soon, until};
use tokio::time::{MissedTickBehavior, interval};

use crate::ground::{ECHO, Ground, Member};
use crate::streams::{echo_all, end_all, stream};

/// Two minutes of it.
const ROTATIONS: u32 = 24;
const EVERY: Duration = Duration::from_secs(5);
const PER_SECOND: u32 = 500;
const STREAMS: usize = 50;
/// A stream is begun anew by its owner after so many rotations, long before the certificates that it goes by end.
const STREAM_ROTATIONS: usize = 2;
/// Those that are there from the first to the last: of half a minute.
const FEWER: u32 = 6;
/// Of resident memory, over all of it: what connections that still carry streams take, and their certificates.
const GROWTH_MAX: u64 = 64 << 20;
/// For `/live`, on a machine that others use too.
const LIVE_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn roots_come_and_go_and_leaves_rotate_every_five_seconds_for_two_minutes_and_nothing_fails() {
    // A root signs 10 s after it is trusted, and leaves 105 s after the next one signs: the life of a leaf, and
    // a minute for clocks. So the first leaves when the last has come.
    let mesh = Mesh::start("leaf_life: 45s, overlap: 10s").await;
    let client = mesh.client().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(stream(&client).await);
    }
    echo_all(&mut streams).await;
    let vigil = mesh.vigil(PER_SECOND);
    let mut pace = pace().await;
    for rotation in 0..ROTATIONS as usize {
        mesh.ground.add_root();
        echo_all(&mut streams).await;
        // Some at each rotation, so that some are always old.
        for old in streams.iter_mut().skip(rotation % STREAM_ROTATIONS).step_by(STREAM_ROTATIONS) {
            let mut old = std::mem::replace(old, stream(&client).await);
            old.half_close();
            let outcome = soon("the end of a stream", old.finish()).await;
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        pace.tick().await;
    }
    let made = ROTATIONS as usize + 1;
    for (name, member) in mesh.all() {
        member.has_rotated(name, ROTATIONS).await;
        until(format!("{name} trusts the roots no more that have been replaced long ago"), async || {
            let trusted = member.roots().await;
            trusted > 1 && trusted <= made - 3
        })
        .await;
    }
    end_all(streams).await;
    let report = vigil.end().await;
    report.nothing_noticed("two minutes of roots that come and go", LIVE_MAX, GROWTH_MAX);
    let seconds = u64::from(ROTATIONS) * EVERY.as_secs();
    assert!(report.calls >= seconds * u64::from(PER_SECOND) / 2, "{}", report.calls);
}

#[tokio::test]
async fn streams_outlive_the_certificates_that_are_shown_after_them() {
    let mesh = Mesh::start("leaf_life: 10m, overlap: 10s").await;
    let client = mesh.client().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(stream(&client).await);
    }
    let vigil = mesh.vigil(PER_SECOND / 10);
    let mut pace = pace().await;
    for _ in 0..FEWER {
        mesh.ground.add_root();
        echo_all(&mut streams).await;
        pace.tick().await;
    }
    for (name, member) in mesh.all() {
        member.has_rotated(name, FEWER).await;
    }
    echo_all(&mut streams).await;
    end_all(streams).await;
    vigil.end().await.nothing_noticed("half a minute of new roots and leaves", LIVE_MAX, GROWTH_MAX);
}

/// A caller and two sidecars of `echo`, who have their certificates from a control plane.
struct Mesh {
    ground: Ground,
    _control: ControlPlane,
    callees: [Member; 2],
    caller: Member,
}

impl Mesh {
    /// With this in `ca` of `control.yaml`; calls go well.
    async fn start(ca: &'static str) -> Self {
        let ground = Ground::new(ca);
        let control = ground.control(None).await;
        let ads = control.bound.ads;
        let callees = [ground.callee("one", ads, "").await, ground.callee("two", ads, "").await];
        let caller = ground.caller("caller", ads, "").await;
        ground.mesh(&callees.each_ref().map(|callee| callee.sidecar.inbound()));
        let mesh = Self { ground, _control: control, callees, caller };
        for (_, member) in mesh.all() {
            member.is_ready().await;
        }
        mesh.caller.reaches_echo().await;
        mesh
    }

    fn all(&self) -> [(&'static str, &Member); 3] {
        let [one, two] = &self.callees;
        [("caller", &self.caller), ("one", one), ("two", two)]
    }

    async fn client(&self) -> Client {
        Client::connect(self.caller.sidecar.outbound(), None).await.expect("a connection")
    }

    fn vigil(&self, per_second: u32) -> Vigil {
        let looked_at = self.all().map(|(name, member)| (name, &member.sidecar));
        Vigil::begin(Duty::new(ECHO, per_second, &looked_at))
    }
}

impl Member {
    /// How many roots it believes.
    async fn roots(&self) -> usize {
        self.identity().await["roots"].as_array().map_or(0, Vec::len)
    }

    /// Waits until it has taken every root, and checks that its leaf has followed.
    async fn has_rotated(&self, name: &str, rotations: u32) {
        // The first root was there from the beginning, and the last one may be on its way.
        until(format!("{name} has taken every root"), async || {
            self.metric("outrigger_trust_changes_total", &[]).await >= f64::from(rotations)
        })
        .await;
        // Two changes that come close together take one new leaf.
        let renewals = self.renewals().await;
        println!("{name}: {renewals} leaves, {} roots", self.roots().await);
        assert!(renewals >= f64::from(rotations) / 2.0, "{name}: {renewals}; {}", self.sidecar.stderr());
    }
}

/// Ticks once for each rotation; the first has passed.
async fn pace() -> tokio::time::Interval {
    let mut pace = interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace.tick().await;
    pace
}
