//! Who may call: what the sidecars of the services that a call may come to ask of its caller.

use config::model::Allow;
use config::spiffe::SpiffeId;
use config::words;
use serde_json::{Value, json};

use crate::call::plan::{Decision, let_in};
use crate::explain::question::{Call, Known};
use crate::tables::Tables;
use crate::tables::authorize::Authorization;

/// Whether rules let a caller (`None`: one without an identity) call a method, as the sidecar of the service decides it for a
/// call of gRPC.
pub fn lets_in(rules: Option<&[Allow]>, caller: Option<&SpiffeId>, method: &str) -> bool {
    let_in(&Authorization::new(rules), caller, method, true).is_ok()
}

/// For each service that the call may come to, as far as it is known here, its rules and whether they let the call in. A running
/// sidecar knows those of the services behind it; a mesh knows all.
pub(crate) fn inbound(tables: &Tables, decision: &Decision<'_>, call: &Call, known: Known<'_>) -> Value {
    let mut told: Vec<Value> = Vec::new();
    for (cluster, _) in decision.route.backends().filter(|(_, weight)| *weight > 0) {
        let name = &*tables.clusters[cluster].service;
        if told.iter().any(|earlier| earlier["service"] == name) {
            continue;
        }
        let (rules, caller) = match known {
            Known::Mesh { places, authorization, caller, .. } => (
                places.get(name).and_then(|at| authorization.get(*at)?.as_ref()),
                call.caller.as_ref().or(caller),
            ),
            Known::Live(_) => {
                let entry = tables.entries.iter().find(|entry| &*tables.services[entry.service].name == name);
                (entry.map(|entry| &entry.authorization), call.caller.as_ref())
            }
        };
        told.extend(rules.map(|rules| may(name, rules, caller, &call.method)));
    }
    told.into()
}

/// What one service says to a caller. Without a caller only the rules are told.
fn may(service: &str, authorization: &Authorization, caller: Option<&SpiffeId>, method: &str) -> Value {
    let verdict = caller.map(|caller| let_in(authorization, Some(caller), method, true));
    json!({
        "service": service,
        // None: everyone may call everything.
        "rules": authorization.rules().map(|rules| rules.iter().map(words::allow).collect::<Vec<_>>()),
        "caller": caller.map(SpiffeId::as_str),
        "allowed": verdict.as_ref().map(Result::is_ok),
        "by_rule": caller.and_then(|caller| authorization.rule(Some(caller), method)),
        "refusal": verdict.and_then(Result::err).map(|failure| failure.message),
    })
}
