//! What a control plane takes away all at once: more often a fault of whoever tells it than the truth, so it stays for a
//! while.
//!
//! ```text
//! a cluster had endpoints -> is said to have none -> held back -> has some: those, at once
//!                                                       |-> its service is taken away: gone, at once
//!                                                       `-> still none after the grace time: none
//! there were services -> there is none at all -> all is held back -> there are some: those, at once
//!                                                       `-> still none after the grace time: none
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds::Kind;
use xds::decode::cluster::Location;
use xds::decode::{ClusterPart, Part};

use crate::control::sent::fate::Fate;
use crate::control::sent::subsets::{Place, Subsets};
use crate::control::xds::held::{Accepted, Held};

/// What is held back.
#[derive(Debug)]
pub(crate) struct Grace {
    limit: Duration,
    kept: BTreeMap<Place, (Arc<Accepted>, Instant)>,
    /// Clusters whose time is over; they are not held back again before they have had endpoints.
    let_go: BTreeSet<Place>,
    subsets: Subsets,
    all: All,
}

/// How the services fare all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum All {
    There,
    HeldBackSince(Instant),
    LetGo,
}

impl Grace {
    pub(crate) fn new(limit: Duration) -> Self {
        let (kept, let_go, subsets) = (BTreeMap::new(), BTreeSet::new(), Subsets::new(limit));
        Self { limit, kept, let_go, subsets, all: All::There }
    }

    /// Puts into `next`, which comes after what is in force, what is held back of it at `now`; and says what is new.
    /// `had_none`: that there is no service at all is as it was, and no news.
    pub(crate) fn hold(
        &mut self,
        in_force: &Held,
        next: &mut Held,
        had_none: bool,
        now: Instant,
    ) -> Vec<Fate> {
        let mut fates: Vec<Fate> = self.hold_all(next, had_none, now).into_iter().collect();
        if self.holds_all() {
            *next = in_force.clone();
            return fates;
        }
        let limit = self.limit;
        self.let_go.retain(|(kind, name)| next.get(*kind, name).is_some_and(|one| is_empty(one)));
        let let_go = &mut self.let_go;
        self.kept.retain(|place, (_, since)| {
            let name = place.1.clone();
            fates.push(match next.get(place.0, &name) {
                Some(one) if is_empty(one) && now < *since + limit => return true,
                Some(one) if is_empty(one) => {
                    let_go.insert(place.clone());
                    Fate::LetGo(name)
                }
                Some(_) => Fate::Returned(name),
                // It was taken away on purpose, with all that named it.
                None => return false,
            });
            false
        });
        let empty = next.iter().filter(|(_, _, one)| !limit.is_zero() && is_empty(one));
        for (kind, name, _) in empty {
            let place = (kind, name.clone());
            if let Some(before) = in_force.get(kind, name)
                && has_some(before)
                && !self.let_go.contains(&place)
                && !self.kept.contains_key(&place)
            {
                self.kept.insert(place, (before.clone(), now));
                fates.push(Fate::HeldBack(name.clone()));
            }
        }
        for ((kind, name), (before, _)) in &self.kept {
            next.insert(*kind, name, before.clone());
        }
        fates.extend(self.subsets.hold(in_force, next, now));
        fates
    }

    /// Whether all services are held back.
    pub(crate) fn holds_all(&self) -> bool {
        matches!(self.all, All::HeldBackSince(_))
    }

    /// How long what was taken away stays.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// When the first of it is let go, if nothing is heard.
    pub(crate) fn due(&self) -> Option<Instant> {
        if let All::HeldBackSince(since) = self.all {
            return Some(since + self.limit);
        }
        let due = self.kept.values().map(|(_, since)| *since + self.limit);
        due.chain(self.subsets.due()).min()
    }

    /// The clusters whose endpoints are held back, and since when; `*` for all services.
    pub(crate) fn held_back(&self) -> Vec<(Arc<str>, Instant)> {
        match self.all {
            All::HeldBackSince(since) => vec![("*".into(), since)],
            _ => {
                let whole = self.kept.iter().map(|((_, name), (_, since))| (name.clone(), *since));
                whole.chain(self.subsets.held_back()).collect()
            }
        }
    }

    fn hold_all(&mut self, next: &Held, had_none: bool, now: Instant) -> Option<Fate> {
        let (all, fate) = match (self.all, next.of(Kind::Listener).is_empty()) {
            (All::HeldBackSince(_), false) => (All::There, Some(Fate::AllReturned)),
            (_, false) => (All::There, None),
            (All::There, true) if !had_none && !self.limit.is_zero() => {
                (All::HeldBackSince(now), Some(Fate::AllHeldBack))
            }
            (All::HeldBackSince(since), true) if now >= since + self.limit => {
                (All::LetGo, Some(Fate::AllLetGo))
            }
            (All::There, true) => (All::LetGo, None),
            (as_before, true) => (as_before, None),
        };
        self.all = all;
        fate
    }
}

