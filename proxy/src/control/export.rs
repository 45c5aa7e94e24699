//! Adds the workers' counters up and hands them to the crate `prometheus`, registry and encoder.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter as CounterValue, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::time::Instant;

use crate::balance::outlier::EJECTIONS;
use crate::context::Shared;
use crate::control::certificates;
use crate::control::family::{counter, family, gauge, label, single_counter, single_gauge, unix};
use crate::control::health::board::{Board, FINDINGS};
use crate::control::journal::Journal;
use crate::control::xds::counts::Counts;
use crate::control::xds::families;
use crate::demand::ANSWERS;
use crate::failure::REASONS;
use crate::grpc::status::ALL;
use crate::metrics::calls::{BUCKETS_US, Direction, Key, Series};
use crate::metrics::counter::Counter;
use crate::metrics::events::{
    CAUSES, Events, FATES, FAULTS, HANDSHAKE_FAILURES, HTTP_CLASSES, LIMITS, OUTCOMES, REVOCATIONS, SECURITY,
    SIDES, Side, TUNNEL_WAYS,
};
use crate::metrics::names::{self, CallNames};
use crate::process;
use crate::record::{Fates, LOST, QUEUE_FULL};
use crate::tables::ledger::Sums;

/// All that a scrape shows.
pub(crate) struct Exporter {
    registry: Registry,
}

impl Exporter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: Arc<Journal>,
        board: Arc<Board>,
        counts: Arc<Counts>,
        started: SystemTime,
    ) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(Collected { shared, journal, board, counts, started }))?;
        Ok(Self { registry })
    }

    /// The Prometheus text format, version 0.0.4.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Reads the counters when asked; holds no number of its own.
struct Collected {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    board: Arc<Board>,
    /// Of the client of a control plane; zeros without one.
    counts: Arc<Counts>,
    started: SystemTime,
}

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        for (direction, names) in
            [(Direction::Inbound, &names::SERVER), (Direction::Outbound, &names::CLIENT)]
        {
            calls(&self.shared, direction, names, &mut families);
        }
        families.extend(attempts(&self.shared));
        families.extend(outliers(&self.shared));
        families.extend(connections(&self.shared));
        families.extend(not_calls(&self.shared));
        families.extend(refusals(&self.shared, &self.journal, &self.board));
        families.extend(checks(&self.board));
        families.extend(configuration(&self.shared, &self.journal));
        families.extend(families::all(&self.counts, &self.journal.sent().state));
        families.extend(recorded(&self.shared));
        families.extend(authorization(&self.shared));
        families.extend(process_families(&self.shared, self.started));
        families
    }
}

/// What rules about callers decided, and which calls lost their leave.
fn authorization(shared: &Shared) -> [MetricFamily; 3] {
    let mut decided = Vec::new();
    shared.tables.load().tallies.each(|service, decision, rule, sum| {
        let labels = vec![label("service", service), label("decision", decision), label("rule", rule)];
        decided.push(counter(labels, sum));
    });
    let events = |of: &dyn Fn(&Events) -> u64| shared.events.iter().map(of).sum::<u64>();
    let revoked = REVOCATIONS
        .iter()
        .enumerate()
        .map(|(at, reason)| counter(vec![label("reason", reason)], events(&|events| events.revoked(at))));
    // The app proves nothing to us.
    let distrusted = [Side::Inbound, Side::Upstream].map(|side| {
        let sum = events(&|events| events.connections_distrusted[side as usize].value());
        counter(vec![label("direction", SIDES[side as usize])], sum)
    });
    [
        family(names::AUTHORIZATION, MetricType::COUNTER, decided),
        family(names::CALLS_REVOKED, MetricType::COUNTER, revoked.collect()),
        family(names::CONNECTIONS_DISTRUSTED, MetricType::COUNTER, distrusted.to_vec()),
    ]
}

fn calls(shared: &Shared, direction: Direction, names: &CallNames, families: &mut Vec<MetricFamily>) {
    let [mut started, mut handled, mut received, mut sent, mut seconds] = [const { Vec::new() }; 5];
    shared.calls.for_each(|key, copies| {
        if key.direction != direction {
            return;
        }
        let sum = |of: &dyn Fn(&Series) -> u64| copies.iter().map(|copy| of(copy)).sum::<u64>();
        let labels = labels(key);
        started.push(counter(labels.clone(), sum(&|series| series.started.value())));
        received.push(counter(labels.clone(), sum(&|series| series.received.value())));
        sent.push(counter(labels.clone(), sum(&|series| series.sent.value())));
        let mut ended = 0;
        for code in ALL {
            let count = sum(&|series| series.handled[usize::from(code.number())].value());
            ended += count;
            if count > 0 {
                let mut labels = labels.clone();
                labels.push(label("grpc_code", code.label()));
                handled.push(counter(labels, count));
            }
        }
        if ended > 0 {
            seconds.push(histogram(labels, copies));
        }
    });
    families.push(family(names.started, MetricType::COUNTER, started));
    families.push(family(names.handled, MetricType::COUNTER, handled));
    families.push(family(names.received, MetricType::COUNTER, received));
    families.push(family(names.sent, MetricType::COUNTER, sent));
    families.push(family(names.seconds, MetricType::HISTOGRAM, seconds));
}

