//! What `/config` and `/clusters` show.

use serde_json::{Value, json};
use xds::Kind;

use crate::balance::standing::EJECTED;
use crate::clock::Nanos;
use crate::context::Shared;
use crate::control::files::File;
use crate::control::health::board::{Board, Record as Checked};
use crate::control::journal::{Journal, NameRecord, Sent, Source};
use crate::control::show_identity::{self, identity, merge, unix};
use crate::control::xds::state::Connection;
use crate::endpoint::Endpoint;
use crate::tables::Cluster;

/// Hosts of nobody's that are shown.
const ABSENT_SHOWN: usize = 100;

/// The configuration in force, and what was turned down.
pub(crate) fn config(journal: &Journal, shared: &Shared) -> Value {
    let mut mesh = match journal.mesh_file() {
        Some(file) => show(&file),
        None => json!({"control": control(journal)}),
    };
    merge(&mut mesh, &journal.record(Source::Mesh));
    let identity = identity(journal, shared);
    let names: Vec<Value> = journal.names().iter().map(|(host, record)| show_name(host, record)).collect();
    json!({"sidecar": show(&journal.sidecar), "mesh": mesh, "identity": identity, "names": names})
}

/// Why no calls should be sent here; `None`: they may.
pub(crate) fn not_ready(journal: &Journal, shared: &Shared) -> Option<String> {
    if shared.is_draining() {
        return Some("draining".to_owned());
    }
    let tables = shared.tables.load();
    if let Some(why) = show_identity::not_ready(journal, shared, &tables) {
        return Some(why);
    }
    if !tables.has_mesh {
        let sent = journal.sent();
        let Connection { phase, address, lost, .. } = &sent.state.connection;
        let lost = lost.as_ref().map(|(_, why)| format!("; the last connection: {why}")).unwrap_or_default();
        let refused = match sent.state.refused.len() {
            0 => String::new(),
            count => format!("; {count} resources are refused, see /config"),
        };
        return Some(format!("no config yet: {} {address}{lost}{refused}", phase.as_str()));
    }
    let missing = tables.entries.iter().find(|entry| !entry.in_mesh)?;
    let name = &tables.services[missing.service].name;
    if journal.sent().unruled.contains(&**name) {
        return Some(format!("nobody says yet who may call service {name}: see /config"));
    }
    Some(format!("service {name} is not in the mesh that the control plane has sent"))
}

/// How the mesh fares that a control plane sends.
fn control(journal: &Journal) -> Value {
    let sent = journal.sent().clone();
    let Sent { state, .. } = &sent;
    let connection = &state.connection;
    let kinds: serde_json::Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| (kind_name(kind).to_owned(), state.held.of(kind).len().into()))
        .collect();
    let nacks: Vec<Value> = state
        .refused
        .iter()
        .map(|((kind, name), refused)| {
            json!({
                "type": kind_name(*kind), "name": name, "version": &*refused.version,
                "reason": refused.why, "at_unix_seconds": unix(refused.at),
            })
        })
        .collect();
    let incomplete: Vec<Value> = state
        .incomplete
        .iter()
        .map(|((kind, name), (lacked, lacks))| {
            json!({
                "type": kind_name(*kind), "name": name,
                "lacks": {"type": kind_name(*lacked), "name": lacks},
            })
        })
        .collect();
    let held_back: Vec<Value> = sent
        .held_back
        .iter()
        .map(|(name, since)| json!({"name": **name, "seconds": since.elapsed().as_secs()}))
        .collect();
    json!({
        "connection": {
            "state": connection.phase.as_str(),
            "address": connection.address,
            "since_unix_seconds": connection.since.map(unix),
            "identifier": connection.identifier,
            "lost": connection.lost.as_ref().map(|(at, why)| json!({"at_unix_seconds": unix(*at), "why": **why})),
        },
        "synced": state.synced,
        "from_cache": sent.from_cache,
        "resources": kinds,
        "nacks": nacks,
        "incomplete": incomplete,
        "held_back": held_back,
        "not_in_mesh": sent.absent,
        "without_rules": sent.unruled,
        "conflicts": sent.conflicts,
        "hosts_asked_for": sent.hosts,
        "hosts_of_nobody": state.absent.iter().take(ABSENT_SHOWN).collect::<Vec<_>>(),
        "cache": cache(journal),
    })
}

