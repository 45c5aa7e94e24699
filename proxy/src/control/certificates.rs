//! The metrics of our own identity: how long it is good for, and how its renewals fare.

use std::time::SystemTime;

use identity::chain::Runway;
use identity::state::REASONS;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::context::Shared;
use crate::control::family::{counter, family, gauge, label, single_counter, unix};
use crate::control::journal::Journal;
use crate::control::runway::{STANDINGS, standing};
use crate::metrics::names;

/// All of them; none without an identity.
pub(crate) fn families(shared: &Shared, journal: &Journal) -> Vec<MetricFamily> {
    if journal.identity_source.is_none() {
        return Vec::new();
    }
    let tables = shared.tables.load();
    let runway = journal.runway(tables.credentials.as_deref());
    let (stands, _) = standing(runway.as_ref(), SystemTime::now());
    let states = STANDINGS.map(|each| gauge(vec![label("state", each.as_str())], u64::from(each == stands)));
    let counts = journal.issued().counts;
    vec![
        family(names::CERTIFICATE_EXPIRY, MetricType::GAUGE, runway.as_ref().map(ends).unwrap_or_default()),
        family(names::IDENTITY_STATE, MetricType::GAUGE, states.into()),
        single_counter(names::IDENTITY_RENEWALS, counts.renewals),
        family(names::IDENTITY_FAILURES, MetricType::COUNTER, by_reason(&counts.failed)),
        single_counter(names::TRUST_CHANGES, counts.trust_changes),
        family(names::TRUST_FAILURES, MetricType::COUNTER, by_reason(&counts.trust_failed)),
    ]
}

fn ends(runway: &Runway) -> Vec<Metric> {
    let all = [("leaf", Some(runway.leaf)), ("issuer", runway.issuer), ("root", runway.root)];
    let known = all.into_iter().filter_map(|(name, life)| Some((name, life?.end)));
    known.map(|(name, end)| gauge(vec![label("certificate", name)], unix(end))).collect()
}

fn by_reason(counts: &[u64; REASONS.len()]) -> Vec<Metric> {
    let all = REASONS.iter().zip(counts);
    all.map(|(reason, count)| counter(vec![label("reason", reason.as_str())], *count)).collect()
}