fn labels(key: &Key) -> Vec<LabelPair> {
    let (service, method) = key.method.rsplit_once('/').unwrap_or(("", &key.method));
    let mut labels = vec![
        label("service", &key.service),
        label("grpc_type", key.kind),
        label("grpc_service", service),
        label("grpc_method", method),
    ];
    if key.direction == Direction::Inbound {
        labels.push(label("peer", &key.peer));
    }
    labels
}

fn histogram(labels: Vec<LabelPair>, copies: &[Arc<Series>]) -> Metric {
    let bucket_count = |i: usize| copies.iter().map(|copy| copy.buckets[i].value()).sum::<u64>();
    let total_us: u64 = copies.iter().map(|copy| copy.total_us.value()).sum();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(BUCKETS_US.len());
    for (i, bound) in BUCKETS_US.iter().enumerate() {
        cumulative += bucket_count(i);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_sample_count(cumulative + bucket_count(BUCKETS_US.len()));
    histogram.set_sample_sum(total_us as f64 / 1e6);
    histogram.set_bucket(buckets);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

/// Attempts, and calls that went out more than once.
fn attempts(shared: &Shared) -> [MetricFamily; 3] {
    let sums = shared.tables.load().ledger.sums();
    let by = |name, key: &str, labels: &[&str], of: fn(&Sums) -> &[u64]| {
        let metrics = sums.iter().flat_map(|(service, sums)| {
            let counted = of(sums).iter().zip(labels).filter(|(sum, _)| **sum > 0);
            counted.map(|(sum, value)| counter(vec![label("service", service), label(key, value)], *sum))
        });
        family(name, MetricType::COUNTER, metrics.collect())
    };
    [
        by(names::ATTEMPTS, "outcome", &OUTCOMES, |sums| &sums.outcomes),
        by(names::REPEATS, "cause", &CAUSES, |sums| &sums.repeats),
        by(names::REPEATED_CALLS, "end", &FATES, |sums| &sums.repeated),
    ]
}

/// By service, where outliers are looked for or endpoints checked, or were so.
fn outliers(shared: &Shared) -> [MetricFamily; 3] {
    let tables = shared.tables.load();
    let [mut ejections, mut panics] = [const { Vec::new() }; 2];
    let looks: BTreeSet<&str> = tables.detectors.iter().map(|detector| &*detector.service).collect();
    let minding = tables.clusters.iter().filter(|cluster| cluster.fitness.is_some());
    let minds: BTreeSet<&str> = minding.map(|cluster| &*cluster.service).collect();
    for (service, set) in tables.ledger.endpoint_sets() {
        let sums = set.ejections();
        if looks.contains(&*service) || sums != [0; EJECTIONS.len()] {
            for (reason, sum) in EJECTIONS.iter().zip(sums) {
                ejections.push(counter(vec![label("service", &service), label("reason", reason)], sum));
            }
        }
        if minds.contains(&*service) || set.panics() > 0 {
            panics.push(counter(vec![label("service", &service)], set.panics()));
        }
    }
    let ejected = tables
        .detectors
        .iter()
        .map(|detector| gauge(vec![label("service", &detector.service)], detector.ejected() as u64));
    [
        family(names::EJECTIONS, MetricType::COUNTER, ejections),
        family(names::EJECTED, MetricType::GAUGE, ejected.collect()),
        family(names::PANIC_PICKS, MetricType::COUNTER, panics),
    ]
}

fn connections(shared: &Shared) -> [MetricFamily; 2] {
    let all = |value: &dyn Fn(&Events, usize, usize) -> u64, metric: fn(Vec<LabelPair>, u64) -> Metric| {
        let mut metrics = Vec::new();
        for (side, direction) in SIDES.iter().enumerate() {
            for (mtls, security) in SECURITY.iter().enumerate() {
                let sum = shared.events.iter().map(|events| value(events, side, mtls)).sum();
                metrics.push(metric(vec![label("direction", direction), label("security", security)], sum));
            }
        }
        metrics
    };
    [
        family(
            names::CONNECTIONS,
            MetricType::GAUGE,
            all(&|events, side, mtls| events.connections[side][mtls].value(), gauge),
        ),
        family(
            names::CONNECTIONS_TOTAL,
            MetricType::COUNTER,
            all(&|events, side, mtls| events.connections_total[side][mtls].value(), counter),
        ),
    ]
}

fn not_calls(shared: &Shared) -> [MetricFamily; 4] {
    let sum = |value: &dyn Fn(&Events) -> u64| shared.events.iter().map(value).sum::<u64>();
    let [mut open, mut opened, mut bytes, mut requests] = [const { Vec::new() }; 4];
    for direction in [Direction::Inbound, Direction::Outbound] {
        let which = direction as usize;
        let labelled = || vec![label("direction", direction.as_str())];
        open.push(gauge(labelled(), sum(&|events| events.tunnels[which].value())));
        opened.push(counter(labelled(), sum(&|events| events.tunnels_total[which].value())));
        for (i, way) in TUNNEL_WAYS.iter().enumerate() {
            let mut labels = labelled();
            labels.push(label("way", way));
            bytes.push(counter(labels, sum(&|events| events.tunnel_bytes[which][i].value())));
        }
        for (i, class) in HTTP_CLASSES.iter().enumerate() {
            let mut labels = labelled();
            labels.push(label("code", class));
            requests.push(counter(labels, sum(&|events| events.http[which][i].value())));
        }
    }
    [
        family(names::TUNNELS, MetricType::GAUGE, open),
        family(names::TUNNELS_TOTAL, MetricType::COUNTER, opened),
        family(names::TUNNEL_BYTES, MetricType::COUNTER, bytes),
        family(names::HTTP_REQUESTS, MetricType::COUNTER, requests),
    ]
}

fn refusals(shared: &Shared, journal: &Journal, board: &Board) -> Vec<MetricFamily> {
    let sum = |value: &dyn Fn(&Events) -> u64| shared.events.iter().map(value).sum::<u64>();
    let refused = LIMITS
        .iter()
        .enumerate()
        .map(|(i, limit)| (*limit, sum(&|events| events.refused(i))))
        // Counted on the control thread.
        .chain([
            ("dns_questions", shared.resolver.refused()),
            ("dns_addresses", journal.left_out()),
            ("health_checks", board.waited()),
        ])
        .map(|(limit, count)| counter(vec![label("limit", limit)], count))
        .collect();
    let shaken = HANDSHAKE_FAILURES
        .iter()
        .enumerate()
        .map(|(i, reason)| {
            counter(vec![label("reason", reason)], sum(&|events| events.handshake_failures(i)))
        })
        .collect();
    let mut failed = Vec::new();
    let mut in_flight = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        let calls = sum(&|events| events.calls_in_flight[direction as usize].value());
        in_flight.push(gauge(vec![label("direction", direction.as_str())], calls));
        for (i, reason) in REASONS.iter().enumerate() {
            let count = sum(&|events| events.failed(direction, i));
            if count > 0 {
                let labels = vec![label("direction", direction.as_str()), label("reason", reason.as_str())];
                failed.push(counter(labels, count));
            }
        }
    }
    let injected = FAULTS
        .iter()
        .enumerate()
        .map(|(i, kind)| counter(vec![label("kind", kind)], sum(&|events| events.faults[i].value())))
        .collect();
    vec![
        family(names::REFUSED, MetricType::COUNTER, refused),
        family(names::FAULTS_INJECTED, MetricType::COUNTER, injected),
        family(names::HANDSHAKES, MetricType::COUNTER, shaken),
        family(names::FAILED, MetricType::COUNTER, failed),
        family(names::CALLS_IN_FLIGHT, MetricType::GAUGE, in_flight),
        family(
            names::REPLAY_BYTES,
            MetricType::GAUGE,
            vec![gauge(vec![], sum(&|events| events.replay_bytes.value()))],
        ),
        single_counter(names::CONNECT_FAILURES, sum(&|events| events.connect_failures.value())),
        single_counter(names::CONNECTIONS_SUSPECTED, sum(&|events| events.connections_suspected.value())),
        single_counter(names::FLUSH_RESETS, sum(&|events| events.flush_resets.value())),
    ]
}

/// What active checks have found.
fn checks(board: &Board) -> [MetricFamily; 2] {
    let findings = board.findings().into_iter().flat_map(|(service, findings)| {
        findings.into_iter().enumerate().filter(|(_, count)| *count > 0).map(move |(finding, count)| {
            counter(vec![label("service", &service), label("result", FINDINGS[finding])], count)
        })
    });
    let unhealthy = board.unhealthy().into_iter();
    let unhealthy = unhealthy.map(|(service, count)| gauge(vec![label("service", &service)], count));
    [
        family(names::HEALTH_CHECKS, MetricType::COUNTER, findings.collect()),
        family(names::ENDPOINTS_UNHEALTHY, MetricType::GAUGE, unhealthy.collect()),
    ]
}

/// What became of the files that are followed.
fn configuration(shared: &Shared, journal: &Journal) -> Vec<MetricFamily> {
    let [mut loaded, mut rejected, mut since] = [const { Vec::new() }; 3];
    for (source, record) in journal.sources() {
        let labels = || vec![label("source", source.as_str())];
        loaded.push(counter(labels(), record.version));
        rejected.push(counter(labels(), record.rejected));
        since.push(gauge(labels(), unix(record.since)));
    }
    let mut families = vec![
        family(names::CONFIG_LOADED, MetricType::COUNTER, loaded),
        family(names::CONFIG_REJECTED, MetricType::COUNTER, rejected),
        family(names::CONFIG_SUCCESS, MetricType::GAUGE, since),
    ];
    families.extend(sent(shared, journal));
    let names = journal.names();
    if !names.is_empty() {
        let now = Instant::now();
        let of = |host: &str| vec![label("name", host)];
        let [mut ages, mut failures] = [const { Vec::new() }; 2];
        for (host, record) in &*names {
            if let Some(answered) = record.answered {
                ages.push(gauge(of(host), (now - answered).as_secs()));
            }
            failures.push(counter(of(host), record.failures));
        }
        families.push(family(names::DNS_AGE, MetricType::GAUGE, ages));
        families.push(family(names::DNS_FAILURES, MetricType::COUNTER, failures));
    }
    families.extend(certificates::families(shared, journal));
    families
}

/// What becomes of the mesh that a control plane sends.
fn sent(shared: &Shared, journal: &Journal) -> [MetricFamily; 6] {
    let told = ANSWERS.iter().zip(shared.demand.told());
    let told = told.map(|(answer, count)| counter(vec![label("answer", answer)], count)).collect();
    let (held_back, total) = {
        let sent = journal.sent();
        (sent.held_back.len(), sent.held_back_total)
    };
    let cache = journal.cache();
    [
        family(names::ON_DEMAND, MetricType::COUNTER, told),
        single_gauge(names::HELD_BACK, held_back as f64),
        single_counter(names::HELD_BACK_TOTAL, total),
        single_gauge(names::CACHE_WRITTEN, cache.written.map_or(0, unix) as f64),
        single_counter(names::CACHE_WRITES, cache.writes),
        single_counter(names::CACHE_FAILURES, cache.failures),
    ]
}

/// What became of spans and of lines of the access log.
fn recorded(shared: &Shared) -> [MetricFamily; 4] {
    let sum = |value: &dyn Fn(&Events) -> u64| shared.events.iter().map(value).sum::<u64>();
    let fates = shared.recorder.as_ref().map(|recorder| &recorder.fates);
    let fate = |value: &dyn Fn(&Fates) -> &Counter| fates.map_or(0, |fates| value(fates).value());
    let queue_full = sum(&|events| events.spans_dropped.value());
    let mut dropped = vec![counter(vec![label("reason", QUEUE_FULL)], queue_full)];
    for (index, reason) in LOST.iter().enumerate() {
        dropped.push(counter(vec![label("reason", reason)], fate(&|fates| &fates.lost[index])));
    }
    let unlogged = sum(&|events| events.lines_dropped.value()) + fate(&|fates| &fates.unwritten);
    [
        single_counter(names::SPANS_EXPORTED, fate(&|fates| &fates.exported)),
        family(names::SPANS_DROPPED, MetricType::COUNTER, dropped),
        single_counter(names::LOG_LINES, fate(&|fates| &fates.lines)),
        single_counter(names::LOG_DROPPED, unlogged),
    ]
}

fn process_families(shared: &Shared, started: SystemTime) -> Vec<MetricFamily> {
    let mut families = vec![
        family(
            names::INFO,
            MetricType::GAUGE,
            vec![gauge(vec![label("version", env!("CARGO_PKG_VERSION"))], 1)],
        ),
        single_gauge(names::WORKERS, shared.events.len() as f64),
        single_gauge(names::DRAINING, f64::from(u8::from(shared.is_draining()))),
        single_gauge(names::START, unix(started) as f64),
    ];
    if let Some(usage) = process::usage() {
        families.push(single_gauge(names::RESIDENT, usage.resident_bytes as f64));
        let mut metric = Metric::default();
        let mut value = CounterValue::default();
        value.set_value(usage.cpu_seconds);
        metric.set_counter(value);
        families.push(family(names::CPU, MetricType::COUNTER, vec![metric]));
    }
    families
}
