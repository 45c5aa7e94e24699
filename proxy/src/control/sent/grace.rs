//! Endpoints that a control plane takes away all at once: more often a fault of whoever tells it than the truth, so they
//! stay for a while.
//!
//! ```text
//! had endpoints -> is said to have none -> held back -> has some: those, at once
//!                                            |-> its service is taken away: gone, at once
//!                                            `-> still none after the grace time: none
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds::Kind;
use xds::decode::Part;

use crate::control::xds::held::{Accepted, Held};

/// What is held back.
#[derive(Debug)]
pub(crate) struct Grace {
    limit: Duration,
    kept: BTreeMap<Arc<str>, (Arc<Accepted>, Instant)>,
}

/// What has become of the endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They are held back from now on.
    HeldBack(Arc<str>),
    /// There are some again.
    Returned(Arc<str>),
    /// The time is over, and there are none.
    LetGo(Arc<str>),
}

impl Grace {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, kept: BTreeMap::new() }
    }

    /// Puts into `next`, which comes after what is in force, what is held back of it at `now`; and says what is new.
    pub(crate) fn hold(&mut self, in_force: &Held, next: &mut Held, now: Instant) -> Vec<Fate> {
        let mut fates = Vec::new();
        let limit = self.limit;
        let empty: Vec<Arc<str>> = next
            .of(Kind::Endpoints)
            .iter()
            .filter(|(_, one)| is_empty(one))
            .map(|(name, _)| name.clone())
            .collect();
        self.kept.retain(|name, (_, since)| {
            let fate = match next.get(Kind::Endpoints, name) {
                Some(one) if is_empty(one) && now < *since + limit => return true,
                Some(one) if is_empty(one) => Fate::LetGo(name.clone()),
                Some(_) => Fate::Returned(name.clone()),
                // It was taken away on purpose, with all that named it.
                None => return false,
            };
            fates.push(fate);
            false
        });
        for name in empty {
            let is_over = fates.contains(&Fate::LetGo(name.clone()));
            if let Some(before) = in_force.get(Kind::Endpoints, &name)
                && !is_empty(before)
                && !is_over
                && !limit.is_zero()
                && !self.kept.contains_key(&name)
            {
                self.kept.insert(name.clone(), (before.clone(), now));
                fates.push(Fate::HeldBack(name));
            }
        }
        for (name, (before, _)) in &self.kept {
            next.insert(Kind::Endpoints, name, before.clone());
        }
        fates
    }

    /// How long endpoints stay.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// When the first of them is let go, if nothing is heard.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.kept.values().map(|(_, since)| *since + self.limit).min()
    }

    /// The clusters whose endpoints are held back, and since when.
    pub(crate) fn held_back(&self) -> Vec<(Arc<str>, Instant)> {
        self.kept.iter().map(|(name, (_, since))| (name.clone(), *since)).collect()
    }
}

fn is_empty(accepted: &Accepted) -> bool {
    matches!(&accepted.part, Part::Endpoints(part) if part.endpoints.is_empty())
}

#[cfg(test)]
mod tests {
    use config::model::{Endpoint, Target};
    use xds::decode::EndpointsPart;

    use super::*;

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
        Arc::new(Accepted { version: String::new(), bytes: Default::default(), part, needs: Vec::new() })
    }

    fn held(clusters: &[(&str, u16)]) -> Held {
        let mut held = Held::default();
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
        let fates = grace.hold(in_force, &mut next, now);
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
}
