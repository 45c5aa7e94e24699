//! Endpoints of some labels that a control plane takes away all at once, while others of the service stay: routes by labels
//! would lead nowhere, so they stay for a while as those of a whole service do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use config::model::Endpoint;
use tokio::time::Instant;
use xds::Kind;
use xds::decode::cluster::Location;
use xds::decode::{ClusterPart, EndpointsPart, Part};

use crate::control::sent::fate::Fate;
use crate::control::xds::held::{Accepted, Held};

/// What says where a cluster is: an assignment, or the cluster itself.
pub(crate) type Place = (Kind, Arc<str>);

/// What is held back, by the name of the cluster that stands for the labels.
#[derive(Debug)]
pub(crate) struct Subsets {
    limit: Duration,
    kept: BTreeMap<Arc<str>, Kept>,
    /// Those whose time is over; they are not held back again before they have had endpoints.
    let_go: BTreeSet<Arc<str>>,
    /// What was put together last for a place, so that the same is the very same.
    made: BTreeMap<Place, Made>,
}

#[derive(Debug)]
struct Kept {
    endpoints: Vec<Endpoint>,
    since: Instant,
}

#[derive(Debug)]
struct Made {
    of: Arc<Accepted>,
    added: Vec<Endpoint>,
    whole: Arc<Accepted>,
}

/// A cluster of some labels, and where its service is.
struct Subset {
    name: Arc<str>,
    labels: BTreeMap<String, String>,
    place: Place,
}

impl Subsets {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, kept: BTreeMap::new(), let_go: BTreeSet::new(), made: BTreeMap::new() }
    }

    /// Puts into `next`, which comes after what is in force, what is held back of it at `now`; and says what is new.
    pub(crate) fn hold(&mut self, in_force: &Held, next: &mut Held, now: Instant) -> Vec<Fate> {
        let mut fates = Vec::new();
        if self.limit.is_zero() {
            return fates;
        }
        let subsets: Vec<Subset> = subsets(next).collect();
        let is_there = |name: &Arc<str>| subsets.iter().any(|subset| subset.name == *name);
        self.kept.retain(|name, _| is_there(name));
        self.let_go.retain(|name| is_there(name));
        let mut added: BTreeMap<Place, Vec<Endpoint>> = BTreeMap::new();
        for Subset { name, labels, place } in subsets {
            let all = endpoints(next, &place);
            if all.iter().any(|one| one.carries(&labels)) {
                self.let_go.remove(&name);
                fates.extend(self.kept.remove(&name).map(|_| Fate::Returned(name)));
                continue;
            }
            if self.kept.get(&name).is_some_and(|kept| now >= kept.since + self.limit) {
                self.kept.remove(&name);
                self.let_go.insert(name.clone());
                fates.push(Fate::LetGo(name));
                continue;
            }
            if !self.kept.contains_key(&name) && !self.let_go.contains(&name) {
                // One that carries other labels now has not gone.
                let is_gone = |one: &&Endpoint| {
                    one.carries(&labels) && !all.iter().any(|other| other.target == one.target)
                };
                let gone: Vec<Endpoint> =
                    endpoints(in_force, &place).iter().filter(is_gone).cloned().collect();
                if gone.is_empty() {
                    continue;
                }
                self.kept.insert(name.clone(), Kept { endpoints: gone, since: now });
                fates.push(Fate::HeldBack(name.clone()));
            }
            let kept = self.kept.get(&name).map(|kept| kept.endpoints.clone()).unwrap_or_default();
            let of_place = added.entry(place).or_default();
            for one in kept {
                // Two sets of labels may mean one endpoint, and one may be back with other labels.
                let targets = || of_place.iter().chain(all).map(|other| &other.target);
                if !targets().any(|target| *target == one.target) {
                    of_place.push(one);
                }
            }
        }
        self.put(next, added);
        fates
    }

    /// When the first of them is let go, if nothing is heard.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.kept.values().map(|kept| kept.since + self.limit).min()
    }

    /// The clusters whose endpoints are held back, and since when.
    pub(crate) fn held_back(&self) -> impl Iterator<Item = (Arc<str>, Instant)> {
        self.kept.iter().map(|(name, kept)| (name.clone(), kept.since))
    }

    fn put(&mut self, next: &mut Held, added: BTreeMap<Place, Vec<Endpoint>>) {
        self.made.retain(|place, _| added.contains_key(place));
        for (place, added) in added {
            let Some(of) = next.get(place.0, &place.1).cloned() else { continue };
            let made = self.made.get(&place).filter(|made| Arc::ptr_eq(&made.of, &of) && made.added == added);
            let whole = match made {
                Some(made) => made.whole.clone(),
                None => Arc::new(with(&of, &added)),
            };
            next.insert(place.0, &place.1, whole.clone());
            self.made.insert(place, Made { of, added, whole });
        }
    }
}

/// The clusters that stand for labels of a service.
fn subsets(held: &Held) -> impl Iterator<Item = Subset> {
    held.of(Kind::Cluster).iter().filter_map(|(name, one)| {
        let Part::Cluster(ClusterPart::Subset { service, labels }) = &one.part else { return None };
        let (base, of) = held.of(Kind::Cluster).get_key_value(service.as_str())?;
        let Part::Cluster(ClusterPart::Whole(whole)) = &of.part else { return None };
        let place = match &whole.location {
            Location::Eds(assignment) => (Kind::Endpoints, assignment.as_str().into()),
            Location::Inline(_) => (Kind::Cluster, base.clone()),
        };
        Some(Subset { name: name.clone(), labels: labels.clone(), place })
    })
}

