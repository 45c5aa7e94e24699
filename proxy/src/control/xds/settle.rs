//! Which resources to go by: those that have all that they name. Pure.
//!
//! Answers about different kinds come one after the other, and a listener may name routes, and routes a cluster, that are
//! not here yet. Until they are, what was in force before stays so, for each resource by itself: endpoints of one
//! service go on changing while the routes of another wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xds::Kind;

use crate::control::xds::held::{Accepted, Held};
use crate::control::xds::state::Lacks;

/// From what is named to what names it.
const UPWARDS: [Kind; 4] = [Kind::Endpoints, Kind::Cluster, Kind::Routes, Kind::Listener];

/// What is to be in force.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Every listener in it has all that it names, and nothing is in it that no listener names.
    pub(crate) held: Held,
    /// Resources of which the newest version is not in it; what they lack.
    pub(crate) incomplete: Lacks,
}

/// Chooses, for each name, the newest version if all that it needs is here, else the one in force. Listeners that are
/// gone from `newest` go, and what only they named goes with them; what others still name stays until they do not.
pub(crate) fn settle(newest: &Held, in_force: &Held) -> Settled {
    let mut chosen = Held::default();
    let mut lacking: BTreeMap<(Kind, &str), (Kind, String)> = BTreeMap::new();
    for kind in UPWARDS {
        let (new, old) = (newest.of(kind), in_force.of(kind));
        let gone = || old.keys().filter(|name| kind != Kind::Listener && !new.contains_key(*name));
        for name in new.keys().chain(gone()) {
            let mut lack = None;
            let is_whole = |one: &&Arc<Accepted>| {
                let missing = one.needs.iter().find(|(kind, name)| !chosen.holds(*kind, name));
                // What its needs lack themselves says more than that they are not here.
                let root = missing.map(|need| lacking.get(&(need.0, &*need.1)).unwrap_or(need).clone());
                let is_whole = root.is_none();
                lack = lack.take().or(root);
                is_whole
            };
            let choice = [new.get(name), old.get(name)].into_iter().flatten().find(is_whole).cloned();
            if let Some(lack) = lack {
                lacking.insert((kind, name), lack);
            }
            if let Some(choice) = choice {
                chosen.insert(kind, name, choice);
            }
        }
    }
    let incomplete =
        lacking.into_iter().map(|((kind, name), lack)| ((kind, name.to_owned()), lack)).collect();
    Settled { held: reachable(&chosen), incomplete }
}

/// What listeners lead to.
fn reachable(chosen: &Held) -> Held {
    let mut reached = Held::default();
    let mut open: Vec<(Kind, &str)> =
        chosen.of(Kind::Listener).keys().map(|name| (Kind::Listener, &**name)).collect();
    while let Some((kind, name)) = open.pop() {
        if reached.holds(kind, name) {
            continue;
        }
        if let Some(one) = chosen.get(kind, name) {
            open.extend(one.needs.iter().map(|(kind, name)| (*kind, &**name)));
            reached.insert(kind, name, one.clone());
        }
    }
    reached
}

