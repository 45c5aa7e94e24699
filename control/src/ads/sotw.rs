//! State of the world: every request holds the whole subscription. A response of listeners or clusters holds all of them,
//! so that what is missing is gone; one of routes or endpoints holds those that have changed.

use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::sync::Arc;

use xds::Kind;

use crate::ads::channel::Channel;
use crate::ads::limits::DELTA_BYTES_MAX;
use crate::ads::view::{Entry, View};

/// Takes a request in: the names it asks for.
pub(crate) fn subscribe(channel: &mut Channel, names: &[String], view: &View) {
    let whole = is_whole(channel.kind);
    let everything = names.iter().any(|name| name == "*");
    // "Wildcard": as long as no name was ever given, an empty list means everything.
    let wild = everything || whole && names.is_empty() && !channel.ever_named;
    channel.ever_named |= !names.is_empty();
    if wild && !channel.wildcard {
        channel.widen(view);
        channel.owed |= whole;
    } else if !wild && channel.wildcard {
        channel.wildcard = false;
    }
    let asked: HashSet<&str> = names.iter().map(String::as_str).filter(|name| *name != "*").collect();
    let gone: Vec<Arc<str>> =
        channel.named.iter().filter(|name| !asked.contains(&***name)).cloned().collect();
    for name in gone {
        channel.named.remove(&name);
        if !channel.wants(view, &name) {
            channel.forget(&name);
        }
    }
    if !channel.wildcard {
        channel.narrow();
    }
    for name in asked {
        if !channel.named.contains(name) {
            let name: Arc<str> =
                view.entry(channel.kind, name).map_or_else(|| name.into(), |e| e.name.clone());
            channel.mark(&name, true);
            channel.named.insert(name);
        }
    }
}

/// The resources of the next response, if there is one. `removals`: what is gone may be told; `waits`: what may not be told
/// yet, which is possible where a response need not hold everything.
pub(crate) fn collect(
    channel: &mut Channel,
    view: &View,
    find: impl Fn(&str) -> Option<Arc<Entry>>,
    waits: impl Fn(&Channel, &str) -> bool,
    removals: bool,
) -> Option<Vec<Arc<Entry>>> {
    match is_whole(channel.kind) {
        true => collect_whole(channel, view, find, removals),
        false => collect_changed(channel, view, find, waits),
    }
}

fn is_whole(kind: Kind) -> bool {
    matches!(kind, Kind::Cluster | Kind::Listener)
}

fn collect_whole(
    channel: &mut Channel,
    view: &View,
    find: impl Fn(&str) -> Option<Arc<Entry>>,
    removals: bool,
) -> Option<Vec<Arc<Entry>>> {
    let mut tell = channel.owed && (channel.wildcard || !channel.named.is_empty());
    let mut dirty = mem::take(&mut channel.dirty);
    dirty.retain(|name, fresh| {
        let found = if channel.wants(view, name) { find(name) } else { None };
        let held = channel.held.get(name);
        match found {
            Some(entry) => tell |= *fresh || held != Some(&entry.hash),
            // Who asks for it by name has a use for it: gRPC acknowledges routes at once, but calls by the old ones until
            // the clusters of the new ones are there, and unsubscribes then. Told before, it would fail calls.
            None if stays(channel, name) => tell |= *fresh,
            None if held.is_some() && !removals => return true,
            None => tell |= *fresh || held.is_some(),
        }
        false
    });
    channel.dirty = dirty;
    if !tell {
        return None;
    }
    let mut all: BTreeMap<Arc<str>, Arc<Entry>> = BTreeMap::new();
    if channel.wildcard && view.wide {
        all.extend(view.wild(channel.kind).map(|entry| (entry.name.clone(), entry.clone())));
    }
    let held = channel.held.keys().filter(|name| channel.wildcard && channel.wants(view, name));
    for name in channel.named.iter().chain(held) {
        if let Some(entry) = find(name) {
            all.insert(name.clone(), entry);
        }
    }
    if removals {
        let named = &channel.named;
        channel.lingering.retain(|name, _| named.contains(name));
    }
    for (name, entry) in &channel.lingering {
        all.entry(name.clone()).or_insert_with(|| entry.clone());
    }
    channel.held = all.iter().map(|(name, entry)| (name.clone(), entry.hash)).collect();
    channel.rejected.retain(|name| all.contains_key(name));
    Some(all.into_values().collect())
}

/// Whether a resource that is gone is repeated for as long as it is asked for.
fn stays(channel: &Channel, name: &str) -> bool {
    channel.named.contains(name) && channel.lingering.contains_key(name)
}

fn collect_changed(
    channel: &mut Channel,
    view: &View,
    find: impl Fn(&str) -> Option<Arc<Entry>>,
    waits: impl Fn(&Channel, &str) -> bool,
) -> Option<Vec<Arc<Entry>>> {
    let (mut resources, mut gone) = (Vec::new(), Vec::new());
    let (mut bytes, mut full) = (0, false);
    let mut dirty = mem::take(&mut channel.dirty);
    dirty.retain(|name, fresh| {
        if full || waits(channel, name) {
            return true;
        }
        let found = if channel.wants(view, name) { find(name) } else { None };
        let Some(entry) = found else {
            // There is no word for it; the client drops it with the cluster or listener that named it.
            gone.push(name.clone());
            return false;
        };
        if !*fresh && channel.held.get(name) == Some(&entry.hash) {
            return false;
        }
        full = bytes > 0 && bytes + entry.bytes.len() > DELTA_BYTES_MAX;
        if !full {
            bytes += entry.bytes.len();
            resources.push(entry);
        }
        full
    });
    channel.dirty = dirty;
    for entry in &resources {
        channel.held.insert(entry.name.clone(), entry.hash);
    }
    for name in &gone {
        channel.held.remove(name);
        channel.rejected.remove(name);
    }
    (!resources.is_empty()).then_some(resources)
}
