//! Who may call what: the RBAC filter as `authorization`.

use config::check;
use config::model::{Allow, AllowedMethods, Caller};
use config::spiffe::SpiffeId;

use crate::decode::at::{At, understood};
use crate::decode::patterns::{self, Pattern};
use crate::pb::matcher::path_matcher;
use crate::pb::rbac::rbac::Action;
use crate::pb::rbac::{Permission, Policy, Principal, Rbac, permission, principal};
use crate::pb::rbac_filter;
use crate::refusal::Refusal;

/// Reads a filter. What is not understood is refused, since to let in too many is worse than to let in nobody.
pub(crate) fn read(filter: &rbac_filter::Rbac, at: &At<'_>) -> Result<Vec<Allow>, Refusal> {
    understood! {
        filter => rbac_filter::Rbac, at;
        take { rules }
        // What is only counted.
        ignore { rules_stat_prefix, shadow_rules, shadow_matcher, shadow_rules_stat_prefix, track_per_rule_stats }
        refuse "matchers are not evaluated; write rules" { matcher }
    }
    let at = at.field("rules");
    let Some(rules) = rules else {
        return Err(at.refuse("there are no rules, which lets everybody in; leave the filter out"));
    };
    understood! {
        rules => Rbac, &at;
        take { action, policies }
        ignore {}
        refuse "nothing is written to an audit log" { audit_logging_options }
    }
    if Action::try_from(*action) != Ok(Action::Allow) {
        return Err(at.field("action").refuse("only ALLOW is known"));
    }
    // A map has no order; their names give ours.
    let mut names: Vec<&String> = policies.keys().collect();
    names.sort_unstable();
    names.into_iter().map(|name| policy(&policies[name], &at.entry("policies", name))).collect()
}

fn policy(policy: &Policy, at: &At<'_>) -> Result<Allow, Refusal> {
    understood! {
        policy => Policy, at;
        take { permissions, principals }
        ignore {}
        refuse "expressions are not evaluated" { condition, checked_condition, cel_config }
    }
    if permissions.is_empty() || principals.is_empty() {
        return Err(at.refuse("a policy has permissions and principals; write `any: true` for all"));
    }
    let mut allow = Allow { from: Vec::new(), methods: Vec::new() };
    let any = |allowed: usize, all: usize| allowed < all;
    for (i, permission) in permissions.iter().enumerate() {
        if let Some(methods) = methods(permission, &at.item("permissions", i))? {
            allow.methods.push(methods);
        }
    }
    for (i, principal) in principals.iter().enumerate() {
        if let Some(caller) = caller(principal, &at.item("principals", i))? {
            allow.from.push(caller);
        }
    }
    // One of several that stands for all makes the rest needless.
    if any(allow.methods.len(), permissions.len()) {
        allow.methods.clear();
    }
    if any(allow.from.len(), principals.len()) {
        allow.from.clear();
    }
    Ok(allow)
}

/// `None`: every method.
fn methods(permission: &Permission, at: &At<'_>) -> Result<Option<AllowedMethods>, Refusal> {
    let path = match &permission.rule {
        Some(permission::Rule::Any(true)) => return Ok(None),
        Some(permission::Rule::UrlPath(path)) => path,
        _ => return Err(at.refuse("only `any: true` and `url_path` are known")),
    };
    let at = at.field("url_path.path");
    let Some(path_matcher::Rule::Path(matcher)) = &path.rule else {
        return Err(at.refuse("there is no path"));
    };
    let why = "a method is `exact: /package.Service/Method`, a service `prefix: /package.Service/`";
    let methods = match patterns::read(matcher, &at)? {
        Pattern::Exact(path) => path
            .strip_prefix('/')
            .filter(|method| check::method(method).is_ok())
            .map(|method| AllowedMethods::Method(method.to_owned())),
        Pattern::Prefix(path) => path
            .strip_prefix('/')
            .filter(|prefix| prefix.strip_suffix('/').is_some_and(patterns::is_service))
            .map(|prefix| AllowedMethods::Service(prefix.to_owned())),
        Pattern::Regex(_) => None,
    };
    methods.map(Some).ok_or_else(|| at.refuse(why))
}

/// `None`: anyone.
fn caller(principal: &Principal, at: &At<'_>) -> Result<Option<Caller>, Refusal> {
    let authenticated = match &principal.identifier {
        Some(principal::Identifier::Any(true)) => return Ok(None),
        Some(principal::Identifier::Authenticated(authenticated)) => authenticated,
        _ => return Err(at.refuse("only `any: true` and `authenticated` are known")),
    };
    let Some(name) = &authenticated.principal_name else { return Ok(Some(Caller::AnyAuthenticated)) };
    let at = at.field("authenticated.principal_name");
    match patterns::read(name, &at)? {
        Pattern::Exact(id) => match SpiffeId::parse(&id) {
            Ok(id) => Ok(Some(Caller::Id(id))),
            Err(rule) => Err(at.field("exact").refuse(format!("{id:?} is not a SPIFFE id: {rule}"))),
        },
        Pattern::Prefix(_) | Pattern::Regex(_) => Err(at.refuse("a caller is one SPIFFE id; write exact")),
    }
}
