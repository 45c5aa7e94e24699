//! Who may call: what the sidecars of the services that a call may come to ask of its caller.

use config::model::{self, Action};
use config::spiffe::SpiffeId;
use config::words;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::call::plan::{Decision, may, not_allowed};
use crate::explain::question::{Call, Known};
use crate::tables::Tables;
use crate::tables::authorize::Authorization;
use crate::tables::rules::unmet;
use crate::tables::seen::Seen;

/// Rules that are told in one answer with why they do not decide; of those past it only the one that does is told.
const RULES_TOLD_MAX: usize = 100;

/// What a service asks of its callers, to be asked about many calls.
#[derive(Debug)]
pub struct Access(Authorization);

impl Access {
    /// As the sidecar of the service goes by it.
    pub fn new(authorization: Option<&model::Authorization>) -> Self {
        Self(Authorization::new(authorization))
    }

    /// Whether a caller (`None`: one without an identity) may call a method, as the sidecar decides it for a call of gRPC.
    pub fn lets_in(&self, caller: Option<&SpiffeId>, method: &str, headers: &HeaderMap) -> bool {
        self.0.judge(caller, method, headers).allowed
    }
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
                (entry.map(|entry| &*entry.authorization), call.caller.as_ref())
            }
        };
        told.extend(rules.map(|rules| self::told(name, rules, caller, call)));
    }
    told.into()
}

/// What one service says to a caller. Without a caller only the rules are told.
fn told(service: &str, authorization: &Authorization, caller: Option<&SpiffeId>, call: &Call) -> Value {
    let seen = Seen::all(&call.headers);
    let groups = authorization.groups(caller);
    let decided = caller.map(|_| may(authorization, &groups, &call.method, seen, call.is_grpc()));
    let refused = decided.is_some_and(|verdict| !verdict.allowed);
    let refusal = refused.then(|| not_allowed(caller, &call.method).message);
    let model = authorization.model();
    let name = |at: u32| model.and_then(|model| model.rules.get(at as usize)?.name.clone());
    let told = model.map(|model| {
        let rules = model.rules.iter().enumerate().take(RULES_TOLD_MAX).map(|(at, rule)| {
            let mut told = words::rule(rule);
            if let Some(caller) = caller {
                let unmet = unmet(rule, Some(caller), &call.method, &call.headers);
                told["covers"] = unmet.is_none().into();
                told["unmet"] = unmet.into();
            }
            told["place"] = at.into();
            told
        });
        rules.collect::<Vec<_>>()
    });
    json!({
        "service": service,
        // None: everyone may call everything.
        "rules": told,
        "rules_not_told": model.map(|model| model.rules.len().saturating_sub(RULES_TOLD_MAX)),
        "default": model.map(|model| words::answer(model.default)),
        "caller": caller.map(SpiffeId::as_str),
        "allowed": decided.map(|verdict| verdict.allowed),
        "by_rule": decided.and_then(|verdict| verdict.by),
        "by_name": decided.and_then(|verdict| name(verdict.by?)),
        "by_ambiguous_path": decided.map(|verdict| verdict.ambiguous),
        "by_action": decided.and_then(|verdict| model?.rules.get(verdict.by? as usize)).map(|rule| rule.action.as_str()),
        "audited_by": decided.and_then(|verdict| verdict.audit),
        "audits": model.map(|model| model.rules.iter().any(|rule| rule.action == Action::Audit)),
        "refusal": refusal,
    })
}
