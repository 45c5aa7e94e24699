//! Who may call what: RBAC filters as `authorization`.

use config::model::{Action, Answer, Authorization, Caller, Rule};
use config::spiffe::SpiffeId;

use crate::decode::at::{At, understood};
use crate::decode::patterns::{self, Pattern};
use crate::decode::permissions;
use crate::names::{DEFAULT_POLICY, rule_name};
use crate::pb::rbac::rbac;
use crate::pb::rbac::{Permission, Policy, Principal, Rbac, permission, principal};
use crate::pb::rbac_filter;
use crate::refusal::Refusal;

/// What the filters read so far ask of callers.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// By the names of their policies, which give the rules their order: a map has none.
    rules: Vec<(String, Rule)>,
    /// There is a filter that lets in what it names.
    allows: bool,
    /// It lets in everything else, too.
    otherwise: bool,
}

impl Asked {
    /// Takes in one more filter. What is not understood is refused, since to let in too many is worse than to let in nobody.
    pub(crate) fn add(&mut self, filter: &rbac_filter::Rbac, at: &At<'_>) -> Result<(), Refusal> {
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
            refuse "the access log tells of audited calls; write action LOG" { audit_logging_options }
        }
        let action = match rbac::Action::try_from(*action) {
            Ok(rbac::Action::Allow) => Action::Allow,
            Ok(rbac::Action::Deny) => Action::Deny,
            Ok(rbac::Action::Log) => Action::Audit,
            Err(_) => return Err(at.field("action").refuse("only ALLOW, DENY and LOG are known")),
        };
        if action == Action::Allow && self.allows {
            let why = "there is a second filter that allows, and a call would have to pass both; put the policies into one";
            return Err(at.field("action").refuse(why));
        }
        self.allows |= action == Action::Allow;
        for (name, policy) in policies {
            if name == DEFAULT_POLICY && action == Action::Allow && covers_all(policy) {
                self.otherwise = true;
                continue;
            }
            for rule in rules_of(name, action, policy, &at.entry("policies", name))? {
                self.rules.push((name.clone(), rule));
            }
        }
        Ok(())
    }

    /// What all of them come to.
    pub(crate) fn settle(mut self) -> Option<Authorization> {
        self.rules.sort_by(|(one, a), (other, b)| (one, a.action).cmp(&(other, b.action)));
        let rules = self.rules.into_iter().map(|(_, rule)| rule).collect();
        let default = if self.allows && !self.otherwise { Answer::Deny } else { Answer::Allow };
        let authorization = Authorization { rules, default };
        (!authorization.asks_nothing()).then_some(authorization)
    }
}

fn covers_all(policy: &Policy) -> bool {
    let plain = Policy {
        permissions: vec![Permission { rule: Some(permission::Rule::Any(true)) }],
        principals: vec![Principal { identifier: Some(principal::Identifier::Any(true)) }],
        ..Policy::default()
    };
    *policy == plain
}

/// The rules that a policy comes to: one for each set of headers that it asks for.
fn rules_of(name: &str, action: Action, policy: &Policy, at: &At<'_>) -> Result<Vec<Rule>, Refusal> {
    understood! {
        policy => Policy, at;
        take { permissions, principals }
        ignore {}
        refuse "expressions are not evaluated" { condition, checked_condition, cel_config }
    }
    if permissions.is_empty() || principals.is_empty() {
        return Err(at.refuse("a policy has permissions and principals; write `any: true` for all"));
    }
    let mut from = Some(Vec::new());
    for (i, principal) in principals.iter().enumerate() {
        // One of several that stands for all makes the rest needless.
        from = from.zip(callers(principal, &at.item("principals", i))?).map(|(mut all, more)| {
            all.extend(more);
            all
        });
    }
    let rules = permissions::read(permissions, at)?.into_iter().map(|covered| Rule {
        name: rule_name(name),
        action,
        from: from.clone().unwrap_or_default(),
        methods: covered.methods.unwrap_or_default(),
        headers: covered.headers,
    });
    Ok(rules.collect())
}

/// `None`: anyone.
fn callers(principal: &Principal, at: &At<'_>) -> Result<Option<Vec<Caller>>, Refusal> {
    let authenticated = match &principal.identifier {
        Some(principal::Identifier::Any(true)) => return Ok(None),
        Some(principal::Identifier::Authenticated(authenticated)) => authenticated,
        Some(principal::Identifier::AndIds(set)) if set.ids.len() == 1 => {
            return callers(&set.ids[0], &at.field("and_ids").item("ids", 0));
        }
        Some(principal::Identifier::OrIds(set)) if !set.ids.is_empty() => {
            let mut all = Some(Vec::new());
            for (i, id) in set.ids.iter().enumerate() {
                let more = callers(id, &at.field("or_ids").item("ids", i))?;
                all = all.zip(more).map(|(all, more)| [all, more].concat());
            }
            return Ok(all);
        }
        _ => {
            let why = "only `any: true`, `authenticated` and `or_ids` of these are known";
            return Err(at.refuse(why));
        }
    };
    let Some(name) = &authenticated.principal_name else {
        return Ok(Some(vec![Caller::AnyAuthenticated]));
    };
    let at = at.field("authenticated.principal_name");
    let caller = match patterns::read(name, &at)? {
        Pattern::Exact(id) => match SpiffeId::parse(&id) {
            Ok(id) => Caller::Id(id),
            Err(rule) => return Err(at.field("exact").refuse(format!("{id:?} is not a SPIFFE id: {rule}"))),
        },
        Pattern::Prefix(prefix) if prefix.is_empty() => Caller::AnyAuthenticated,
        Pattern::Prefix(prefix) => Caller::Prefix(prefix),
        Pattern::Regex(_) => {
            return Err(
                at.refuse("a caller is one SPIFFE id, or all that begin alike; write exact or prefix")
            );
        }
    };
    Ok(Some(vec![caller]))
}
