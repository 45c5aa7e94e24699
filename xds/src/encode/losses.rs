//! What of a service's clusters a foreign client cannot be told, in plain words.

use config::code::Codes;
use config::health::Outliers;
use config::model::{BalancingPolicy, Endpoint, EndpointTls, Service, Target, Upstream};

use crate::audience::{Audience, Client};
use crate::encode::reach::{Labels, Way, by_tls, reached, speaks};

/// Endpoints that one note names; the rest is counted.
const NAMED_MAX: usize = 4;

/// What the audience cannot be told of the service, with the sets of labels that are asked for.
pub(crate) fn of<'a>(
    service: &Service,
    asked_for: impl IntoIterator<Item = &'a Labels>,
    audience: &Audience,
) -> Vec<String> {
    let mut notes = Vec::new();
    match audience.client {
        Client::Outrigger => return notes,
        Client::Envoy { .. } => envoy(service, &mut notes),
        Client::Grpc => grpc(service, &mut notes),
    }
    if service.retry_throttling.is_some() {
        notes.push("retry_throttling: xDS has no word for it; repeats do not pause".to_owned());
    }
    left_out(service, audience, &mut notes);
    if audience.client == Client::Grpc {
        let mut names = Vec::new();
        for labels in asked_for {
            if Way::of(service, labels, audience) == Way::Eds {
                let is_name = |endpoint: &&Endpoint| matches!(endpoint.target, Target::Name { .. });
                names.extend(reached(service, labels, audience).filter(is_name));
            }
        }
        names.sort_unstable_by(|one, other| one.target.cmp(&other.target));
        names.dedup_by(|one, other| one.target == other.target);
        if !names.is_empty() {
            let why = "gRPC resolves a name only where it is the one endpoint";
            notes.push(format!("endpoints: {why}; left out: {}", named(&names)));
        }
    }
    notes
}

fn envoy(service: &Service, notes: &mut Vec<String>) {
    if service.authorization.is_some() {
        notes.push(
            "authorization: an Envoy beside this service would let everybody in; a sidecar or a proxyless server asks who calls"
                .to_owned(),
        );
    }
    match service.balancing.policy {
        BalancingPolicy::PeakEwma => {
            notes
                .push("balancing.policy: Envoy has no `peak_ewma`; it balances by least requests".to_owned());
        }
        BalancingPolicy::Random if service.balancing.slow_start.is_some() => {
            notes.push("balancing.slow_start: Envoy has none with `random`".to_owned());
        }
        _ => {}
    }
    if let Some(outliers) = &service.outliers
        && outliers.codes != Codes::TROUBLE
    {
        notes.push("outliers.error_codes: Envoy counts the statuses that are 5xx to HTTP".to_owned());
    }
    let Upstream { connections, user_timeout, .. } = Upstream::default();
    if (service.upstream.connections, service.upstream.user_timeout) != (connections, user_timeout) {
        notes.push("upstream: Envoy is not told `connections` and `user_timeout`".to_owned());
    }
}

fn grpc(service: &Service, notes: &mut Vec<String>) {
    if !matches!(service.balancing.policy, BalancingPolicy::RoundRobin) {
        notes.push(format!(
            "balancing.policy: gRPC balances round robin instead of `{}`",
            service.balancing.policy
        ));
    }
    if service.balancing.slow_start.is_some() {
        notes.push("balancing.slow_start: gRPC has none".to_owned());
    }
    if service.health.is_some() {
        notes.push("health: gRPC does not check endpoints that it learns of by xDS".to_owned());
    }
    if let Some(Outliers { consecutive_errors: 1.., .. }) = &service.outliers {
        notes.push("outliers.consecutive_errors: gRPC ejects by the two rates alone".to_owned());
    }
    if let Some(outliers) = &service.outliers
        && outliers.codes != Codes::TROUBLE
    {
        notes.push("outliers.error_codes: gRPC counts every status but OK".to_owned());
    }
    if service.upstream != Upstream::default() {
        notes.push("upstream: gRPC keeps its connections by settings of its own".to_owned());
    }
}

/// Foreign clients have one way to speak to all endpoints of a cluster.
fn left_out(service: &Service, audience: &Audience, notes: &mut Vec<String>) {
    let tls = by_tls(service, &Labels::new(), audience);
    let silent: Vec<&Endpoint> =
        service.endpoints.iter().filter(|endpoint| !speaks(endpoint, audience, tls)).collect();
    if let Some(first) = silent.first() {
        let why = match first.tls {
            Some(EndpointTls::Mesh) => "they ask for mesh TLS, and the client has no certificate",
            _ => "they ask for plain text, and the client speaks TLS",
        };
        notes.push(format!("endpoints: {why}; left out: {}", named(&silent)));
    }
}

fn named(endpoints: &[&Endpoint]) -> String {
    let first = &endpoints[..endpoints.len().min(NAMED_MAX)];
    let names: Vec<String> = first.iter().map(|endpoint| endpoint.target.to_string()).collect();
    match endpoints.len() - first.len() {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
