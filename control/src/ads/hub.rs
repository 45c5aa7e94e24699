//! What all streams share.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};
use xds::Audience;

use crate::ads::counters::{Counters, Limit};
use crate::ads::grpc::{Code, Ending};
use crate::ads::limits::{AUDIENCES_MAX, Settings};
use crate::ads::registration::Owners;
use crate::ads::registry::Registry;
use crate::ads::view::View;
use crate::ca::authority::Authority;
use crate::registrations::Registrations;
use crate::world::{World, Worlds};

/// Between two looks at sidecars whose streams are gone, at most.
const SWEEP_MAX: Duration = Duration::from_secs(1);

/// The ADS server: one for all connections.
pub struct Hub {
    pub(crate) settings: Settings,
    pub(crate) worlds: Worlds,
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) owners: Owners,
    pub(crate) leaving: watch::Sender<bool>,
    /// `registration.grace` after the start: whoever announced endpoints to an earlier process has done so again, or is gone.
    pub(crate) complete_at: std::time::Instant,
    views: Mutex<HashMap<Audience, Newest>>,
    counters: Counters,
    registry: Registry,
    sweeper: Mutex<Option<AbortHandle>>,
    /// `None`: it signs nothing.
    ca: Option<Arc<Authority>>,
}

/// The newest view of an audience, made or in the making.
#[derive(Clone)]
struct Newest {
    /// What it is a view of, whoever makes it.
    world: Arc<World>,
    /// Filled by the first stream that asks; those that come meanwhile wait for it, and no thread does.
    view: Arc<OnceCell<Arc<View>>>,
    /// The one that was made before it, which shares with it what has not changed.
    before: Option<Arc<View>>,
}

impl Newest {
    fn of(world: Arc<World>, before: Option<Arc<View>>) -> Self {
        Self { world, view: Arc::default(), before }
    }

    /// Whether a stream holds it, or waits for it.
    fn is_used(&self) -> bool {
        let held = |view: &Arc<View>| Arc::strong_count(view) > 1;
        Arc::strong_count(&self.view) > 1
            || self.view.get().is_some_and(held)
            || self.before.as_ref().is_some_and(held)
    }
}

impl Hub {
    /// A server of these worlds. Runs a task of its own for as long as it lives: call it within a runtime.
    pub fn new(worlds: Worlds, registrations: Arc<Registrations>, settings: Settings) -> Arc<Self> {
        Self::with_ca(worlds, registrations, settings, None)
    }

