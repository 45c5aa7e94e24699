//! What one audience is to hold, and what has changed since the time before: found once for all its streams.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use xds::{Client, Kind, Resource};

use crate::ads::counters::slot;
use crate::set::{GRPC_SERVER, INBOUND, Set};

/// Views of this process, to number them.
static VIEWS: AtomicU64 = AtomicU64::new(1);

/// Changes that are kept; a stream that is further behind compares everything.
const STEPS_MAX: usize = 16;

/// One resource as streams handle it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Arc<str>,
    pub(crate) version: String,
    /// Of `version`: what a stream remembers per name.
    pub(crate) hash: u64,
    pub(crate) bytes: Bytes,
}

impl Entry {
    pub(crate) fn of(name: &str, version: &str, bytes: Bytes) -> Self {
        Self { name: name.into(), version: version.to_owned(), hash: hash(version), bytes }
    }

    fn new(resource: &Resource) -> Self {
        Self::of(&resource.name, &resource.version, resource.bytes.clone())
    }
}

/// A version as a stream remembers it.
pub(crate) fn hash(version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(version.as_bytes());
    hasher.finish()
}

/// The resources of one audience at one time.
pub(crate) struct View {
    /// Tells it from every other view of this process.
    pub(crate) serial: u64,
    /// The world's version, as responses name it.
    pub(crate) version: String,
    /// Whether a wildcard means all services, or none but those asked for by name.
    pub(crate) wide: bool,
    /// Shared with the view before where nothing of the kind has changed.
    entries: [Arc<Entries>; 4],
    steps: VecDeque<Arc<Step>>,
    /// What makes listeners under other names; tests of lists go without.
    set: Option<Arc<Set>>,
}

type Entries = HashMap<Arc<str>, Arc<Entry>>;

/// The names that differ between a view and the one before.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The view before; none for the first one of a chain.
    from: Option<u64>,
    names: [Vec<Arc<str>>; 4],
}

impl View {
    /// What a set holds, after `before`. Up to `on_demand_above` services a wildcard means all of them, for Envoy always.
    pub(crate) fn of(set: &Arc<Set>, world: u64, on_demand_above: usize, before: Option<&Self>) -> Self {
        let envoy = matches!(set.audience.client, Client::Envoy { .. });
        let wide = envoy || set.services() <= on_demand_above;
        let lists = Kind::ALL.map(|kind| {
            let same = |before: &&Self| before.set.as_ref().is_some_and(|old| set.same(kind, old));
            match before.filter(same) {
                Some(_) => None,
                None => Some(set.all(kind).collect::<Vec<_>>()),
            }
        });
        Self::new(world, wide, lists, Some(set.clone()), before)
    }

    /// The view after `before`, of a list for each kind in their order; `None`: as before. Whatever has not changed is one
    /// thing in both.
    pub(crate) fn new(
        world: u64,
        wide: bool,
        lists: [Option<Vec<&Resource>>; 4],
        set: Option<Arc<Set>>,
        before: Option<&Self>,
    ) -> Self {
        let serial = VIEWS.fetch_add(1, Relaxed);
        let mut step = Step { from: before.map(|before| before.serial), ..Step::default() };
        let mut entries: [Arc<Entries>; 4] = Default::default();
        for (at, list) in lists.into_iter().enumerate() {
            let old = before.map(|before| &before.entries[at]);
            entries[at] = match (list, old) {
                (None, old) => old.cloned().unwrap_or_default(),
                (Some(list), old) => {
                    let none = Arc::default();
                    let (new, changed) = compare(&list, old.unwrap_or(&none));
                    step.names[at] = changed;
                    Arc::new(new)
                }
            };
        }
        let mut steps = VecDeque::new();
        if let Some(before) = before {
            let skipped = (before.steps.len() + 1).saturating_sub(STEPS_MAX);
            steps.extend(before.steps.iter().skip(skipped).cloned());
        }
        steps.push_back(Arc::new(step));
        Self { serial, version: world.to_string(), wide, entries, steps, set }
    }

    /// What stands in the lists under that name.
    pub(crate) fn entry(&self, kind: Kind, name: &str) -> Option<&Arc<Entry>> {
        self.entries[slot(kind)].get(name)
    }

    /// What a wildcard stands for, where it stands for all.
    pub(crate) fn wild(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries[slot(kind)].values().filter(move |entry| is_wild(kind, &entry.name))
    }

    /// A listener that stands in no list: that of a service under another of its hosts, or that of a proxyless gRPC server
    /// which stands for `service` (name, namespace).
    pub(crate) fn made(&self, name: &str, service: Option<&(String, String)>) -> Option<Arc<Entry>> {
        let set = self.set.as_ref()?;
        let made = match service {
            Some((service, namespace)) if name.starts_with(GRPC_SERVER) => {
                set.grpc_server(service, namespace, name)
            }
            _ => set.get(Kind::Listener, name),
        };
        Some(Arc::new(Entry::new(&made?)))
    }

    /// How many endpoints there are now of those that a resource of this name holds, if sidecars announce some of them.
    pub(crate) fn announced(&self, name: &str) -> Option<usize> {
        self.set.as_ref()?.announced(name)
    }

