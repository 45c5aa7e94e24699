//! What a scrape shows of the control plane.

use prometheus::proto::{MetricFamily, MetricType};
use xds::Kind;

use crate::control::family::{counter, family, label, single_counter, single_gauge};
use crate::control::xds::book::word;
use crate::control::xds::counts::{Counts, RESULTS};
use crate::control::xds::lost::REASONS;
use crate::control::xds::state::{Phase, State};
use crate::metrics::names;

/// All families; zeros where there is no control plane.
pub(crate) fn all(counts: &Counts, state: &State) -> [MetricFamily; 9] {
    let losses = REASONS.map(|reason| counter(vec![label("reason", reason.as_str())], counts.lost(reason)));
    let answers = Kind::ALL.into_iter().flat_map(|kind| {
        RESULTS.iter().enumerate().map(move |(at, result)| {
            counter(vec![label("type", word(kind)), label("result", result)], counts.answers(kind, at))
        })
    });
    let is_connected = state.connection.phase == Phase::Connected;
    [
        single_gauge(names::CONTROL_CONNECTED, f64::from(u8::from(is_connected))),
        single_counter(names::CONTROL_CONNECTIONS, counts.connected.value()),
        family(names::CONTROL_LOSSES, MetricType::COUNTER, losses.to_vec()),
        family(names::CONTROL_ANSWERS, MetricType::COUNTER, answers.collect()),
        single_gauge(names::CONTROL_REFUSED, state.refused.len() as f64),
        single_counter(names::CONTROL_UNASKED, counts.unasked.value()),
        single_counter(names::CONTROL_BYTES, counts.received_bytes.value()),
        single_counter(names::CONTROL_PACED, counts.paced.value()),
        single_gauge(names::CONTROL_HEARD, counts.heard() as f64),
    ]
}
