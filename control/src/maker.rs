//! Makes worlds: from what the files say and sidecars announce, at a measured pace.

use std::sync::Arc;

use config::control::Debounce as Settings;
use config::model::Mesh;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::counters::Counters;
use crate::debounce::Debounce;
use crate::registrations::Registrations;
use crate::world::{World, Worlds};

/// Makes a world of each change, for as long as the process lives.
pub(crate) struct Maker {
    meshes: watch::Receiver<Arc<Mesh>>,
    registrations: Arc<Registrations>,
    announced: watch::Receiver<u64>,
    counters: Arc<Counters>,
    worlds: watch::Sender<Arc<World>>,
    debounce: Debounce,
}

impl Maker {
    /// Makes the first world.
    pub(crate) fn begin(
        mut meshes: watch::Receiver<Arc<Mesh>>,
        registrations: Arc<Registrations>,
        counters: Arc<Counters>,
        settings: Settings,
    ) -> (Self, Worlds) {
        let mesh = Mesh::clone(&meshes.borrow_and_update());
        counters.world(0);
        let (worlds, newest) = watch::channel(Arc::new(World::first(mesh)));
        let (announced, debounce) = (registrations.changes(), Debounce::new(settings));
        (Self { meshes, registrations, announced, counters, worlds, debounce }, newest)
    }

    /// Makes worlds; ends when nobody can change the mesh any more.
    pub(crate) async fn run(mut self) {
        loop {
            let due = self.debounce.due();
            tokio::select! {
                changed = self.meshes.changed() => match changed {
                    Ok(()) => self.debounce.note(Instant::now()),
                    Err(_) => return,
                },
                Ok(()) = self.announced.changed() => self.debounce.note(Instant::now()),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.debounce.clear();
                    self.make().await;
                }
            }
        }
    }

    async fn make(&mut self) {
        let files = self.meshes.borrow_and_update().clone();
        let (before, registrations) = (self.worlds.borrow().clone(), self.registrations.clone());
        let made = spawn_blocking(move || {
            let mut mesh = Mesh::clone(&files);
            registrations.merge(&mut mesh);
            // One endpoint that came and went again within the pause is no change.
            (*before.mesh != mesh).then(|| before.next(mesh))
        });
        if let Ok(Some(world)) = made.await {
            self.counters.world(world.sets().iter().map(|set| set.encoded()).sum());
            self.worlds.send_replace(Arc::new(world));
        }
    }
}
