//! A service's routes: ordered, first match wins, found without walking through all of them.
//!
//! Routes by exact method stand in a hash map, routes by gRPC service in another, and only those by
//! prefix, by regex or by neither stand in a list. A lookup merges the three by the order of the file, so
//! its cost does not grow with the number of plain method routes.

use std::sync::Arc;

use config::model::{Deadline, HeaderMatch, HeaderValueMatch, Match, MethodMatch, Policy, Stream};
use config::repeats::Repeats;
use http::{HeaderMap, HeaderValue};
use rustc_hash::FxHashMap;

use crate::balance::weights::Weights;
use crate::metrics::median::Median;
use crate::record::call::RouteName;
use crate::tables::faults::Faults;
use crate::tables::headers::HeaderRules;

/// Where a call goes and what holds for it on the way.
#[derive(Debug)]
pub(crate) struct Route {
    /// As logs name it.
    pub(crate) name: RouteName,
    /// What it matches and where it leads, as text: by this it is the same route in the next snapshot. Empty where it has
    /// no median to keep.
    pub(crate) says: Box<str>,
    /// Indices of clusters.
    clusters: Vec<usize>,
    weights: Weights,
    /// The weights as the file has them.
    told: Box<[u32]>,
    /// The blocks that it does not share with its service.
    pub(crate) own: Blocks,
    pub(crate) deadline: Deadline,
    pub(crate) stream: Stream,
    pub(crate) headers: HeaderRules,
    pub(crate) repeats: Repeats,
    pub(crate) faults: Option<Arc<Faults>>,
    /// How long its calls took lately, if its deadline asks for that.
    pub(crate) median: Option<Arc<Median>>,
}

/// Which policy blocks say something of their own: something else than the service and `defaults` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) deadline: bool,
    pub(crate) stream: bool,
    pub(crate) headers: bool,
    pub(crate) repeats: bool,
    pub(crate) faults: bool,
}

impl Blocks {
    /// Those in which a route differs from its service.
    pub(crate) fn differing(route: &Policy, service: &Policy) -> Self {
        Self {
            deadline: route.deadline != service.deadline,
            stream: route.stream != service.stream,
            headers: route.headers != service.headers,
            repeats: route.repeats != service.repeats,
            faults: route.injection != service.injection,
        }
    }
}

/// Why a route does not take a call: the first of its conditions that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmet {
    Host,
    Service,
    Method,
    /// The one at this place in `match.headers`.
    Header(usize),
}

/// What a route is chosen by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Lower case, without the port.
    pub(crate) host: &'a str,
    /// `package.Service/Method`.
    pub(crate) method: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

/// The routes of one service.
#[derive(Debug)]
pub(crate) struct Routes {
    routes: Vec<(Match, Route)>,
    /// Indices into `routes`, each list ascending.
    by_method: FxHashMap<Box<str>, Vec<u32>>,
    by_service: FxHashMap<Box<str>, Vec<u32>>,
    others: Vec<u32>,
}

impl Route {
    pub(crate) fn new(clusters: Vec<usize>, weights: &[u32], policy: &Policy) -> Self {
        Self {
            name: RouteName::Unrouted,
            says: "".into(),
            clusters,
            weights: Weights::new(weights),
            told: weights.into(),
            own: Blocks::default(),
            deadline: policy.deadline,
            stream: policy.stream,
            headers: HeaderRules::new(&policy.headers),
            repeats: policy.repeats,
            faults: Faults::of(&policy.injection, None),
            median: None,
        }
    }

    /// The cluster that takes this call.
    pub(crate) fn cluster(&self, random: &mut fastrand::Rng) -> usize {
        match self.clusters[..] {
            [only] => only,
            _ => self.clusters[self.weights.draw(random.u64(..)).unwrap_or(0)],
        }
    }

    /// The clusters among which [`Route::cluster`] draws, as indices, and their weights.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (usize, u32)> {
        self.clusters.iter().copied().zip(self.told.iter().copied())
    }
}

impl Routes {
    pub(crate) fn new(routes: Vec<(Match, Route)>) -> Self {
        let mut table = Self {
            routes: Vec::with_capacity(routes.len()),
            by_method: FxHashMap::default(),
            by_service: FxHashMap::default(),
            others: Vec::new(),
        };
        for (index, (matches, mut route)) in routes.into_iter().enumerate() {
            let index = index as u32;
            route.name = RouteName::Index(index);
            match (&matches.method, &matches.service) {
                (Some(MethodMatch::Exact(method)), _) => {
                    table.by_method.entry(method.as_str().into()).or_default().push(index);
                }
                (_, Some(service)) => {
                    table.by_service.entry(service.as_str().into()).or_default().push(index);
                }
                _ => table.others.push(index),
            }
            table.routes.push((matches, route));
        }
        table
    }

    /// All of them, in the order of the file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Match, &Route)> {
        self.routes.iter().map(|(matches, route)| (matches, route))
    }

    /// The route at this place in the file.
    pub(crate) fn at(&self, index: usize) -> Option<&Route> {
        self.routes.get(index).map(|(_, route)| route)
    }

    /// The first route that matches.
    pub(crate) fn find(&self, asked: Asked<'_>) -> Option<&Route> {
        if self.routes.is_empty() {
            return None;
        }
        let service = asked.service();
        let mut lists = [
            self.by_method.get(asked.method).map_or(&[][..], Vec::as_slice),
            self.by_service.get(service).map_or(&[][..], Vec::as_slice),
            &self.others[..],
        ];
        loop {
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let (matches, route) = &self.routes[next[0] as usize];
            *next = &next[1..];
            if unmet(matches, asked, service).is_none() {
                return Some(route);
            }
        }
    }
}

