//! Which service answers to which name.

use std::sync::Arc;

use config::model::Mesh;
use rustc_hash::FxHashMap;

/// Every name of the mesh.
#[derive(Debug)]
pub(crate) struct Directory {
    /// What it was made of, to see whether it can be kept.
    names: Vec<Names>,
    services: FxHashMap<Box<str>, usize>,
    hosts: FxHashMap<Box<str>, usize>,
}

/// What a service is called.
#[derive(Debug, PartialEq)]
struct Names {
    full: String,
    hosts: Vec<String>,
    ports: Vec<u16>,
}

impl Directory {
    /// The directory of a mesh; that of the mesh before, where no name has changed.
    pub(crate) fn of(mesh: &Mesh, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(before) = before.filter(|before| before.is_of(mesh)) {
            return before.clone();
        }
        let mut directory =
            Self { names: Vec::new(), services: FxHashMap::default(), hosts: FxHashMap::default() };
        for (index, service) in mesh.services.iter().enumerate() {
            let full = service.full_name();
            directory.services.insert(full.as_str().into(), index);
            for host in &service.hosts {
                directory.hosts.insert(host.as_str().into(), index);
            }
            directory.names.push(Names { full, hosts: service.hosts.clone(), ports: service.ports.clone() });
        }
        Arc::new(directory)
    }

    fn is_of(&self, mesh: &Mesh) -> bool {
        self.names.len() == mesh.services.len()
            && self.names.iter().zip(&mesh.services).all(|(names, service)| {
                names.hosts == service.hosts
                    && names.ports == service.ports
                    && names.full.len() == service.name.len() + 1 + service.namespace.len()
                    && names.full.starts_with(&service.name)
                    && names.full.ends_with(&service.namespace)
            })
    }

    /// The service of a full name, `NAME.NAMESPACE`.
    pub(crate) fn service(&self, full: &str) -> Option<usize> {
        self.services.get(full).copied()
    }

    /// The full name of a service.
    pub(crate) fn full_name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(|names| names.full.as_str())
    }

    /// The service that answers to `host` or `host:port`, as an `:authority` or the target of a gRPC client names it.
    pub(crate) fn find(&self, authority: &str) -> Option<usize> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
            None => (authority, None),
        };
        // A trailing dot is none of ours: routes have no such domain, so that calls would find a listener and no route.
        let index = self.hosts.get(host.to_ascii_lowercase().as_str()).copied()?;
        let ports = &self.names[index].ports;
        let fits = port.is_none_or(|port| ports.is_empty() || ports.contains(&port));
        fits.then_some(index)
    }
}