    /// What of the mesh the audience cannot be told.
    pub(crate) fn notes(&self) -> &[String] {
        self.set.as_ref().map_or(&[], |set| set.notes())
    }

    /// The names of a kind that differ from the view `serial`, perhaps some of them twice; `None`: that view was too long ago,
    /// or none of those that led to this one.
    pub(crate) fn since(&self, serial: u64, kind: Kind) -> Option<impl Iterator<Item = &Arc<str>>> {
        let first = self.steps.iter().position(|step| step.from == Some(serial))?;
        Some(self.steps.iter().skip(first).flat_map(move |step| step.names[slot(kind)].iter()))
    }
}

/// The new entries, the old ones where they are the same, and the names that differ.
fn compare(list: &[&Resource], old: &Entries) -> (Entries, Vec<Arc<str>>) {
    let (mut entries, mut changed) = (Entries::with_capacity(list.len()), Vec::new());
    for resource in list {
        let known = old.get(resource.name.as_str());
        let entry = match known {
            Some(known) if known.version == resource.version => known.clone(),
            Some(known) => Arc::new(Entry { name: known.name.clone(), ..Entry::new(resource) }),
            None => Arc::new(Entry::new(resource)),
        };
        if known.is_none_or(|known| !Arc::ptr_eq(known, &entry)) {
            changed.push(entry.name.clone());
        }
        entries.insert(entry.name.clone(), entry);
    }
    changed.extend(old.keys().filter(|name| !entries.contains_key(*name)).cloned());
    (entries, changed)
}

/// Whether a wildcard takes it in.
pub(crate) fn is_wild(kind: Kind, name: &str) -> bool {
    kind != Kind::Listener || !name.starts_with(INBOUND)
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::ads::view::*;

    /// A resource whose content is its version.
    pub(crate) fn resource(kind: Kind, name: &str, version: &str) -> Resource {
        let (name, version) = (name.to_owned(), version.to_owned());
        Resource { kind, name, bytes: Bytes::from(version.clone()), version }
    }

    /// The view of these `KIND NAME VERSION` after `before`: kinds by their first letter.
    pub(crate) fn view(lines: &[(char, &str, &str)], before: Option<&View>) -> Arc<View> {
        view_of(true, lines, before)
    }

    /// [`view`], where a wildcard may mean none but those asked for by name.
    pub(crate) fn view_of(wide: bool, lines: &[(char, &str, &str)], before: Option<&View>) -> Arc<View> {
        let of = |kind: Kind, letter: char| -> Vec<Resource> {
            let lines = lines.iter().filter(|line| line.0 == letter);
            lines.map(|(_, name, version)| resource(kind, name, version)).collect()
        };
        let lists = [
            of(Kind::Cluster, 'c'),
            of(Kind::Endpoints, 'e'),
            of(Kind::Listener, 'l'),
            of(Kind::Routes, 'r'),
        ];
        let lists = [0, 1, 2, 3].map(|at: usize| Some(lists[at].iter().collect()));
        let world = before.map_or(1, |before| before.version.parse::<u64>().unwrap() + 1);
        Arc::new(View::new(world, wide, lists, None, before))
    }

    fn changed(view: &View, serial: u64) -> Option<Vec<String>> {
        let mut names: Vec<_> = view.since(serial, Kind::Cluster)?.map(ToString::to_string).collect();
        names.sort();
        Some(names)
    }

    #[test]
    fn a_view_knows_what_has_changed_since_the_ones_before() {
        let one = view(&[('c', "a", "1"), ('c', "b", "1"), ('e', "b", "1")], None);
        let two = view(&[('c', "a", "1"), ('c', "b", "2"), ('c', "d", "1"), ('e', "b", "1")], Some(&one));
        let three = view(&[('c', "b", "2"), ('c', "d", "1"), ('e', "b", "1")], Some(&two));
        assert_eq!(changed(&two, one.serial).unwrap(), ["b", "d"]);
        assert_eq!(changed(&three, two.serial).unwrap(), ["a"]);
        assert_eq!(changed(&three, one.serial).unwrap(), ["a", "b", "d"]);
        let entry = |view: &View| view.entry(Kind::Endpoints, "b").unwrap().clone();
        assert!(Arc::ptr_eq(&entry(&one), &entry(&three)), "what has not changed is one thing");
    }

    #[test]
    fn who_is_too_far_behind_or_on_another_chain_is_told_so() {
        let one = view(&[], None);
        let mut last = one.clone();
        for n in 0..STEPS_MAX {
            last = view(&[('c', "a", &n.to_string())], Some(&last));
        }
        assert_eq!(changed(&last, one.serial).map(|names| names.len()), Some(STEPS_MAX));
        let second = view(&[], Some(&last));
        assert_eq!(changed(&second, one.serial), None);
        assert!(changed(&second, last.serial).is_some());
        let other = view(&[('c', "a", "1")], None);
        assert_eq!(changed(&other, one.serial), None, "it was made without any of those before");
    }

    #[test]
    fn a_wildcard_takes_no_inbound_listeners_in() {
        let view = view(&[('l', "a", "1"), ('l', "inbound/a", "1")], None);
        let names: Vec<_> = view.wild(Kind::Listener).map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["a"]);
        assert!(view.entry(Kind::Listener, "inbound/a").is_some());
    }
}
