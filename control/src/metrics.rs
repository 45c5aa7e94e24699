//! What `/metrics` shows. The names stand here and nowhere else; `docs/control-plane.md` says what they mean.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use config::meshes::Taken;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};
use xds::Kind;

use crate::ads::counters::Limit;
use crate::ads::hub::Hub;
use crate::ca::counters::By;
use crate::ca::reason::Reason;
use crate::ca::root::Root;
use crate::counters::{Counters, FAILURES, REFUSALS};
use crate::credentials::Held;
use crate::journal::{Journal, state, unix};
use crate::registrations::Registrations;
use crate::world::Worlds;

/// Clock ticks of `/proc/PID/stat` per second; Linux shows 100 to programs whatever it counts itself (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads all numbers when asked; holds none of its own.
pub(crate) struct Exporter {
    pub(crate) worlds: Worlds,
    pub(crate) journal: Arc<Journal>,
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) hub: Arc<Hub>,
    /// `None`: plaintext.
    pub(crate) identity: Option<Arc<Held>>,
    pub(crate) started: SystemTime,
}

impl Exporter {
    /// The Prometheus text format, version 0.0.4.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = Vec::new();
        self.mesh(&mut families);
        self.connections(&mut families);
        self.ca(&mut families);
        self.xds(&mut families);
        self.process(&mut families);
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }

    fn mesh(&self, families: &mut Vec<MetricFamily>) {
        let world = self.worlds.borrow().clone();
        let held = self.journal.held();
        let services = &world.mesh.services;
        let endpoints: usize = services.iter().map(|service| service.endpoints.len()).sum();
        let mut gauges =
            |name, help, value: f64| families.push(family(name, help, vec![gauge(Vec::new(), value)]));
        gauges("outrigger_control_services", "Services of the mesh.", services.len() as f64);
        gauges(
            "outrigger_control_endpoints",
            "Endpoints of the mesh, registered ones among them.",
            endpoints as f64,
        );
        gauges(
            "outrigger_control_registered_endpoints",
            "Endpoints that sidecars announce.",
            self.registrations.endpoints() as f64,
        );
        gauges(
            "outrigger_control_mesh_changed_timestamp_seconds",
            "When the files last changed the mesh.",
            held.changed.map_or(0.0, unix),
        );
        gauges(
            "outrigger_control_mesh_lost",
            "1 while the folder of mesh files cannot be looked at.",
            f64::from(u8::from(held.lost.is_some())),
        );
        let states = [Taken::Now, Taken::Before, Taken::Nothing].map(|taken| {
            let files = held.files.values().filter(|record| record.taken == taken).count();
            gauge(vec![label("state", state(taken))], files as f64)
        });
        families.push(family(
            "outrigger_control_mesh_files",
            "Mesh files, by what is in force of them.",
            states.into(),
        ));
        let rejected = held
            .files
            .iter()
            .map(|(path, record)| counter(vec![label("file", &path.display().to_string())], record.rejected));
        families.push(counters(
            "outrigger_control_mesh_rejected_total",
            "Versions of a mesh file that could not be used.",
            rejected.collect(),
        ));
        families.push(total(
            "outrigger_control_mesh_lost_total",
            "Times that the folder was lost.",
            held.losses,
        ));
        families.push(total(
            "outrigger_control_cache_failed_total",
            "Times that what is in force could not be kept on disk.",
            self.journal.unkept.load(Relaxed),
        ));
        families.push(total(
            "outrigger_control_worlds_total",
            "Versions of the mesh that clients were told of.",
            self.counters.worlds(),
        ));
        families.push(total(
            "outrigger_control_encoded_services_total",
            "Services that were encoded for those versions, over all audiences.",
            self.counters.encoded(),
        ));
        let sets = world.sets();
        let bytes: usize = sets.iter().map(|set| set.bytes()).sum();
        for (name, help, value) in [
            ("outrigger_control_audiences", "Audiences that resources are encoded for.", sets.len()),
            ("outrigger_control_resource_bytes", "Bytes of the resources of all audiences.", bytes),
        ] {
            families.push(family(name, help, vec![gauge(Vec::new(), value as f64)]));
        }
    }

    fn connections(&self, families: &mut Vec<MetricFamily>) {
        families.push(total(
            "outrigger_control_connections_total",
            "Connections on which xDS could be spoken.",
            self.counters.accepted(),
        ));
        let failed = FAILURES
            .iter()
            .map(|(failure, name)| counter(vec![label("reason", name)], self.counters.failed(*failure)));
        families.push(counters(
            "outrigger_control_handshakes_failed_total",
            "Connections whose TLS handshake came to a bad end.",
            failed.collect(),
        ));
        families.push(total(
            "outrigger_control_connections_distrusted_total",
            "Connections that ended because no root that is trusted vouches for their certificate any more.",
            self.counters.distrusted(),
        ));
        let ours = REFUSALS.iter().map(|(refusal, name)| (*name, self.counters.refused(*refusal)));
        let theirs = Limit::ALL.iter().map(|(limit, name)| (*name, self.hub.counters().refused(*limit)));
        let refused = ours.chain(theirs).map(|(name, count)| counter(vec![label("limit", name)], count));
        families.push(counters(
            "outrigger_control_refused_total",
            "What a limit has refused.",
            refused.collect(),
        ));
        let Some(identity) = &self.identity else { return };
        let expires = unix(identity.credentials().expires);
        families.push(family(
            "outrigger_control_certificate_expires_timestamp_seconds",
            "When our own certificate expires.",
            vec![gauge(Vec::new(), expires)],
        ));
        families.push(total(
            "outrigger_control_identity_rejected_total",
            "Versions of our own certificate, key and bundle that could not be used.",
            identity.rejected.load(Relaxed),
        ));
    }

    fn ca(&self, families: &mut Vec<MetricFamily>) {
        let Some(ca) = self.hub.ca() else { return };
        let sums = &ca.counters;
        let issued = By::ALL.map(|by| counter(vec![label("by", by.as_str())], sums.issued(by)));
        families.push(counters(
            "outrigger_control_certificates_issued_total",
            "Certificates that were signed, by what was shown for them.",
            issued.into(),
        ));
        let by_reason = |count: &dyn Fn(Reason) -> u64| -> Vec<Metric> {
            Reason::ALL
                .iter()
                .map(|(reason, name)| counter(vec![label("reason", name)], count(*reason)))
                .collect()
        };
        families.push(counters(
            "outrigger_control_certificates_refused_total",
            "Requests for a certificate that were refused.",
            by_reason(&|reason| sums.refused(reason)),
        ));
        families.push(counters(
            "outrigger_control_unauthenticated_total",
            "Calls of other services than the CA's that were refused because nobody vouches for whoever asks.",
            by_reason(&|reason| sums.turned_away(reason)),
        ));
        let in_force = ca.in_force();
        let of_roots = |value: &dyn Fn(&Root) -> f64| -> Vec<Metric> {
            in_force.trusted().map(|root| gauge(vec![label("root", &root.name)], value(root))).collect()
        };
        let signer = in_force.signer().map(|root| &root.der);
        let signs = |root: &Root| f64::from(u8::from(signer == Some(&root.der)));
        for (name, help, metrics) in [
            (
                "outrigger_control_ca_root_expires_timestamp_seconds",
                "When each root that is trusted expires.",
                of_roots(&|root| unix(root.not_after)),
            ),
            (
                "outrigger_control_ca_root_signs",
                "1 for the root that signs, of those that are trusted.",
                of_roots(&signs),
            ),
            (
                "outrigger_control_ca_changes_timestamp_seconds",
                "When another root signs, or one leaves, by itself.",
                in_force.standing.next.map(|next| gauge(Vec::new(), unix(next))).into_iter().collect(),
            ),
            (
                "outrigger_control_ca_faulty",
                "1 while what the CA's folder holds cannot be used, and what was in force before stays so.",
                vec![gauge(Vec::new(), f64::from(u8::from(ca.is_faulty())))],
            ),
        ] {
            families.push(family(name, help, metrics));
        }
        for (name, help, value) in [
            (
                "outrigger_control_ca_rejected_total",
                "Versions of the CA's folder that could not be used.",
                &sums.rejected,
            ),
            (
                "outrigger_control_ca_trust_changes_total",
                "Times that clients were told of another set of roots.",
                &sums.trust_changes,
            ),
            (
                "outrigger_control_audit_lost_total",
                "Lines of the audit that could not be written.",
                &sums.unaudited,
            ),
        ] {
            families.push(total(name, help, value.load(Relaxed)));
        }
    }

    fn xds(&self, families: &mut Vec<MetricFamily>) {
        let (sums, registry) = (self.hub.counters(), self.hub.registry());
        let standing = registry.standing();
        let of_kind = |value: &dyn Fn(&crate::ads::registry::Standing) -> usize| {
            let kinds = standing.iter();
            kinds.map(|(kind, standing)| gauge(vec![label("kind", kind)], value(standing) as f64)).collect()
        };
        families.push(family(
            "outrigger_control_proxies",
            "Proxies that are connected.",
            of_kind(&|s| s.connected),
        ));
        families.push(family(
            "outrigger_control_proxies_refusing",
            "Proxies that have rejected something and hold an older version.",
            of_kind(&|s| s.refusing),
        ));
        families.push(family(
            "outrigger_control_proxies_behind",
            "Proxies that do not hold the newest version yet.",
            of_kind(&|s| s.behind),
        ));
        families.push(family(
            "outrigger_control_streams",
            "xDS streams that are open.",
            vec![gauge(Vec::new(), registry.streams() as f64)],
        ));
        let by_type = |value: &dyn Fn(Kind) -> u64| -> Vec<Metric> {
            Kind::ALL.into_iter().map(|kind| counter(vec![label("type", short(kind))], value(kind))).collect()
        };
        for (name, help, metrics) in [
            ("outrigger_control_responses_total", "Responses sent.", by_type(&|kind| sums.responses(kind).0)),
            (
                "outrigger_control_resources_total",
                "Resources in them.",
                by_type(&|kind| sums.responses(kind).1),
            ),
            (
                "outrigger_control_response_bytes_total",
                "Bytes of those resources.",
                by_type(&|kind| sums.responses(kind).2),
            ),
            (
                "outrigger_control_acks_total",
                "Responses that were acknowledged.",
                by_type(&|kind| sums.answers(kind).0),
            ),
            (
                "outrigger_control_nacks_total",
                "Responses that were rejected.",
                by_type(&|kind| sums.answers(kind).1),
            ),
        ] {
            families.push(counters(name, help, metrics));
        }
        for (name, help, value) in [
            ("outrigger_control_streams_total", "xDS streams that began.", &sums.streams),
            ("outrigger_control_requests_total", "xDS requests that were read.", &sums.requests),
            (
                "outrigger_control_stale_nonces_total",
                "Requests that answer a response before the last.",
                &sums.stale_nonces,
            ),
            (
                "outrigger_control_unknown_types_total",
                "Types asked for that are not served.",
                &sums.unknown_types,
            ),
            ("outrigger_control_garbage_total", "Messages that were no request.", &sums.garbage),
            (
                "outrigger_control_dead_peers_total",
                "Peers that did not answer a ping in time.",
                &sums.dead_peers,
            ),
            (
                "outrigger_control_secrets_refused_total",
                "Sets of roots that a client rejected.",
                &sums.secrets_refused,
            ),
            (
                "outrigger_control_registrations_refused_total",
                "Endpoints that were announced and may not be.",
                &sums.registrations_refused,
            ),
        ] {
            families.push(total(name, help, value.load(Relaxed)));
        }
    }

    fn process(&self, families: &mut Vec<MetricFamily>) {
        families.push(family(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            vec![gauge(Vec::new(), unix(self.started))],
        ));
        if let Some(bytes) = resident_bytes() {
            let metric = vec![gauge(Vec::new(), bytes as f64)];
            families.push(family("process_resident_memory_bytes", "Resident memory.", metric));
        }
        if let Some(cpu) = cpu() {
            let mut metric = Metric::default();
            let mut value = Counter::default();
            value.set_value(cpu.as_secs_f64());
            metric.set_counter(value);
            families.push(counters("process_cpu_seconds_total", "CPU time, user and system.", vec![metric]));
        }
    }
}

/// The type as people call it.
fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "clusters",
        Kind::Endpoints => "endpoints",
        Kind::Listener => "listeners",
        Kind::Routes => "routes",
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())?;
    Some(kib << 10)
}

fn cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold spaces; what follows its closing bracket does not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    of_type(name, help, MetricType::GAUGE, metrics)
}

fn counters(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    of_type(name, help, MetricType::COUNTER, metrics)
}

fn total(name: &str, help: &str, value: u64) -> MetricFamily {
    counters(name, help, vec![counter(Vec::new(), value)])
}

fn of_type(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::default();
    metric.set_label(labels);
    metric.set_counter(counter);
    metric
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
