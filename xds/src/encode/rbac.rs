//! Who may call what: `authorization` as RBAC filters (Envoy; gRFC A41).
//!
//! Up to three of them stand in a row, each with the rules of one action: LOG for `audit`, which Envoy and gRPC let pass; DENY; and
//! ALLOW, where calls that no rule decides are refused. Their policies are named by the place of their rule among all.

use config::model::{Action, Answer, Authorization, Caller, CoveredMethods, HeaderMatch, Rule};
use prost::{Message, Name};

use crate::encode::matches;
use crate::filters::{RBAC, RBAC_AUDIT, RBAC_DENY};
use crate::names::{DEFAULT_POLICY, policy};
use crate::pb::http::{HttpFilter, http_filter::ConfigType};
use crate::pb::matcher::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern};
use crate::pb::protobuf::Any;
use crate::pb::rbac::{Permission, Policy, Principal, permission, principal, rbac};
use crate::pb::rbac_filter::Rbac;
use crate::wire::{put_bytes, put_entry, put_number};

/// The filters, in their order.
pub(crate) fn filters(authorization: &Authorization) -> Vec<HttpFilter> {
    let rules = || authorization.rules.iter().enumerate();
    let of = |action| rules().filter(move |(_, rule)| rule.action == action);
    let mut filters = Vec::new();
    if of(Action::Audit).next().is_some() {
        filters.push(filter(RBAC_AUDIT, rbac::Action::Log, of(Action::Audit), false));
    }
    if of(Action::Deny).next().is_some() {
        filters.push(filter(RBAC_DENY, rbac::Action::Deny, of(Action::Deny), false));
    }
    let otherwise = authorization.default == Answer::Allow;
    if !otherwise || of(Action::Allow).next().is_some() {
        filters.push(filter(RBAC, rbac::Action::Allow, of(Action::Allow), otherwise));
    }
    filters
}

/// `otherwise`: it lets in what none of the rules covers, too.
fn filter<'a>(
    name: &str,
    action: rbac::Action,
    rules: impl Iterator<Item = (usize, &'a Rule)>,
    otherwise: bool,
) -> HttpFilter {
    // Its policies are a map: written one by one, they keep their order.
    let mut policies = Vec::new();
    if action != rbac::Action::Allow {
        put_number(1, action as u64, &mut policies);
    }
    if otherwise {
        put_entry(2, DEFAULT_POLICY, &policy_of(&[any()], &[anyone()]).encode_to_vec(), &mut policies);
    }
    for (i, rule) in rules {
        let name = policy(i, rule.name.as_deref());
        put_entry(2, &name, &policy_of(&permissions(rule), &principals(rule)).encode_to_vec(), &mut policies);
    }
    let mut filter = Vec::new();
    put_bytes(1, &policies, &mut filter);
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any { type_url: Rbac::type_url(), value: filter })),
        ..HttpFilter::default()
    }
}

fn policy_of(permissions: &[Permission], principals: &[Principal]) -> Policy {
    Policy { permissions: permissions.to_vec(), principals: principals.to_vec(), ..Policy::default() }
}

fn principals(rule: &Rule) -> Vec<Principal> {
    match rule.from.is_empty() {
        true => vec![anyone()],
        false => rule.from.iter().map(principal).collect(),
    }
}

/// One of them must hold.
fn permissions(rule: &Rule) -> Vec<Permission> {
    let methods: Vec<Permission> = rule.methods.iter().map(of_methods).collect();
    if rule.headers.is_empty() {
        return if methods.is_empty() { vec![any()] } else { methods };
    }
    let mut all = match methods.len() {
        0 | 1 => methods,
        _ => vec![permission(permission::Rule::OrRules(permission::Set { rules: methods }))],
    };
    all.extend(rule.headers.iter().map(of_header));
    vec![permission(permission::Rule::AndRules(permission::Set { rules: all }))]
}

fn permission(rule: permission::Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn any() -> Permission {
    permission(permission::Rule::Any(true))
}

fn anyone() -> Principal {
    Principal { identifier: Some(principal::Identifier::Any(true)) }
}

fn of_methods(methods: &CoveredMethods) -> Permission {
    let pattern = match methods {
        CoveredMethods::Method(method) => MatchPattern::Exact(format!("/{method}")),
        CoveredMethods::Service(service) => MatchPattern::Prefix(format!("/{service}")),
    };
    let path = PathMatcher { rule: Some(path_matcher::Rule::Path(string(pattern))) };
    permission(permission::Rule::UrlPath(path))
}

/// What is turned around also holds for a call without the header: `not_rule` says so to everybody, where `invert_match` is read
/// one way here and another there.
fn of_header(header: &HeaderMatch) -> Permission {
    let plain = matches::header(&HeaderMatch { invert: false, ..header.clone() });
    let matcher = permission(permission::Rule::Header(plain));
    match header.invert {
        true => permission(permission::Rule::NotRule(Box::new(matcher))),
        false => matcher,
    }
}

fn principal(caller: &Caller) -> Principal {
    let principal_name = match caller {
        Caller::AnyAuthenticated => None,
        Caller::Id(id) => Some(string(MatchPattern::Exact(id.as_str().to_owned()))),
        Caller::Prefix(prefix) => Some(string(MatchPattern::Prefix(prefix.clone()))),
    };
    let authenticated = principal::Authenticated { principal_name };
    Principal { identifier: Some(principal::Identifier::Authenticated(authenticated)) }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}