/// All names that are needed to complete the listeners of both sets, by kind; not those of the listeners.
pub(crate) fn needed(newest: &Held, in_force: &Held) -> BTreeSet<(Kind, String)> {
    let mut needed = BTreeSet::new();
    let mut open = Vec::new();
    for listener in [newest, in_force].into_iter().flat_map(|held| held.of(Kind::Listener).values()) {
        open.extend(&listener.needs);
    }
    while let Some(need) = open.pop() {
        if needed.insert(need.clone()) {
            let both = [newest, in_force].into_iter().filter_map(|held| held.get(need.0, &need.1));
            open.extend(both.flat_map(|one| &one.needs));
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::xds::fixture::{resource, service, set, shown};

    #[test]
    fn a_service_is_in_force_once_all_that_it_names_is_here_whatever_comes_first() {
        let parts = service("a.n", "1");
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let (mut newest, mut in_force) = (Held::default(), Held::default());
            for (count, part) in order.into_iter().enumerate() {
                let (kind, name, one) = &parts[part];
                newest.insert(*kind, name, one.clone());
                in_force = settle(&newest, &in_force).held;
                assert_eq!(in_force.len(), if count == 3 { 4 } else { 0 }, "{order:?}");
            }
        }
    }

    #[test]
    fn what_waits_for_a_cluster_keeps_its_routes_and_its_endpoints_go_on() {
        let in_force = set(service("a.n", "1"));
        let mut newest = set(service("a.n", "1"));
        let needs = [(Kind::Cluster, "a.n"), (Kind::Cluster, "a.n;version=v2")];
        newest.insert(Kind::Routes, "a.n", resource("2", &needs));
        newest.insert(Kind::Endpoints, "a.n", resource("2", &[]));
        let settled = settle(&newest, &in_force);
        assert_eq!(
            shown(&settled.held),
            ["Cluster a.n 1", "Endpoints a.n 2", "Listener a.n 1", "Routes a.n 1"]
        );
        // The listener itself is whole, by the routes that are in force.
        let waits = ((Kind::Routes, "a.n".to_owned()), (Kind::Cluster, "a.n;version=v2".to_owned()));
        assert_eq!(settled.incomplete, BTreeMap::from([waits]));

        let lack = (Kind::Endpoints, "a.n;version=v2");
        newest.insert(Kind::Cluster, "a.n;version=v2", resource("2", &[lack]));
        assert_eq!(
            settle(&newest, &settled.held).held.get(Kind::Routes, "a.n").unwrap().version.as_ref(),
            "1"
        );
        newest.insert(lack.0, lack.1, resource("2", &[]));
        let all = settle(&newest, &settled.held).held;
        assert_eq!(all.get(Kind::Routes, "a.n").unwrap().version.as_ref(), "2");
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn what_a_service_lacks_at_last_is_named() {
        let mut newest = set(service("a.n", "1"));
        newest.remove(Kind::Endpoints, "a.n");
        let settled = settle(&newest, &Held::default());
        let lack = (Kind::Endpoints, "a.n".to_owned());
        let all = [Kind::Cluster, Kind::Routes, Kind::Listener];
        let all = all.map(|kind| ((kind, "a.n".to_owned()), lack.clone()));
        assert_eq!(settled.incomplete, BTreeMap::from(all));
        assert!(settled.held.is_empty());
    }

    #[test]
    fn a_cluster_that_goes_before_its_routes_stays_until_they_go() {
        let in_force = set(service("a.n", "1").into_iter().chain(service("b.n", "1")));
        let mut newest = in_force.clone();
        newest.remove(Kind::Cluster, "a.n");
        newest.remove(Kind::Endpoints, "a.n");
        let still = settle(&newest, &in_force).held;
        assert!(still.is(&in_force));
        newest.remove(Kind::Listener, "a.n");
        let gone = settle(&newest, &still).held;
        assert!(gone.is(&set(gone.iter().map(|(kind, name, one)| (kind, &**name, one.clone())))));
        assert_eq!(gone.len(), 4, "nothing of a.n is left: {:?}", shown(&gone));
        assert!(gone.iter().all(|(_, name, _)| &**name == "b.n"));
    }

    #[test]
    fn what_no_listener_leads_to_is_not_in_force_but_needed_names_are_known() {
        let mut newest = set(service("a.n", "1"));
        newest.insert(Kind::Cluster, "stray.n", resource("1", &[]));
        newest.remove(Kind::Cluster, "a.n");
        let settled = settle(&newest, &Held::default());
        assert!(settled.held.is_empty());
        let needed = needed(&newest, &Held::default());
        let names: Vec<&str> = needed.iter().map(|(_, name)| &**name).collect();
        assert_eq!(
            names,
            ["a.n", "a.n"],
            "routes and cluster; what the cluster names is not known: {needed:?}"
        );
    }
}