fn cache(journal: &Journal) -> Value {
    let cache = journal.cache();
    json!({
        "file": cache.path,
        "written_at_unix_seconds": cache.written.map(unix),
        "age_seconds": cache.written.map(|at| at.elapsed().unwrap_or_default().as_secs()),
        "bytes": cache.bytes,
        "failing": cache.failing.as_deref(),
        "not_used_at_start": cache.unused,
    })
}

/// The name of a kind, without its package.
fn kind_name(kind: Kind) -> &'static str {
    let url = kind.type_url();
    url.rsplit_once('.').map_or(url, |(_, name)| name)
}

fn show_name(host: &str, record: &NameRecord) -> Value {
    json!({
        "name": host,
        "addresses": record.addresses,
        "age_seconds": record.answered.map(|answered| answered.elapsed().as_secs()),
        "failures": record.failures,
        "failing": record.why.as_deref(),
    })
}

fn show(file: &File) -> Value {
    json!({"file": file.path, "read_at_unix_seconds": unix(file.read), "text": file.text})
}

/// What repeats of calls to the cluster's service may come to.
fn repeats(cluster: &Cluster, now: Nanos) -> Value {
    let budget = cluster.purse.balance(&cluster.retry_budget, now);
    let tokens = cluster.throttle.as_ref().map(|throttle| {
        let (left, max) = throttle.tokens();
        json!({"left": left, "max": max, "paused": !throttle.allows()})
    });
    json!({"last_10s": budget.spent, "allowed": budget.allowed, "tokens": tokens})
}

fn show_health(record: &Checked) -> Value {
    let state = match record.healthy {
        None => "unknown",
        Some(true) => "healthy",
        Some(false) => "unhealthy",
    };
    json!({
        "state": state,
        "since_unix_seconds": unix(record.since),
        "checks": record.checks,
        "unimplemented": record.unimplemented,
        "last_failure": record.last_failure.as_ref().map(|failed| {
            json!({"at_unix_seconds": unix(failed.at), "why": failed.why})
        }),
    })
}

/// Every cluster and how its endpoints fare, over all workers.
pub(crate) fn clusters(shared: &Shared, board: &Board) -> Value {
    let tables = shared.tables.load();
    let now = shared.clock.nanos(tokio::time::Instant::now());
    let clusters: Vec<Value> = tables
        .clusters
        .iter()
        .map(|cluster| {
            let endpoints: Vec<Value> = cluster
                .members
                .iter()
                .enumerate()
                .map(|(member, endpoint)| {
                    json!({
                        "address": endpoint.name,
                        "host": tables.endpoints[cluster.dials[member]].host.as_deref(),
                        "tls": if endpoint.mesh { "mesh" } else { "none" },
                        "weight": cluster.weights[member],
                        "in_flight": endpoint.in_flight(),
                        "latency_ms": endpoint.latency.load(now, 0.0) / 1e6,
                        "cooling": endpoint.cooling.is_cooling(now),
                        "fit": !cluster.is_unfit(endpoint),
                        "healthy": endpoint.is_healthy(),
                        "outlier": show_outlier(cluster, endpoint, now),
                        "slow_start": cluster.part(endpoint, now),
                        "health": board.record(endpoint).map(|record| show_health(&record)),
                    })
                })
                .collect();
            json!({
                "service": &*cluster.service,
                "purpose": cluster.purpose.as_str(),
                "policy": cluster.policy.to_string(),
                "calls": cluster.calls(),
                "repeats": repeats(cluster, now),
                "panic": cluster.look(now, |view| view.is_some_and(|view| view.panic)),
                "endpoints": endpoints,
            })
        })
        .collect();
    json!({"clusters": clusters})
}

/// What is known of an endpoint where outliers are looked for.
fn show_outlier(cluster: &Cluster, endpoint: &Endpoint, now: Nanos) -> Option<Value> {
    let detector = cluster.detector.as_ref()?;
    let ejected = endpoint.standing.has(EJECTED);
    let left = endpoint.record.until(&detector.rule).saturating_sub(now);
    let counts = endpoint.record.last_interval();
    Some(json!({
        "ejected": ejected,
        "seconds_left": ejected.then_some(left as f64 / 1e9),
        "ejections": endpoint.record.ejections(),
        "last_interval": {"successes": counts.successes, "failures": counts.failures},
    }))
}
