//! Families and series as the crate `prometheus` has them.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::{Counter as CounterValue, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::names::Name;

/// A family of series.
pub(crate) fn family((name, help): Name, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A gauge that has one series.
pub(crate) fn single_gauge(name: Name, value: f64) -> MetricFamily {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    family(name, MetricType::GAUGE, vec![metric])
}

/// A counter that has one series.
pub(crate) fn single_counter(name: Name, value: u64) -> MetricFamily {
    family(name, MetricType::COUNTER, vec![counter(Vec::new(), value)])
}

/// One series of a counter.
pub(crate) fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = CounterValue::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

/// One series of a gauge.
pub(crate) fn gauge(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

/// A label of a series.
pub(crate) fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// A time as gauges show it: seconds since the Unix epoch.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