fn endpoints<'h>(held: &'h Held, (kind, name): &Place) -> &'h [Endpoint] {
    match held.get(*kind, name).map(|one| &one.part) {
        Some(Part::Endpoints(part)) => &part.endpoints,
        Some(Part::Cluster(ClusterPart::Whole(whole))) => match &whole.location {
            Location::Inline(part) => &part.endpoints,
            Location::Eds(_) => &[],
        },
        _ => &[],
    }
}

/// The same resource with more endpoints. Its bytes stay: on disk is what the control plane has said.
fn with(of: &Accepted, added: &[Endpoint]) -> Accepted {
    let more = |part: &EndpointsPart| EndpointsPart {
        endpoints: part.endpoints.iter().chain(added).cloned().collect(),
    };
    let mut part = of.part.clone();
    match &mut part {
        Part::Endpoints(part) => *part = more(part),
        Part::Cluster(ClusterPart::Whole(whole)) => {
            if let Location::Inline(part) = &mut whole.location {
                *part = more(part);
            }
        }
        _ => {}
    }
    Accepted { version: of.version.clone(), bytes: of.bytes.clone(), part, needs: of.needs.clone() }
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};
    use xds::decode::{Own, decode};
    use xds::{Audience, Client, encode};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A service whose endpoints at these ports are of these versions; `more` belongs to it.
    fn encoded(endpoints: &[(u16, &str)], more: &str) -> Vec<xds::Resource> {
        let line = |(port, version): &(u16, &str)| {
            format!("{{address: \"10.0.0.1:{port}\", labels: {{version: {version}}}}}")
        };
        let endpoints = endpoints.iter().map(line).collect::<Vec<_>>().join(", ");
        let text =
            format!("version: 1\nservices:\n  - {{name: a, namespace: m, endpoints: [{endpoints}]{more}}}\n");
        let mesh =
            parse_mesh(Source { name: "mesh.yaml", text: &text }).unwrap_or_else(|why| panic!("{why}"));
        encode::mesh(&mesh, &Audience { client: Client::Outrigger, certificates: None })
    }

    /// The same with a route to `v2`. A mesh file may not have one that leads nowhere; a control plane may come to have it.
    fn held(endpoints: &[(u16, &str)]) -> Held {
        let own = Own { trust_domain: "cluster.local".to_owned(), namespace: "m".to_owned() };
        let to_v2 = ", routes: [{match: {service: x.Y}, backends: [{service: a, labels: {version: v2}}]}]";
        let assignment = encoded(endpoints, "").into_iter().filter(|one| one.kind == Kind::Endpoints);
        let all = encoded(&[(2, "v2")], to_v2);
        let mut held = Held::default();
        for one in all.into_iter().filter(|one| one.kind != Kind::Endpoints).chain(assignment) {
            let part = decode(one.kind, &one.name, &one.bytes, &own).expect("a resource");
            held.insert(one.kind, &one.name, Arc::new(Accepted::new("1".into(), &one.bytes, part)));
        }
        held
    }

    fn ports(held: &Held) -> Vec<u16> {
        let all = endpoints(held, &(Kind::Endpoints, "a.m".into()));
        let port = |one: &Endpoint| match &one.target {
            config::model::Target::Address(address) => address.port(),
            other => panic!("{other:?}"),
        };
        all.iter().map(port).collect()
    }

    #[test]
    fn endpoints_of_labels_that_go_all_at_once_stay_for_the_grace_time() {
        let (mut subsets, now) = (Subsets::new(LIMIT), Instant::now());
        let in_force = held(&[(1, "v1"), (2, "v2"), (3, "v2")]);
        let gone = held(&[(1, "v1"), (4, "v1")]);
        let mut next = gone.clone();
        let fates = subsets.hold(&in_force, &mut next, now);
        assert_eq!(fates, [Fate::HeldBack("a.m;version=v2".into())]);
        assert_eq!((ports(&next), subsets.due()), (vec![1, 4, 2, 3], Some(now + LIMIT)));
        let mut again = gone.clone();
        assert_eq!(subsets.hold(&next, &mut again, now + LIMIT / 2), []);
        assert!(again.is(&next), "the same is the very same, and nothing is judged anew");
        let mut last = gone.clone();
        assert_eq!(subsets.hold(&again, &mut last, now + LIMIT), [Fate::LetGo("a.m;version=v2".into())]);
        assert!(last.is(&gone));
        assert_eq!((subsets.hold(&again, &mut last, now + LIMIT), subsets.due()), (vec![], None));
    }

    #[test]
    fn some_endpoint_of_the_labels_ends_that_at_once_and_one_with_other_labels_has_not_gone() {
        let (mut subsets, now) = (Subsets::new(LIMIT), Instant::now());
        let in_force = held(&[(1, "v1"), (2, "v2")]);
        let mut next = held(&[(1, "v1")]);
        subsets.hold(&in_force, &mut next, now);
        let back = held(&[(1, "v1"), (9, "v2")]);
        let mut last = back.clone();
        assert_eq!(subsets.hold(&next, &mut last, now), [Fate::Returned("a.m;version=v2".into())]);
        assert!(last.is(&back));
        let relabelled = held(&[(1, "v1"), (9, "v1")]);
        let mut next = relabelled.clone();
        assert_eq!(subsets.hold(&last, &mut next, now), []);
        assert!(next.is(&relabelled));
    }
}
