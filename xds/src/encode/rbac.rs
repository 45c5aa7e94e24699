//! Who may call what: `authorization` as the RBAC filter (Envoy; gRFC A41).

use config::model::{Allow, AllowedMethods, Caller};
use prost::{Message, Name};

use crate::filters::RBAC;
use crate::pb::http::{HttpFilter, http_filter::ConfigType};
use crate::pb::matcher::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern};
use crate::pb::protobuf::Any;
use crate::pb::rbac::{Permission, Policy, Principal, permission, principal};
use crate::pb::rbac_filter::Rbac;
use crate::wire::{put_bytes, put_entry};

/// The filter that lets in what one of `rules` allows. Its action is ALLOW, the default; one policy per rule, in their order.
pub(crate) fn filter(rules: &[Allow]) -> HttpFilter {
    // Its policies are a map: written one by one, they keep their order.
    let mut policies = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        put_entry(2, &policy_name(i), &policy(rule).encode_to_vec(), &mut policies);
    }
    let mut filter = Vec::new();
    put_bytes(1, &policies, &mut filter);
    HttpFilter {
        name: RBAC.to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any { type_url: Rbac::type_url(), value: filter })),
        ..HttpFilter::default()
    }
}

/// The name of the policy of the `i`th rule: names sort as the rules stand.
fn policy_name(i: usize) -> String {
    format!("rule-{i:06}")
}

fn policy(rule: &Allow) -> Policy {
    let any = permission::Rule::Any(true);
    let mut permissions: Vec<Permission> = rule.methods.iter().map(permission).collect();
    if permissions.is_empty() {
        permissions.push(Permission { rule: Some(any) });
    }
    let mut principals: Vec<Principal> = rule.from.iter().map(principal).collect();
    if principals.is_empty() {
        principals.push(Principal { identifier: Some(principal::Identifier::Any(true)) });
    }
    Policy { permissions, principals, ..Policy::default() }
}

fn permission(methods: &AllowedMethods) -> Permission {
    let pattern = match methods {
        AllowedMethods::Method(method) => MatchPattern::Exact(format!("/{method}")),
        AllowedMethods::Service(service) => MatchPattern::Prefix(format!("/{service}")),
    };
    let path = PathMatcher { rule: Some(path_matcher::Rule::Path(string(pattern))) };
    Permission { rule: Some(permission::Rule::UrlPath(path)) }
}

fn principal(caller: &Caller) -> Principal {
    let principal_name = match caller {
        Caller::AnyAuthenticated => None,
        Caller::Id(id) => Some(string(MatchPattern::Exact(id.as_str().to_owned()))),
    };
    let authenticated = principal::Authenticated { principal_name };
    Principal { identifier: Some(principal::Identifier::Authenticated(authenticated)) }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}
