//! Gets an identity and keeps it new: the one piece that sidecars and commands run.
//!
//! ```ignore
//! let (agent, state) = Agent::begin(Settings::new(id, source));   // what a cache holds is in `state` already
//! tokio::spawn(agent.run());                                       // ends never
//! ```

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use config::mesh_source::ControlAddress;
use config::spiffe::SpiffeId;
use tokio::sync::watch;

use crate::attempt::Asker;
use crate::cache;
use crate::dial::{Dial, Plain};
use crate::keep::Keep;
use crate::reach::Way;
use crate::renew;
use crate::state::{Origin, State};
use crate::workload;

/// Whose identity, from where, and by what means.
#[derive(Clone)]
pub struct Settings {
    /// What the certificate must name.
    pub id: SpiffeId,
    /// Who issues it.
    pub source: Source,
    /// How control planes are reached; [`Plain`] unless said otherwise.
    pub dial: Arc<dyn Dial>,
    /// The wall clock; the system's unless said otherwise.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// Whether `tell` also takes what `State` tells: how old the leaf is, and why there is no newer one. Whoever tells that by
    /// himself says no; yes unless said otherwise.
    pub cries: bool,
    /// Takes single lines for people, about what `State` does not tell; nobody unless said otherwise.
    pub tell: Arc<dyn Fn(String) + Send + Sync>,
}

impl Settings {
    /// With the system's resolver, sockets and clock.
    pub fn new(id: SpiffeId, source: Source) -> Self {
        Self {
            id,
            source,
            dial: Arc::new(Plain),
            clock: Arc::new(SystemTime::now),
            cries: true,
            tell: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("id", &self.id).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Who issues an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The CA of control planes.
    Control(Control),
    /// The SPIFFE Workload API.
    WorkloadApi {
        /// Its Unix socket.
        socket: PathBuf,
    },
}

/// Control planes, and what they are asked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Any one of them serves.
    pub addresses: Vec<ControlAddress>,
    /// The roots that vouch for their names; read anew for each connection.
    pub bundle: PathBuf,
    /// The file of a join token; read anew for each request that needs it.
    pub token: Option<PathBuf>,
    /// The folder in which key, chain and roots are kept over a restart.
    pub cache: Option<PathBuf>,
}

/// Keeps one identity new.
pub struct Agent {
    settings: Settings,
    keep: Keep,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl Agent {
    /// Reads the cache, if there is one, so that what is good in it is in the state at once. Everything else begins with
    /// [`Agent::run`]. To be called on a runtime of tokio.
    pub fn begin(settings: Settings) -> (Self, watch::Receiver<State>) {
        let (state, seen) = watch::channel(State::default());
        let mut keep = Keep::new(state, settings.clock.clone(), settings.cries, settings.tell.clone());
        if let Source::Control(Control { cache: Some(folder), .. }) = &settings.source {
            match cache::load(folder, &settings.id, (settings.clock)()) {
                Ok(Some((material, life))) => keep.install(material, life, Origin::Cache),
                Ok(None) => {}
                Err(why) => (settings.tell)(format!("what is kept of our identity is not used: {why}")),
            }
        }
        (Self { settings, keep }, seen)
    }

    /// Gets what is missing and renews what there is, for as long as it is polled. Needs a tokio runtime with I/O and time.
    pub async fn run(self) {
        let Self { settings: Settings { id, source, dial, clock, .. }, keep } = self;
        match source {
            Source::Control(Control { addresses, bundle, token, cache }) => {
                let (way, tell) = (Way { bundle, dial }, keep.tell.clone());
                let asker = Asker { way, addresses, token, exposed: Arc::default(), tell, id, clock };
                renew::run(keep, asker, cache).await;
            }
            Source::WorkloadApi { socket } => workload::run(keep, id, socket).await,
        }
    }
}