/// How many endpoints it says there are, if it says so.
fn count(accepted: &Accepted) -> Option<usize> {
    match &accepted.part {
        Part::Endpoints(part) => Some(part.endpoints.len()),
        Part::Cluster(ClusterPart::Whole(whole)) => match &whole.location {
            Location::Inline(part) => Some(part.endpoints.len()),
            Location::Eds(_) => None,
        },
        _ => None,
    }
}

fn is_empty(accepted: &Accepted) -> bool {
    count(accepted) == Some(0)
}

fn has_some(accepted: &Accepted) -> bool {
    count(accepted).is_some_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use config::model::{Endpoint, Target};
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints,
    };
    use prost::Message as _;
    use xds::decode::{EndpointsPart, Own, decode};

    use super::*;
    use crate::control::xds::fixture::resource;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A cluster with so many endpoints.
    fn cluster(count: u16) -> Arc<Accepted> {
        let endpoint = |port| Endpoint {
            target: Target::Address(([10, 0, 0, 1], port).into()),
            tls: None,
            weight: 1,
            labels: BTreeMap::new(),
        };
        let part = Part::Endpoints(EndpointsPart { endpoints: (1..=count).map(endpoint).collect() });
        Arc::new(Accepted::new("".into(), &[], part))
    }

    /// A cluster that says itself where it is.
    fn static_cluster(name: &str, count: u16) -> Vec<u8> {
        let socket = |port: u16| SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        };
        let endpoint = |port| LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(WireEndpoint {
                address: Some(Address { address: Some(address::Address::SocketAddress(socket(port))) }),
                ..WireEndpoint::default()
            })),
            ..LbEndpoint::default()
        };
        let lb_endpoints = (1..=count).map(endpoint).collect();
        let assignment = ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }],
            ..ClusterLoadAssignment::default()
        };
        let discovery = ClusterDiscoveryType::Type(DiscoveryType::Static.into());
        let cluster = Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(discovery),
            load_assignment: Some(assignment),
            ..Cluster::default()
        };
        cluster.encode_to_vec()
    }

    /// A service, and clusters with so many endpoints each.
    fn held(clusters: &[(&str, u16)]) -> Held {
        let mut held = Held::default();
        held.insert(Kind::Listener, "s.n", resource("1", &[]));
        for (name, count) in clusters {
            held.insert(Kind::Endpoints, name, cluster(*count));
        }
        held
    }

    /// How many endpoints are in force.
    fn count(held: &Held, name: &str) -> Option<usize> {
        match &held.get(Kind::Endpoints, name)?.part {
            Part::Endpoints(part) => Some(part.endpoints.len()),
            _ => None,
        }
    }

    fn hold(grace: &mut Grace, in_force: &Held, next: &[(&str, u16)], now: Instant) -> (Held, Vec<Fate>) {
        let mut next = held(next);
        let fates = grace.hold(in_force, &mut next, false, now);
        (next, fates)
    }

    #[test]
    fn endpoints_that_go_all_at_once_stay_for_the_grace_time() {
        let (mut grace, now) = (Grace::new(LIMIT), Instant::now());
        let (first, fates) = hold(&mut grace, &held(&[]), &[("a", 2), ("b", 0)], now);
        assert_eq!((count(&first, "a"), count(&first, "b"), fates), (Some(2), Some(0), vec![]));
        let (second, fates) = hold(&mut grace, &first, &[("a", 0), ("b", 0)], now);
        assert_eq!((count(&second, "a"), fates), (Some(2), vec![Fate::HeldBack("a".into())]));
        assert_eq!(grace.due(), Some(now + LIMIT));
        let (third, fates) = hold(&mut grace, &second, &[("a", 0), ("b", 1)], now + LIMIT / 2);
        assert_eq!((count(&third, "a"), count(&third, "b"), fates), (Some(2), Some(1), vec![]));
        let (last, fates) = hold(&mut grace, &third, &[("a", 0), ("b", 1)], now + LIMIT);
        assert_eq!((count(&last, "a"), fates), (Some(0), vec![Fate::LetGo("a".into())]));
        let (after, fates) = hold(&mut grace, &last, &[("a", 0), ("b", 1)], now + LIMIT);
        assert_eq!((count(&after, "a"), fates, grace.due()), (Some(0), vec![], None));
    }

    #[test]
    fn new_endpoints_take_the_place_of_those_held_back_at_once() {
        let (mut grace, now) = (Grace::new(LIMIT), Instant::now());
        let (held_back, _) = hold(&mut grace, &held(&[("a", 2)]), &[("a", 0)], now);
        let (next, fates) = hold(&mut grace, &held_back, &[("a", 1)], now);
        assert_eq!((count(&next, "a"), fates), (Some(1), vec![Fate::Returned("a".into())]));
        let (_, fates) = hold(&mut grace, &next, &[("a", 0)], now);
        assert_eq!(fates, [Fate::HeldBack("a".into())], "its time begins anew");
    }

    #[test]
    fn a_service_that_is_taken_away_goes_at_once() {
        let (mut grace, now) = (Grace::new(LIMIT), Instant::now());
        let (next, fates) = hold(&mut grace, &held(&[("a", 2)]), &[], now);
        assert_eq!((count(&next, "a"), fates), (None, vec![]));
        hold(&mut grace, &held(&[("a", 2)]), &[("a", 0)], now);
        let (next, fates) = hold(&mut grace, &held(&[("a", 2)]), &[], now);
        assert_eq!((count(&next, "a"), fates, grace.due()), (None, vec![], None));
    }

    #[test]
    fn without_a_grace_time_nothing_is_held_back() {
        let mut grace = Grace::new(Duration::ZERO);
        let (next, fates) = hold(&mut grace, &held(&[("a", 2)]), &[("a", 0)], Instant::now());
        assert_eq!((count(&next, "a"), fates), (Some(0), vec![]));
    }

    #[test]
    fn what_was_let_go_is_not_held_back_again_though_something_else_keeps_the_set_out() {
        let (mut grace, now) = (Grace::new(LIMIT), Instant::now());
        let in_force = held(&[("a", 2)]);
        hold(&mut grace, &in_force, &[("a", 0)], now);
        let (next, fates) = hold(&mut grace, &in_force, &[("a", 0)], now + LIMIT);
        assert_eq!((count(&next, "a"), fates), (Some(0), vec![Fate::LetGo("a".into())]));
        // That set was turned down: what was in force still is.
        let (next, fates) = hold(&mut grace, &in_force, &[("a", 0)], now + LIMIT);
        assert_eq!((count(&next, "a"), fates, grace.due()), (Some(0), vec![], None));
        hold(&mut grace, &in_force, &[("a", 1)], now + LIMIT);
        let (_, fates) = hold(&mut grace, &in_force, &[("a", 0)], now + LIMIT);
        assert_eq!(fates, [Fate::HeldBack("a".into())], "it has had some meanwhile");
    }

    #[test]
    fn services_that_go_all_at_once_stay_for_the_grace_time() {
        let (mut grace, now) = (Grace::new(LIMIT), Instant::now());
        let in_force = held(&[("a", 2)]);
        let empty = |grace: &mut Grace, in_force: &Held, had_none, now| {
            let mut next = Held::default();
            let fates = grace.hold(in_force, &mut next, had_none, now);
            (next, fates)
        };
        let (next, fates) = empty(&mut grace, &in_force, false, now);
        assert_eq!((next.is(&in_force), fates), (true, vec![Fate::AllHeldBack]));
        assert_eq!((grace.due(), &*grace.held_back()[0].0), (Some(now + LIMIT), "*"));
        let (next, fates) = hold(&mut grace, &in_force, &[("a", 1)], now + LIMIT / 2);
        assert_eq!((count(&next, "a"), fates), (Some(1), vec![Fate::AllReturned]));
        empty(&mut grace, &in_force, false, now);
        let (next, fates) = empty(&mut grace, &in_force, false, now + LIMIT);
        assert_eq!((next.is_empty(), fates, grace.due()), (true, vec![Fate::AllLetGo], None));
        let (next, fates) = empty(&mut grace, &in_force, false, now + LIMIT);
        assert_eq!((next.is_empty(), fates), (true, vec![]), "not again, whatever became of that");
        // A mesh that never had a service is one that has none.
        let mut fresh = Grace::new(LIMIT);
        assert_eq!(empty(&mut fresh, &Held::default(), true, now).1, []);
        assert!(!fresh.holds_all());
        let (_, fates) = empty(&mut Grace::new(LIMIT), &Held::default(), false, now);
        assert_eq!(fates, [Fate::AllHeldBack], "who knows of a service waits for it");
    }

    #[test]
    fn endpoints_that_stand_in_the_cluster_itself_stay_too() {
        let inline = |count: u16| {
            let own = Own { trust_domain: "cluster.local".to_owned(), namespace: "n".to_owned() };
            let bytes = static_cluster("a", count);
            let part = decode(Kind::Cluster, "a", &bytes, &own).expect("a cluster");
            let mut held = held(&[]);
            held.insert(Kind::Cluster, "a", Arc::new(Accepted::new("1".into(), &bytes, part)));
            held
        };
        let (mut grace, now, in_force) = (Grace::new(LIMIT), Instant::now(), inline(2));
        let mut next = inline(0);
        let fates = grace.hold(&in_force, &mut next, false, now);
        assert_eq!(fates, [Fate::HeldBack("a".into())]);
        let cluster = |held: &Held| held.get(Kind::Cluster, "a").cloned().unwrap();
        assert!(Arc::ptr_eq(&cluster(&next), &cluster(&in_force)));
    }
}
