//! A mesh that no sidecar has in force: from a file, or from what a control plane holds for a proxy.

use std::collections::BTreeSet;

use config::model::{EndpointTls, Mesh, Service};
use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::build::Parts;
use crate::dns::Answers;
use crate::explain::question::{Call, Known};
use crate::explain::{decision, listing};
use crate::tables::Tables;
use crate::tables::authorize::Authorization;

/// A mesh as its sidecars see it.
#[derive(Debug)]
pub struct View {
    mesh: Mesh,
    /// The place of each service, by `NAME.NAMESPACE`.
    places: FxHashMap<String, usize>,
    tables: Tables,
    /// For each service; `None`: nobody told.
    authorization: Vec<Option<Authorization>>,
    from: Option<usize>,
}

impl View {
    /// What the sidecar of `from` (`NAME`, or `NAME.NAMESPACE`) sees; without it no caller is known by name.
    ///
    /// # Errors
    /// There is no such service, or the name stands in several namespaces.
    pub fn new(mesh: Mesh, from: Option<&str>) -> Result<Self, String> {
        let from = from.map(|from| service(&mesh, from)).transpose()?;
        let authorization = mesh
            .services
            .iter()
            .map(|service| Some(Authorization::new(service.authorization.as_ref())))
            .collect();
        // Whether TLS is spoken does not change which way a call goes, and there is no identity here.
        let mut plain = mesh.clone();
        let endpoints = plain.services.iter_mut().flat_map(|service| &mut service.endpoints);
        endpoints.for_each(|endpoint| endpoint.tls = Some(EndpointTls::None));
        let sidecar = config::parse_sidecar(config::Source { name: "outrigger", text: SIDECAR })
            .map_err(|faults| faults.to_string())?;
        let tables = Tables::build(&Parts {
            sidecar: &sidecar,
            mesh: &plain,
            unruled: &BTreeSet::new(),
            credentials: None,
            answers: &Answers::default(),
            workers: 1,
            before: None,
            now: 0,
        })?;
        let places =
            mesh.services.iter().enumerate().map(|(at, service)| (service.full_name(), at)).collect();
        Ok(Self { mesh, places, tables, authorization, from })
    }

    /// The same, where the rules about callers are known of some services only, by `NAME.NAMESPACE`: of the others nothing is said.
    pub fn knowing_rules_of(mut self, known: impl Fn(&str) -> bool) -> Self {
        for (rules, service) in self.authorization.iter_mut().zip(&self.mesh.services) {
            *rules = rules.take().filter(|_| known(&service.full_name()));
        }
        self
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Where a call goes and why, as `/explain` of a running sidecar answers.
    pub fn explain(&self, call: &Call) -> Value {
        let from = self.from.map(|from| &self.mesh.services[from]);
        let known = Known::Mesh {
            mesh: &self.mesh,
            places: &self.places,
            authorization: &self.authorization,
            caller: from.and_then(|service| service.identities.first()),
        };
        let mut told = decision::explain(&self.tables, call, known);
        if let Some(from) = from {
            told["from"] = from.full_name().into();
        }
        told
    }

    /// The routes of all services, as `/routes` of a running sidecar answers.
    pub fn routes(&self) -> Value {
        listing::routes(&self.tables)
    }
}

/// The sidecar in whose place a [`View`] stands: it takes no calls in.
const SIDECAR: &str = "{service: nobody, mesh: {file: mesh.yaml}, outbound: {listen: 127.0.0.1:0}}";

/// The place of the service that is called so.
fn service(mesh: &Mesh, name: &str) -> Result<usize, String> {
    let called = |service: &Service| service.full_name() == name || service.name == name;
    let found: Vec<usize> = (0..mesh.services.len()).filter(|at| called(&mesh.services[*at])).collect();
    let exact = found.iter().copied().find(|at| mesh.services[*at].full_name() == name);
    match (exact, &found[..]) {
        (Some(one), _) | (None, &[one]) => Ok(one),
        (None, []) => Err(format!("the mesh has no service {name:?}; name one as NAME or NAME.NAMESPACE")),
        (None, several) => {
            let names: Vec<String> = several.iter().map(|at| mesh.services[*at].full_name()).collect();
            Err(format!("{name:?} may be {}; name its namespace too", names.join(" or ")))
        }
    }
}