    /// As [`Hub::new`], with a CA beside it.
    pub(crate) fn with_ca(
        worlds: Worlds,
        registrations: Arc<Registrations>,
        settings: Settings,
        ca: Option<Arc<Authority>>,
    ) -> Arc<Self> {
        let hub = Arc::new(Self {
            settings,
            worlds,
            registrations,
            owners: Owners::default(),
            leaving: watch::Sender::new(false),
            complete_at: complete_at(settings.registration_grace),
            views: Mutex::default(),
            counters: Counters::default(),
            registry: Registry::default(),
            sweeper: Mutex::default(),
            ca,
        });
        let task = tokio::spawn(sweep(Arc::downgrade(&hub))).abort_handle();
        *hub.sweeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        hub
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Who is connected.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn ca(&self) -> Option<&Arc<Authority>> {
        self.ca.as_ref()
    }

    /// Of the newest world.
    pub(crate) fn trust_domain(&self) -> String {
        self.worlds.borrow().mesh.trust_domain.clone()
    }

    /// Ends all streams with UNAVAILABLE, so that clients go elsewhere; connections then close by themselves.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// What an audience is to hold in this world, or in a newer one. Made once, for the first stream that asks, on a thread
    /// that may block: the first set of an audience takes milliseconds for each hundred services.
    pub(crate) async fn view(&self, audience: &Audience, world: &Arc<World>) -> Result<Arc<View>, Ending> {
        let newest = self.newest(audience, world)?;
        let make = || async {
            let Newest { world, before, .. } = newest.clone();
            let audience = audience.clone();
            let on_demand_above = self.settings.on_demand_above;
            let making = spawn_blocking(move || {
                let set = world.set(&audience);
                View::of(&set, world.version, on_demand_above, before.as_deref())
            });
            // It fails when the process ends.
            let made = making.await;
            made.map(Arc::new).map_err(|_| Ending::new(Code::Unavailable, "the control plane is going"))
        };
        newest.view.get_or_try_init(make).await.cloned()
    }

    /// Where the view of this world is or will be.
    fn newest(&self, audience: &Audience, world: &Arc<World>) -> Result<Newest, Ending> {
        let mut views = self.views();
        let newest = match views.get_mut(audience) {
            Some(newest) => newest,
            None => {
                views.retain(|_, newest| newest.is_used());
                if views.len() >= AUDIENCES_MAX {
                    self.counters.refuse(Limit::Audiences);
                    let what = format!(
                        "{AUDIENCES_MAX} kinds of clients are connected already, which differ in \
                         `metadata.outrigger` of their nodes; let more of them say the same there"
                    );
                    return Err(Ending::new(Code::ResourceExhausted, what));
                }
                views.entry(audience.clone()).or_insert_with(|| Newest::of(world.clone(), None))
            }
        };
        if newest.world.version < world.version {
            // One that is still in the making is passed over.
            let before = newest.view.get().cloned().or_else(|| newest.before.take());
            *newest = Newest::of(world.clone(), before);
        }
        Ok(newest.clone())
    }

    fn views(&self) -> MutexGuard<'_, HashMap<Audience, Newest>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what was made for audiences of which nobody is left, and of what views in force were made after.
    fn tidy(&self) {
        self.views().retain(|_, newest| {
            if newest.view.initialized() {
                newest.before = None;
            }
            newest.is_used()
        });
    }

    pub(crate) fn limit_reached(&self, streams: usize) -> bool {
        let reached = streams > self.settings.streams;
        if reached {
            self.counters.refuse(Limit::Streams);
        } else {
            self.counters.streams.fetch_add(1, Relaxed);
        }
        reached
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

fn complete_at(grace: Duration) -> std::time::Instant {
    let now = Instant::now().into_std();
    now.checked_add(grace).unwrap_or(now)
}

async fn sweep(hub: Weak<Hub>) {
    let Some(grace) = hub.upgrade().map(|hub| hub.settings.registration_grace) else { return };
    let mut ticks = interval((grace / 4).clamp(Duration::from_millis(10), SWEEP_MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(hub) = hub.upgrade() else { return };
        hub.tidy();
        hub.owners.sweep(Instant::now().into_std(), grace, &hub.registrations);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Poll;

    use config::Source;
    use tokio::runtime::{Builder, Runtime};
    use xds::Client;
    use xds::audience::Certificates;

    use crate::ads::hub::*;

    const SETTINGS: Settings = Settings {
        on_demand_above: 10,
        registration_grace: Duration::from_secs(30),
        streams: 10,
        subscriptions: 10,
        request: 1 << 10,
        requests_per_second: 10,
        first_words: Duration::from_secs(10),
        ping_every: Duration::from_secs(30),
        pong_max: Duration::from_secs(20),
    };

    fn world() -> Arc<World> {
        let text = "version: 1\nservices: [{name: a}, {name: b}]\n";
        Arc::new(World::first(config::parse_mesh(Source { name: "mesh.yaml", text }).unwrap()))
    }

    fn hub(world: &Arc<World>) -> (watch::Sender<Arc<World>>, Arc<Hub>) {
        let (worlds, newest) = watch::channel(world.clone());
        (worlds, Hub::new(newest, Arc::default(), SETTINGS))
    }

    fn envoy(port: u16) -> Audience {
        let outbound = ([127, 0, 0, 1], port).into();
        Audience { client: Client::Envoy { outbound }, certificates: Some(Certificates::Own) }
    }

    /// A runtime whose one thread that may block does nothing else until something is sent, or never will be.
    fn held_up() -> (Runtime, mpsc::Sender<()>) {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let (go, held) = mpsc::channel();
        runtime.spawn_blocking(move || held.recv());
        (runtime, go)
    }

    #[test]
    fn a_first_view_holds_no_thread_up_and_is_made_once_for_all_who_wait() {
        let (runtime, go) = held_up();
        runtime.block_on(async {
            let world = world();
            let (_worlds, hub) = hub(&world);
            let audience = envoy(1);
            let (mut one, mut two) = (pin!(hub.view(&audience, &world)), pin!(hub.view(&audience, &world)));
            poll_fn(|cx| {
                assert!(one.as_mut().poll(cx).is_pending(), "it is made on another thread");
                assert!(two.as_mut().poll(cx).is_pending(), "who comes meanwhile waits");
                Poll::Ready(())
            })
            .await;
            go.send(()).unwrap();
            let (one, two) = tokio::join!(one, two);
            assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
        });
    }

    #[test]
    fn who_goes_while_it_is_made_leaves_it_to_the_next() {
        let (runtime, go) = held_up();
        runtime.block_on(async {
            let world = world();
            let (_worlds, hub) = hub(&world);
            let audience = envoy(1);
            {
                let mut gone = pin!(hub.view(&audience, &world));
                let begun = poll_fn(|cx| Poll::Ready(gone.as_mut().poll(cx).is_pending())).await;
                assert!(begun, "it is in the making");
            }
            go.send(()).unwrap();
            assert_eq!(hub.view(&audience, &world).await.unwrap().version, "1");
        });
    }

    #[tokio::test]
    async fn a_newer_world_is_told_after_the_one_before_and_an_older_one_never() {
        let first = world();
        let (_worlds, hub) = hub(&first);
        let audience = envoy(1);
        let one = hub.view(&audience, &first).await.unwrap();
        let mut mesh = config::model::Mesh::clone(&first.mesh);
        mesh.services.remove(1);
        let second = Arc::new(first.next(mesh));
        let two = hub.view(&audience, &second).await.unwrap();
        let gone: Vec<_> = two.since(one.serial, xds::Kind::Cluster).expect("one chain").collect();
        assert_eq!(gone.iter().map(|name| &***name).collect::<Vec<_>>(), ["b.default"]);
        assert!(Arc::ptr_eq(&hub.view(&audience, &first).await.unwrap(), &two));
    }

    #[tokio::test]
    async fn kinds_of_clients_that_have_gone_leave_their_places() {
        let world = world();
        let (_worlds, hub) = hub(&world);
        let mut held = Vec::new();
        for port in 0..AUDIENCES_MAX {
            held.push(hub.view(&envoy(port as u16), &world).await.unwrap());
        }
        let one_more = envoy(AUDIENCES_MAX as u16);
        assert_eq!(hub.view(&one_more, &world).await.err().unwrap().code, Code::ResourceExhausted);
        held.pop();
        assert!(hub.view(&one_more, &world).await.is_ok());
        hub.tidy();
        assert_eq!(hub.views().len(), held.len(), "nobody is left of the last one");
    }
}
