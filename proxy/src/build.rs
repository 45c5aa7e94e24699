//! From the model to the snapshot, with all that can be kept of the snapshot before.

mod builder;
mod entries;

use crate::build::builder::Builder;
use crate::tables::Tables;

pub(crate) use crate::build::builder::Parts;

impl Tables {
    /// Builds the snapshot. The configuration has been checked against the mesh; errors are of TLS only.
    pub(crate) fn build(parts: &Parts<'_>) -> Result<Self, String> {
        let Parts { sidecar, mesh, .. } = *parts;
        let mut builder = Builder::new(parts);
        for service in &mesh.services {
            builder.add_endpoints(service)?;
            for id in &service.identities {
                builder.tables.peers.insert(id.clone(), service.full_name().into());
            }
        }
        for (index, service) in mesh.services.iter().enumerate() {
            builder.add_service(index, service);
        }
        for (index, entry) in sidecar.inbound.iter().enumerate() {
            let known = mesh.service(&entry.service, &sidecar.namespace);
            match known.filter(|at| !parts.unruled.contains(&mesh.services[*at].full_name())) {
                Some(service) => builder.add_entry(index, entry, service),
                None => builder.add_missing(index, entry),
            }
        }
        Ok(builder.tables)
    }
}
