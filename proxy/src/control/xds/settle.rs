//! Which resources to go by: those that have all that they name. Pure.
//!
//! Answers about different kinds come one after the other, and a listener may name routes, and routes a cluster, that are
//! not here yet. Until they are, what was in force before stays so, for each resource by itself: endpoints of one
//! service go on changing while the routes of another wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xds::Kind;

use crate::control::xds::held::{Accepted, Held};

/// From what is named to what names it.
const UPWARDS: [Kind; 4] = [Kind::Endpoints, Kind::Cluster, Kind::Routes, Kind::Listener];

/// What is to be in force.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Every listener in it has all that it names, and nothing is in it that no listener names.
    pub(crate) held: Held,
    /// Listeners of which the newest version is not in it; what they lack.
    pub(crate) incomplete: BTreeMap<String, (Kind, String)>,
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
    let incomplete = lacking
        .into_iter()
        .filter(|((kind, _), _)| *kind == Kind::Listener)
        .map(|((_, name), lack)| (name.to_owned(), lack))
        .collect();
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
