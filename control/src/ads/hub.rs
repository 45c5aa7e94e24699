//! What all streams share.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use xds::Audience;

use crate::ads::counters::{Counters, Limit};
use crate::ads::grpc::{Code, Ending};
use crate::ads::limits::{AUDIENCES_MAX, Settings};
use crate::ads::registration::Owners;
use crate::ads::registry::Registry;
use crate::ads::view::View;
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
    views: Mutex<HashMap<Audience, Weak<View>>>,
    counters: Counters,
    registry: Registry,
    sweeper: Mutex<Option<AbortHandle>>,
}

impl Hub {
    /// A server of these worlds. Runs a task of its own for as long as it lives: call it within a runtime.
    pub fn new(worlds: Worlds, registrations: Arc<Registrations>, settings: Settings) -> Arc<Self> {
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

    /// Ends all streams with UNAVAILABLE, so that clients go elsewhere; connections then close by themselves.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// What an audience is to hold in this world. Made once, by the first stream that asks.
    pub(crate) fn view(&self, audience: &Audience, world: &World) -> Result<Arc<View>, Ending> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let before = views.get(audience).and_then(Weak::upgrade);
        if let Some(known) = before.as_ref().filter(|known| known.world >= world.version) {
            return Ok(known.clone());
        }
        if before.is_none() {
            views.retain(|_, view| view.strong_count() > 0);
            if views.len() >= AUDIENCES_MAX {
                self.counters.refuse(Limit::Audiences);
                let what = format!(
                    "{AUDIENCES_MAX} kinds of clients are connected already, which differ in \
                     `metadata.outrigger` of their nodes; let more of them say the same there"
                );
                return Err(Ending::new(Code::ResourceExhausted, what));
            }
        }
        let set = world.set(audience);
        let view = View::of(&set, world.version, self.settings.on_demand_above, before.as_deref());
        let view = Arc::new(view);
        views.insert(audience.clone(), Arc::downgrade(&view));
        Ok(view)
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
        hub.owners.sweep(Instant::now().into_std(), grace, &hub.registrations);
    }
}
