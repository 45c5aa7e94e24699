//! What `/ca` shows: the roots, how far their rotation is, and what becomes of it next.

use std::sync::PoisonError;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::ca::audit::rfc3339;
use crate::ca::authority::Authority;
use crate::ca::counters::By;
use crate::ca::force::InForce;
use crate::ca::reason::Reason;
use crate::ca::root::Root;
use crate::ca::standing::standing;

/// The page. No key is in it.
pub(crate) fn page(ca: &Authority, now: SystemTime) -> Value {
    let in_force = ca.in_force();
    let roots: Vec<Value> = in_force.roots.iter().map(|root| shown(root, &in_force, now)).collect();
    let fault = ca.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let counts = &ca.counters;
    json!({
        "signer": in_force.signer().map(|root| &root.name),
        "trusted": in_force.trusted().map(|root| &root.name).collect::<Vec<_>>(),
        "bundle_version": in_force.version,
        "leaf_life_seconds": ca.rule.leaf_life.as_secs_f64(),
        "overlap_seconds": ca.rule.overlap.as_secs_f64(),
        "next": next(ca, &in_force),
        "join_tokens": in_force.tokens.is_some(),
        "warning": in_force.warning(&ca.folder, now),
        "fault": fault.as_ref().map(|(why, since)| json!({"why": why, "since": rfc3339(*since)})),
        "roots": roots,
        "issued": By::ALL.map(|by| (by.as_str(), counts.issued(by))).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "refused": Reason::ALL
            .map(|(reason, name)| (name, counts.refused(reason)))
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn shown(root: &Root, in_force: &InForce, now: SystemTime) -> Value {
    let is = |other: &Root| other.der == root.der;
    let state = match () {
        () if root.not_after <= now => "expired",
        () if in_force.signer().is_some_and(is) => "signs",
        () if in_force.trusted().any(is) => "trusted",
        () => "superseded",
    };
    json!({
        "name": root.name,
        "state": state,
        "has_key": root.issuer.is_some(),
        "is_stolen": root.is_stolen,
        "introduced": rfc3339(root.introduced()),
        "not_after": rfc3339(root.not_after),
        "sha256": root.fingerprint,
    })
}

/// What happens next by itself, and when.
fn next(ca: &Authority, in_force: &InForce) -> Value {
    let Some(at) = in_force.standing.next else { return Value::Null };
    let then = standing(&in_force.times, ca.rule, at);
    let name = |root: usize| in_force.roots[root].name.as_str();
    let mut what = Vec::new();
    if then.signer != in_force.standing.signer {
        what.push(match then.signer {
            Some(root) => format!("{} signs", name(root)),
            None => "nothing can be signed any more: make a root (outrigger certs root)".to_owned(),
        });
    }
    let leave = in_force.standing.trusted.iter().filter(|root| !then.trusted.contains(root));
    what.extend(leave.map(|root| format!("{} is trusted no more", name(*root))));
    json!({"at": rfc3339(at), "what": what.join("; ")})
}
