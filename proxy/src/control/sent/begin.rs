//! Puts together what a mesh of a control plane takes: the client, the follower's end of it, and the cache.

use std::sync::Arc;

use config::identity::IdentitySource;
use config::mesh_source::{ControlPlanes, Protocol as Word};
use config::model::Sidecar;
use files::Reports;
use tokio::sync::{mpsc, watch};

use crate::context::Shared;
use crate::control::journal::Journal;
use crate::control::lookup::Lookups;
use crate::control::sent::intake::{Beginning, Sent};
use crate::control::sent::keeper::{Keep, Keeper};
use crate::control::sent::resume::{Resumed, own, owner};
use crate::control::xds::client::Client;
use crate::control::xds::connect::Way;
use crate::control::xds::counts::Counts;
use crate::control::xds::herald::Herald;
use crate::control::xds::node::{Me, host};
use crate::control::xds::settings::{Address, Protocol, Settings, Who};
use crate::demand::Question;
use crate::tls::credentials::Credentials;

/// What there is before.
pub(crate) struct Found<'a> {
    pub(crate) sidecar: &'a Arc<Sidecar>,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) journal: &'a Arc<Journal>,
    pub(crate) reports: &'a Reports,
    pub(crate) lookups: &'a Lookups,
    pub(crate) credentials: watch::Receiver<Option<Arc<Credentials>>>,
    pub(crate) questions: mpsc::Receiver<Question>,
    pub(crate) resumed: Resumed,
}

/// What runs beside the follower.
pub(crate) struct Beside {
    client: Client,
    heralds: Vec<Herald>,
    keeper: Option<(Keeper, watch::Receiver<Keep>)>,
    /// What the client counts.
    pub(crate) counts: Arc<Counts>,
}

impl Beside {
    /// Begins to run, for as long as the process lives.
    pub(crate) fn spawn(self) {
        tokio::spawn(self.client.run());
        for herald in self.heralds {
            tokio::spawn(herald.run());
        }
        if let Some((keeper, newest)) = self.keeper {
            tokio::spawn(keeper.run(newest));
        }
    }
}

/// Makes both; nothing runs yet.
pub(crate) fn begin(control: &ControlPlanes, found: Found<'_>) -> (Sent, Beside) {
    let Found { sidecar, shared, journal, reports, lookups, credentials, questions, resumed } = found;
    let Resumed { resources, hosts, conflicts, mesh: _, cache } = resumed;
    if let Some(why) = &cache.unused {
        let path = cache.path.as_deref().unwrap_or(std::path::Path::new("")).display();
        reports.say(format!("mesh.cache: {path} is not used: {why}; calls wait for the control plane"));
    }
    let settings = settings(control, sidecar);
    let me = Me::new(settings.node.clone(), &host(), fastrand::u32(..));
    let way = Way {
        bundle: settings.bundle.clone(),
        credentials,
        issued: sidecar.identity.as_ref().is_some_and(|identity| identity.files().is_none()),
        vouched: matches!(sidecar.identity, Some(IdentitySource::Control(_))),
        lookups: lookups.clone(),
        dialled: shared.dialled.clone(),
    };
    // Each control plane knows of the endpoints only that are announced to it.
    let announces = control.register.is_some() && settings.addresses.len() > 1;
    let heralds = settings.addresses.iter().filter(|_| announces).cloned();
    let shared_way = Arc::new(way.clone());
    let heralds: Vec<_> = heralds.map(|to| (to, me.herald(), shared_way.clone())).collect();
    let me = if announces { me.beside_heralds() } else { me };
    let (client, link) = Client::new(settings, me, way, resources.held.clone(), reports.clone());
    let heralds = heralds
        .into_iter()
        .map(|(to, me, way)| Herald { to, me, way, wants: link.want.subscribe(), reports: reports.clone() })
        .collect();
    let (keep, newest) = watch::channel(Keep::default());
    let keeper = cache.path.clone().map(|path| {
        let (journal, reports) = (journal.clone(), reports.clone());
        let found = (!resources.held.is_empty()).then(|| resources.clone());
        let (owner, max_age) = (owner(sidecar), control.cache_max_age);
        (Keeper { owner, path, max_age, found, journal, reports }, newest)
    });
    journal.sent().from_cache = !resources.held.is_empty();
    journal.sent().conflicts = conflicts.clone();
    *journal.cache() = cache;
    let (counts, want, state) = (link.counts, link.want, link.state);
    let (own, in_force) = (own(sidecar), resources);
    let beginning = Beginning { own, state, want, questions, in_force, conflicts, hosts, keep };
    let sent = Sent::new(beginning, sidecar.clone(), shared.clone(), journal.clone(), reports.clone());
    (sent, Beside { client, heralds, keeper, counts })
}

fn settings(control: &ControlPlanes, sidecar: &Sidecar) -> Settings {
    let is_tls = control.addresses.iter().any(|address| address.tls);
    let of_identity =
        sidecar.identity.as_ref().and_then(|identity| identity.files()).map(|files| &files.bundle);
    let mut services: Vec<String> = [&sidecar.service]
        .into_iter()
        .chain(sidecar.inbound.iter().map(|entry| &entry.service))
        .map(|service| format!("{service}.{}", sidecar.namespace))
        .collect();
    services.sort_unstable();
    services.dedup();
    Settings {
        addresses: control
            .addresses
            .iter()
            .map(|address| Address { tls: address.tls, host: address.host.clone(), port: address.port })
            .collect(),
        bundle: control.bundle.as_ref().or(of_identity).filter(|_| is_tls).cloned(),
        protocol: match control.protocol {
            Word::Delta => Protocol::Delta,
            Word::Sotw => Protocol::Sotw,
        },
        own: own(sidecar),
        node: Who {
            service: sidecar.service.clone(),
            namespace: sidecar.namespace.clone(),
            zone: sidecar.zone.clone(),
            labels: sidecar.labels.clone(),
            tls: sidecar.identity.is_some(),
        },
        services,
    }
}