/// The first condition of a route that a call does not meet. `service` is the first segment of its method.
// Inlined where only `None` is asked for, so that a lookup compares and does not note what it compared.
#[inline(always)]
pub(crate) fn unmet(matches: &Match, asked: Asked<'_>, service: &str) -> Option<Unmet> {
    if matches.host.as_deref().is_some_and(|host| host != asked.host) {
        return Some(Unmet::Host);
    }
    if matches.service.as_deref().is_some_and(|wanted| wanted != service) {
        return Some(Unmet::Service);
    }
    let method = matches.method.as_ref().is_none_or(|method| match method {
        MethodMatch::Exact(exact) => exact == asked.method,
        MethodMatch::Prefix(prefix) => asked.method.starts_with(prefix.as_str()),
        MethodMatch::Regex(regex) => regex.is_match(asked.method),
    });
    if !method {
        return Some(Unmet::Method);
    }
    matches.headers.iter().position(|header| !header_matches(header, asked.headers)).map(Unmet::Header)
}

impl<'a> Asked<'a> {
    /// The gRPC service that is called: the first segment of the method.
    pub(crate) fn service(&self) -> &'a str {
        self.method.split('/').next().unwrap_or_default()
    }
}

/// Whether the headers of a call are as `header` says.
pub(crate) fn header_matches(header: &HeaderMatch, headers: &HeaderMap) -> bool {
    let any = |matches: &dyn Fn(&HeaderValue) -> bool| headers.get_all(&header.name).iter().any(matches);
    let found = match &header.value {
        HeaderValueMatch::Exact(exact) => any(&|value| value.as_bytes() == exact.as_bytes()),
        HeaderValueMatch::Prefix(prefix) => any(&|value| value.as_bytes().starts_with(prefix.as_bytes())),
        // Expressions read text.
        HeaderValueMatch::Regex(regex) => any(&|value| value.to_str().is_ok_and(|text| regex.is_match(text))),
        HeaderValueMatch::Present(present) => headers.contains_key(&header.name) == *present,
    };
    found != header.invert
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(matches: Vec<Match>) -> Routes {
        let policy = Policy::default();
        Routes::new(
            matches.into_iter().enumerate().map(|(i, m)| (m, Route::new(vec![i], &[1], &policy))).collect(),
        )
    }

    fn found(routes: &Routes, host: &str, method: &str, headers: &HeaderMap) -> Option<usize> {
        routes.find(Asked { host, method, headers }).map(|route| route.clusters[0])
    }

    fn exact(method: &str) -> Match {
        Match { method: Some(MethodMatch::Exact(method.into())), ..Match::default() }
    }

    #[test]
    fn the_first_match_in_the_file_wins_whatever_its_kind() {
        let regex = regex::Regex::new("^(?:a\\.B/.*)$").unwrap();
        let routes = table(vec![
            Match { method: Some(MethodMatch::Regex(regex)), host: Some("one".into()), ..Match::default() },
            exact("a.B/C"),
            Match { service: Some("a.B".into()), ..Match::default() },
            Match { method: Some(MethodMatch::Prefix("a.".into())), ..Match::default() },
            exact("a.B/D"),
            Match::default(),
        ]);
        let none = HeaderMap::new();
        assert_eq!(found(&routes, "one", "a.B/C", &none), Some(0));
        assert_eq!(found(&routes, "two", "a.B/C", &none), Some(1));
        assert_eq!(found(&routes, "two", "a.B/D", &none), Some(2), "an earlier service route hides it");
        assert_eq!(found(&routes, "two", "a.X/D", &none), Some(3));
        assert_eq!(found(&routes, "two", "b.X/D", &none), Some(5));
    }

    #[test]
    fn header_conditions_must_all_hold() {
        let with = |value, invert| Match {
            headers: vec![HeaderMatch { name: "x-canary".into(), value, invert }],
            ..Match::default()
        };
        let regex = regex::Regex::new("^(?:v[0-9]+)$").unwrap();
        let routes = table(vec![
            with(HeaderValueMatch::Exact("1".into()), false),
            with(HeaderValueMatch::Regex(regex), false),
            with(HeaderValueMatch::Prefix("blue-".into()), false),
            with(HeaderValueMatch::Present(true), true),
        ]);
        let headers = |value: Option<&str>| {
            let mut map = HeaderMap::new();
            if let Some(value) = value {
                map.insert("x-canary", value.parse().unwrap());
            }
            map
        };
        assert_eq!(found(&routes, "h", "a.B/C", &headers(Some("1"))), Some(0));
        assert_eq!(found(&routes, "h", "a.B/C", &headers(Some("v12"))), Some(1));
        assert_eq!(found(&routes, "h", "a.B/C", &headers(Some("blue-7"))), Some(2));
        assert_eq!(found(&routes, "h", "a.B/C", &headers(Some("2"))), None);
        assert_eq!(found(&routes, "h", "a.B/C", &headers(None)), Some(3));
    }

    #[test]
    fn thousands_of_plain_routes_leave_one_candidate() {
        let routes = table((0..5_000).map(|i| exact(&format!("a.B/M{i}"))).collect());
        assert_eq!(found(&routes, "h", "a.B/M4999", &HeaderMap::new()), Some(4_999));
        assert_eq!(routes.by_method["a.B/M4999"].len(), 1);
        assert!(routes.others.is_empty());
    }
}
