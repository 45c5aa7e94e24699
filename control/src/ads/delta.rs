//! Incremental xDS: requests say what changes in a subscription, responses what changes in the resources.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use xds::Kind;

use crate::ads::channel::Channel;
use crate::ads::limits::DELTA_BYTES_MAX;
use crate::ads::view::{Entry, View, hash, is_wild};

/// What a resource costs in a response besides its bytes and its name.
const OVERHEAD_BYTES: usize = 120;

/// What a request says of its subscription.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) subscribe: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
    /// Name and version of what the client has from an earlier stream.
    pub(crate) initial: HashMap<String, String>,
}

/// Takes a request in. `first`: the stream's first one for this type.
pub(crate) fn subscribe(channel: &mut Channel, wish: Wish, first: bool, view: &View) {
    if first {
        let held = wish.initial.iter().map(|(name, version)| (name.as_str().into(), hash(version)));
        channel.held.extend(held);
        channel.brought.extend(channel.held.keys().cloned());
        // "Wildcard": the first request names nothing.
        if wish.subscribe.is_empty() && matches!(channel.kind, Kind::Cluster | Kind::Listener) {
            channel.widen(view);
        }
    }
    // At once, and not by doubling: a thousand clients of a thousand services would leave the halves behind.
    channel.named.reserve(wish.subscribe.len());
    for name in wish.subscribe {
        if name == "*" {
            channel.widen(view);
            continue;
        }
        let name: Arc<str> =
            view.entry(channel.kind, &name).map_or_else(|| name.as_str().into(), |e| e.name.clone());
        // Who asks again for what it has is sent it again, but for what it says itself that it has.
        let fresh = !(first && channel.held.contains_key(&name));
        channel.mark(&name, fresh);
        channel.named.insert(name);
    }
    for name in wish.unsubscribe {
        if name == "*" {
            channel.narrow();
        } else if channel.named.remove(&*name) {
            channel.forget(&name);
            // A wildcard still stands for it: the client is to have it again.
            if channel.wildcard
                && view.wide
                && is_wild(channel.kind, &name)
                && let Some(entry) = view.entry(channel.kind, &name)
            {
                channel.mark(&entry.name, true);
            }
        }
    }
    if first {
        let stray = channel.held.keys().filter(|name| !channel.wildcard && !channel.named.contains(*name));
        stray.cloned().collect::<Vec<_>>().iter().for_each(|name| channel.forget(name));
    }
}

/// What a response says: resources, and names that are gone.
pub(crate) type Content = (Vec<Arc<Entry>>, Vec<Arc<str>>);

/// What the next response says, if there is one. `removals`: what is gone may be told; `waits`: what may not be told yet.
pub(crate) fn collect(
    channel: &mut Channel,
    view: &View,
    find: impl Fn(&str) -> Option<Arc<Entry>>,
    waits: impl Fn(&Channel, &str) -> bool,
    removals: bool,
) -> Option<Content> {
    let (mut resources, mut removed) = (Vec::new(), Vec::new());
    let (mut bytes, mut full) = (0, false);
    let mut dirty = mem::take(&mut channel.dirty);
    if channel.held.is_empty() {
        channel.held.reserve(dirty.len());
    }
    dirty.retain(|name, fresh| {
        if !full && waits(channel, name) {
            return true;
        }
        let found = if !full && channel.wants(view, name) { find(name) } else { None };
        let held = channel.held.get(name);
        let cost = match &found {
            _ if full => return true,
            Some(entry) if !*fresh && held == Some(&entry.hash) => return false,
            Some(entry) => entry.bytes.len() + name.len() + OVERHEAD_BYTES,
            None if held.is_some() && !removals => return true,
            None if held.is_some() || *fresh => name.len(),
            None => return false,
        };
        full = bytes > 0 && bytes + cost > DELTA_BYTES_MAX;
        if !full {
            bytes += cost;
            match found {
                Some(entry) => resources.push(entry),
                None => removed.push(name.clone()),
            }
        }
        full
    });
    channel.dirty = dirty;
    for entry in &resources {
        channel.held.insert(entry.name.clone(), entry.hash);
        channel.brought.remove(&entry.name);
    }
    for name in &removed {
        channel.held.remove(name);
        channel.brought.remove(name);
        channel.rejected.remove(name);
    }
    (channel.owed || !resources.is_empty() || !removed.is_empty()).then_some((resources, removed))
}
