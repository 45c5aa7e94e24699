//! What a sidecar starts with whose mesh comes from a control plane: what was in force when that was last heard of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use config::mesh_source::ControlPlanes;
use config::model::Sidecar;
use xds::decode::{Own, decode};

use crate::control::files::File;
use crate::control::journal::Cache;
use crate::control::sent::cache::{self, Contents, Kept, Owner};
use crate::control::sent::verdict::{Resources, Verdict};
use crate::control::xds::held::{Accepted, Held};

/// What was found on disk.
#[derive(Default)]
pub(crate) struct Resumed {
    pub(crate) resources: Resources,
    /// What contradicts itself in that.
    pub(crate) conflicts: BTreeSet<String>,
    /// What calls had asked for by name.
    pub(crate) hosts: Vec<String>,
    /// What it comes to, and what tells it from others.
    pub(crate) mesh: Option<(Verdict, String)>,
    pub(crate) cache: Cache,
}

/// What a foreign control plane does not say.
pub(crate) fn own(sidecar: &Sidecar) -> Own {
    Own { trust_domain: sidecar.trust_domain.clone(), namespace: sidecar.namespace.clone() }
}

/// Whose the cache is.
pub(crate) fn owner(sidecar: &Sidecar) -> Owner {
    Owner {
        service: sidecar.service.clone(),
        namespace: sidecar.namespace.clone(),
        trust_domain: sidecar.trust_domain.clone(),
    }
}

/// Reads the cache, if there is to be one. One that cannot be used is not used at all, and said so in `cache.unused`.
pub(crate) fn resume(control: &ControlPlanes, sidecar: &Sidecar, sidecar_file: &File) -> Resumed {
    let Some(folder) = &control.cache else { return Resumed::default() };
    let path = owner(sidecar).path(folder);
    let mut resumed = Resumed::default();
    let read = cache::read(&path).and_then(|bytes| {
        let Some(bytes) = bytes else { return Ok(None) };
        let size = bytes.len();
        let contents = cache::decode(bytes, &owner(sidecar), SystemTime::now(), control.cache_max_age)?;
        let held = accept(&contents, &own(sidecar))?;
        let resources = Resources { held, closed: contents.closed.clone() };
        // What was in force then may be so again.
        let verdict = resources.judge(&own(sidecar), sidecar, sidecar_file)?;
        Ok(Some((size, contents, resources, verdict)))
    });
    match read {
        Ok(None) => {}
        Ok(Some((size, contents, resources, verdict))) => {
            resumed.cache.written = Some(contents.written);
            resumed.cache.bytes = size;
            resumed.hosts = contents.hosts;
            resumed.conflicts = verdict.conflicts.clone();
            resumed.mesh = Some((verdict, resources.digest()));
            resumed.resources = resources;
        }
        Err(why) => resumed.cache.unused = Some(why),
    }
    resumed.cache.path = Some(path);
    resumed
}

/// Reads the resources: this version may refuse what an earlier one took.
fn accept(contents: &Contents, own: &Own) -> Result<Held, String> {
    let mut held = Held::default();
    for Kept { kind, name, version, bytes } in &contents.resources {
        let part = decode(*kind, name, bytes, own)
            .map_err(|refusal| format!("{name} in it cannot be honoured: {refusal}"))?;
        held.insert(*kind, name, Arc::new(Accepted::new(version.as_str().into(), bytes, part)));
    }
    Ok(held)
}
