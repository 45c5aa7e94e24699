//! The sidecar's own inbound ports in the snapshot: who may call, and the app behind each.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::model::{self, BalancingPolicy, Deadline, Inbound, Upstream};

use crate::build::builder::Builder;
use crate::endpoint::Endpoint;
use crate::tables::authorize::Authorization;
use crate::tables::ledger::Subject;
use crate::tables::routes::Routes;
use crate::tables::{Dial, Entry, ServiceTable};

impl Builder<'_> {
    /// The entry of a service in the mesh.
    pub(super) fn add_entry(&mut self, index: usize, entry: &Inbound, service: usize) {
        let said = &self.parts.mesh.services[service];
        let cluster = self.app(index, entry, said.full_name());
        let authorization = self.authorization(index, said.full_name(), said.authorization.as_ref());
        self.tables.entries.push(Entry {
            in_mesh: true,
            service,
            cluster,
            authorization,
            deadline: said.policy.deadline,
        });
    }

    /// An entry whose service is not in the mesh, or whose rules are not: nobody knows who may call it, so nobody may.
    pub(super) fn add_missing(&mut self, index: usize, entry: &Inbound) {
        let name = format!("{}.{}", entry.service, self.parts.sidecar.namespace);
        let cluster = self.app(index, entry, name.clone());
        let service = self.tables.services.len();
        self.tables.services.push(ServiceTable {
            name: name.into(),
            ports: Vec::new(),
            methods: Default::default(),
            routes: Routes::new(Vec::new()),
            unrouted: None,
        });
        let authorization = Arc::new(Authorization::nobody());
        let deadline = Deadline::default();
        self.tables.entries.push(Entry { in_mesh: false, service, cluster, authorization, deadline });
    }

    /// What the entry asks of callers: what it was before, if that says the same.
    fn authorization(
        &self,
        index: usize,
        service: String,
        model: Option<&model::Authorization>,
    ) -> Arc<Authorization> {
        let before = self.parts.before.and_then(|before| before.entries.get(index));
        // Not that of an entry of which nothing was known: it counts nothing.
        let same = before
            .filter(|entry| entry.in_mesh)
            .map(|entry| &entry.authorization)
            .filter(|before| before.model() == model);
        let new = || {
            let tallies = &self.tables.tallies;
            Arc::new(Authorization::counted(model, &service.into(), tallies, self.parts.workers))
        };
        same.cloned().unwrap_or_else(new)
    }

    /// The cluster of the app behind an entry.
    fn app(&mut self, index: usize, entry: &Inbound, service: String) -> usize {
        // The entries of a running sidecar stay what they are.
        let before = self.parts.before.and_then(|before| {
            let cluster = &before.clusters[before.entries.get(index)?.cluster];
            Some(cluster.members[0].clone())
        });
        let endpoint = before.unwrap_or_else(|| Arc::new(Endpoint::plain(entry.app)));
        self.tables.endpoints.push(Dial {
            endpoint,
            tls: None,
            upstream: Upstream::default(),
            purse: None,
            health: None,
            host: None,
        });
        let dials = vec![self.tables.endpoints.len() - 1];
        let subject = Subject { service: service.into(), app: Some(entry.app), labels: BTreeMap::new() };
        self.push_cluster(dials, &[1], BalancingPolicy::default(), subject)
    }
}
