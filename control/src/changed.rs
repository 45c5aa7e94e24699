//! Which services must be encoded anew.

use config::model::{Mesh, Service};
use rustc_hash::FxHashMap;

/// For each service of `new`, whether its resources may differ from those that it had in `old`: it has changed itself, or one
/// that it names has, or one that names it (subsets are part of the service they are taken from).
pub(crate) fn changed(old: &Mesh, new: &Mesh) -> Vec<bool> {
    if old.trust_domain != new.trust_domain {
        return vec![true; new.services.len()];
    }
    let names: FxHashMap<(&str, &str), usize> =
        old.services.iter().enumerate().map(|(at, service)| (key(service), at)).collect();
    let before: Vec<Option<usize>> =
        new.services.iter().map(|service| names.get(&key(service)).copied()).collect();
    // A backend is an index, so that equal services may mean others.
    let itself: Vec<bool> = new
        .services
        .iter()
        .zip(&before)
        .map(|(service, at)| at.is_none_or(|at| old.services[at] != *service || moved(old, new, service)))
        .collect();
    let mut changed = itself.clone();
    for (index, service) in new.services.iter().enumerate() {
        for backend in backends(service) {
            if itself[index] || itself[backend] {
                changed[index] = true;
                changed[backend] = true;
            }
        }
    }
    // What a service named before, and one that is gone named.
    let now: FxHashMap<(&str, &str), usize> =
        new.services.iter().enumerate().map(|(at, service)| (key(service), at)).collect();
    for service in &old.services {
        let at = now.get(&key(service));
        if at.is_none_or(|at| itself[*at]) {
            for backend in backends(service) {
                if let Some(at) = now.get(&key(&old.services[backend])) {
                    changed[*at] = true;
                }
            }
        }
    }
    changed
}

/// Whether anything but endpoints differs between the two.
pub(crate) fn rerouted(old: &Mesh, new: &Mesh) -> bool {
    let without = |service: &Service| Service { endpoints: Vec::new(), ..service.clone() };
    old.trust_domain != new.trust_domain
        || old.services.len() != new.services.len()
        || old.services.iter().zip(&new.services).any(|(old, new)| old != new && without(old) != without(new))
}

fn key(service: &Service) -> (&str, &str) {
    (&service.name, &service.namespace)
}

/// Whether an index among the backends means another service than before.
fn moved(old: &Mesh, new: &Mesh, service: &Service) -> bool {
    backends(service).any(|at| old.services.get(at).map(key) != new.services.get(at).map(key))
}

fn backends(service: &Service) -> impl Iterator<Item = usize> {
    service.routes.iter().flat_map(|route| &route.backends).map(|backend| backend.service)
}
